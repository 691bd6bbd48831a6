"""The life of a round: wait for clients, open, close, and what comes next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from common.bodies import ScopeVersion
from common.log_fields import LogFields
from common.parameters.scope import ByTemplate
from server.core import best, dual, privacy
from server.core.account import MOST_NAMES, account
from server.core.closing import (
    has_quorum,
    is_complete,
    needed,
    row_totals,
    scope_totals,
    stretch_totals,
    task_losses,
    trends,
)
from server.core.effects import (
    ClearSums,
    ClientChanged,
    Combine,
    Commit,
    Effect,
    InstallVersion,
    Notice,
    PhaseClosed,
    Record,
    RoundClosed,
    RoundOpened,
    RunEnded,
    StoreVersion,
    Wake,
)
from server.core.events import Combined, VersionSpoiled
from server.core.guard import guarded, notices_of
from server.core.phases import ENDED, EVALUATE, Phase, RoundPhase
from server.core.probing import opening_phase, probed
from server.core.scales import with_scales
from server.core.selection import select, tasks_of_order
from server.core.state import (
    ClientRecord,
    FederationState,
    OpenOrder,
    OpenRound,
    OrderState,
    RunSettings,
    order_id,
)
from server.core.units import with_units
from server.core.weighing import caps_of, variates_of

Step = tuple[FederationState, list[Effect]]


@dataclass(frozen=True)
class _Closed:
    """What is left of a round: the state without it, records for the commit, and effects after that."""

    state: FederationState
    records: list[Record] = field(default_factory=list)
    after: list[Effect] = field(default_factory=list)
    round: OpenRound | None = None
    """Its clients' records join the commit."""


def advance(run: RunSettings, state: FederationState, now: float) -> Step:
    """Close the open round if it is due and open the next one if it can be; both land in one commit.

    A round with its quorum closes in two steps: its values are asked for here, and `publish` or `spoil` goes on.
    """
    if state.open is None:
        return _go_on(run, _Closed(state), now)
    if not is_complete(state.open) and now < state.open.deadline:
        return state, []
    state = _expire_outstanding(state, state.open)
    assert state.open is not None
    round_ = state.open
    if round_.phase.needs_quorum and not has_quorum(run, round_):
        return _go_on(run, _abandon(run, state, round_, now, _shortage(run, round_)), now)
    following = run.protocol.after(round_.phase)
    if following is not None:
        return _next_phase(run, state, round_, following, now)
    if not round_.phase.publishes:
        return _go_on(run, _finish(run, state, round_), now)
    totals, heads = scope_totals(run, round_, state.versions), dual.asked_for(run, state)
    moved = (*state.trends, trends(state.losses, task_losses(round_)))
    remembered = {template: record.state for template, record in state.relations.items()}
    totals = {**totals, **dict.fromkeys(heads, 0)}
    totals, rows = privacy.released(run, state, totals, row_totals(run, round_, totals))
    stretches, said = stretch_totals(run, round_, totals), probed(run, state, round_)
    noise = privacy.noising(run, state, totals, rows)
    return state, [Combine(round_.number, totals, rows, moved, heads, remembered, stretches, said, noise)]


def publish(run: RunSettings, state: FederationState, event: Combined) -> Step:
    """Close the open round, whose values are combined, and open the next one; first of all they are stored."""
    assert state.open is not None
    version = event.asked.version
    store = StoreVersion(version, best.kept_beside(run, state.scored, version))  # by scores that are committed
    state, effects = _go_on(run, _publish(run, state, state.open, event), event.now)
    return state, [store, *effects]


def spoil(run: RunSettings, state: FederationState, event: VersionSpoiled) -> Step:
    """Abandon the open round, whose version would hold values that are not finite."""
    assert state.open is not None
    orders = state.open.orders
    longest = ", ".join(f"{orders[name].client_id} {length:.3g}" for name, length in event.lengths if name in orders)
    scopes = ", ".join(event.scopes[:MOST_NAMES])
    why = f"{_attempt(state.open)}: values of {scopes} would not be finite; longest updates (norms): {longest}"
    why += "; aggregation.norm_bound shortens such"
    return _go_on(run, _abandon(run, state, state.open, event.now, why), event.now)


