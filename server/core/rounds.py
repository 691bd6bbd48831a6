"""The life of a round: wait for clients, open, close, and what comes next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from common.log_fields import LogFields
from common.parameters.scope import ByTemplate
from server.core import best, circles, dual, privacy
from server.core.account import MOST_NAMES, account, outliers_of
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
from server.core.conduct import Norms
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
    StoreSums,
    StoreVersion,
    Wake,
)
from server.core.events import Combined, SumsOpened, VersionSpoiled
from server.core.guard import guarded, notices_of
from server.core.open_round import OpenRound, OrderState
from server.core.opening import assigned, failed, new_order, open_if_possible, opened_round
from server.core.phases import ENDED, Phase, RoundPhase
from server.core.probing import probed
from server.core.state import FederationState, RunSettings

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
    following = (run.scoring if circles.is_scoring(round_) else run.protocol).after(round_.phase)
    if following is not None:
        return _next_phase(run, state, round_, following, now)
    if run.sums is not None:
        return state, [circles.opening(run, round_)]
    if not round_.phase.publishes:
        return _go_on(run, _finish(run, state, round_), now)
    return _combine(run, state, round_)


def read_sums(run: RunSettings, state: FederationState, event: SumsOpened) -> Step:
    """Go on with what the sums of the open round say, as if its answers had said it."""
    assert state.open is not None
    main = circles.with_sums(run, state, event)
    state = replace(state, open=main)
    notices: list[Effect] = [circles.given_up(main, name, why) for name, why in sorted(event.given_up.items())]
    if not main.phase.publishes:
        state, effects = _go_on(run, _finish(run, state, main), event.now)
    elif not event.counts:
        why = f"{_attempt(main)}: no sum could be opened"
        state, effects = _go_on(run, _abandon(run, state, main, event.now, why), event.now)
    else:
        state, effects = _combine(run, state, main)
    return state, [*notices, *effects]


def _combine(run: RunSettings, state: FederationState, round_: OpenRound) -> Step:
    """Ask for the values that the round comes to."""
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
    why = f"{_attempt(state.open)}: values of {', '.join(event.scopes[:MOST_NAMES])} would not be finite; "
    if run.sums is not None:  # nobody knows how long single updates are
        why += "a smaller secure_aggregation.largest_change, on both sides, shortens updates"
    else:
        why += f"longest updates (norms): {longest}; aggregation.norm_bound shortens such"
    return _go_on(run, _abandon(run, state, state.open, event.now, why), event.now)


def _go_on(run: RunSettings, closed: _Closed, now: float) -> Step:
    """Open the next round if it can be, and commit it with what is left of the one before."""
    state, records, after = closed.state, list(closed.records), list(closed.after)
    if state.phase not in ENDED and not state.draining:
        state, opened, notices = open_if_possible(run, state, now)
        records += opened
        after += notices
    if not records:
        return state, after
    records += [state.traffic, *_client_records(state, closed.round, state.open)]
    records += [state.conduct] if state.conduct.offences else []
    return state, [Commit(tuple(records)), *after, Wake()]


def _next_phase(run: RunSettings, state: FederationState, round_: OpenRound, phase: RoundPhase, now: float) -> Step:
    """Go on with the clients that answered; what they answered is durable together with their next orders."""
    if not (round_.phase.is_stage or phase.is_stage):
        state = _committed(state, round_)
    past = replace(round_, deadline=0.0, caps={}, earlier=(), circles=(), stands=())
    began = replace(round_, phase=phase, orders={}, earlier=(*round_.earlier, past))
    if run.sums is not None:
        began = circles.with_stands(run, began)
    orders = {}
    for before in round_.orders.values():
        client = state.clients[before.client_id]
        goes_on = before.state is OrderState.ACCEPTED and client.present and set(before.tasks) <= set(client.tasks)
        if run.sums is not None:
            goes_on = goes_on and bool(circles.parts_for(run, began, before.client_id))
        if goes_on:
            order = new_order(run, state, phase, round_.number, client, before.tasks)
            orders[order.order_id] = order
    if run.sums is not None and not orders:
        why = f"{_attempt(round_)}: no sum has {run.sums.least} clients left (secure_aggregation.min_clients)"
        if circles.is_scoring(round_):
            return _go_on(run, _finish(run, state, round_), now)
        return _go_on(run, _abandon(run, state, round_, now, why), now)
    opened = opened_round(run, state, phase, round_.number, orders, now)
    opened = replace(opened, earlier=began.earlier, began=round_.began, circles=round_.circles, stands=began.stands)
    state = assigned(state, opened)
    records = (PhaseClosed(round_), RoundOpened(opened), state.traffic, *_client_records(state, round_, opened))
    stored: list[Effect] = []
    if run.sums is not None and not round_.phase.is_stage:  # before anybody hears who is in them
        stored.append(StoreSums(circles.sum_name(round_)))
    return state, [*stored, Commit(records), Wake()]


def _publish(run: RunSettings, state: FederationState, round_: OpenRound, event: Combined) -> _Closed:
    totals, ledger = event.asked.totals, state.ledger
    versions = ByTemplate({**state.versions, **dict.fromkeys(totals, round_.number)})
    norms = Norms.of(round_.number, {round_.orders[name].client_id: found for name, found in event.lengths.items()})
    state = replace(
        _committed(state, round_),
        versions=versions,
        completed_rounds=round_.number,
        attempt=1,
        losses=task_losses(round_),
        trends=tuple(event.asked.trends),
        relations={**state.relations, **{record.template: record for record in event.related}},
        ledger=privacy.charged(run, state, round_, event.clip),
        norms=norms if norms.lengths else state.norms,
    )
    rate = run.training_in(round_.number).learning_rate
    records: list[Record] = [*circles.closed_stages(round_), RoundClosed(round_, totals, round_.number, rate)]
    records += [*event.cosines, *event.related]
    records += [state.ledger] if state.ledger is not None else []
    records += [norms] if norms.lengths else []
    told_of = _about(run, round_, "round_closed", event.now)
    notices: list[Effect] = [InstallVersion(round_.number)]
    notices += [
        Notice(f"round {record.round}, relation on {record.template}: {record.note}")
        for record in event.related
        if record.note
    ]
    notices += [Notice(account(run, round_, totals), about=told_of), *outliers_of(norms)]
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
    closed = RoundClosed(circles.forgotten(round_), {}, None)
    records: list[Record] = [*circles.closed_stages(round_), closed, *certified]
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
    records: list[Record] = [*circles.closed_stages(round_), RoundClosed(circles.forgotten(round_), {}, None)]
    if round_.attempt >= run.round_attempts:
        reason = f"{why}; given up after {run.round_attempts} attempts (federation.round_attempts)"
        state = replace(state, phase=Phase.FAILED, reason=reason)
        return _Closed(state, [*records, RunEnded(Phase.FAILED, reason)], [failed(reason)], round_)
    again = _about(run, round_, "round_abandoned", now)
    effects: list[Effect] = [ClearSums(), Notice(f"{why}; the round starts again", True, again)]
    return _Closed(state, records, effects, round_)


def _about(run: RunSettings, round_: OpenRound, event: str, now: float) -> LogFields:
    """A round for machines: the bytes of its updates, and the seconds since it was opened."""
    return LogFields(
        event=event,
        round=round_.number,
        attempt=round_.attempt,
        bytes=sum(order.nbytes for order in round_.orders.values() if order.state is OrderState.ACCEPTED),
        seconds=round(now - round_.began, 3),
    )


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
    if round_.phase.is_stage:
        return replace(state, open=None)
    clients = dict(state.clients)
    for order in round_.orders.values():
        if order.state is OrderState.ACCEPTED:
            clients[order.client_id] = replace(clients[order.client_id], committed=order.order_id)
    return replace(state, open=None, clients=clients)


def _client_records(state: FederationState, *rounds: OpenRound | None) -> list[Record]:
    """One record for each client of these rounds."""
    names = {order.client_id: None for round_ in rounds if round_ is not None for order in round_.orders.values()}
    return [ClientChanged(state.clients[name]) for name in names]
