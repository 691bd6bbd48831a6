"""When a round may close and what it then changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from operator import attrgetter

from common.orders import TaskResult
from common.parameters.scope import Scope, is_sum
from common.secure.terms import SumCell
from server.core.open_round import OpenOrder, OpenRound, OrderState
from server.core.readers import StretchTotal
from server.core.state import RunSettings
from server.core.sum_facts import RoundSums
from server.core.weighing import task_rows


def is_complete(round_: OpenRound) -> bool:
    """Whether no order is outstanding."""
    return OrderState.ISSUED not in map(attrgetter("state"), round_.orders.values())


def required(share: float, orders: int) -> int:
    """The quorum of a number of orders: the share rounded up, at least one; 55 % of 100 are 55, whatever floats say."""
    return max(1, ceil(share * orders - 1e-9))


def needed(run: RunSettings, round_: OpenRound) -> int:
    """How many updates the round needs to close."""
    return max(required(run.quorum, len(round_.orders)), run.min_updates)


def has_quorum(run: RunSettings, round_: OpenRound) -> bool:
    """Whether enough of the round's orders came back; where coins decide who is asked, none may be enough."""
    if run.noise is not None and run.noise.is_sampled and not round_.orders:
        return True
    return round_.count(OrderState.ACCEPTED) >= needed(run, round_)


def scope_totals(run: RunSettings, round_: OpenRound, known: Iterable[str]) -> Mapping[str, int]:
    """Weight sum of every scope that changes: its own quorum is met and somebody brought examples.

    A scope that is not in the result keeps its values and its version. A sum over clients is in it with 1, so that it
    is not divided. Where members are related, a change of one changes all that are `known`, and what newcomers begin
    with: those that nobody trained are in the result with 0. Where members choose a model, all of it may change, and so
    it does in the last round of a run that averages its versions.
    """
    totals: dict[str, int] = {}
    for name in sorted({scope.scope for order in round_.orders.values() for scope in order.trained}):
        holders = [o for o in round_.orders.values() if any(scope.scope == name for scope in o.trained)]
        accepted = [order for order in holders if order.state is OrderState.ACCEPTED]
        if is_sum(name):  # every change that its client commits counts in the sum, whatever becomes of the scope
            totals |= {name: 1} if accepted else {}
            continue
        weight = _weight(round_, name, accepted)
        if holders and len(accepted) >= required(run.quorum, len(holders)) and weight > 0:
            totals[name] = weight
    if run.related:
        held = _of_members(round_) if run.probes is not None and run.probes.whole_models else set()
        moved = {scope.template for scope in map(Scope.parse, {*totals, *held}) if scope.is_member}
        also = (name for name in sorted(moved.union(known, held)) if Scope.parse(name).template in moved)
        totals |= {name: 0 for name in also if name not in totals}
    if run.averages and round_.number >= run.num_rounds:
        totals |= {n: 0 for n in sorted(known) if n not in totals and not Scope.parse(n).is_derived}
    return totals


def _weight(round_: OpenRound, scope: str, accepted: Iterable[OpenOrder]) -> int:
    """The weight sum of a scope, as answers or their sums say."""
    if round_.sums is None:
        return sum(order.weights.get(scope, 0) for order in accepted)
    cells = [SumCell(scope), *(SumCell(scope, result.task) for result in round_.sums.results)]
    return sum(round_.sums.weights.get(cell.name, 0) for cell in cells)


def _of_members(round_: OpenRound) -> set[str]:
    """The copies that a round was about, trained or not."""
    held = (wanted.scope for order in round_.orders.values() for wanted in order.scopes)
    return {name for name in held if Scope.parse(name).is_member}


def row_totals(run: RunSettings, round_: OpenRound, scopes: Iterable[str]) -> Mapping[str, Mapping[str, int]]:
    """Of those among `scopes` that are summed by task, the examples of every task that brought some.

    Tasks come in the order of the configuration, so that nothing depends on who answered first.
    """
    if round_.sums is not None:
        return {scope: of for scope in scopes if (of := _summed_rows(run, round_.sums, scope))}
    accepted = [order for order in round_.orders.values() if order.state is OrderState.ACCEPTED]
    parts = [task_rows(run, order, order.results) for order in accepted]
    found: dict[str, dict[str, int]] = {}
    for scope in scopes:
        rows = [part[scope] for part in parts if scope in part]
        if rows:
            sums = {task.name: sum(row.get(task.name, 0) for row in rows) for task in run.tasks}
            found[scope] = {task: total for task, total in sums.items() if total}
    return found


def _summed_rows(run: RunSettings, sums: RoundSums, scope: str) -> dict[str, int]:
    weights = {task.name: sums.weights.get(SumCell(scope, task.name).name, 0) for task in run.tasks}
    return {task: weight for task, weight in weights.items() if weight}


def stretch_totals(
    run: RunSettings, round_: OpenRound, totals: Mapping[str, int]
) -> Mapping[str, tuple[StretchTotal, ...]]:
    """Weight sum of every stretch of the scopes that change and are not read as a whole, over those who read it."""
    accepted = [order for order in round_.orders.values() if order.state is OrderState.ACCEPTED]
    trained = [({r.task for r in order.results if r.examples}, order.weights) for order in accepted]
    found = {}
    for scope, total in totals.items():
        stretches = run.stretches.get(Scope.parse(scope).template, ())
        if total and len(stretches) > 1 and not is_sum(scope):
            found[scope] = tuple(
                StretchTotal(part, sum(weights.get(scope, 0) for tasks, weights in trained if tasks & part.tasks))
                for part in stretches
            )
    return found


def task_losses(round_: OpenRound) -> Mapping[str, float]:
    """The mean local training loss of every task that was trained, weighted by examples and summed by order id."""
    return mean_losses(round_.results)


def mean_losses(results: Iterable[TaskResult]) -> Mapping[str, float]:
    """The same of results one after the other."""
    sums: dict[str, tuple[float, int]] = {}
    for result in results:
        if result.train_loss is not None and result.examples:
            loss, count = sums.get(result.task, (0.0, 0))
            sums[result.task] = loss + result.train_loss * result.examples, count + result.examples
    return {task: loss / count for task, (loss, count) in sums.items()}


LARGEST_TREND = 1e6
"""A loss counts as at most so many times the one before, and at least as this part of it, whatever a client says."""


def trends(before: Mapping[str, float], now: Mapping[str, float]) -> Mapping[str, float]:
    """Losses divided by those of the round before, bounded; tasks without a positive loss there are left out."""
    quotients = {task: loss / before[task] for task, loss in now.items() if before.get(task, 0.0) > 0.0}
    return {
        task: min(max(quotient, 1.0 / LARGEST_TREND), LARGEST_TREND) if quotient > 0.0 else 0.0
        for task, quotient in quotients.items()
    }
