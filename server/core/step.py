"""The coordinator as a deterministic function: `step(run, state, event) -> (state, effects)`."""

from __future__ import annotations

from dataclasses import replace

from common.bodies import DENSE_FLOAT32
from common.errors import Reason, Refused
from common.log_fields import LogFields
from common.orders import Reply
from server.core import best, circles, privacy, rounds
from server.core.admission import check_answer, check_join, new_headers
from server.core.effects import AddToSums, ClientChanged, Commit, Effect, Fold, HeaderFixed, Notice, RunEnded, Wake
from server.core.events import (
    Answered,
    Combined,
    DrainRequested,
    Event,
    Joined,
    Left,
    ListChanged,
    OrderFailed,
    RolledBack,
    Seen,
    Started,
    SumsOpened,
    Tick,
    UpdateRefused,
    VersionSpoiled,
    Withdrew,
)
from server.core.open_round import OpenOrder, OrderState
from server.core.opening import seconds_of
from server.core.phases import ENDED, TRANSITIONS, Phase
from server.core.probing import candidate_bytes
from server.core.state import ClientRecord, FederationState, RunSettings, Tally
from server.core.weighing import capped, caps_of, scope_weights, task_rows

Step = tuple[FederationState, list[Effect]]

_WITHDREW = "the client withdrew"


def step(run: RunSettings, state: FederationState, event: Event) -> Step:
    """Apply one event. Effects must be carried out in order before the next event is applied.

    Raises:
        Refused: only for `Joined` and `Answered`, when the roster, `check_join` or `check_answer` refuses it, and for
            `Withdrew` of a client that nobody knows; the state is then unchanged.
    """
    after, effects = _applied(run, state, event)
    assert after.phase in TRANSITIONS[state.phase], f"{event} leads from {state.phase} to {after.phase}"
    return after, effects


def _applied(run: RunSettings, state: FederationState, event: Event) -> Step:
    match event:
        case Started():
            state, effects = _started(run, state, event)
        case Joined():
            state, effects = _joined(run, state, event)
        case Seen():
            state, effects = _seen(state, event), []
            if state.open is not None and event.now < state.open.deadline:  # a sign of life alone closes no round
                return state, effects
        case Answered():
            state, effects = _answered(run, state, event)
        case UpdateRefused():
            state, effects = _update_refused(run, state, event)
        case OrderFailed():
            state, effects = _order_failed(state, event)
        case Left():
            state, effects = _left(state, event.client_id, "left")
        case Withdrew():
            state, effects = _withdrew(state, event)
        case ListChanged():
            state, effects = _list_changed(run, state, event)
        case Tick():
            state, effects = _expire_leases(run, replace(state, traffic=event.traffic), event)
        case RolledBack():
            return _rolled_back(state, event)
        case Combined():
            return rounds.publish(run, state, event)
        case SumsOpened():
            return rounds.read_sums(run, state, event)
        case VersionSpoiled():
            return rounds.spoil(run, state, event)
        case DrainRequested():
            state, effects = replace(state, draining=True), [Wake()]
    if state.phase in ENDED:
        return state, effects
    state, more = rounds.advance(run, state, event.now)
    return state, effects + more


def _started(run: RunSettings, state: FederationState, event: Started) -> Step:
    """Clients known from before get a fresh lease, so that they can come back to their orders."""
    closed = state.conduct.quarantined
    clients = {
        name: replace(client, last_seen=event.now, present=not (client.left or name in closed), token="")
        for name, client in state.clients.items()
    }
    state = replace(state, clients=clients, waiting_since=event.now, short_since=None)
    if state.open is not None:
        caps = caps_of(run, clients, state.open.orders.values())  # of the same clients as when it opened
        deadline = event.now + seconds_of(run, state.open.phase)
        open_ = replace(state.open, deadline=deadline, caps=caps, began=event.now)
        state = replace(state, open=circles.with_circles(run, state, open_))
    effects: list[Effect] = []
    for client in clients.values() if state.open is not None else ():
        if client.withdrawn:  # its order is outstanding again, and nobody may answer it
            state, more = _without_order(state, client.client_id, _WITHDREW)
            effects += more
    return _gone_on_with(run, state) if state.phase in ENDED else (state, effects)


def _gone_on_with(run: RunSettings, state: FederationState) -> Step:
    """A run that had ended goes on if it had failed, or if more rounds or more patience are asked for now."""
    rounds_done = f"after {state.completed_rounds} rounds"
    failed = state.phase is Phase.FAILED
    if not failed and not best.goes_on(run, state):
        reason = best.end_of(run, state)
        why = f": {reason}; raise training.patience to go on" if reason else ""
        return state, [Notice(f"the run is finished already, {rounds_done}{why}")]
    text = f"the run had finished {rounds_done}; it goes on to {run.num_rounds}"
    if failed:
        text = f"the run had stopped ({state.reason}); it tries again"
    state = replace(state, phase=Phase.WAITING, reason="")
    return state, [Commit((RunEnded(Phase.WAITING, ""),)), Notice(text, warning=failed)]


