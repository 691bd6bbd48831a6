"""The life of a round: wait for members, open, close, and what comes next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from common.log_fields import LogFields
from common.orders import ScopeVersion
from common.parameters.scope import ByTemplate, Scope
from server.core.closing import has_quorum, is_complete, needed, row_totals, scope_totals, task_losses, trends
from server.core.effects import (
    ClearSums,
    Combine,
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
from server.core.events import Combined, VersionSpoiled
from server.core.guard import guarded, told
from server.core.phases import ENDED, EVALUATE, TRAIN, Phase
from server.core.selection import select, tasks_of_order
from server.core.state import (
    FederationState,
    Member,
    OpenOrder,
    OpenRound,
    OrderState,
    Rules,
    order_id,
)
from server.core.units import with_units
from server.core.weighing import caps_of, step_shares, variates_of

Step = tuple[FederationState, list[Effect]]

MOST_NAMES = 6
"""Up to so many clients are named in a log line."""


@dataclass(frozen=True)
class _Closed:
    """What is left of a round: the state without it, records for the commit, and effects after that."""

    state: FederationState
    records: list[Record]
    after: list[Effect] = field(default_factory=list)


def advance(rules: Rules, state: FederationState, now: float) -> Step:
    """Close the open round if it is due and open the next one if it can be; both land in one commit.

    A round with its quorum closes in two steps: its values are asked for here, and `publish` or `spoil` goes on.
    """
    if state.open is None:
        return _go_on(rules, _Closed(state, []), now)
    if not is_complete(state.open) and now < state.open.deadline:
        return state, []
    state = _expire_outstanding(state, state.open)
    assert state.open is not None
    round_ = state.open
    if not round_.phase.publishes:
        return _go_on(rules, _finish(rules, state, round_), now)
    if not has_quorum(rules, round_):
        return _go_on(rules, _abandon(rules, state, round_, now, _shortage(rules, round_)), now)
    totals = scope_totals(rules, round_, state.versions)
    moved = (*state.trends, trends(state.losses, task_losses(round_)))
    remembered = {template: record.state for template, record in state.relations.items()}
    return state, [Combine(round_.number, totals, row_totals(rules, round_, totals), moved, remembered)]


def publish(rules: Rules, state: FederationState, event: Combined) -> Step:
    """Close the open round, whose values are combined, and open the next one; first of all they are stored."""
    assert state.open is not None
    state, effects = _go_on(rules, _publish(rules, state, state.open, event), event.now)
    return state, [StoreVersion(event.asked.version), *effects]


def spoil(rules: Rules, state: FederationState, event: VersionSpoiled) -> Step:
    """Abandon the open round, whose version would hold values that are not finite."""
    assert state.open is not None
    orders = state.open.orders
    longest = ", ".join(f"{orders[name].client_id} {length:.3g}" for name, length in event.lengths if name in orders)
    scopes = ", ".join(event.scopes[:MOST_NAMES])
    why = f"{_attempt(state.open)}: values of {scopes} would not be finite; longest updates (norms): {longest}"
    why += "; aggregation.norm_bound shortens such"
    return _go_on(rules, _abandon(rules, state, state.open, event.now, why), event.now)


def _go_on(rules: Rules, closed: _Closed, now: float) -> Step:
    """Open the next round if it can be, and commit it with what is left of the one before."""
    state, records, after = closed.state, list(closed.records), list(closed.after)
    if state.phase not in ENDED and not state.draining:
        state, opened, notices = _open_if_possible(rules, state, now)
        records += opened
        after += notices
    if not records:
        return state, after
    return state, [Commit(tuple(records)), *after, Wake()]


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
    present = state.present()
    missing = _missing(rules, present)
    return f"clients for {', '.join(missing)}" if missing else _too_few(rules, state, present) or "clients"


def _publish(rules: Rules, state: FederationState, round_: OpenRound, event: Combined) -> _Closed:
    totals = event.asked.totals
    versions = ByTemplate({**state.versions, **dict.fromkeys(totals, round_.number)})
    state = replace(
        _committed(state, round_),
        versions=versions,
        completed_rounds=round_.number,
        attempt=1,
        losses=task_losses(round_),
        trends=tuple(event.asked.trends),
        relations={**state.relations, **{record.template: record for record in event.related}},
    )
    rate = rules.training_in(round_.number).learning_rate
    records: list[Record] = [RoundClosed(round_, totals, round_.number, rate), *_member_records(state, round_)]
    records += [*event.cosines, *event.related]
    told_of = _about(rules, round_, "round_closed", event.now)
    notices: list[Effect] = [InstallVersion(round_.number)]
    notices += [
        Notice(f"round {record.round}, relation on {record.template}: {record.note}")
        for record in event.related
        if record.note
    ]
    notices.append(Notice(_account(rules, round_, totals), about=told_of))
    before = state.fallen
    state, verdicts = guarded(rules, state, round_)
    return _Closed(state, [*records, *verdicts], after=[*notices, *told(rules, before, verdicts)])


def _finish(rules: Rules, state: FederationState, round_: OpenRound) -> _Closed:
    state = _committed(state, round_)
    records: list[Record] = [RoundClosed(round_, {}, None), *_member_records(state, round_)]
    if state.completed_rounds < rules.num_rounds:  # it was the last round until somebody asked for more
        return _Closed(state, records)
    _, verdicts = guarded(rules, state, round_)
    ended: list[Record] = [*records, *verdicts, RunEnded(Phase.FINISHED, "")]
    state = replace(state, phase=Phase.FINISHED)
    over = Notice("the run is finished", about=LogFields(event="run_finished", round=round_.number))
    return _Closed(state, ended, after=[*told(rules, state.fallen, verdicts), over])


def _attempt(round_: OpenRound) -> str:
    return f"round {round_.number}, attempt {round_.attempt}"


def _shortage(rules: Rules, round_: OpenRound) -> str:
    came, quorum = round_.count(OrderState.ACCEPTED), needed(rules, round_)
    return f"{_attempt(round_)}: {came} of {len(round_.orders)} updates, quorum {quorum}"


def _abandon(rules: Rules, state: FederationState, round_: OpenRound, now: float, why: str) -> _Closed:
    state = replace(state, open=None, attempt=round_.attempt + 1, phase=Phase.WAITING, waiting_since=now)
    records: list[Record] = [RoundClosed(round_, {}, None), *_member_records(state, round_)]
    if round_.attempt >= rules.round_attempts:
        reason = f"{why}; given up after {rules.round_attempts} attempts (federation.round_attempts)"
        state = replace(state, phase=Phase.FAILED, failure=reason)
        return _Closed(state, [*records, RunEnded(Phase.FAILED, reason)], after=[_failed(reason)])
    again = _about(rules, round_, "round_abandoned", now)
    effects: list[Effect] = [ClearSums(), Notice(f"{why}; the round starts again", True, again)]
    return _Closed(state, records, after=effects)


def _open_if_possible(
    rules: Rules, state: FederationState, now: float
) -> tuple[FederationState, list[Record], list[Effect]]:
    present = state.present()
    missing = _missing(rules, present)
    state = replace(state, short_since=_short_since(rules, state, present, now))
    timed_out = now - state.waiting_since >= rules.start_timeout_seconds
    lacking = _too_few(rules, state, present)
    if lacking and timed_out:
        reason = f"{lacking} for {rules.start_timeout_seconds:g} s (federation.start_timeout_seconds)"
        state = replace(state, phase=Phase.FAILED, failure=reason)
        return state, [RunEnded(Phase.FAILED, reason)], [_failed(reason)]
    patient = state.short_since is not None and now - state.short_since < rules.rejoin_timeout_seconds
    if lacking or patient or (state.completed_rounds == 0 and missing and not timed_out):
        waiting = state if state.phase is Phase.WAITING else replace(state, phase=Phase.WAITING, waiting_since=now)
        return waiting, [], []
    training = state.completed_rounds < rules.num_rounds
    state, fixed, said = with_units(rules, state, present)
    round_ = _new_round(rules, state, present, training, now)
    members = dict(state.members)
    for order in round_.orders.values():
        holder = members[order.client_id]
        members[order.client_id] = replace(holder, tally=holder.tally.add(assigned=1))
    state = replace(state, open=round_, phase=round_.phase.during, members=members)
    notices: list[Effect] = [*said]
    if missing and training and state.attempt == 1:
        absent = LogFields(event="clients_missing", round=round_.number)
        text = f"round {round_.number} goes without clients for {', '.join(missing)}"
        notices.append(Notice(text, warning=True, about=absent))
    return state, [*fixed, RoundOpened(round_), *_member_records(state, round_)], notices


def _short_since(rules: Rules, state: FederationState, present: list[Member], now: float) -> float | None:
    """Since when a later round lacks clients of `min_clients`; those that stay away are waited for once."""
    if state.completed_rounds == 0 or len(present) >= rules.min_clients:
        return None
    return now if state.short_since is None else state.short_since


def _too_few(rules: Rules, state: FederationState, present: list[Member]) -> str:
    """Why no round can be held with those who are here, however long they have waited; empty if one can."""
    if not present:
        return "no client"
    number = state.completed_rounds + 1
    if rules.min_updates == 1 or number > rules.num_rounds:
        return ""
    chosen = len(select(rules, present, number))
    if chosen >= rules.min_updates:
        return ""
    return f"{chosen} clients to ask where federation.min_updates is {rules.min_updates}"


def _about(rules: Rules, round_: OpenRound, event: str, now: float) -> LogFields:
    """A round for machines: the bytes of its updates, and the seconds since it was opened."""
    return LogFields(
        event=event,
        round=round_.number,
        attempt=round_.attempt,
        bytes=sum(order.nbytes for order in round_.orders.values() if order.state is OrderState.ACCEPTED),
        seconds=round(now - (round_.deadline - rules.round_timeout_seconds), 3),
    )


def _failed(reason: str) -> Notice:
    return Notice(reason, warning=True, about=LogFields(event="run_failed", reason=reason))


def _new_round(rules: Rules, state: FederationState, present: list[Member], training: bool, now: float) -> OpenRound:
    phase = TRAIN if training else EVALUATE
    number = state.completed_rounds + 1 if training else state.completed_rounds
    chosen = select(rules, present, number) if training else present
    orders = {}
    for member in chosen:
        name = order_id(phase, number, state.attempt, member.client_id)
        tasks = tasks_of_order(rules, member, number) if training else member.tasks
        held = rules.scopes_in(phase, number, member, tasks)
        scopes = tuple(ScopeVersion(scope, state.version_of(scope)) for scope in held)
        codec = rules.codec_for(member.capabilities)
        fixed = rules.fixed_scopes(member, tasks, number, state.fallen)
        orders[name] = OpenOrder(name, member.client_id, tasks, scopes, codec=codec, fixed=fixed)
    deadline = now + rules.round_timeout_seconds
    caps = caps_of(rules, state.members, orders.values())
    variates = variates_of(rules, state.members) if training else {}
    return OpenRound(number, state.attempt, phase, state.completed_rounds, deadline, orders, caps, variates)


def _expire_outstanding(state: FederationState, round_: OpenRound) -> FederationState:
    late = "the round closed at its deadline"
    orders, members = dict(round_.orders), dict(state.members)
    for name, order in round_.orders.items():
        if order.state is OrderState.ISSUED:
            orders[name] = replace(order, state=OrderState.EXPIRED, note=late)
            member = members[order.client_id]
            members[order.client_id] = replace(member, tally=member.tally.add(expired=1))
    return replace(state, open=replace(round_, orders=orders), members=members)


def _committed(state: FederationState, round_: OpenRound) -> FederationState:
    """The state without its round, whose accepted updates are durable."""
    members = dict(state.members)
    for order in round_.orders.values():
        if order.state is OrderState.ACCEPTED:
            members[order.client_id] = replace(members[order.client_id], committed=order.order_id)
    return replace(state, open=None, members=members)


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
    changed = [Scope.parse(name) for name in sorted(totals)]
    for scope in (str(scope) for scope in changed if not (scope.is_member or scope.is_derived)):
        who = sorted(order.client_id for order in accepted if scope in order.weights)
        names = f" ({', '.join(who)})" if len(who) <= MOST_NAMES else ""
        parts.append(f"{scope}: {rules.tensors.get(Scope.parse(scope).template, 0)} tensors from {len(who)}{names}")
    members = Counter(scope.template for scope in changed if scope.is_member and totals[str(scope)])
    parts += [
        f"{name}: {rules.tensors.get(name, 0)} tensors, {count} members' own" for name, count in sorted(members.items())
    ]
    known = {name for name in rules.schemas if not Scope.parse(name).is_template}
    kept = sorted(known.union(*(order.weights for order in accepted)) - set(totals))
    tail = f"; kept: {', '.join(kept)}" if kept else ""
    clients = ", ".join(f"{task} {count}" for task, count in held.items())
    head = f"round {round_.number} closed with {len(accepted)} of {len(round_.orders)} updates"
    what = "; ".join(parts) or ("nothing changed" if rules.schemas else "nothing is shared")
    return f"{head}, clients per task: {clients}; {what}{tail}{_largest_share(rules, round_, totals)}"


def _largest_share(rules: Rules, round_: OpenRound, totals: Mapping[str, int]) -> str:
    """Who moved something that several clients trained the most."""
    shares = step_shares(rules, round_, totals)
    found = [(share, label, who) for label, of in shares.items() if len(of) > 1 for who, share in of.items()]
    if not found:
        return ""
    share, label, who = max(found)
    return f"; largest share of a step: {who} {share:.0%} of {label}"
