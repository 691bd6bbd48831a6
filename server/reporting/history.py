"""The scores of every version, of all clients together and of each, as rows of one table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.tasks import TaskDefinition
from server.core.open_round import OpenRound, OrderState
from server.reporting.report import client_scores, round_scores
from server.reporting.values import RoundScores

RoundName = tuple[str, int, int]
"""Kind, number and attempt of a round."""


@dataclass(frozen=True)
class Score:
    """What the model of one version scored in a task, on validation rows."""

    time: str
    """When it was measured, UTC; empty where `metrics.jsonl` does not say."""
    version: int
    task: str
    client: str
    """Whose rows; empty for those of all clients together."""
    metric: str
    value: float | None
    """None where the metric is not defined."""
    bytes: int
    """Payloads of the updates that made this version: of all clients, or of this one."""


def scores_of(
    tasks: Sequence[TaskDefinition], rounds: Iterable[OpenRound], times: Mapping[RoundName, str]
) -> list[Score]:
    """All rows, by version, task and client; a version that was scored again has its last scores.

    Args:
        tasks: of the run.
        rounds: those that were closed, in this order.
        times: when a round was closed.
    """
    found: dict[tuple[int, int, str], list[Score]] = {}
    sent: dict[int, dict[str, int]] = {}
    places = {task.name: place for place, task in enumerate(tasks)}
    for round_ in rounds:
        if round_.phase.publishes:
            accepted = [order for order in round_.orders.values() if order.state is OrderState.ACCEPTED]
            sent[round_.number] = {order.client_id: order.nbytes for order in accepted}
        time, costs = times.get((round_.phase.name, round_.number, round_.attempt), ""), sent.get(round_.version, {})
        for task, client, scored in _measured(tasks, round_):
            cost = costs.get(client, 0) if client else sum(costs.values())
            found[round_.version, places[task], client] = [
                Score(time, round_.version, task, client, metric, value, cost)
                for metric, value in scored.scores.items()
            ]
    return [row for key in sorted(found) for row in found[key]]


def _measured(tasks: Sequence[TaskDefinition], round_: OpenRound) -> Iterator[tuple[str, str, RoundScores]]:
    """Task, client or nobody, and what was measured."""
    for task, pooled in round_scores(tasks, round_).items():
        if pooled.scores:
            yield task, "", pooled
    for client, by_task in client_scores(tasks, [round_]).items():
        for task, own in by_task.items():
            yield task, client, own
