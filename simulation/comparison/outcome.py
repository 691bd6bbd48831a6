"""What a run gave each task and each client, read from its reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.tasks import TaskDefinition

Scores = Mapping[str, float | None]
"""Metric, or `loss`, to value; None where it is not defined."""


@dataclass(frozen=True)
class Agreement:
    """Cosines between the steps of tasks in one scope and round; row and column i belong to `tasks[i]`."""

    tasks: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


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
    agreements: tuple[Agreement, ...]
    bytes_up: int
    seconds: float
    encoder: str
    data: str


def outcome_of(tasks: Sequence[TaskDefinition], reports: Sequence[Mapping[str, Any]]) -> Outcome:
    """Put the reports of a run's parts together; each task is in one of them."""
    scores, curves = {}, {}
    clients: dict[str, dict[str, Scores]] = {}
    agreements, personal = [], False
    for report in reports:
        for task in (task for task in tasks if task.name in report["tasks"]):
            section = report["tasks"][task.name]
            history = [entry for entry in section["history"] if "validation_examples" in entry or "personal" in entry]
            used = [(entry["round"], _used(section, entry)) for entry in history]
            scores[task.name] = _chosen(task, used[-1][1] if used else {})
            curves[task.name] = tuple((round_, found.get(task.metrics[0])) for round_, found in used)
            for client, body in report["clients"].items():
                own = report["personalisation"].get(client, {}).get(task.name, {}).get("personal")
                own = own if section.get("guard", _FREE)["model"] == "isolated" else None
                personal = personal or own is not None
                found = own or body["scores"].get(task.name)
                if found is not None:
                    clients.setdefault(client, {})[task.name] = _chosen(task, found)
        agreements += [
            Agreement(tuple(body["tasks"]), tuple(map(tuple, body["values"])))
            for round_ in report["task_cosines"]
            for body in round_["scopes"].values()
        ]
    return Outcome(
        scores,
        dict(sorted(clients.items())),
        curves,
        personal,
        tuple(agreements),
        sum(sent["bytes"] for report in reports for sent in report["uploads"].values()),
        sum(report["seconds"] for report in reports),
        reports[0]["encoder_init"],
        reports[0]["data"],
    )


_FREE: Mapping[str, Any] = {"model": "isolated", "fallen_back": 0}
"""Without a guard, own models are used as soon as there are any."""


def _used(section: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scores in an entry of a task's history, of the models that its clients used at that time."""
    guard = section.get("guard", _FREE)
    own = guard["model"] == "isolated" and entry["round"] >= guard["fallen_back"]
    found: Mapping[str, Any] = entry.get("personal", entry) if own else entry
    return found


def _chosen(task: TaskDefinition, found: Mapping[str, Any]) -> Scores:
    return {metric: found.get(metric) for metric in (*task.metrics, "loss")}
