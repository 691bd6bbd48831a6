"""The life of a round: wait for members, open, close, and what comes next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

from common.orders import OrderKind, ScopeVersion
from common.parameters.circles import MEMBER, BySlot, is_template, slot_of
from server.core.closing import has_quorum, is_complete, required, row_totals, scope_totals, task_losses, trends
from server.core.effects import (
    ClearSums,
    Commit,
    Effect,
    InstallVersion,
    MemberRecord,
    Notice,
    Record,
    RoundClosed,
    RoundOpened,
    RunEnded,
    StoreVersion,
    Wake,
)
from server.core.guard import guarded, told
from server.core.selection import select, tasks_of_order
from server.core.state import (
    ENDED,
    FederationState,
    Member,
    OpenOrder,
    OpenRound,
    OrderState,
    Phase,
    Rules,
    order_id,
)
from server.core.units import with_units

Step = tuple[FederationState, list[Effect]]

MOST_NAMES = 6
"""Up to so many clients are named in a log line."""


def advance(rules: Rules, state: FederationState, now: float) -> Step:
    """Close the open round if it is due and open the next one if it can be; both land in one commit."""
    before: list[Effect] = []
    after: list[Effect] = []
    records: list[Record] = []
    if state.open is not None:
        if not is_complete(state.open) and now < state.open.deadline:
            return state, []
        state, before, records, after = _close(rules, state, now)
    if state.phase not in ENDED and not state.draining:
        state, opened, notices = _open_if_possible(rules, state, now)
        records += opened
        after += notices
    if not records:
        return state, after
    return state, [*before, Commit(tuple(records)), *after, Wake()]


def waits_for(rules: Rules, state: FederationState) -> str:
    """What has to happen before the run goes on, for people."""
    if state.phase in ENDED:
        return state.failure or "nothing: the run is over"
    if state.draining:
        return "nothing: the coordinator is stopping"
    if state.open is not None:
        slow = sorted(order.client_id for order in state.open.orders.values() if order.state is OrderState.ISSUED)
        more = f" and {len(slow) - MOST_NAMES} more" if len(slow) > MOST_NAMES else ""
        return f"updates of {', '.join(slow[:MOST_NAMES])}{more}" if slow else "the round to close"
    missing = _missing(rules, state.present())
    return f"clients for {', '.join(missing)}" if missing else "clients"


def _close(
    rules: Rules, state: FederationState, now: float
) -> tuple[FederationState, list[Effect], list[Record], list[Effect]]:
    """State, effects that come before the commit, records of the commit, effects that come after it."""
    assert state.open is not None
    round_ = _expire_outstanding(state.open)
    members = dict(state.members)
    for order in state.open.orders.values():
        if order.state is OrderState.ISSUED:
            late = members[order.client_id]
            members[order.client_id] = replace(late, tally=late.tally.add(expired=1))
    state = replace(state, open=None, members=members)
    if round_.kind is OrderKind.EVALUATE:
        return _finish(rules, state, round_)
    if not has_quorum(rules, round_):
        return _abandon(rules, state, round_, now)
    totals = scope_totals(rules, round_, state.versions)
    versions = BySlot({**state.versions, **dict.fromkeys(totals, round_.number)})
    state = _settle(replace(state, versions=versions, completed_rounds=round_.number, attempt=1), round_)
    rate = rules.training_in(round_.kind, round_.number).learning_rate
    records: list[Record] = [RoundClosed(round_, totals, round_.number, rate), *_member_records(state, round_)]
    notices: list[Effect] = [InstallVersion(round_.number), Notice(_account(rules, round_, totals))]
    losses = task_losses(round_)
    state = replace(state, losses=losses, trends=(*state.trends, trends(state.losses, losses)))
    store = StoreVersion(round_.number, totals, row_totals(rules, round_, totals), state.trends)
    before = state.fallen
    state, verdicts = guarded(rules, state, round_)
    return state, [store], [*records, *verdicts], [*notices, *told(rules, before, verdicts)]


def _finish(
    rules: Rules, state: FederationState, round_: OpenRound
) -> tuple[FederationState, list[Effect], list[Record], list[Effect]]:
    state = _settle(state, round_)
    records: list[Record] = [RoundClosed(round_, {}, None), *_member_records(state, round_)]
    if state.completed_rounds < rules.num_rounds:  # it was the last round until somebody asked for more
        return state, [], records, []
    _, verdicts = guarded(rules, state, round_)
    ended: list[Record] = [*records, *verdicts, RunEnded(Phase.FINISHED, "")]
    state = replace(state, phase=Phase.FINISHED)
    return state, [], ended, [*told(rules, state.fallen, verdicts), Notice("the run is finished")]


def _abandon(
    rules: Rules, state: FederationState, round_: OpenRound, now: float
) -> tuple[FederationState, list[Effect], list[Record], list[Effect]]:
    came, needed = round_.count(OrderState.ACCEPTED), required(rules.quorum, len(round_.orders))
    text = f"round {round_.number}, attempt {round_.attempt}: {came} of {len(round_.orders)} updates, quorum {needed}"
    state = replace(state, attempt=round_.attempt + 1, phase=Phase.WAITING, waiting_since=now)
    records: list[Record] = [RoundClosed(round_, {}, None), *_member_records(state, round_)]
    effects: list[Effect] = [ClearSums(), Notice(f"{text}; the round starts again", warning=True)]
    if round_.attempt >= rules.round_attempts:
        reason = f"{text}; given up after {rules.round_attempts} attempts (federation.round_attempts)"
        state = replace(state, phase=Phase.FAILED, failure=reason)
        return state, [], [*records, RunEnded(Phase.FAILED, reason)], [Notice(reason, warning=True)]
    return state, [], records, effects


def _open_if_possible(
    rules: Rules, state: FederationState, now: float
) -> tuple[FederationState, list[Record], list[Effect]]:
    present = state.present()
    first = state.completed_rounds == 0
    missing = _missing(rules, present)
    timed_out = now - state.waiting_since >= rules.start_timeout_seconds
    if (first and missing and not timed_out) or not present:
        if not timed_out:
            waiting = state if state.phase is Phase.WAITING else replace(state, phase=Phase.WAITING, waiting_since=now)
            return waiting, [], []
        reason = f"no client for {rules.start_timeout_seconds:g} s (federation.start_timeout_seconds)"
        state = replace(state, phase=Phase.FAILED, failure=reason)
        return state, [RunEnded(Phase.FAILED, reason)], [Notice(reason, warning=True)]
    training = state.completed_rounds < rules.num_rounds
    state, fixed, said = with_units(rules, state, present)
    round_ = _new_round(rules, state, present, training, now)
    members = dict(state.members)
    for order in round_.orders.values():
        holder = members[order.client_id]
        members[order.client_id] = replace(holder, tally=holder.tally.add(assigned=1))
    phase = Phase.TRAINING if training else Phase.EVALUATING
    state = replace(state, open=round_, phase=phase, members=members)
    notices: list[Effect] = [*said]
    if missing and training and state.attempt == 1:
        notices.append(Notice(f"round {round_.number} goes without clients for {', '.join(missing)}", warning=True))
    return state, [*fixed, RoundOpened(round_), *_member_records(state, round_)], notices


def _new_round(rules: Rules, state: FederationState, present: list[Member], training: bool, now: float) -> OpenRound:
    kind = OrderKind.TRAIN if training else OrderKind.EVALUATE
    number = state.completed_rounds + 1 if training else state.completed_rounds
    chosen = select(rules, present, number) if training else present
    orders = {}
    for member in chosen:
        name = order_id(kind, number, state.attempt, member.client_id)
        tasks = tasks_of_order(rules, member, number) if training else member.tasks
        scopes = tuple(ScopeVersion(scope, state.versions[scope]) for scope in rules.scopes_of(member, tasks))
        encoding = rules.encoding_for(member.capabilities)
        fixed = rules.fixed_scopes(member, tasks, number, state.fallen)
        orders[name] = OpenOrder(name, member.client_id, tasks, scopes, encoding=encoding, fixed=fixed)
    return OpenRound(number, state.attempt, kind, state.completed_rounds, now + rules.round_timeout_seconds, orders)


def _expire_outstanding(round_: OpenRound) -> OpenRound:
    late = "the round closed at its deadline"
    orders = {
        name: replace(order, state=OrderState.EXPIRED, note=late) if order.state is OrderState.ISSUED else order
        for name, order in round_.orders.items()
    }
    return replace(round_, orders=orders)


def _settle(state: FederationState, round_: OpenRound) -> FederationState:
    members = dict(state.members)
    for order in round_.orders.values():
        if order.state is OrderState.ACCEPTED:
            members[order.client_id] = replace(members[order.client_id], settled=order.order_id)
    return replace(state, members=members)


def _member_records(state: FederationState, round_: OpenRound) -> list[Record]:
    return [MemberRecord(state.members[order.client_id]) for order in round_.orders.values()]


def _missing(rules: Rules, present: list[Member]) -> list[str]:
    """Tasks with too few clients, with the counts."""
    held = Counter(chain.from_iterable(member.tasks for member in present))  # one pass, since thousands may join
    counts = {task.name: held[task.name] for task in rules.tasks}
    missing = [f"{task} ({n} of {rules.clients_per_task})" for task, n in counts.items() if n < rules.clients_per_task]
    few = len(present) < rules.min_clients
    return [*missing, f"any task ({len(present)} of {rules.min_clients} in all)"] if few else missing


def _account(rules: Rules, round_: OpenRound, totals: Mapping[str, int]) -> str:
    """How many clients trained each task, and what was aggregated from whom; for the log."""
    accepted = [order for order in round_.orders.values() if order.state is OrderState.ACCEPTED]
    held = {task.name: sum(task.name in order.tasks for order in accepted) for task in rules.tasks}
    parts = []
    for scope in sorted(scope for scope in totals if not scope.startswith(MEMBER)):
        who = sorted(order.client_id for order in accepted if scope in order.weights)
        names = f" ({', '.join(who)})" if len(who) <= MOST_NAMES else ""
        parts.append(f"{scope}: {rules.tensors.get(slot_of(scope), 0)} tensors from {len(who)}{names}")
    members = Counter(slot_of(scope) for scope in totals if scope.startswith(MEMBER) and totals[scope])
    parts += [
        f"{slot}: {rules.tensors.get(slot, 0)} tensors, {count} members' own" for slot, count in sorted(members.items())
    ]
    known = {scope for scope in rules.schemas if not is_template(scope)}
    kept = sorted(known.union(*(order.weights for order in accepted)) - set(totals))
    tail = f"; kept: {', '.join(kept)}" if kept else ""
    clients = ", ".join(f"{task} {count}" for task, count in held.items())
    head = f"round {round_.number} closed with {len(accepted)} of {len(round_.orders)} updates"
    changed = "; ".join(parts) or ("nothing changed" if rules.schemas else "nothing is shared")
    return f"{head}, clients per task: {clients}; {changed}{tail}"
