"""A client's own model beside the one that it hands in: kept on its disk, scored, never sent."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from client.model import ClientModelSynchronizer
from client.precision import PrecisionChoice
from client.training.compact import CompactVocabulary
from client.training.evaluation import evaluate
from client.training.loop import TaskSet
from client.training.procedures import Work, finetuned, pulled_to_received
from common.models.multitask import MultiTaskModel
from common.parameters.flat import views
from common.parameters.scope import held_scopes
from common.statistics import TaskStatistics

PREFIX = "personal/"
"""Of the scopes of the own model in what a client keeps."""

Scores = dict[str, TaskStatistics]


def score(model: MultiTaskModel, sets: Sequence[TaskSet], batch_size: int) -> Scores:
    """Scores of the model as it stands, by task, on validation rows where there are any."""
    return {s.task.name: evaluate(model, s.task, s.validation, batch_size, s.units) for s in sets if len(s.validation)}


def score_own(
    synchronizer: ClientModelSynchronizer, sets: Sequence[TaskSet], batch_size: int, kept: Mapping[str, Tensor]
) -> Scores:
    """Scores of the own model by task; before its first training there is nothing to score."""
    with _own_in_place(synchronizer, kept) as own:
        begun = [item for item in sets if _holds(own, synchronizer.vectors, item.task.name)]
        return score(synchronizer.model, begun, batch_size)


def train_own(
    synchronizer: ClientModelSynchronizer,
    work: Work,
    kept: Mapping[str, Tensor],
    precision: PrecisionChoice,
    compact: CompactVocabulary | None = None,
) -> tuple[Scores, dict[str, Tensor]]:
    """Score the own model as it arrives at an order, as the received one is, and train it.

    So both scores belong to one round. A personal model is pulled to the received one, an isolated one is not.

    Args:
        synchronizer: holds the model, which is afterwards as before.
        work: the model and its rows; not compact where it is pulled, since it then moves in every row.
        kept: private values and those of the own model, float32 CPU vectors by scope.
        precision: what to train in; scores are float32.
        compact: the table that the rows of `work` count in, if it is not the whole one.

    Returns:
        Scores by task, and the own model's values to keep: float32 CPU vectors by scope.
    """
    with _own_in_place(synchronizer, kept) as own:
        begun = [item for item in work.sets if _holds(own, synchronizer.vectors, item.task.name)]
        with compact.in_place() if compact is not None else nullcontext():
            scores = score(work.model, begun, work.settings.eval_batch_size)
            with precision.in_use(work.model, work.sets, work.settings):
                if work.settings.procedure.isolated:
                    work.train()
                else:
                    pulled_to_received(work, _received(synchronizer))
        return scores, _values_of(synchronizer)


def fine_tune_own(
    synchronizer: ClientModelSynchronizer, work: Work, kept: Mapping[str, Tensor], precision: PrecisionChoice
) -> tuple[Scores, dict[str, Tensor]]:
    """Make an own model from the received one after the last round, and score it; arguments as for `train_own`."""
    with _own_in_place(synchronizer, {scope: v for scope, v in kept.items() if not scope.startswith(PREFIX)}):
        with precision.in_use(work.model, work.sets, work.settings):
            finetuned(work)
        return score(work.model, work.sets, work.settings.eval_batch_size), _values_of(synchronizer)


@contextmanager
def _own_in_place(synchronizer: ClientModelSynchronizer, kept: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Inside, the model has the received values and over them those of the own model, which it gives by scope."""
    own = {scope.removeprefix(PREFIX): vector for scope, vector in kept.items() if scope.startswith(PREFIX)}
    before = {scope: vector.clone() for scope, vector in synchronizer.vectors.items()}
    try:
        synchronizer.load_received()
        synchronizer.load_private({scope: kept[scope] for scope in synchronizer.private_scopes})
        synchronizer.load_private({scope: own[scope] for scope in synchronizer.vectors if scope in own})
        yield own
    finally:
        with torch.no_grad():
            for scope, vector in before.items():
                synchronizer.vectors[scope].copy_(vector)


def _values_of(synchronizer: ClientModelSynchronizer) -> dict[str, Tensor]:
    return {f"{PREFIX}{name}": v.detach().cpu().clone() for name, v in synchronizer.vectors.items()}


def _holds(own: Collection[str], scopes: Collection[str], task: str) -> bool:
    """Whether the own model has all that a task's scores depend on: it may have trained other tasks so far."""
    return all(scope in own for scope in held_scopes(scopes, [task]))


def _received(synchronizer: ClientModelSynchronizer) -> dict[str, Tensor]:
    """The received values by parameter name, on the model's device."""
    return {
        name: value
        for scope, vector in synchronizer.received.items()
        for name, value in views(vector.to(synchronizer.vectors[scope].device), synchronizer.schemas[scope]).items()
    }