def _go_on(run: RunSettings, closed: _Closed, now: float) -> Step:
    """Open the next round if it can be, and commit it with what is left of the one before."""
    state, records, after = closed.state, list(closed.records), list(closed.after)
    if state.phase not in ENDED and not state.draining:
        state, opened, notices = _open_if_possible(run, state, now)
        records += opened
        after += notices
    if not records:
        return state, after
    records += [state.traffic, *_client_records(state, closed.round, state.open)]
    return state, [Commit(tuple(records)), *after, Wake()]


def _next_phase(run: RunSettings, state: FederationState, round_: OpenRound, phase: RoundPhase, now: float) -> Step:
    """Go on with the clients that answered; what they answered is durable together with their next orders."""
    state = _committed(state, round_)
    orders = {}
    for before in round_.orders.values():
        client = state.clients[before.client_id]
        goes_on = before.state is OrderState.ACCEPTED and client.present and set(before.tasks) <= set(client.tasks)
        if goes_on:
            order = _new_order(run, state, phase, round_.number, client, before.tasks)
            orders[order.order_id] = order
    past = replace(round_, deadline=0.0, caps={}, earlier=())
    opened = replace(_opened(run, state, phase, round_.number, orders, now), earlier=(*round_.earlier, past))
    state = _assigned(state, opened)
    records = (PhaseClosed(round_), RoundOpened(opened), state.traffic, *_client_records(state, round_, opened))
    return state, [Commit(records), Wake()]


def waits_for(run: RunSettings, state: FederationState) -> str:
    """What has to happen before the run goes on, for people."""
    if state.phase in ENDED:
        return state.reason or "nothing: the run is over"
    if state.draining:
        return "nothing: the coordinator is stopping"
    if state.open is not None:
        if run.noise is not None and run.noise.is_sampled:  # their number tells, too
            return "the round to close"
        slow = sorted(order.client_id for order in state.open.orders.values() if order.state is OrderState.ISSUED)
        more = f" and {len(slow) - MOST_NAMES} more" if len(slow) > MOST_NAMES else ""
        return f"updates of {', '.join(slow[:MOST_NAMES])}{more}" if slow else "the round to close"
    present = state.present()
    missing = _missing(run, present)
    return f"clients for {', '.join(missing)}" if missing else _too_few(run, state, present) or "clients"


def _publish(run: RunSettings, state: FederationState, round_: OpenRound, event: Combined) -> _Closed:
    totals, ledger = event.asked.totals, state.ledger
    versions = ByTemplate({**state.versions, **dict.fromkeys(totals, round_.number)})
    state = replace(
        _committed(state, round_),
        versions=versions,
        completed_rounds=round_.number,
        attempt=1,
        losses=task_losses(round_),
        trends=tuple(event.asked.trends),
        relations={**state.relations, **{record.template: record for record in event.related}},
        ledger=privacy.charged(run, state, round_, event.clip),
    )
    rate = run.training_in(round_.number).learning_rate
    records: list[Record] = [RoundClosed(round_, totals, round_.number, rate), *event.cosines, *event.related]
    records += [state.ledger] if state.ledger is not None else []
    told_of = _about(run, round_, "round_closed", event.now)
    notices: list[Effect] = [InstallVersion(round_.number)]
    notices += [
        Notice(f"round {record.round}, relation on {record.template}: {record.note}")
        for record in event.related
        if record.note
    ]
    notices.append(Notice(account(run, round_, totals), about=told_of))
    before = state
    state, certified = dual.closed(run, state, round_, event.relationship)
    state, verdicts = guarded(run, state, round_)
    state = best.with_scores(run, state, round_)
    notices += dual.notices_of(before.dual, state.dual)
    notices += privacy.notices_of(ledger, state.ledger)
    after = [*notices, *notices_of(run, before.fallback_tasks, verdicts), *best.notices_of(run, before, state)]
    return _Closed(state, [*records, *certified, *verdicts], after, round_)


def _finish(run: RunSettings, state: FederationState, round_: OpenRound) -> _Closed:
    before = state
    state = best.with_scores(run, _committed(state, round_), round_)
    state, certified = dual.closed(run, state, round_)
    records: list[Record] = [RoundClosed(round_, {}, None), *certified]
    notices: list[Effect] = [*dual.notices_of(before.dual, state.dual)]
    if best.goes_on(run, state):  # its version is better after all, or it was the last until somebody asked for more
        return _Closed(state, records, notices, round=round_)
    _, verdicts = guarded(run, state, round_)
    reason = best.end_of(run, state)
    ended: list[Record] = [*records, *verdicts, RunEnded(Phase.FINISHED, reason)]
    state = replace(state, phase=Phase.FINISHED, reason=reason)
    about = LogFields(event="run_finished", round=round_.number)
    over = Notice(f"the run is finished: {reason}" if reason else "the run is finished", about=about)
    return _Closed(state, ended, [*notices, *notices_of(run, state.fallback_tasks, verdicts), over], round_)


