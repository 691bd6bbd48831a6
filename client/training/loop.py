"""The path of a batch: encoder, head of its task, loss, step. The loop of all training that hides no single rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.data.batching import epoch_batches, interleave
from client.data.examples import PreparedExamples
from client.training.balance import PLAIN_BALANCE, Balance, balance_of
from client.training.optimizer import new_optimizer
from client.training.step import PLAIN_STEP, StepOptions, looked_ahead
from common.bodies import TrainingSettings
from common.errors import FedMTLError
from common.models.multitask import MultiTaskModel, draws_in_training
from common.models.randomness import borrowed_generator
from common.seeds import derive_seed
from common.standardising import InputScale
from common.targets import OWN_UNITS, TargetUnits
from common.tasks import TaskDefinition

UNREAD_LOSSES = 200
"""Reading a loss waits for a GPU, so it is done for many at once."""


class TrainingStopped(FedMTLError):
    """The order was cancelled or the client is going away; nothing of it is kept."""


class TrainingDiverged(FedMTLError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class TaskSet:
    """One task's encoded examples at this client, and the units of its loss."""

    task: TaskDefinition
    train: PreparedExamples
    validation: PreparedExamples
    units: TargetUnits = OWN_UNITS

    def scaled(self, scale: InputScale | None) -> TaskSet:
        """The same with the numbers in examples by a scale of the federation, if it has fixed one."""
        if scale is None:
            return self
        return replace(self, train=self.train.scaled(scale), validation=self.validation.scaled(scale))


Progress = Callable[[float], None]
"""Called with the share of the work that is done (0 to 1); raises `TrainingStopped` to end it."""


def train(
    model: MultiTaskModel,
    sets: Sequence[TaskSet],
    settings: TrainingSettings,
    seed: int,
    progress: Progress,
    options: StepOptions = PLAIN_STEP,
) -> Mapping[str, float]:
    """Train in place for `settings.local_epochs`, each example of each task once per epoch.

    A step takes one batch of every task that the schedule puts there and minimises the sum of task weight times mean
    batch loss, unless `settings.balance` has another way for tasks to meet. The optimizer starts fresh. `seed` decides
    batches and dropout. A look ahead of `options` follows the gradient of the batch before, which is the epoch's last
    one at its start.

    Returns:
        Mean training loss per task; empty where nothing was trained.

    Raises:
        TrainingDiverged: a loss is NaN or infinite.
        TrainingStopped: raised by `progress`.
    """
    device = next(model.parameters()).device
    optimizer = new_optimizer(model, settings)
    options = replace(options, balance=balance_of(model, settings.balance, [s.task for s in sets]))
    losses = _Losses(sets)
    model.train()
    # Without dropout nothing draws, and clients that share a process need not wait for each other.
    draws = draws_in_training(model)
    with borrowed_generator(derive_seed(seed, "dropout"), device) if draws else nullcontext():
        for epoch in range(settings.local_epochs):
            steps = epoch_steps(sets, settings.batch_size, seed, epoch)
            for number, parts in enumerate(steps):
                progress((epoch + number / len(steps)) / settings.local_epochs)
                before = steps[number - 1] if options.look_ahead else ()
                losses.add(parts, take_step(model, optimizer, parts, settings.max_grad_norm, options, before))
        losses.check()
    return losses.means(settings.local_epochs)


Part = tuple[TaskSet, NDArray[np.int64]]
"""One batch of one task: which of its training examples, int64 (examples,)."""


def epoch_steps(sets: Sequence[TaskSet], batch_size: int, seed: int, epoch: int) -> list[list[Part]]:
    """The batches of every step of one epoch."""
    by_name = {
        s.task.name: replace(s, train=s.train.drawn(derive_seed(seed, epoch, s.task.name, "masks"))) for s in sets
    }
    batches = {
        name: iter(epoch_batches(s.train.lengths, batch_size, derive_seed(seed, epoch, name)))
        for name, s in by_name.items()
    }
    schedule = interleave({s.task.name: -(-len(s.train) // batch_size) for s in sets})
    return [[(by_name[name], next(batches[name])) for name in names] for names in schedule]


def take_step(
    model: MultiTaskModel,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Part],
    max_grad_norm: float,
    options: StepOptions = PLAIN_STEP,
    before: Sequence[Part] = (),
) -> list[Tensor]:
    """One step of the optimizer; the loss of each part, float32 () on the model's device.

    With parts `before` the gradient is that of the loss after a step of rate `options.look_ahead` on those.
    """
    if before:
        _take_gradients(model, optimizer, before, PLAIN_BALANCE)
        with looked_ahead(list(model.parameters()), options.look_ahead):
            losses = _take_gradients(model, optimizer, parts, options.balance)
    else:
        losses = _take_gradients(model, optimizer, parts, options.balance)
    for term in options.terms:
        term.before_step()
    if max_grad_norm:
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    for term in options.terms:
        term.after_step()
    options.balance.after_step([item.task for item, _ in parts], losses, lambda: _forward(model, parts))
    return losses


def _take_gradients(
    model: MultiTaskModel, optimizer: torch.optim.Optimizer, parts: Sequence[Part], balance: Balance
) -> list[Tensor]:
    """The parts' gradients as the balance has it, in place of those before; the loss of each part."""
    losses = _forward(model, parts)
    optimizer.zero_grad(set_to_none=True)
    balance.backward([item.task for item, _ in parts], losses)
    return [loss.detach() for loss in losses]


def _forward(model: MultiTaskModel, parts: Sequence[Part]) -> list[Tensor]:
    """The mean loss of every part.

    Nothing of ours waits for a GPU here, so that the next batch is put together while this one is computed;
    transformers does once per batch that has padding, to look at the mask.
    """
    device = next(model.parameters()).device
    losses = []
    for item, rows in parts:
        batch = item.train.batch(rows).to(device)
        assert batch.labels is not None
        losses.append(item.task.type.loss(model(item.task.name, batch), batch.labels, units=item.units))
    return losses


class _Losses:
    """Training losses of every task; they stay on the device and are read and checked every so often."""

    def __init__(self, sets: Sequence[TaskSet]) -> None:
        self._rows = {s.task.name: len(s.train) for s in sets}
        self._totals = dict.fromkeys(self._rows, 0.0)
        self._unread: list[tuple[str, int, Tensor]] = []

    def add(self, parts: Sequence[Part], losses: Sequence[Tensor]) -> None:
        """Take the losses of one step.

        Raises:
            TrainingDiverged: see `check`.
        """
        self._unread += [(s.task.name, len(rows), loss) for (s, rows), loss in zip(parts, losses, strict=True)]
        if len(self._unread) >= UNREAD_LOSSES:
            self.check()

    def check(self) -> None:
        """Read what has come since the last time.

        Raises:
            TrainingDiverged: a loss is not finite.
        """
        if not self._unread:
            return
        values = torch.stack([loss for _, _, loss in self._unread]).tolist()
        for (name, count, _), value in zip(self._unread, values, strict=True):
            if not isfinite(value):
                raise TrainingDiverged(f"task {name}: the training loss is {value}; lower training.learning_rate")
            self._totals[name] += value * count
        self._unread.clear()

    def means(self, epochs: int) -> dict[str, float]:
        """Mean loss per task over all rows of all epochs; empty without any epoch."""
        return {n: total / (epochs * self._rows[n]) for n, total in self._totals.items()} if epochs else {}
