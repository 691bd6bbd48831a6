"""The guard: tasks that sharing hurts fall back to models that their clients train alone. Numbers in, decisions out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from common.log_fields import LogFields
from common.statistics import merge
from common.tasks import TaskDefinition, lower_is_better
from server.core.effects import Guarded, Notice
from server.core.open_round import OpenRound, OrderState
from server.core.state import FederationState, RunSettings

_ROUNDING = 1e-9


def guarded(run: RunSettings, state: FederationState, round_: OpenRound) -> tuple[FederationState, tuple[Guarded, ...]]:
    """What the scores of a round mean for its tasks: the new state, and a record per task that was compared.

    A round to train compares what clients received at its start with what they had made alone by then; it counts
    against sharing where the gap exceeds the margin and does not shrink, since a mean of many starts slowly and may
    catch up. The decision holds from the next round on, and for good. A round to score comes after the last one and
    chooses between the two final models, which is not carried on should the run get more rounds. Auxiliary tasks are
    there for the others, whatever they score: only that last choice is about them too.
    """
    if run.guard is None:
        return state, ()
    final = not round_.phase.publishes
    found = []
    for task in run.tasks:
        scores = compared(task, round_)
        if scores is None:
            continue
        gap = shortfall(task, *scores)
        # Differences of rounded fractions: one point is one point, whatever floats say.
        worse = gap > run.guard.margin + _ROUNDING
        slips = worse and gap >= state.gaps.get(task.name, -inf) - _ROUNDING
        behind = state.behind.get(task.name, 0) + 1 if slips else 0
        falls = worse if final else behind >= run.guard.rounds and not task.auxiliary
        fell_back = falls or task.name in state.fallback_tasks
        found.append(Guarded(round_.number, task.name, *scores, behind, fell_back, final, gap))
    now = standing(found)
    state = replace(
        state,
        behind={**state.behind, **now.behind},
        gaps={**state.gaps, **now.gaps},
        fallback_tasks={**now.fallback_tasks, **state.fallback_tasks},
    )
    return state, tuple(found)


def compared(task: TaskDefinition, round_: OpenRound) -> tuple[float | None, float | None] | None:
    """The primary metric of the received and of the isolated models, merged over clients that scored both.

    None where no client did; a value is None where the metric is not defined.
    """
    pairs = [
        (result.validation, result.personal)
        for _, order in sorted(round_.orders.items())
        if order.state is OrderState.ACCEPTED
        for result in order.results
        if result.task == task.name and result.validation is not None and result.personal is not None
    ]
    if not pairs:
        return None
    received, isolated = (task.summarise(merge(parts)) for parts in zip(*pairs, strict=True))
    return received[task.metrics[0]], isolated[task.metrics[0]]


def shortfall(task: TaskDefinition, received: float | None, isolated: float | None) -> float:
    """By how much the isolated models are better; without limit where they alone have a score at all."""
    if isolated is None:
        return -inf
    if received is None:  # such as the correlation of a model that says the same of every row
        return inf
    return received - isolated if lower_is_better(task.metrics[0]) else isolated - received


@dataclass(frozen=True)
class Standing:
    """Rounds in a row that tasks slipped behind, their last gaps, and the rounds after which they fell back."""

    behind: Mapping[str, int]
    gaps: Mapping[str, float]
    fallback_tasks: Mapping[str, int]


def standing(records: Iterable[Guarded]) -> Standing:
    """Where tasks stand, from records in their order."""
    behind, gaps, fallback_tasks = dict[str, int](), dict[str, float](), dict[str, int]()
    for record in records:
        if not record.final:
            behind[record.task], gaps[record.task] = record.behind, record.gap
            if record.fell_back:
                fallback_tasks.setdefault(record.task, record.round)
    return Standing(behind, gaps, fallback_tasks)


def notices_of(run: RunSettings, before: Mapping[str, int], records: Sequence[Guarded]) -> list[Notice]:
    """One line for each task that fell back just now; `before` are those that had already."""
    return [
        Notice(_line(run, record), True, LogFields(event="task_fell_back", task=record.task, round=record.round))
        for record in records
        if record.fell_back and record.task not in before
    ]


def _line(run: RunSettings, record: Guarded) -> str:
    guard, task = run.guard, run.definition(record.task)
    assert guard is not None and task is not None
    numbers = f"{task.metrics[0]} {_number(record.received)} with the others, {_number(record.isolated)} alone"
    rounds = "" if record.final else f" in {guard.rounds} rounds in a row"
    why = f"{numbers}, worse by more than {guard.margin:g}{rounds}"
    return f"task {record.task} falls back to its isolated models after round {record.round}: {why}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
