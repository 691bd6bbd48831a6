"""The coordinator as a deterministic function: `step(rules, state, event) -> (state, effects)`."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from common.log_fields import LogFields
from common.orders import DENSE_FLOAT32, Reply, UpdateHeader
from server.core import rounds
from server.core.admission import check_answer, new_headers
from server.core.effects import Commit, Effect, Fold, HeaderFixed, Notice, RunEnded, Wake
from server.core.events import (
    Answered,
    Combined,
    DrainRequested,
    Event,
    Joined,
    Left,
    OrderFailed,
    Seen,
    Started,
    Tick,
    UpdateRefused,
    VersionSpoiled,
)
from server.core.phases import ENDED, TRANSITIONS, Phase
from server.core.state import FederationState, Member, OpenOrder, OrderState, Rules, Tally
from server.core.weighing import capped, caps_of, scope_weights, task_rows

Step = tuple[FederationState, list[Effect]]


def step(rules: Rules, state: FederationState, event: Event) -> Step:
    """Apply one event. Effects must be carried out in order before the next event is applied.

    Raises:
        Refused: only for `Answered`, when `check_answer` refuses it; the state is then unchanged.
    """
    after, effects = _applied(rules, state, event)
    assert after.phase in TRANSITIONS[state.phase], f"{event} leads from {state.phase} to {after.phase}"
    return after, effects


def _applied(rules: Rules, state: FederationState, event: Event) -> Step:
    match event:
        case Started():
            state, effects = _started(rules, state, event)
        case Joined():
            state, effects = _joined(rules, state, event)
        case Seen():
            state, effects = _seen(state, event), []
            if state.open is not None and event.now < state.open.deadline:  # a sign of life alone closes no round
                return state, effects
        case Answered():
            state, effects = _answered(rules, state, event)
        case UpdateRefused():
            state, effects = _update_refused(state, event)
        case OrderFailed():
            state, effects = _order_failed(state, event)
        case Left():
            state, effects = _left(state, event)
        case Tick():
            state, effects = _expire_leases(rules, state, event)
        case Combined():
            return rounds.publish(rules, state, event)
        case VersionSpoiled():
            return rounds.spoil(rules, state, event)
        case DrainRequested():
            state, effects = replace(state, draining=True), [Wake()]
    if state.phase in ENDED:
        return state, effects
    state, more = rounds.advance(rules, state, event.now)
    return state, effects + more


def _started(rules: Rules, state: FederationState, event: Started) -> Step:
    """Members known from before get a fresh lease, so that they can come back to their orders."""
    members = {
        name: replace(member, last_seen=event.now, present=not member.left, token="")
        for name, member in state.members.items()
    }
    state = replace(state, members=members, waiting_since=event.now, short_since=None)
    if state.open is not None:
        caps = caps_of(rules, members, state.open.orders.values())  # of the same clients as when it opened
        state = replace(state, open=replace(state.open, deadline=event.now + state.open.deadline, caps=caps))
    return _gone_on_with(rules, state) if state.phase in ENDED else (state, [])


def _gone_on_with(rules: Rules, state: FederationState) -> Step:
    """A run that had ended goes on if it had failed, or if more rounds are asked for now."""
    rounds_done = f"after {state.completed_rounds} rounds"
    failed = state.phase is Phase.FAILED
    if not failed and state.completed_rounds >= rules.num_rounds:
        return state, [Notice(f"the run is finished already, {rounds_done}")]
    text = f"the run had finished {rounds_done}; it goes on to {rules.num_rounds}"
    if failed:
        text = f"the run had stopped ({state.failure}); it tries again"
    state = replace(state, phase=Phase.WAITING, failure="")
    return state, [Commit((RunEnded(Phase.WAITING, ""),)), Notice(text, warning=failed)]


def _joined(rules: Rules, state: FederationState, event: Joined) -> Step:
    request = event.request
    known = state.members.get(request.client_id)
    if state.phase in ENDED and known is not None:  # it comes back to hear that the run is over
        tasks = tuple(sorted(task.name for task in request.tasks))
        return state.with_member(replace(known, token=event.token, tasks=tasks)), []
    member = Member(
        client_id=request.client_id,
        tasks=tuple(sorted(task.name for task in request.tasks)),
        examples=dict(request.examples),
        validation=dict(request.validation),
        capabilities=request.capabilities,
        token=event.token,
        last_seen=event.now,
        doing="joined",
        committed=known.committed if known else "",
        tally=known.tally if known else Tally(),
        targets=dict(request.targets),
    )
    effects: list[Effect] = []
    if fixed := new_headers(rules, state, request):
        state = replace(state, headers={**state.headers, **fixed})
        effects.append(Commit(tuple(HeaderFixed(task, header) for task, header in fixed.items())))
    state = state.with_member(member)
    if known is None or known.left or not known.present:
        back = "came back" if known else "joined"
        text = f"client {member.client_id} {back} with {', '.join(member.tasks)}"
        joined = LogFields(event="client_joined", client=member.client_id, task=",".join(member.tasks))
        effects.append(Notice(text, about=joined))
    asked = rules.codec_for(member.capabilities)
    if asked != rules.update_encoding and (known is None or known.capabilities != member.capabilities):
        text = f"does not offer {rules.update_encoding}; its updates are asked for as {asked}"
        effects.append(Notice(f"client {member.client_id} {text}"))
    order = state.open.order_of(member.client_id) if state.open else None
    if order is None or state.open is None or order.state is not OrderState.ISSUED:
        return state, effects
    unable = order.codec != DENSE_FLOAT32 and order.codec not in member.capabilities.codecs
    other = order.fixed != rules.fixed_scopes(member, order.tasks, state.open.number, state.fallen)
    held = rules.scopes_in(state.open.phase, state.open.number, member, order.tasks)
    other = other or tuple(scope.scope for scope in order.scopes) != held
    lacking = sorted(set(order.tasks) - set(member.tasks))
    if lacking or unable or other:
        why = f"without {', '.join(lacking)}" if lacking else "to train or hold another part of the model"
        why = f"without encoding {order.codec}" if unable else why
        state, more = _drop_order(state, order, OrderState.FAILED, f"the client came back {why}")
        effects += more
    return state, effects


def _seen(state: FederationState, event: Seen) -> FederationState:
    member = state.members[event.client_id]
    return state.with_member(replace(member, last_seen=event.now, present=True, left=False, doing=event.doing))


def _answered(rules: Rules, state: FederationState, event: Answered) -> Step:
    order, repeated = check_answer(rules, state, event.client_id, event.answer)
    if repeated:
        return state, []
    assert state.open is not None
    answer = event.answer
    results = capped(answer.results, state.open.caps)
    order = replace(order, state=OrderState.ACCEPTED, digest=answer.digest, results=results, seconds=answer.seconds)
    effects: list[Effect] = []
    match answer:
        case UpdateHeader():
            order = replace(order, weights=scope_weights(rules, order, results), nbytes=answer.nbytes)
            if answer.scopes:
                effects.append(Fold(order.order_id, order.weights, task_rows(rules, order, results)))
        case Reply():
            pass
        case _:
            assert_never(answer)
    return _count(state.with_order(order), event.client_id, completed=1), effects


def _update_refused(state: FederationState, event: UpdateRefused) -> Step:
    state = _count(state, event.client_id, refused=1)
    refused = LogFields(event="update_refused", client=event.client_id, reason=event.reason)
    return state, [Notice(f"update of {event.client_id} refused: {event.reason}", warning=True, about=refused)]


def _order_failed(state: FederationState, event: OrderFailed) -> Step:
    order = state.open.orders.get(event.order_id) if state.open else None
    if order is None or order.client_id != event.client_id or order.state is not OrderState.ISSUED:
        return state, []
    return _drop_order(state, order, OrderState.FAILED, event.reason)


def _left(state: FederationState, event: Left) -> Step:
    member = replace(state.members[event.client_id], present=False, left=True, doing="", token="")
    state = state.with_member(member)
    effects: list[Effect] = [
        Notice(f"client {member.client_id} left", about=LogFields(event="client_left", client=member.client_id))
    ]
    order = state.open.order_of(member.client_id) if state.open else None
    if order is not None and order.state is OrderState.ISSUED:
        state, more = _drop_order(state, order, OrderState.FAILED, "the client left")
        effects += more
    return state, effects


def _expire_leases(rules: Rules, state: FederationState, tick: Tick) -> Step:
    """Let go of clients that were silent for a whole lease; a call is a sign of life for as long as it is open."""
    effects: list[Effect] = []
    for member in state.present():
        silent = tick.now - member.last_seen
        if member.client_id in tick.connected and silent >= rules.lease_seconds / 4:  # not with every tick
            state = state.with_member(replace(member, last_seen=tick.now))
        if member.client_id in tick.connected or silent < rules.lease_seconds:
            continue
        state = state.with_member(replace(member, present=False, doing=""))
        silence = f"not heard from for {rules.lease_seconds:g} s"
        gone = LogFields(event="client_gone", client=member.client_id, reason=silence)
        effects.append(Notice(f"client {member.client_id} is gone: {silence}", warning=True, about=gone))
        order = state.open.order_of(member.client_id) if state.open else None
        if order is not None and order.state is OrderState.ISSUED:
            state, more = _drop_order(state, order, OrderState.EXPIRED, silence)
            effects += more
    return state, effects


def _drop_order(state: FederationState, order: OpenOrder, how: OrderState, why: str) -> Step:
    state = state.with_order(replace(order, state=how, note=why))
    count = {"failed": 1} if how is OrderState.FAILED else {"expired": 1}
    dropped = LogFields(event=f"order_{how.value}", order=order.order_id, client=order.client_id, reason=why)
    notice = Notice(f"order {order.order_id} {how.value}: {why}", warning=True, about=dropped)
    return _count(state, order.client_id, **count), [notice]


def _count(state: FederationState, client_id: str, **more: int) -> FederationState:
    member = state.members[client_id]
    return state.with_member(replace(member, tally=member.tally.add(**more)))
