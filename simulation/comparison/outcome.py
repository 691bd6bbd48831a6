"""What a run gave each task and each client, read from its reports."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common.tasks import TaskDefinition
from server.reporting.values import CosineMatrix, GuardReport, OwnScores, Personalisation, Report, RoundScores, Scores
from simulation.comparison.scored_rows import ScoredRows


@dataclass(frozen=True)
class Outcome:
    """One method with one seed.

    Scores are those of the model that a client would use after the last round: its own one where it has one (under the
    guard, where the task fell back to it), else the one that it received; `personal` says that some are of own ones.
    `curves` are (round, value of the primary metric) per task, from the initial model on.
    """

    scores: Mapping[str, Scores]
    clients: Mapping[str, Mapping[str, Scores]]
    curves: Mapping[str, tuple[tuple[int, float | None], ...]]
    personal: bool
    agreements: tuple[CosineMatrix, ...]
    bytes_up: int
    seconds: float
    encoder: str
    data: str
    rows: Mapping[str, ScoredRows] = field(default_factory=dict)
    """The rows behind the scores, by task."""


def outcome_of(tasks: Sequence[TaskDefinition], reports: Sequence[Report]) -> Outcome:
    """Put the reports of a run's parts together; each task is in one of them."""
    scores, curves = {}, {}
    clients: dict[str, dict[str, Scores]] = {}
    personal = False
    for report in reports:
        for task in (task for task in tasks if task.name in report.tasks):
            section = report.tasks[task.name]
            history = [entry for entry in section.history if entry.validation_examples or entry.personal]
            used = [(entry.round, _used(section.guard or _FREE, entry).scores) for entry in history]
            scores[task.name] = _chosen(task, used[-1][1] if used else {})
            curves[task.name] = tuple((round_, found.get(task.metrics[0])) for round_, found in used)
            for client, body in report.clients.items():
                own = own_scores(report, client, task.name)
                personal = personal or own is not None
                if own is not None or task.name in body.scores:
                    found = body.scores[task.name].scores if own is None else own.personal
                    clients.setdefault(client, {})[task.name] = _chosen(task, found)
    return Outcome(
        scores,
        dict(sorted(clients.items())),
        curves,
        personal,
        tuple(each for report in reports for round_ in report.task_cosines for each in round_.scopes.values()),
        sum(sent.bytes for report in reports for sent in report.uploads.values()),
        sum(report.seconds for report in reports),
        reports[0].encoder_init,
        reports[0].data,
    )


def own_scores(report: Report, client: str, task: str) -> Personalisation | None:
    """The last scores of a client's own model for a task, if it is the one that the client would use."""
    guard = report.tasks[task].guard or _FREE
    return report.personalisation.get(client, {}).get(task) if guard.model == "isolated" else None


def with_rows(
    found: Outcome, tasks: Sequence[TaskDefinition], rows: Mapping[str, ScoredRows], replaced: Collection[str]
) -> Outcome:
    """The outcome with its rows; the scores of the tasks that are `replaced` are those of the rows."""
    scores = dict(found.scores)
    kept = {
        client: {task: s for task, s in mine.items() if task not in replaced} for client, mine in found.clients.items()
    }
    clients = {client: mine for client, mine in kept.items() if mine}
    for task in (task for task in tasks if task.name in replaced and task.name in rows):
        scores[task.name] = _chosen(task, rows[task.name].scores(task))
        for client in np.unique(rows[task.name].clients).tolist():
            clients.setdefault(client, {})[task.name] = _chosen(task, rows[task.name].of(client).scores(task))
    return replace(found, scores=scores, clients=dict(sorted(clients.items())), rows=rows)


_FREE = GuardReport("isolated", 0, "", None, None)
"""Without a guard, own models are used as soon as there are any."""


def _used(guard: GuardReport, entry: RoundScores) -> RoundScores | OwnScores:
    """The scores in an entry of a task's history, of the models that its clients used at that time."""
    fell_back = guard.fallen_back if guard.model == "isolated" else None
    return entry.personal if entry.personal and fell_back is not None and entry.round >= fell_back else entry


def _chosen(task: TaskDefinition, found: Scores) -> Scores:
    return {metric: found.get(metric) for metric in (*task.metrics, "loss")}
