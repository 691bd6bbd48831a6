"""Training that hides every single row: DP-SGD (Abadi et al., CCS 2016) with a secret of this client.

A step takes every row of a task independently with the chance q = batch_size / rows, at most 1; adds up their
gradients, each at most `clip` long; adds noise to every trained parameter; and divides by `batch_size`, a number that
tells nothing of who took part. What follows, pulls to anchors included, reads no row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.data.batching import interleave, length_pieces
from client.training.loop import Part, Progress, TaskSet
from client.training.optimizer import new_optimizer
from client.training.row_gradients import RowGradients, RowLosses
from client.training.step import PLAIN_STEP, StepOptions
from common.bodies import TrainingSettings
from common.errors import ConfigError
from common.methods.balance import PlainBalance
from common.models.multitask import MultiTaskModel, draws_in_training
from common.models.randomness import borrowed_generator
from common.privacy.noise import CellNoise, derive
from common.seeds import derive_seed

_UNIT = 2.0**-53


@dataclass(frozen=True)
class RowSecret:
    """What this client's batches and noise are drawn from in one order; nobody else can draw them.

    Dropout is drawn from it, too: who knew it would see how masks move to other rows where one row is missing.
    """

    key: bytes
    """32 bytes that never leave this machine."""
    digest: bytes
    """SHA-256 of all that the order's result depends on: of other rows or values there is other noise."""

    def seed(self, label: str) -> int:
        """A seed of 63 bits for one purpose."""
        return int.from_bytes(derive(self.key, label, self.digest)[:8], "big") >> 1

    def coins(self, label: str, count: int, chance: float) -> NDArray[np.int64]:
        """Which of `count` rows take part if each does with this chance, int64 (rows that do,)."""
        stream = hashlib.shake_256(derive(self.key, label, self.digest)).digest(8 * count)
        return np.flatnonzero((np.frombuffer(stream, dtype="<u8") >> 11) * _UNIT < chance)

    def noised(self, label: str, total: Tensor, deviation: float) -> Tensor:
        """A sum with normal noise of this deviation on every element, float32 of the same shape."""
        noise = CellNoise(self.key, label, self.digest, deviation)
        found = noise.add(0, total.double().cpu().numpy())
        return torch.from_numpy(found).to(total)


@dataclass(frozen=True)
class RowSteps:
    """What training tells of each row of a task: in each of `steps` it takes part with the chance `chance`."""

    task: str
    steps: int
    chance: float


Spend = Callable[[Sequence[RowSteps]], float]
"""Hears what is about to be trained, and says the noise multiplier; raises where a budget is spent."""


def planned_steps(sets: Sequence[TaskSet], batch_size: int, epochs: int) -> tuple[RowSteps, ...]:
    """The steps of so many epochs by task."""
    return tuple(
        RowSteps(s.task.name, epochs * _steps(s, batch_size), min(1.0, batch_size / len(s.train)))
        for s in sets
        if len(s.train)
    )


