"""Settings that are tried for every method, and which of them is its best on validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from statistics import fmean

from common.config import Config
from common.errors import ConfigError
from common.tasks import TaskDefinition, lower_is_better
from simulation.comparison.methods import is_same_for_all
from simulation.comparison.outcome import Outcome
from simulation.comparison.runs import Setting

MOST_SETTINGS = 100
"""Of each method."""


@dataclass(frozen=True)
class Trial:
    """What a setting came to on validation rows, with the seeds of tuning.

    `scores` are means over seeds of the primary metrics; `value` is their mean over tasks, by which the best is picked.
    It is None where the setting failed, and then `error` says why.
    """

    setting: Setting
    scores: Mapping[str, float | None] = field(default_factory=dict)
    value: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Tuning:
    """The settings that were tried for a method, and the number of the one that was picked."""

    trials: tuple[Trial, ...]
    picked: int

    @property
    def setting(self) -> Setting:
        """The one that was picked."""
        return self.trials[self.picked].setting

    @property
    def at_the_edge(self) -> tuple[str, ...]:
        """The keys whose picked value is the least or largest number of several: one beyond it may be better still."""
        found = []
        for path, value in self.setting.items():
            tried = [trial.setting[path] for trial in self.trials]
            numbers = {v for v in tried if isinstance(v, int | float)}
            if len(numbers) > 1 and len(tried) > 1 and value in (min(numbers), max(numbers)):
                found.append(path)
        return tuple(found)


def grid(tune: Mapping[str, Sequence[object]], config: Config) -> list[Setting]:
    """Every combination of values; one empty setting where there is nothing to tune.

    Raises:
        ConfigError: a key that is the same for all methods, values that are no list, none or one twice, too many
            combinations, or a task without the rows that pick.
    """
    if no_list := [
        path for path, values in tune.items() if isinstance(values, str) or not isinstance(values, Sequence)
    ]:
        raise ConfigError(*(f"--tune: {path} wants a list of values, not {tune[path]}" for path in no_list))
    problems = [
        f"--tune: {path} is part of the rows or the budget, which are the same for all; name another key"
        for path in tune
        if is_same_for_all(path)
    ]
    problems += [f"--tune: {path} has no values; write {path}=V1,V2" for path, values in tune.items() if not values]
    problems += [
        f"--tune: {path} has the value {value} twice; write it once"
        for path, values in tune.items()
        for value in [next((v for at, v in enumerate(values) if v in values[:at]), None)]
        if value is not None
    ]
    problems += [
        f"--tune: tasks.{name}.val_samples: 0 leaves no rows to pick settings by; raise it, or make the task auxiliary"
        for name, task in config.tasks.items()
        if tune and task.val_samples == 0 and not task.auxiliary
    ]
    if (count := prod(map(len, tune.values()))) > MOST_SETTINGS:
        problems.append(f"--tune: {count} settings for each method; {MOST_SETTINGS} are the most")
    if problems:
        raise ConfigError(*problems)
    return [dict(zip(tune, values, strict=True)) for values in product(*tune.values())]


def pick(tasks: Sequence[TaskDefinition], tried: Sequence[tuple[Setting, Sequence[Outcome] | str]]) -> Tuning | None:
    """The setting with the largest mean of validation scores over main tasks and seeds; the first of equal ones.

    A score where lower is better has units, and counts as minus its ratio to that of the first setting that did not
    fail; one that is not defined counts as 0, and as minus 2 where lower is better.

    Args:
        tasks: those that are scored.
        tried: each setting with its outcomes, one per seed of tuning, or why it failed.

    Returns:
        None where every setting failed.
    """
    trials: list[Trial] = []
    main = [task for task in tasks if not task.auxiliary] or list(tasks)
    first: Mapping[str, float | None] | None = None
    for setting, found in tried:
        if isinstance(found, str):
            trials.append(Trial(setting, error=found))
            continue
        scores = {task.name: _mean([run.scores[task.name][task.metrics[0]] for run in found]) for task in tasks}
        first = scores if first is None else first
        value = fmean(_oriented(task.metrics[0], scores[task.name], first[task.name]) for task in main)
        trials.append(Trial(setting, scores, round(value, 6)))
    values = [trial.value for trial in trials if trial.value is not None]
    if not values:
        return None
    return Tuning(tuple(trials), [trial.value for trial in trials].index(max(values)))


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return round(fmean(found), 6) if found else None


def _oriented(metric: str, value: float | None, first: float | None) -> float:
    """Larger is better, without units."""
    if not lower_is_better(metric):
        return 0.0 if value is None else value
    if value is None:
        return -2.0
    return -value / first if first else -1.0