def _joined(run: RunSettings, state: FederationState, event: Joined) -> Step:
    request = event.request
    (state.roster or run.roster).check(request, event.today)
    check_join(run, state, request)
    known = state.clients.get(request.client_id)
    if state.phase in ENDED and known is not None:  # it comes back to hear that the run is over
        tasks = tuple(sorted(task.name for task in request.tasks))
        return state.with_client(replace(known, token=event.token, tasks=tasks)), []
    client = ClientRecord(
        client_id=request.client_id,
        tasks=tuple(sorted(task.name for task in request.tasks)),
        examples=dict(request.examples),
        validation=dict(request.validation),
        capabilities=request.capabilities,
        token=event.token,
        last_seen=event.now,
        activity="joined",
        committed=known.committed if known else "",
        tally=known.tally if known else Tally(),
        targets=dict(request.targets),
        inputs=dict(request.inputs),
    )
    effects: list[Effect] = []
    if fixed := new_headers(run, state, request):
        state = replace(state, headers={**state.headers, **fixed})
        effects.append(Commit(tuple(HeaderFixed(task, header) for task, header in fixed.items())))
    state = state.with_client(client)
    if known is None or known.left or not known.present:
        back = "came back" if known else "joined"
        text = f"client {client.client_id} {back} with {', '.join(client.tasks)}"
        joined = LogFields(event="client_joined", client=client.client_id, task=",".join(client.tasks))
        effects.append(Notice(text, about=joined))
    asked = run.codec_for(client.capabilities)
    if asked != run.update_encoding and (known is None or known.capabilities != client.capabilities):
        text = f"does not offer {run.update_encoding}; its updates are asked for as {asked}"
        effects.append(Notice(f"client {client.client_id} {text}"))
    order = state.open.order_of(client.client_id) if state.open else None
    if order is None or state.open is None or order.state is not OrderState.ISSUED:
        return state, effects
    unable = order.codec != DENSE_FLOAT32 and order.codec not in client.capabilities.codecs
    other = order.untrained != privacy.untrained_scopes(run, state, client, order.tasks, state.open.number)
    held = run.scopes_in(state.open.phase, state.open.number, client, order.tasks)
    other = other or tuple(scope.scope for scope in order.scopes) != held
    missing = sorted(set(order.tasks) - set(client.tasks))
    if missing or unable or other:
        why = f"without {', '.join(missing)}" if missing else "to train or hold another part of the model"
        why = f"without encoding {order.codec}" if unable else why
        state, more = _drop_order(state, order, OrderState.FAILED, f"the client came back {why}")
        effects += more
    return state, effects


def _seen(state: FederationState, event: Seen) -> FederationState:
    client = state.clients[event.client_id]
    if client.client_id in state.conduct.quarantined:
        return state
    return state.with_client(replace(client, last_seen=event.now, present=True, left=False, activity=event.activity))


def _answered(run: RunSettings, state: FederationState, event: Answered) -> Step:
    order, repeated = check_answer(run, state, event.client_id, event.answer)
    if repeated:
        return state, []
    assert state.open is not None
    answer = event.answer
    results = capped(answer.results, state.open.caps)
    order = replace(order, state=OrderState.ACCEPTED, digest=answer.digest, results=results, seconds=answer.seconds)
    effects: list[Effect] = []
    if run.sums is not None and not state.open.phase.is_stage:
        parts = circles.parts_for(run, state.open, event.client_id)
        order = replace(order, weights={wanted.scope: 0 for wanted in order.trained}, nbytes=answer.nbytes)
        effects.append(AddToSums(order.order_id, tuple(circles.layout(run, stand.circle) for stand in parts)))
    elif answer.scopes:
        order = replace(order, weights=scope_weights(run, order, results), nbytes=answer.nbytes)
        rows = privacy.open_rows(state, task_rows(run, order, results))
        clip = state.ledger.clip if state.ledger else None
        effects.append(Fold(order.order_id, order.weights, rows, clip, state.norms.median))
    elif isinstance(answer, Reply):
        order = replace(order, content=answer.content, nbytes=candidate_bytes(run, state, order, answer))
    done = 0 if state.open.phase.is_stage else 1
    state = replace(state, traffic=event.traffic).with_order(order)
    return _count(state, event.client_id, completed=done), effects


def _update_refused(run: RunSettings, state: FederationState, event: UpdateRefused) -> Step:
    name, before = event.client_id, state.conduct
    state = _count(state, name, refused=1)
    if name in before.quarantined:  # said once
        return state, []
    refused = LogFields(event="update_refused", client=name, reason=event.reason)
    effects: list[Effect] = [Notice(f"update of {name} refused: {event.reason}", warning=True, about=refused)]
    state = replace(state, conduct=before.after(name, event.kind, event.reason, run.offences))
    if name not in state.conduct.quarantined:
        return state, effects
    state, more = _close(state, name, state.conduct.quarantined[name])
    return state, effects + more