def _steps(item: TaskSet, batch_size: int) -> int:
    return -(-len(item.train) // batch_size)


@dataclass(frozen=True)
class HiddenRows:
    """How an order's rows are hidden: the secret of its noise, and who hears of each part of the work."""

    secret: RowSecret
    spend: Spend
    clip: float


def train_hidden(
    model: MultiTaskModel,
    sets: Sequence[TaskSet],
    settings: TrainingSettings,
    seed: int,
    progress: Progress,
    hidden: HiddenRows,
    options: StepOptions = PLAIN_STEP,
) -> Mapping[str, float]:
    """Train in place for `settings.local_epochs`, so that no row shows; see `client.training.loop.train`.

    `max_grad_norm` is not read. `seed` names the work within its order, so that no noise is drawn twice; it decides
    nothing else but how images are changed.

    Returns:
        Nothing: a training loss would tell of rows.

    Raises:
        ConfigError: tasks of the order cannot be trained row by row.
        ModelError: parts of the model cannot.
        TrainingStopped: raised by `progress`.
    """
    _require_trainable(sets, settings, options)
    device = next(model.parameters()).device
    label = f"{settings.local_epochs}|{seed}"
    with RowGradients(model) as rows:
        for item in sets:
            _try(model, rows, item)
        multiplier = hidden.spend(planned_steps(sets, settings.batch_size, settings.local_epochs))
        steps = _Steps(model, rows, hidden, settings, multiplier, options)
        model.train()
        draws = draws_in_training(model)
        dropout = borrowed_generator(hidden.secret.seed(f"dropout|{label}"), device) if draws else nullcontext()
        with dropout:
            for epoch in range(settings.local_epochs):
                drawn = {s.task.name: replace(s, train=s.train.drawn(_changes(seed, epoch, s))) for s in sets}
                schedule = interleave({s.task.name: _steps(s, settings.batch_size) for s in sets})
                for number, names in enumerate(schedule):
                    progress((epoch + number / len(schedule)) / settings.local_epochs)
                    steps.take([drawn[name] for name in names], f"{label}|{epoch}|{number}")
    return {}


def _changes(seed: int, epoch: int, item: TaskSet) -> int:
    return derive_seed(seed, epoch, item.task.name, "masks")


def _require_trainable(sets: Sequence[TaskSet], settings: TrainingSettings, options: StepOptions) -> None:
    """Check what of an order looks at several rows at once.

    Raises:
        ConfigError: something does.
    """
    for item in sets:
        if item.task.type.per_token or item.task.type.per_pixel:
            what = f"tasks.{item.task.name}.type: the loss of {item.task.type} is not one of single rows"
            raise ConfigError(f"{what}; leave the task out, or write privacy.noise: coordinator")
    if not isinstance(settings.balance, PlainBalance) or options.look_ahead:
        raise ConfigError("privacy.noise: rows goes with training.balance: plain and without a look ahead alone")
    if len({item.task.auxiliary for item in sets}) > 1:
        raise ConfigError(
            "privacy.noise: rows cannot weigh auxiliary tasks by their gradients; remove tasks.*.auxiliary"
        )


def row_losses(model: MultiTaskModel, item: TaskSet, places: NDArray[np.integer]) -> RowLosses:
    """The losses of these rows of a task, times the task's weight."""

    def losses() -> Tensor:
        batch = item.train.batch(places).to(next(model.parameters()).device)
        assert batch.labels is not None
        found = item.task.type.loss(model(item.task.name, batch), batch.labels, "none", item.units)
        return item.task.weight * found

    return losses


def _try(model: MultiTaskModel, rows: RowGradients, item: TaskSet) -> None:
    """Have the model tried on two rows of a task, the shortest ones."""
    if not len(item.train):
        return
    first, second = np.resize(np.argsort(item.train.lengths, kind="stable")[:2], 2)
    two, three = (row_losses(model, item, np.array(places)) for places in ([first, second], [first, second, second]))
    rows.require_rows(two, three, most=2 if item.task.pair else 1)


class _Steps:
    """Takes the steps of one part of the work."""

    def __init__(
        self,
        model: MultiTaskModel,
        rows: RowGradients,
        hidden: HiddenRows,
        settings: TrainingSettings,
        multiplier: float,
        options: StepOptions,
    ) -> None:
        self._model, self._rows, self._hidden, self._options = model, rows, hidden, options
        self._size, self._multiplier = settings.batch_size, multiplier
        self._optimizer = new_optimizer(model, settings)
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def take(self, items: Sequence[TaskSet], label: str) -> None:
        """One step with rows of these tasks."""
        self._optimizer.zero_grad(set_to_none=True)
        for item in items:
            for part in self._pieces(item, label):
                self._rows.add(row_losses(self._model, *part), self._hidden.clip)
        self._add_noise(label)
        for term in self._options.terms:
            term.before_step()
        self._optimizer.step()
        for term in self._options.terms:
            term.after_step()

    def _pieces(self, item: TaskSet, label: str) -> list[Part]:
        """The rows of a task that take part, in pieces of at most a batch and of similar length."""
        chance = min(1.0, self._size / len(item.train))
        places = self._hidden.secret.coins(f"rows|{label}|{item.task.name}", len(item.train), chance)
        return [(item, places[part]) for part in length_pieces(item.train.lengths[places], self._size)]

    @torch.no_grad()
    def _add_noise(self, label: str) -> None:
        """Put the noised sum of clipped gradients, divided by the batch size, in place of every trained gradient."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._trained]
        total = torch.cat([part.flatten() for part in parts])
        noised = self._hidden.secret.noised(f"noise|{label}", total, self._multiplier * self._hidden.clip)
        noised /= self._size
        sizes = [parameter.numel() for parameter in self._trained]
        for parameter, value in zip(self._trained, torch.split(noised, sizes), strict=True):
            parameter.grad = value.view_as(parameter)
