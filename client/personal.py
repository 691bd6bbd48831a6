"""A client's own model beside the one that it hands in: kept on its disk, scored, never sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from client.model import ClientModelSynchronizer
from client.precision import PrecisionChoice
from client.training.compact import CompactVocabulary
from client.training.evaluation import evaluate
from client.training.loop import TaskSet
from client.training.procedures import Work, finetuned, pulled_to_received
from common.models.multitask import MultiTaskModel
from common.orders import OrderKind
from common.parameters.flat import views
from common.parameters.scope import held_scopes
from common.statistics import TaskStatistics

PREFIX = "personal/"
"""Of the scopes of the own model in what a client keeps."""

Scores = dict[str, TaskStatistics]


def score(model: MultiTaskModel, sets: Sequence[TaskSet], batch_size: int) -> Scores:
    """Scores of the model as it stands, by task, on validation rows where there are any."""
    return {s.task.name: evaluate(model, s.task, s.validation, batch_size, s.units) for s in sets if len(s.validation)}


def work_on_own(
    synchronizer: ClientModelSynchronizer,
    kind: OrderKind,
    work: Work,
    kept: Mapping[str, Tensor],
    precision: PrecisionChoice,
    compact: CompactVocabulary | None = None,
) -> tuple[Scores, dict[str, Tensor]]:
    """Score the client's own model, and train it if its procedure has one; the loaded model is afterwards as before.

    A personal second model is scored as it arrives at an order, as the received one is, so that both scores belong to
    one round; before its first training there is nothing to score. An isolated one is the same without a pull.
    Fine-tuning happens once, after the last round, and is scored afterwards.

    Args:
        synchronizer: holds the model, with this order's values or what was trained of them.
        kind: of the order.
        work: the model and its rows; not compact where it is pulled, since it then moves in every row.
        kept: private values and those of the own model, float32 CPU vectors by scope.
        precision: what to train in; scores are float32.
        compact: the table that the rows of `work` count in, if it is not the whole one.

    Returns:
        Scores by task, and the own model's values to keep: float32 CPU vectors by scope, none where it stays.
    """
    settings, rows = work.settings, work.settings.eval_batch_size
    own = {scope.removeprefix(PREFIX): vector for scope, vector in kept.items() if scope.startswith(PREFIX)}
    finetunes = kind is OrderKind.EVALUATE and settings.finetune_epochs > 0
    if not (settings.has_own_model or finetunes):
        return {}, {}
    before = {scope: vector.clone() for scope, vector in synchronizer.vectors.items()}
    try:
        synchronizer.load_received()
        synchronizer.load_private({scope: kept[scope] for scope in synchronizer.private_scopes})
        if settings.has_own_model:
            synchronizer.load_private({scope: own[scope] for scope in synchronizer.vectors if scope in own})
            begun = [item for item in work.sets if _holds(own, synchronizer.vectors, item.task.name)]
            with compact.in_place() if compact is not None else nullcontext():
                scores = score(work.model, begun, rows)
                if kind is not OrderKind.TRAIN:
                    return scores, {}
                with precision.in_use(work.model, work.sets, work.settings):
                    work.train() if settings.isolated else pulled_to_received(work, _received(synchronizer))
        else:
            with precision.in_use(work.model, work.sets, work.settings):
                finetuned(work)
            scores = score(work.model, work.sets, rows)
        return scores, {f"{PREFIX}{name}": v.detach().cpu().clone() for name, v in synchronizer.vectors.items()}
    finally:
        with torch.no_grad():
            for scope, vector in before.items():
                synchronizer.vectors[scope].copy_(vector)


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
