"""The path of a batch: encoder, head of its task, loss, step. The only training loop there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import nn

from client.data.batching import epoch_batches, interleave
from client.data.encoding import EncodedSet, collate
from common.errors import FedMTLError
from common.models.heads import task_loss
from common.models.multitask import MultiTaskModel
from common.models.randomness import borrowed_generator
from common.orders import TrainingSettings
from common.seeds import derive_seed
from common.tasks import TaskDefinition


class TrainingStopped(FedMTLError):
    """The order was cancelled or the client is going away; nothing of it is kept."""


class TrainingDiverged(FedMTLError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class TaskSet:
    """One task's encoded rows at this client."""

    task: TaskDefinition
    train: EncodedSet
    validation: EncodedSet


Progress = Callable[[float], None]
"""Called with the share of the work that is done (0 to 1); raises `TrainingStopped` to end it."""

Procedure = Callable[[MultiTaskModel, Sequence[TaskSet], TrainingSettings, int, Progress], Mapping[str, float]]
"""What a client does with an order to train; `train` is one."""


def train(
    model: MultiTaskModel,
    sets: Sequence[TaskSet],
    settings: TrainingSettings,
    seed: int,
    progress: Progress,
) -> Mapping[str, float]:
    """Train in place for `settings.local_epochs`, each row of each task once per epoch.

    A step takes one batch of every task that the schedule puts there and minimises the sum of task weight times mean
    batch loss. The optimizer (AdamW, Loshchilov and Hutter 2019) starts fresh. `seed` decides batches and dropout.

    Returns:
        Mean training loss per task; empty where nothing was trained.

    Raises:
        TrainingDiverged: a loss is NaN or infinite.
        TrainingStopped: raised by `progress`.
    """
    by_name = {item.task.name: item for item in sets}
    totals = dict.fromkeys(by_name, 0.0)
    device = next(model.parameters()).device
    optimizer = _optimizer(model, settings)
    model.train()
    with borrowed_generator(derive_seed(seed, "dropout"), device):
        for epoch in range(settings.local_epochs):
            batches = {
                name: iter(epoch_batches(s.train.lengths, settings.batch_size, derive_seed(seed, epoch, name)))
                for name, s in by_name.items()
            }
            schedule = interleave({n: -(-len(s.train) // settings.batch_size) for n, s in by_name.items()})
            for number, names in enumerate(schedule):
                progress((epoch + number / len(schedule)) / settings.local_epochs)
                loss = torch.zeros((), device=device)
                for name in names:
                    rows = next(batches[name])
                    task = by_name[name].task
                    batch = collate(by_name[name].train, rows).to(device)
                    assert batch.labels is not None
                    part = task_loss(task, model(name, batch), batch.labels)
                    totals[name] += _finite(part, name) * len(rows)
                    loss = loss + task.weight * part
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if settings.max_grad_norm:
                    nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
                optimizer.step()
    rounds = settings.local_epochs
    return {name: total / (rounds * len(by_name[name].train)) for name, total in totals.items()} if rounds else {}


def _optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW; weight decay only on matrices of layers, neither on embeddings nor on biases and norms."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if parameter.dim() > 1 and "embedding" not in name else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate, fused=True)


def _finite(loss: torch.Tensor, task: str) -> float:
    value = float(loss.detach())
    if not isfinite(value):
        raise TrainingDiverged(f"task {task}: the training loss is {value}; lower training.learning_rate")
    return value
