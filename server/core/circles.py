"""The circles of a round whose answers enter sums: who is in which, what each stage brought, and what it asks next.

A circle is a set of cells with the same members. Everything follows from the orders and answers of the round's phases,
which the journal has: after a restart the circles are the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from common.log_fields import LogFields
from common.orders import TaskResult
from common.parameters.scope import Scope
from common.privacy.clipping import Clip
from common.secure.counts import result_of, size_of
from common.secure.layout import CircleLayout, layout_of
from common.secure.masking import Gathering, Terms
from common.secure.ring import fraction_bits
from common.secure.roster import Roster
from common.secure.terms import (
    Announcement,
    Circle,
    SumCell,
    SumOrder,
    SumPart,
    largest_change,
    largest_weight,
    task_factors,
)
from common.stages import (
    AnnouncedKeys,
    CircleShares,
    OpenedShares,
    SealedShares,
    SignedSurvivors,
    UnmaskPart,
    circle_session,
)
from common.targets import OWN_UNITS
from server.core.effects import ClosedCircle, Notice, OpenSums, PhaseClosed
from server.core.events import SumsOpened
from server.core.open_round import OpenOrder, OpenRound, OrderState
from server.core.phases import Phase, RoundPhase, StageKind
from server.core.privacy import clip_of
from server.core.state import FederationState, RunSettings
from server.core.sum_facts import Circles, RoundSums, Stand, SumRules

C = TypeVar("C", AnnouncedKeys, SealedShares, SignedSurvivors, OpenedShares)

Letters = Mapping[str, tuple[tuple[str, bytes], ...]]


def sum_name(round_: OpenRound) -> str:
    """What the stored sums of a round are called."""
    main = main_phase(round_)
    return f"{main.phase.name}-{main.number}.{main.attempt}"


def main_phase(round_: OpenRound) -> OpenRound:
    """Of a round's phases the one whose answers enter sums; before it opened, the phase that is open."""
    return next((past for past in (*round_.earlier, round_) if not past.phase.is_stage), round_)


def is_scoring(round_: OpenRound) -> bool:
    """Whether a round trains nothing."""
    return round_.phase.during is Phase.EVALUATING


def stands_of(run: RunSettings, round_: OpenRound) -> tuple[Stand, ...]:
    """The circles of a round with enough members, as far as it has come."""
    rules = run.sums
    assert rules is not None
    keys, shares = _stage_of(round_, StageKind.KEYS), _stage_of(round_, StageKind.SHARES)
    answers = _accepted(main_phase(round_)) if not main_phase(round_).phase.is_stage else {}
    found = []
    for circle, asked in round_.circles:
        said = tuple(one for _, one in sorted(_announced(keys, circle.name).items()))
        # Whose signatures fit was checked when they came, so no identity is needed here.
        gathering = Gathering(Terms.of(rules.terms), Roster(session_of(run, round_, circle.name), said))
        if not rules.terms.masks:
            found.append(Stand(circle, asked, asked, asked & answers.keys(), gathering))
            continue
        letters = _letters(shares, circle.name)
        sharers = frozenset(letters) & gathering.roster.places.keys()
        survivors = sharers & answers.keys()
        found.append(Stand(circle, asked, sharers, survivors, gathering, _by_reader(letters, sharers)))
    return tuple(found)


def _by_reader(letters: Letters, sharers: frozenset[str]) -> Letters:
    found: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    for sender in sorted(sharers):
        for reader, text in letters[sender]:
            found[reader].append((sender, text))
    return {reader: tuple(texts) for reader, texts in found.items()}


def live(run: RunSettings, stands: Iterable[Stand], phase: RoundPhase) -> Iterator[Stand]:
    """The circles that go on to a phase: those with enough members left."""
    assert run.sums is not None
    for stand in stands:
        left = _left(stand, phase, run.sums.terms.masks)
        if len(left) >= run.sums.least and len(left) >= _threshold(run.sums, stand, phase):
            yield stand


