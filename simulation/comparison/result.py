"""A comparison as a value: what `comparison.json`, the tables and the pictures show."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from common.config import Config
from common.tasks import TaskDefinition, lower_is_better
from server.reporting.values import CosineMatrix, Scores
from simulation.comparison.bootstrap import DrawnScores, drawn_scores
from simulation.comparison.figures import Against, Means, Spread, compare, mean_agreement, spread, weighted_mean
from simulation.comparison.methods import BASELINES, ComparedMethod, extra_epochs
from simulation.comparison.options import ALL, WEIGHTED, ComparisonOptions
from simulation.comparison.outcome import Outcome
from simulation.comparison.tuning import Tuning


@dataclass(frozen=True)
class TaskFacts:
    """A task's metrics, the primary one first; an auxiliary task is in no mean over all tasks."""

    metric: str
    lower_is_better: bool
    metrics: tuple[str, ...]
    auxiliary: bool
    weight: float
    split: str
    """Whose rows are scored: test or validation."""
    rows: int
    """How many these are, with the first seed."""


@dataclass(frozen=True)
class CurvePoint:
    """The primary metric of the model after a round."""

    round: int
    score: Spread


@dataclass(frozen=True)
class MethodResult:
    """What a method gave, per task over all seeds.

    `by_task` says that each task had a run of its own, `central` that one client had all rows. `tuning` has what was
    tried, and which setting was picked. `means` are means over tasks, by name, of primary metrics; they are
    empty where one is an error, which has units. `model` is the one that is scored: a client's own (`personal`)
    or the `received` one. `extra_epochs` are passes over a client's rows beyond the common budget. `affinity` has the
    cosines between the tasks' steps, where the method knows them. Payloads of all updates in `bytes_up`, and seconds,
    are means over the seeds; what virtual clients fetch is not counted, since they lend each other models.
    """

    changes: Mapping[str, object]
    by_task: bool
    central: bool
    tuning: Tuning | None
    model: str
    extra_epochs: int
    scores: Mapping[str, Mapping[str, Spread]]
    means: Mapping[str, Spread]
    against: Mapping[str, Against]
    clients: Mapping[str, Mapping[str, Mapping[str, Spread]]]
    curves: Mapping[str, tuple[CurvePoint, ...]]
    affinity: CosineMatrix | None
    bytes_up: float
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Methods on the same rows with the same budget of rounds and local epochs; values by seed follow `seeds`.

    `means` has the tasks of each mean over tasks, and their weights; gains are against each of `baselines`.
    """

    seeds: tuple[int, ...]
    rounds: int
    local_epochs: int
    clients: int
    data: str
    encoder: str
    tasks: Mapping[str, TaskFacts]
    means: Means
    baselines: tuple[str, ...]
    methods: Mapping[str, MethodResult]


@dataclass(frozen=True)
class MethodOutcomes:
    """What the runs of a method came to, in the order of the seeds, and how it was tuned."""

    method: ComparedMethod
    outcomes: Sequence[Outcome]
    tuning: Tuning | None = None


def put_together(
    config: Config,
    found: Sequence[MethodOutcomes],
    seeds: Sequence[int],
    tested: Collection[str],
    options: ComparisonOptions,
) -> Comparison:
    """The comparison of methods.

    Raises:
        RunFolderError: two methods were scored on different rows.
    """
    definitions = config.definitions()
    first = found[0].outcomes[0]
    names = [each.method.name for each in found]
    baselines = tuple(options.baselines or (name for name in BASELINES if name in names))
    means = _means(definitions, options)
    drawn = drawn_scores(definitions, {each.method.name: each.outcomes for each in found}) if baselines else {}
    facts = {
        t.name: TaskFacts(
            t.metrics[0],
            lower_is_better(t.metrics[0]),
            t.metrics,
            t.auxiliary,
            t.weight,
            "test" if t.name in tested else "validation",
            len(first.rows[t.name].ids) if t.name in first.rows else 0,
        )
        for t in definitions
    }
    bases = {each.method.name: each.outcomes for each in found if each.method.name in baselines}
    return Comparison(
        tuple(seeds),
        config.training.num_rounds,
        config.training.local_epochs,
        config.simulation.client_count,
        first.data,
        first.encoder,
        facts,
        means,
        baselines,
        {each.method.name: _result(config, each, definitions, means, bases, drawn) for each in found},
    )


def _means(tasks: Sequence[TaskDefinition], options: ComparisonOptions) -> Means:
    """That over all main tasks, that by their weights where these differ, and those that were asked for."""
    main = [task for task in tasks if not task.auxiliary] or list(tasks)
    found = {ALL: {task.name: 1.0 for task in main}}
    if len({task.weight for task in main}) > 1:
        found[WEIGHTED] = {task.name: task.weight for task in main}
    return found | {name: dict.fromkeys(chosen, 1.0) for name, chosen in options.means.items()}


def _result(
    config: Config,
    found: MethodOutcomes,
    tasks: Sequence[TaskDefinition],
    means: Means,
    bases: Mapping[str, Sequence[Outcome]],
    drawn: DrawnScores,
) -> MethodResult:
    method, own = found.method, found.outcomes
    primary = {task.name: task.metrics[0] for task in tasks}
    auxiliary = {task.name for task in tasks if task.auxiliary}
    scores = _by_task(primary, own)

    def against(base: str) -> Against:
        mine, alone = drawn[method.name], drawn[base]
        both = {task: (mine[task], alone[task]) for task in mine}
        return compare(primary, scores, _by_task(primary, bases[base]), auxiliary, means, both)

    setting = {} if found.tuning is None else found.tuning.setting
    return MethodResult(
        {**method.changes_to(config), **setting},
        method.by_task,
        method.central,
        found.tuning,
        "personal" if any(run.personal for run in own) else "received",
        extra_epochs(method.configure(config, setting)),
        {task.name: _spreads(task, [run.scores[task.name] for run in own]) for task in tasks},
        {name: _mean_score(primary, scores, weights) for name, weights in means.items()},
        {base: against(base) for base in bases},
        _clients(tasks, own),
        {task.name: _curve([dict(run.curves[task.name]) for run in own]) for task in tasks},
        mean_agreement(agreement for run in own for agreement in run.agreements),
        fmean(run.bytes_up for run in own),
        round(fmean(run.seconds for run in own), 3),
    )


def _mean_score(
    primary: Mapping[str, str], scores: Mapping[str, Sequence[float | None]], weights: Mapping[str, float]
) -> Spread:
    if any(lower_is_better(primary[task]) for task in weights):
        return spread(())
    return weighted_mean(scores, weights)


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
