"""What a comparison can be asked for beside its methods and seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from client.data.splits import ScoredSplit
from common.errors import ConfigError

ALL, WEIGHTED = "all", "weighted"
"""The mean over all tasks but auxiliary ones, and that by the weights of the tasks."""


@dataclass(frozen=True)
class ComparisonOptions:
    """What to tune, what gains are against, and which means to tell; all are optional."""

    tune: Mapping[str, Sequence[object]] = field(default_factory=dict)
    """Keys of the configuration and their values, of which every method gets those that suit it best."""
    tune_seeds: Sequence[int] = ()
    """Of the runs that decide this; none: the first seed of the comparison."""
    baselines: Sequence[str] = ()
    """The methods against which gains are; none: those ways to go alone that are compared."""
    means: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Means over some tasks, by name, beside that over all."""
    split: ScoredSplit = "test"
    """The rows that scores are of; those for validation where a task has no others."""

    def require(self, methods: Collection[str], tasks: Collection[str]) -> None:
        """Check that there is what they name.

        Raises:
            ConfigError: a baseline is not compared, or a mean is of no tasks or unknown ones; a line for each problem.
        """
        problems = [
            f"--baseline: '{name}' is not among the methods that are compared; add it to --methods"
            for name in self.baselines
            if name not in methods
        ]
        problems += [
            f"--mean_of: {name} is the mean over all tasks, which is there anyway; choose another name"
            for name in self.means
            if name in (ALL, WEIGHTED)
        ]
        for name, chosen in self.means.items():
            unknown = [task for task in chosen if task not in tasks]
            if unknown or not chosen:
                said = f"'{unknown[0]}' is no task" if unknown else "there are no tasks"
                problems.append(f"--mean_of: {name}: {said}; name some of {', '.join(tasks)}")
        if problems:
            raise ConfigError(*problems)


DEFAULTS = ComparisonOptions()