def _left(stand: Stand, phase: RoundPhase, masks: bool) -> frozenset[str]:
    """Who goes on to a phase."""
    if not masks or phase.stage is StageKind.KEYS:
        return stand.asked
    if phase.stage is StageKind.SHARES:
        return stand.members
    return stand.survivors if phase.is_stage else stand.sharers


def _threshold(rules: SumRules, stand: Stand, phase: RoundPhase) -> int:
    """In a complete graph all members are neighbours, so that a threshold of them must be left."""
    if not rules.terms.masks or phase.stage in (StageKind.KEYS, StageKind.SHARES):
        return 0
    members = len(stand.announcements)
    found = stand.gathering.terms.parameters(members)
    return found.threshold if found.degree == members - 1 else 0


def parts_for(run: RunSettings, round_: OpenRound, client_id: str) -> list[Stand]:
    """The circles that a client is asked about in the open phase."""
    assert run.sums is not None
    masks = run.sums.terms.masks
    stands = live(run, round_.stands, round_.phase)
    return [stand for stand in stands if client_id in _left(stand, round_.phase, masks)]


def closed_scopes(run: RunSettings, round_: OpenRound, order: OpenOrder) -> set[str]:
    """The scopes of an order to train that enter no sum, so that nobody trains them."""
    if run.sums is None:
        return set()
    open_ = {cell.scope for stand in parts_for(run, round_, order.client_id) for cell in stand.circle.cells}
    return {wanted.scope for wanted in order.trained if wanted.scope not in open_}


def sum_order(run: RunSettings, round_: OpenRound, order: OpenOrder, clip: Clip | None = None) -> SumOrder | None:
    """How the answer to an order to train or to score enters sums; None where it travels as it is."""
    if run.sums is None:
        return None
    parts = []
    for stand in parts_for(run, round_, order.client_id):
        sharers = tuple(sorted(stand.sharers)) if run.sums.terms.masks else ()
        parts.append(SumPart(stand.circle, sharers, stand.letters.get(order.client_id, ())))
    tasks = order.tasks
    caps = tuple((task, round_.caps[task]) for task in tasks if task in round_.caps)
    factors = factors_of(run)
    mine_factors = tuple((task, factors[task]) for task in tasks)
    return SumOrder(run.sums.terms, round_.attempt, tuple(parts), mine_factors, caps, run.one_each, clip)