def _attempt(round_: OpenRound) -> str:
    return f"round {round_.number}, attempt {round_.attempt}"


def _shortage(run: RunSettings, round_: OpenRound) -> str:
    came, quorum = round_.count(OrderState.ACCEPTED), needed(run, round_)
    return f"{_attempt(round_)}: {came} of {len(round_.orders)} updates, quorum {quorum}"


def _abandon(run: RunSettings, state: FederationState, round_: OpenRound, now: float, why: str) -> _Closed:
    state = replace(state, open=None, attempt=round_.attempt + 1, phase=Phase.WAITING, waiting_since=now)
    records: list[Record] = [RoundClosed(round_, {}, None)]
    if round_.attempt >= run.round_attempts:
        reason = f"{why}; given up after {run.round_attempts} attempts (federation.round_attempts)"
        state = replace(state, phase=Phase.FAILED, reason=reason)
        return _Closed(state, [*records, RunEnded(Phase.FAILED, reason)], [_failed(reason)], round_)
    again = _about(run, round_, "round_abandoned", now)
    effects: list[Effect] = [ClearSums(), Notice(f"{why}; the round starts again", True, again)]
    return _Closed(state, records, effects, round_)


def _open_if_possible(
    run: RunSettings, state: FederationState, now: float
) -> tuple[FederationState, list[Record], list[Effect]]:
    present = state.present()
    missing = _missing(run, present)
    state = replace(state, short_since=_short_since(run, state, present, now))
    timed_out = now - state.waiting_since >= run.start_timeout_seconds
    shortage = _too_few(run, state, present)
    if shortage and timed_out:
        reason = f"{shortage} for {run.start_timeout_seconds:g} s (federation.start_timeout_seconds)"
        state = replace(state, phase=Phase.FAILED, reason=reason)
        return state, [RunEnded(Phase.FAILED, reason)], [_failed(reason)]
    patient = state.short_since is not None and now - state.short_since < run.rejoin_timeout_seconds
    if shortage or patient or (state.completed_rounds == 0 and missing and not timed_out):
        waiting = state if state.phase is Phase.WAITING else replace(state, phase=Phase.WAITING, waiting_since=now)
        return waiting, [], []
    training = best.goes_on(run, state)
    ledger = privacy.opened(run, state) if training else None
    state = state if ledger is None else replace(state, ledger=ledger)
    state, units, said = with_units(run, state, present)
    state, scales, more = with_scales(run, state, present)
    state, began = dual.begun(run, state)
    round_ = _new_round(run, state, present, training, now)
    state = _assigned(state, round_)
    notices: list[Effect] = [*said, *more]
    if missing and training and state.attempt == 1:
        absent = LogFields(event="clients_missing", round=round_.number)
        text = f"round {round_.number} goes without clients for {', '.join(missing)}"
        notices.append(Notice(text, warning=True, about=absent))
    charged = () if ledger is None else (ledger,)
    return state, [*units, *scales, *began, *charged, RoundOpened(round_)], notices


def _short_since(run: RunSettings, state: FederationState, present: list[ClientRecord], now: float) -> float | None:
    """Since when a later round lacks clients of `min_clients`; those that stay away are waited for once."""
    if state.completed_rounds == 0 or len(present) >= run.min_clients:
        return None
    return now if state.short_since is None else state.short_since


def _too_few(run: RunSettings, state: FederationState, present: list[ClientRecord]) -> str:
    """Why no round can be held with those who are here, however long they have waited; empty if one can."""
    if not present:
        return "no client"
    number = state.completed_rounds + 1
    if not best.goes_on(run, state):
        return ""
    if lacking := privacy.lacks_clients(run, state):
        return lacking
    if run.min_updates == 1:
        return ""
    chosen = len(select(run, present, number))
    if chosen >= run.min_updates:
        return ""
    return f"{chosen} clients to ask where federation.min_updates is {run.min_updates}"


