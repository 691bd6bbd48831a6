"""Which versions scored best, which are kept for that, and whether a run has stopped getting better.

A version's scores are those of the first closed round that brought some: the round that began with it, or the scoring
round. All decisions follow from rounds that are committed, so a restart comes to the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from common.log_fields import LogFields
from common.orders import TaskResult
from common.statistics import merge
from common.tasks import TaskDefinition, lower_is_better
from server.core import dual, privacy
from server.core.effects import Notice
from server.core.facts import NOTHING_SCORED, Best, Scored
from server.core.open_round import OpenRound
from server.core.state import FederationState, RunSettings

MEAN = "mean"
"""The criterion of all tasks together; those of one task are called `<task>/<metric>`."""
TASKS = "tasks"
_ROUNDING = 1e-9

Parts = tuple[tuple[TaskDefinition, str], ...]
"""Tasks, each with the metric that is looked at."""


def criteria(run: RunSettings, fallback_tasks: Iterable[str] = ()) -> Mapping[str, Parts]:
    """What versions are compared by, with the tasks and metrics whose mean it is.

    Auxiliary tasks, and those whose clients use isolated models instead, do not count in the mean.
    """
    out = frozenset(fallback_tasks)
    found: dict[str, Parts] = {}
    found[MEAN] = tuple((t, t.metrics[0]) for t in run.tasks if not t.auxiliary and t.name not in out)
    found |= {primary(task): ((task, task.metrics[0]),) for task in run.tasks}
    task, _, metric = run.keep.best.partition("/")
    if metric:
        found[run.keep.best] = tuple((known, metric) for known in run.tasks if known.name == task)
    return found


def primary(task: TaskDefinition) -> str:
    """The criterion that is a task's first metric."""
    return f"{task.name}/{task.metrics[0]}"


def goal(run: RunSettings) -> str:
    """The criterion of the run: what `model.keep.best` names, or the mean."""
    return run.keep.best if "/" in run.keep.best else MEAN


def with_scores(run: RunSettings, state: FederationState, round_: OpenRound) -> FederationState:
    """The state after a round that closed, where something depends on scores."""
    if not _matters(run):
        return state
    return replace(state, scored=scored_with(run, state.scored, state.fallback_tasks, round_))


def recalled(
    run: RunSettings, fallback_tasks: Mapping[str, int], rounds: Iterable[OpenRound], asked: bool = False
) -> Scored:
    """What committed rounds say, in their order; nothing where nothing depends on it and nobody `asked`.

    `fallback_tasks` are those that the guard took out, and after which round.
    """
    scored = NOTHING_SCORED
    for round_ in rounds if asked or _matters(run) else ():
        scored = scored_with(run, scored, fallback_tasks, round_)
    return scored


def scored_with(run: RunSettings, scored: Scored, fallback_tasks: Mapping[str, int], round_: OpenRound) -> Scored:
    """What is known after one more closed round.

    A version is compared where each task that counts has a score. It is then compared with the best one so far by the
    same tasks; a best one that one of them never scored is no rival.
    """
    values = _values(run, round_) if round_.version > scored.newest else {}
    if not values:
        return scored
    out = [task for task, after in fallback_tasks.items() if after <= round_.number]
    best, stale = dict(scored.best), scored.stale
    for name, parts in criteria(run, out).items():
        found = {task.name: values.get((task.name, metric)) for task, metric in parts}
        whole = {task: value for task, value in found.items() if value is not None}
        if not whole or len(whole) < len(found):
            continue
        better = name not in best or _gain(parts, best[name].scores, whole) > _ROUNDING
        best[name] = Best(round_.version, whole) if better else best[name]
        if name == goal(run):
            stale = 0 if better else stale + 1
    return Scored(best, stale, round_.version)


def kept_beside(run: RunSettings, scored: Scored, version: int) -> frozenset[int]:
    """The versions before this one that are kept, whether or not they are among the newest."""
    names: Sequence[str] = (goal(run),) if run.keep.best else ()
    if run.keep.best == TASKS:
        names = (MEAN, *map(primary, run.tasks))
    every = range(run.keep.every, version, run.keep.every) if run.keep.every else ()
    return frozenset({*every, *(scored.best[name].version for name in names if name in scored.best)})


def goes_on(run: RunSettings, state: FederationState) -> bool:
    """Whether there is a round to train: there are some left, and the run still gets better."""
    ended = _stands_still(run, state) or dual.reached(run, state) or privacy.is_spent(run, state)
    return state.completed_rounds < run.num_rounds and not ended


def end_of(run: RunSettings, state: FederationState) -> str:
    """Why a run ends before its last round; empty where it does not."""
    if state.completed_rounds < run.num_rounds and dual.reached(run, state):
        assert state.dual is not None and state.dual.certificate is not None
        return f"{dual.said_of(state.dual.certificate)}, small enough (training.stop_at_gap)"
    if state.completed_rounds < run.num_rounds and privacy.is_spent(run, state):
        return privacy.spent_of(state)
    if state.completed_rounds >= run.num_rounds or not _stands_still(run, state):
        return ""
    best = state.scored.best[goal(run)].version
    return f"best by {goal(run)} is version {best}; versions since then, all no better: {state.scored.stale}"


def notices_of(run: RunSettings, before: FederationState, now: FederationState) -> list[Notice]:
    """A line where the run will end because of the scores that came just now."""
    reason = end_of(run, now)
    if not reason or _stands_still(run, before) or not _stands_still(run, now):
        return []
    text = f"{reason} (training.patience); the newest one is scored, then the run ends unless that is better"
    return [Notice(text, about=LogFields(event="patience_ended", round=now.completed_rounds, reason=reason))]


def _matters(run: RunSettings) -> bool:
    return bool(run.keep.best or run.patience)


def _stands_still(run: RunSettings, state: FederationState) -> bool:
    return run.patience is not None and state.scored.stale >= run.patience


def _values(run: RunSettings, round_: OpenRound) -> Mapping[tuple[str, str], float | None]:
    """Every metric of every task that the round scored, merged over its clients."""
    parts: dict[str, list[TaskResult]] = {}
    for result in round_.results:
        parts.setdefault(result.task, []).append(result)
    found: dict[tuple[str, str], float | None] = {}
    for task in run.tasks:
        sums = [result.validation for result in parts.get(task.name, ()) if result.validation is not None]
        if sums:
            found |= {(task.name, metric): value for metric, value in task.summarise(merge(sums)).items()}
    return found


def _gain(parts: Parts, before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """By how much the mean is better; without limit where a task had no score before."""
    if not now.keys() <= before.keys():
        return float("inf")
    signs = {task.name: -1.0 if lower_is_better(metric) else 1.0 for task, metric in parts}
    return sum(signs[task] * (now[task] - before[task]) for task in now) / len(now)