def survivors_for(run: RunSettings, round_: OpenRound, client_id: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """By circle, who is in the sums that a client is asked about."""
    found = parts_for(run, round_, client_id)
    return tuple((stand.circle.name, tuple(sorted(stand.survivors))) for stand in found)


def unmask_parts(run: RunSettings, round_: OpenRound, client_id: str) -> tuple[UnmaskPart, ...]:
    """What a client is told of each sum before it opens its shares."""
    assert run.sums is not None
    signed, parts = _stage_of(round_, StageKind.CONFIRM), []
    for stand in parts_for(run, round_, client_id):
        near = stand.gathering.neighbours[client_id] | {client_id}
        signatures = tuple(
            (member, dict(content.signatures)[stand.circle.name])
            for member, content in _contents(signed, SignedSurvivors)
            if member in near & stand.survivors and stand.circle.name in dict(content.signatures)
        )
        parts.append(UnmaskPart(stand.circle.name, tuple(sorted(stand.survivors)), signatures))
    return tuple(parts)


def opening(run: RunSettings, round_: OpenRound) -> OpenSums:
    """What takes the masks out of a round's sums, once its last phase is over."""
    assert run.sums is not None
    opened, masks = _stage_of(round_, StageKind.UNMASK), run.sums.terms.masks
    circles = []
    for stand in live(run, stands_of(run, round_), round_.phase):
        if len(stand.survivors) < run.sums.least:
            continue
        shares: dict[str, CircleShares] = {
            member: part
            for member, content in _contents(opened, OpenedShares)
            for part in content.circles
            if part.circle == stand.circle.name
        }
        circles.append(
            ClosedCircle(
                layout(run, stand.circle),
                stand.gathering.roster.session,
                tuple(sorted(stand.survivors)),
                stand.announcements,
                tuple(sorted(stand.sharers)) if masks else (),
                shares,
            )
        )
    return OpenSums(sum_name(round_) if masks else "", run.sums.terms, tuple(circles))


def layout(run: RunSettings, circle: Circle) -> CircleLayout:
    """How a member's numbers of a circle lie in its answer."""
    scopes = {cell.scope: (run.schemas[cell.scope][0], run.schemas[cell.scope][1] // 4) for cell in circle.cells}
    return layout_of(circle, scopes, {task.name: task for task in run.tasks if task.name in circle.tasks})


def session_of(run: RunSettings, round_: OpenRound, circle: str) -> str:
    """The name of a circle's masked session."""
    return circle_session(run.run_id, round_.number, round_.attempt, is_scoring(round_), circle)


def factors_of(run: RunSettings) -> dict[str, int]:
    """What one row of each task weighs in scopes of several tasks."""
    return task_factors({task.name: task.weight for task in run.tasks})


def closed_stages(round_: OpenRound) -> list[PhaseClosed]:
    """The stages of a round that is over, without what their answers brought."""
    return [PhaseClosed(forgotten(past)) for past in round_.earlier if past.phase.is_stage]


def forgotten(round_: OpenRound) -> OpenRound:
    """A phase that is over; of a stage, nothing of what its answers brought."""
    if not round_.phase.is_stage:
        return round_
    return replace(round_, orders={name: replace(order, content=None) for name, order in round_.orders.items()})


def with_sums(run: RunSettings, state: FederationState, event: SumsOpened) -> OpenRound:
    """The phase whose answers entered sums, with what these say; all other phases of the round are before it."""
    round_ = state.open
    assert round_ is not None
    main = main_phase(round_)
    results: dict[str, TaskResult] = {}
    weights: dict[str, int] = {}
    tasks = {task.name: task for task in run.tasks}
    for stand in stands_of(run, round_):
        if stand.circle.name not in event.counts:
            continue
        numbers = event.counts[stand.circle.name]
        for cell, weight in zip(stand.circle.cells, numbers, strict=False):
            weights[cell.name] = round(weight)
        at = len(stand.circle.cells)
        for name in stand.circle.tasks:
            size = size_of(tasks[name])
            results[name] = result_of(tasks[name], numbers[at : at + size], state.units.get(name, OWN_UNITS))
            at += size
    found = tuple(results[task.name] for task in run.tasks if task.name in results)
    others = tuple(past for past in (*round_.earlier, round_) if past is not main)
    sums = RoundSums(found, weights)
    return replace(main, earlier=others, sums=sums, began=round_.began, deadline=0.0, circles=(), stands=())


def given_up(round_: OpenRound, circle: str, why: str) -> Notice:
    """A line on sums that could not be opened, so that what they are of stays as it is."""
    text = f"round {round_.number}, attempt {round_.attempt}: sums of circle {circle} are given up: {why}"
    return Notice(text, warning=True, about=LogFields(event="sums_given_up", round=round_.number, reason=why))


def find(round_: OpenRound, order_id: str) -> OpenOrder | None:
    """An order of a round that is open, or whose answer waits for what its sum says."""
    main = main_phase(round_) if round_.phase.is_stage else round_
    return round_.orders.get(order_id) or main.orders.get(order_id)


def with_circles(run: RunSettings, state: FederationState, round_: OpenRound) -> OpenRound:
    """The round with the circles of its clients, in a run with sums; its phase has just opened.

    Under noise of the coordinator only cells that are open in its ledger have a sum.
    """
    if run.sums is None:
        return round_
    return with_stands(run, replace(round_, circles=_circles(run, run.sums, state, _members(run, state, round_))))


def with_stands(run: RunSettings, round_: OpenRound) -> OpenRound:
    """The round, knowing how far its circles have come before the phase that has just opened."""
    return replace(round_, stands=stands_of(run, replace(round_, orders={})))


def too_small(run: RunSettings, state: FederationState, round_: OpenRound) -> list[Notice]:
    """A line on what so few clients would train that nobody does."""
    if run.sums is None:
        return []
    members = _members(run, state, round_)
    few = {SumCell(*key).name: len(names) for key, names in members.items() if key[0] and len(names) < run.sums.least}
    if not few:
        return []
    what = ", ".join(f"{name} ({count})" for name, count in sorted(few.items()))
    text = f"fewer than {run.sums.least} clients (secure_aggregation.min_clients) hold {what}: these are not trained"
    return [Notice(text, warning=True, about=LogFields(event="sums_too_small", round=round_.number))]


def _members(run: RunSettings, state: FederationState, round_: OpenRound) -> Mapping[tuple[str, str], frozenset[str]]:
    """Of each cell, by scope and task, who was asked; a task's counts have no scope."""
    members: dict[tuple[str, str], set[str]] = defaultdict(set)
    for order in (*round_.earlier, round_)[0].orders.values():
        for cell in () if is_scoring(round_) else _cells(run, state, order):
            members[cell.scope, cell.task].add(order.client_id)
        for task in order.tasks:
            members["", task].add(order.client_id)
    return {key: frozenset(names) for key, names in sorted(members.items())}


def _circles(
    run: RunSettings, rules: SumRules, state: FederationState, members: Mapping[tuple[str, str], frozenset[str]]
) -> Circles:
    together: dict[frozenset[str], list[tuple[str, str]]] = defaultdict(list)
    for key, names in members.items():
        if len(names) >= rules.least:
            together[names].append(key)
    most = largest_weight(rules.terms, factors_of(run), run.one_each and (run.noise is not None or not run.by_task))
    change = largest_change(rules.terms, clip_of(run, state))
    found = []
    for number, (joined, keys) in enumerate(sorted(together.items(), key=lambda item: item[1])):
        cells = tuple(SumCell(scope, task) for scope, task in keys if scope)
        tasks = tuple(task for scope, task in keys if not scope)
        bits = fraction_bits(len(joined), most, change)
        found.append((Circle(str(number), cells, tasks, len(joined), bits), joined))
    return tuple(found)


def _cells(run: RunSettings, state: FederationState, order: OpenOrder) -> Iterator[SumCell]:
    """The cells that an order's answer enters: all, or those that are open under noise."""
    for cell in _all_cells(run, order):
        if state.ledger is None or cell.name in state.ledger.open:
            yield cell


def _all_cells(run: RunSettings, order: OpenOrder) -> Iterator[SumCell]:
    for scope in (Scope.parse(wanted.scope) for wanted in order.trained):
        if run.by_task and not (scope.task or scope.is_member):
            yield from (SumCell(str(scope), task) for task in order.tasks if run.reads(str(scope), (task,)))
        else:
            yield SumCell(str(scope))


def _stage_of(round_: OpenRound, kind: StageKind) -> OpenRound | None:
    return next((past for past in (*round_.earlier, round_) if past.phase.stage is kind), None)


def _accepted(round_: OpenRound) -> dict[str, OpenOrder]:
    return {o.client_id: o for o in round_.orders.values() if o.state is OrderState.ACCEPTED}


def _contents(round_: OpenRound | None, kind: type[C]) -> Iterator[tuple[str, C]]:
    """What clients answered in a stage, by id."""
    for client, order in sorted(_accepted(round_).items()) if round_ is not None else ():
        if isinstance(order.content, kind):
            yield client, order.content


def _announced(round_: OpenRound | None, circle: str) -> dict[str, Announcement]:
    return {
        client: one
        for client, content in _contents(round_, AnnouncedKeys)
        for name, one in content.circles
        if name == circle
    }


def _letters(round_: OpenRound | None, circle: str) -> Letters:
    """By sender."""
    return {
        client: letters
        for client, content in _contents(round_, SealedShares)
        for name, letters in content.letters
        if name == circle
    }