def _about(run: RunSettings, round_: OpenRound, event: str, now: float) -> LogFields:
    """A round for machines: the bytes of its updates, and the seconds since it was opened."""
    return LogFields(
        event=event,
        round=round_.number,
        attempt=round_.attempt,
        bytes=sum(order.nbytes for order in round_.orders.values() if order.state is OrderState.ACCEPTED),
        seconds=round(now - (round_.deadline - run.round_timeout_seconds), 3),
    )


def _failed(reason: str) -> Notice:
    return Notice(reason, warning=True, about=LogFields(event="run_failed", reason=reason))


def _new_round(
    run: RunSettings, state: FederationState, present: list[ClientRecord], training: bool, now: float
) -> OpenRound:
    phase = run.protocol.phases[0] if training else EVALUATE
    number = state.completed_rounds + 1 if training else state.completed_rounds
    chosen = select(run, privacy.asked(run, state, present), number) if training else present
    about = [(client, tasks_of_order(run, client, number) if training else client.tasks) for client in chosen]
    orders = [_new_order(run, state, phase, number, client, tasks) for client, tasks in about]
    if training and (opens := opening_phase(run, state, (order.scopes for order in orders))) is not phase:
        phase, orders = opens, [_new_order(run, state, opens, number, client, tasks) for client, tasks in about]
    return _opened(run, state, phase, number, {order.order_id: order for order in orders}, now)


def _new_order(
    run: RunSettings,
    state: FederationState,
    phase: RoundPhase,
    number: int,
    client: ClientRecord,
    tasks: tuple[str, ...],
) -> OpenOrder:
    name = order_id(phase, number, state.attempt, client.client_id)
    held = run.scopes_in(phase, number, client, tasks)
    scopes = tuple(ScopeVersion(scope, state.version_of(scope)) for scope in held)
    codec = run.codec_for(client.capabilities)
    untrained = privacy.untrained_scopes(run, state, client, tasks, number)
    return OpenOrder(name, client.client_id, tasks, scopes, codec=codec, untrained=untrained)


def _opened(
    run: RunSettings,
    state: FederationState,
    phase: RoundPhase,
    number: int,
    orders: Mapping[str, OpenOrder],
    now: float,
) -> OpenRound:
    deadline = now + run.round_timeout_seconds
    caps = caps_of(run, state.clients, orders.values())
    variates = variates_of(run, state.clients) if phase.publishes else {}
    return OpenRound(number, state.attempt, phase, state.completed_rounds, deadline, orders, caps, variates)


def _assigned(state: FederationState, round_: OpenRound) -> FederationState:
    """The state with a round whose orders are new."""
    clients = dict(state.clients)
    for order in round_.orders.values():
        client = clients[order.client_id]
        clients[order.client_id] = replace(client, tally=client.tally.add(assigned=1))
    return replace(state, open=round_, phase=round_.phase.during, clients=clients)


def _expire_outstanding(state: FederationState, round_: OpenRound) -> FederationState:
    late = "the round closed at its deadline"
    orders, clients = dict(round_.orders), dict(state.clients)
    for name, order in round_.orders.items():
        if order.state is OrderState.ISSUED:
            orders[name] = replace(order, state=OrderState.EXPIRED, note=late)
            client = clients[order.client_id]
            clients[order.client_id] = replace(client, tally=client.tally.add(expired=1))
    return replace(state, open=replace(round_, orders=orders), clients=clients)


def _committed(state: FederationState, round_: OpenRound) -> FederationState:
    """The state without its round, whose accepted updates are durable."""
    clients = dict(state.clients)
    for order in round_.orders.values():
        if order.state is OrderState.ACCEPTED:
            clients[order.client_id] = replace(clients[order.client_id], committed=order.order_id)
    return replace(state, open=None, clients=clients)


def _client_records(state: FederationState, *rounds: OpenRound | None) -> list[Record]:
    """One record for each client of these rounds."""
    names = {order.client_id: None for round_ in rounds if round_ is not None for order in round_.orders.values()}
    return [ClientChanged(state.clients[name]) for name in names]


def _missing(run: RunSettings, present: list[ClientRecord]) -> list[str]:
    """Tasks with too few clients, with the counts."""
    held = Counter(chain.from_iterable(client.tasks for client in present))  # one pass, since thousands may join
    counts = {task.name: held[task.name] for task in run.tasks}
    missing = [f"{task} ({n} of {run.clients_per_task})" for task, n in counts.items() if n < run.clients_per_task]
    few = len(present) < run.min_clients
    return [*missing, f"any task ({len(present)} of {run.min_clients} in all)"] if few else missing
