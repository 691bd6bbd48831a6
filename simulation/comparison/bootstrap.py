"""Intervals of gains: scores of many draws of rows and seeds, the same draws for all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import RunFolderError
from common.seeds import derive_seed
from common.tasks import TaskDefinition
from simulation.comparison.outcome import Outcome
from simulation.comparison.scored_rows import ScoredRows

Float64 = NDArray[np.float64]
Interval = tuple[float, float]
DrawnScores = Mapping[str, Mapping[str, Float64]]
"""Of each method the primary metric of its tasks, (draws,), NaN where it is not defined."""

DRAWS = 1000
COVERED = (2.5, 97.5)
"""Percentiles: an interval covers 95 percent of the draws."""
_BLOCK = 100
"""Draws at a time, so that memory does not grow with their number."""


def drawn_scores(tasks: Sequence[TaskDefinition], outcomes: Mapping[str, Sequence[Outcome]]) -> DrawnScores:
    """Scores of `DRAWS` draws of rows and of seeds, as many of each as there are, with replacement.

    A row that is scored with several seeds is drawn for all of them at once, since a hard row is hard with every seed.
    Draws depend on the name of the task and on its rows, not on the methods.

    Raises:
        RunFolderError: two methods were scored on different rows.
    """
    seeds = len(next(iter(outcomes.values())))
    of_seeds = _generator("seeds").multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS).T
    found: dict[str, dict[str, Float64]] = {name: {} for name in outcomes}
    for task in tasks:
        rows = {name: [run.rows[task.name] for run in runs if task.name in run.rows] for name, runs in outcomes.items()}
        if any(len(some) < seeds for some in rows.values()):
            continue
        _require_same_rows(task, rows)
        values = _by_seed(task, rows)
        for name, drawn in values.items():
            weights = np.where(np.isnan(drawn), 0, of_seeds)
            total = (np.nan_to_num(drawn) * weights).sum(axis=0)
            found[name][task.name] = np.divide(
                total, weights.sum(axis=0), out=np.full(DRAWS, np.nan), where=weights.sum(axis=0) > 0
            )
    return found


def _by_seed(task: TaskDefinition, rows: Mapping[str, Sequence[ScoredRows]]) -> dict[str, Float64]:
    """Of each method the scores of all draws of rows with every seed, (seeds, draws)."""
    ids = np.unique(np.concatenate([some.ids for some in next(iter(rows.values()))]))
    places = {name: [np.searchsorted(ids, some.ids) for some in runs] for name, runs in rows.items()}
    found = {name: np.empty((len(runs), DRAWS)) for name, runs in rows.items()}
    rng = _generator(task.name)
    for start in range(0, DRAWS, _BLOCK):
        block = slice(start, start + _BLOCK)
        counts = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), _BLOCK)
        for name, runs in rows.items():
            for seed, some in enumerate(runs):
                found[name][seed, block] = some.drawn(task, counts[:, places[name][seed]])
    return found


def _require_same_rows(task: TaskDefinition, rows: Mapping[str, Sequence[ScoredRows]]) -> None:
    first, *others = rows.items()
    for name, runs in others:
        for mine, theirs in zip(first[1], runs, strict=True):
            if not np.array_equal(np.sort(mine.ids), np.sort(theirs.ids)):
                raise RunFolderError(
                    f"run_dir: {first[0]} and {name} were scored on different rows of {task.name}; bring the data back "
                    "as it was, or remove the folders scored_rows in the run folders"
                )


def _generator(what: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive_seed(0, "bootstrap", what)))


def interval(drawn: Float64) -> Interval | None:
    """What covers 95 percent of the draws, to six digits; None where nothing is defined."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return None
    low, high = np.percentile(known, COVERED).tolist()
    return round(low, 6), round(high, 6)