def _close(state: FederationState, name: str, why: str) -> Step:
    """Put a client into quarantine: no round asks it or waits for it from here on."""
    state = state.with_client(replace(state.clients[name], present=False, activity=""))
    closed = LogFields(event="client_quarantined", client=name, reason=why)
    text = f"client {name} is in quarantine: {why}; --resume --lift {name} lets it in again"
    effects: list[Effect] = [Commit((state.conduct,)), Notice(text, warning=True, about=closed)]
    state, _ = _without_order(state, name, "the client is in quarantine")
    return state, effects


def _order_failed(state: FederationState, event: OrderFailed) -> Step:
    order = state.open.orders.get(event.order_id) if state.open else None
    if order is None or order.client_id != event.client_id or order.state is not OrderState.ISSUED:
        return state, []
    return _drop_order(state, order, OrderState.FAILED, event.reason)


def _rolled_back(state: FederationState, event: RolledBack) -> Step:
    """A run whose ledger has lost charges ends."""
    assert state.ledger is not None
    known = f"the ledger knows {state.ledger.releases} releases, and client {event.client_id} brought {event.order_id}"
    reason = f"the run folder is older than what was published: {known}; put the newest one back"
    failed = Notice(reason, warning=True, about=LogFields(event="run_failed", reason=reason))
    state = replace(state, phase=Phase.FAILED, reason=reason)
    return state, [Commit((RunEnded(Phase.FAILED, reason),)), failed, Wake()]


def _left(state: FederationState, client_id: str, how: str, warning: bool = False) -> Step:
    client = replace(state.clients[client_id], present=False, left=True, activity="", token="")
    state = state.with_client(client)
    about = LogFields(event="client_left", client=client_id)
    effects: list[Effect] = [Notice(f"client {client_id} {how}", warning, about)]
    state, more = _without_order(state, client_id, f"the client {how}")
    return state, effects + more


def _withdrew(state: FederationState, event: Withdrew) -> Step:
    """Whether the caller may speak for the client was decided before: the core knows ids alone."""
    known = state.clients.get(event.client_id)
    if known is None:
        raise Refused(Reason.UNKNOWN_CLIENT, f"client '{event.client_id}' never took part in this run")
    if known.withdrawn:
        return state, []
    client = replace(known, present=False, left=True, withdrawn=True, activity="", token="")
    about = LogFields(event="client_withdrew", client=client.client_id)
    told = Notice(f"client {client.client_id} is left out for good, as it asked", warning=True, about=about)
    state, more = _without_order(state.with_client(client), client.client_id, _WITHDREW)
    return state, [Commit((ClientChanged(client),)), told, *more, Wake()]


def _without_order(state: FederationState, client_id: str, why: str, how: OrderState = OrderState.FAILED) -> Step:
    """The state without the client's outstanding order, if it has one."""
    order = state.open.order_of(client_id) if state.open else None
    if order is None or order.state is not OrderState.ISSUED:
        return state, []
    return _drop_order(state, order, how, why)


def _list_changed(run: RunSettings, state: FederationState, event: ListChanged) -> Step:
    """Clients that may not stay are out at once: they have to join again, which is refused."""
    lines = event.roster.changes(state.roster or run.roster)
    effects: list[Effect] = [Notice(line) for line in lines or ["server.clients was read again; nothing changed"]]
    state = replace(state, roster=event.roster)
    for name in sorted(state.clients):
        client = state.clients[name]
        problem = None if client.left else event.roster.problem(name, client.tasks, event.today)
        if problem is not None:
            state, more = _left(state, name, f"may not stay: {problem}", warning=True)
            effects += more
    return state, [*effects, Wake()]


def _expire_leases(run: RunSettings, state: FederationState, tick: Tick) -> Step:
    """Let go of clients that were silent for a whole lease; a call is a sign of life for as long as it is open."""
    effects: list[Effect] = []
    for client in state.present():
        silent = tick.now - client.last_seen
        if client.client_id in tick.connected and silent >= run.lease_seconds / 4:  # not with every tick
            state = state.with_client(replace(client, last_seen=tick.now))
        if client.client_id in tick.connected or silent < run.lease_seconds:
            continue
        state = state.with_client(replace(client, present=False, activity=""))
        silence = f"not heard from for {run.lease_seconds:g} s"
        gone = LogFields(event="client_gone", client=client.client_id, reason=silence)
        effects.append(Notice(f"client {client.client_id} is gone: {silence}", warning=True, about=gone))
        state, more = _without_order(state, client.client_id, silence, OrderState.EXPIRED)
        effects += more
    return state, effects


def _drop_order(state: FederationState, order: OpenOrder, how: OrderState, why: str) -> Step:
    state = state.with_order(replace(order, state=how, note=why))
    count = {"failed": 1} if how is OrderState.FAILED else {"expired": 1}
    dropped = LogFields(event=f"order_{how.value}", order=order.order_id, client=order.client_id, reason=why)
    notice = Notice(f"order {order.order_id} {how.value}: {why}", warning=True, about=dropped)
    return _count(state, order.client_id, **count), [notice]


def _count(state: FederationState, client_id: str, **more: int) -> FederationState:
    client = state.clients[client_id]
    return state.with_client(replace(client, tally=client.tally.add(**more)))
