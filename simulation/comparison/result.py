"""A comparison as a value: what `comparison.json`, the tables and the pictures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from common.config import Config
from common.tasks import TaskDefinition, lower_is_better
from server.reporting.values import CosineMatrix, Scores
from simulation.comparison.figures import Against, Spread, compare, mean_agreement, spread
from simulation.comparison.methods import BASELINES, ComparedMethod, extra_epochs
from simulation.comparison.outcome import Outcome


@dataclass(frozen=True)
class TaskFacts:
    """A task's metrics, the primary one first; an auxiliary task is in no mean over tasks."""

    metric: str
    lower_is_better: bool
    metrics: tuple[str, ...]
    auxiliary: bool


@dataclass(frozen=True)
class CurvePoint:
    """The primary metric of the model after a round."""

    round: int
    score: Spread


@dataclass(frozen=True)
class MethodResult:
    """What a method gave, per task over all seeds.

    `by_task` says that each task had a run of its own. `model` is the one that is scored: a client's own (`personal`)
    or the `received` one. `extra_epochs` are passes over a client's rows beyond the common budget. `affinity` has the
    cosines between the tasks' steps, where the method knows them. Payloads of all updates in `bytes_up`, and seconds,
    are means over the seeds; what virtual clients fetch is not counted, since they lend each other models.
    """

    changes: Mapping[str, object]
    by_task: bool
    model: str
    extra_epochs: int
    scores: Mapping[str, Mapping[str, Spread]]
    against: Mapping[str, Against]
    clients: Mapping[str, Mapping[str, Mapping[str, Spread]]]
    curves: Mapping[str, tuple[CurvePoint, ...]]
    affinity: CosineMatrix | None
    bytes_up: float
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Methods on the same rows with the same budget of rounds and local epochs; values by seed follow `seeds`."""

    seeds: tuple[int, ...]
    rounds: int
    local_epochs: int
    clients: int
    data: str
    encoder: str
    tasks: Mapping[str, TaskFacts]
    methods: Mapping[str, MethodResult]

    @property
    def baselines(self) -> tuple[str, ...]:
        """Ways to go alone that are in the comparison."""
        return tuple(name for name in BASELINES if name in self.methods)


def put_together(
    config: Config, methods: Sequence[ComparedMethod], seeds: Sequence[int], outcomes: Mapping[str, Sequence[Outcome]]
) -> Comparison:
    """The comparison of methods, from their outcomes by name and in the order of the seeds."""
    definitions = config.definitions()
    first = outcomes[methods[0].name][0]
    facts = {
        t.name: TaskFacts(t.metrics[0], lower_is_better(t.metrics[0]), t.metrics, t.auxiliary) for t in definitions
    }
    return Comparison(
        tuple(seeds),
        config.training.num_rounds,
        config.training.local_epochs,
        config.simulation.client_count,
        first.data,
        first.encoder,
        facts,
        {method.name: _result(config, method, definitions, outcomes) for method in methods},
    )


def _result(
    config: Config, method: ComparedMethod, tasks: Sequence[TaskDefinition], outcomes: Mapping[str, Sequence[Outcome]]
) -> MethodResult:
    own = outcomes[method.name]
    primary = {task.name: task.metrics[0] for task in tasks}
    auxiliary = {task.name for task in tasks if task.auxiliary}
    bases = [name for name in BASELINES if name in outcomes]
    return MethodResult(
        method.changes_to(config),
        method.by_task,
        "personal" if any(run.personal for run in own) else "received",
        extra_epochs(method.configure(config, {})),
        {task.name: _spreads(task, [run.scores[task.name] for run in own]) for task in tasks},
        {
            base: compare(primary, _by_task(primary, own), _by_task(primary, outcomes[base]), auxiliary)
            for base in bases
        },
        _clients(tasks, own),
        {task.name: _curve([dict(run.curves[task.name]) for run in own]) for task in tasks},
        mean_agreement(agreement for run in own for agreement in run.agreements),
        fmean(run.bytes_up for run in own),
        round(fmean(run.seconds for run in own), 3),
    )


def _by_task(primary: Mapping[str, str], runs: Sequence[Outcome]) -> dict[str, list[float | None]]:
    return {task: [run.scores[task][metric] for run in runs] for task, metric in primary.items()}


def _spreads(task: TaskDefinition, runs: Sequence[Scores]) -> dict[str, Spread]:
    return {metric: spread(scores.get(metric) for scores in runs) for metric in (*task.metrics, "loss")}


def _clients(tasks: Sequence[TaskDefinition], runs: Sequence[Outcome]) -> dict[str, dict[str, dict[str, Spread]]]:
    return {
        client: {
            task.name: _spreads(task, [run.clients.get(client, {}).get(task.name, {}) for run in runs])
            for task in tasks
            if task.name in held
        }
        for client, held in runs[0].clients.items()
    }


def _curve(runs: Sequence[Mapping[int, float | None]]) -> tuple[CurvePoint, ...]:
    rounds = sorted({round_ for run in runs for round_ in run})
    return tuple(CurvePoint(round_, spread(run.get(round_) for run in runs)) for round_ in rounds)
