"""The runs of a comparison one after the other: first those that tune a method, then those that are scored."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic

from common.errors import DataError, RunFailedError
from common.tasks import TaskDefinition
from simulation.comparison.methods import ComparedMethod
from simulation.comparison.outcome import Outcome, outcome_of, with_rows
from simulation.comparison.progress import RunsProgress
from simulation.comparison.runs import CarryOut, Rows, Run, Setting, errors_only, failure, is_done, perform, work_left
from simulation.comparison.scored_rows import ScoredRows
from simulation.comparison.scoring import score_rows
from simulation.comparison.tuning import Tuning, pick

log = logging.getLogger("fedmtl.compare")


@dataclass(frozen=True)
class MethodRuns:
    """The runs of a method with each setting, in the order of the settings."""

    method: ComparedMethod
    settings: tuple[Setting, ...]
    tuning: tuple[tuple[Run, ...], ...]
    """Those that decide which setting it is; none where there is one setting."""
    scored: tuple[tuple[Run, ...], ...]
    """Of which those of one setting are needed, in the order of the seeds."""

    @classmethod
    def of(
        cls,
        method: ComparedMethod,
        settings: Sequence[Setting],
        runs: Sequence[Run],
        tuned_on: Sequence[int],
        seeds: Sequence[int],
    ) -> MethodRuns:
        """Those among planned runs."""
        found = {(run.seed, number): run for run in runs for number, s in enumerate(settings) if s == run.setting}
        numbers = range(len(settings))
        tuning = tuple(tuple(found[seed, number] for seed in tuned_on) for number in numbers)
        scored = tuple(tuple(found[seed, number] for seed in seeds) for number in numbers)
        return cls(method, tuple(settings), tuning if len(settings) > 1 else (), scored)

    @property
    def runs(self) -> list[Run]:
        """All that may be needed."""
        return [run for some in (*self.tuning, *self.scored) for run in some]

    @property
    def work_left(self) -> int:
        """What is left before the setting is known, and after that as if it were the first."""
        again = {id(run) for run in self.tuning[0]} if self.tuning else set()
        deciding = [run for runs in self.tuning for run in runs if not failure(run)]
        return work_left([*deciding, *(run for run in self.scored[0] if id(run) not in again)])

    def is_finished(self, series: Series) -> bool:
        """Whether nothing is left to do."""
        known = [run for runs in self.tuning for run in runs if not failure(run)]
        if not all(map(is_done, known)) or (self.tuning and not known):
            return False
        return all(map(is_done, self.chosen(series.tune(self))))

    def chosen(self, tuning: Tuning | None) -> tuple[Run, ...]:
        """The runs that are scored."""
        return self.scored[0 if tuning is None else tuning.picked]


class Series:
    """Carries out runs and says what they came to.

    Args:
        tasks: those of the comparison.
        carry_out: runs a simulation to its end.
        rows: of clients by task, if the configuration does not name them.
        tested: tasks that are scored on their test split.
        progress: says how far all runs are.
    """

    def __init__(
        self,
        tasks: Sequence[TaskDefinition],
        carry_out: CarryOut,
        rows: Rows | None,
        tested: Collection[str],
        progress: RunsProgress,
    ) -> None:
        self._tasks = tasks
        self._carry_out = carry_out
        self._rows = rows
        self._tested = tested
        self._progress = progress
        self._encoder = ""

    def tune(self, runs: MethodRuns) -> Tuning | None:
        """Which setting is a method's best on validation rows; None where there is one.

        Raises:
            RunFailedError: every setting failed.
        """
        if not runs.tuning:
            return None
        tried = [(setting, self._tried(some)) for setting, some in zip(runs.settings, runs.tuning, strict=True)]
        tuning = pick(self._tasks, tried)
        if tuning is None:
            raise RunFailedError(f"method {runs.method.name}: every setting failed; the first one: {tried[0][1]}")
        return tuning

    def _tried(self, runs: Sequence[Run]) -> list[Outcome] | str:
        """What a setting came to with every seed of tuning, or why it failed."""
        for run in runs:
            if found := failure(run):
                return found
        try:
            return [self._outcome(run) for run in runs]
        except (RunFailedError, DataError) as error:  # such as a learning rate with which the model diverges
            log.warning("%s failed: %s", runs[0].title, error)
            return error.message

    def scored(self, run: Run) -> Outcome:
        """What a run came to, with the rows behind its scores."""
        found = self._outcome(run)
        rows: dict[str, ScoredRows] = {}
        for part in run.parts:
            report = perform(part, self._carry_out, self._rows, self._progress, run.title)
            central = part.sources[0].client_id if part.central else ""
            read = partial(part.held, self._rows, self._tested)
            with errors_only():
                rows |= score_rows(part.config, report, read, self._tested, central)
        # Of one client that has the rows of all, scores by holder are those that can be compared.
        return with_rows(found, self._tasks, rows, [*rows] if run.method.central else self._tested)

    def _outcome(self, run: Run) -> Outcome:
        done, started = is_done(run), monotonic()
        reports = [perform(part, self._carry_out, self._rows, self._progress, run.title) for part in run.parts]
        outcome = outcome_of(self._tasks, reports)
        if not self._encoder:
            self._encoder = outcome.encoder
            level = logging.WARNING if outcome.encoder.startswith("random") else logging.INFO
            log.log(level, "encoder: %s", outcome.encoder)
        said = " ".join(f"{task} {_shown(next(iter(scores.values())))}" for task, scores in outcome.scores.items())
        if not done:
            log.info("%s: %s (%.1f s)", run.title, said, monotonic() - started)
        return outcome


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
