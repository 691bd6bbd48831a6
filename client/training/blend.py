"""A client's blend of the received and its isolated model: how its weight is chosen, kept and scored.

The weight is that of the received model (`common.models.blended`). It is chosen for each task by the client's
validation rows, is state of its procedure, and never travels; the scores of the blend do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, fsum

import numpy as np
import torch
from torch import Tensor

from client.data.batching import length_batches
from client.training.loop import TaskSet
from common.inputs import Batch
from common.models.blended import BLENDS
from common.models.multitask import MultiTaskModel
from common.tasks import TaskDefinition

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Those that are tried."""
BLEND = "blend/"
"""Before the way of blending and the task, in the state of a procedure: the weight."""


@dataclass(frozen=True)
class Blend:
    """How both models of a client answer a task together."""

    mix: str
    """A row of `BLENDS`."""
    weight: float
    """Of the received model, from 0 to 1, a float32."""

    def model(self, received: MultiTaskModel, isolated: MultiTaskModel, task: TaskDefinition) -> MultiTaskModel:
        """The model that answers."""
        return BLENDS[self.mix](received, isolated, task, self.weight)

    def state(self, task: str) -> dict[str, Tensor]:
        """What is kept of it."""
        return {f"{BLEND}{self.mix}/{task}": torch.tensor([self.weight])}


def kept_blend(state: Mapping[str, Tensor], task: str) -> Blend | None:
    """The blend that a client keeps for a task, if it has one."""
    found = ((mix, state.get(f"{BLEND}{mix}/{task}")) for mix in BLENDS)
    return next((Blend(mix, weight.item()) for mix, weight in found if weight is not None), None)


def chosen_blend(
    mix: str,
    received: MultiTaskModel,
    isolated: MultiTaskModel,
    item: TaskSet,
    batch_size: int,
    weights: Sequence[float] = WEIGHTS,
) -> Blend:
    """The blend for a task by the likelihood of its validation rows under each weight; see `posterior_mean`.

    Each weight counts with the best of the kind's temperatures (Guo et al. 2017): models that fit few rows by heart are
    surer than they should be, the isolated one most of all, and untempered the less sure model would win, whichever is
    right more often.
    """
    losses = LOSSES[mix](received, isolated, item, batch_size, weights)
    kind, rows = item.task.type, len(item.validation)
    return Blend(mix, posterior_mean(weights, [kind.log_likelihood(loss, rows) for loss in losses]))


def posterior_mean(weights: Sequence[float], log_likelihoods: Sequence[float]) -> float:
    """The mean of the weights by Bayes' rule, all being equally likely before any row is seen; a float32.

    Averaged probabilities are linear in the weight. So a blend with this weight says exactly what the mean over all
    weights says, each counted by its posterior. Without rows it is the mean of the weights, 1/2; many rows leave the
    weight with the least loss. Two weights whose losses differ by d on n rows are e^(n d) apart, so a few rows decide
    little.
    """
    most = max(log_likelihoods)
    shares = [exp(value - most) for value in log_likelihoods]
    mean = fsum(weight * share for weight, share in zip(weights, shares, strict=True)) / fsum(shares)
    return float(np.float32(mean))


BlendLosses = Callable[[MultiTaskModel, MultiTaskModel, TaskSet, int, Sequence[float]], list[float]]
"""Mean losses of blends on validation rows: of both models, rows, rows per batch, and weights. Each at the temperature
that suits the blend best."""


def _of_outputs(
    received: MultiTaskModel, isolated: MultiTaskModel, item: TaskSet, batch_size: int, weights: Sequence[float]
) -> list[float]:
    """Each model is asked once."""
    task = item.task

    def said(batch: Batch) -> list[Tensor]:
        ours, theirs = received(task.name, batch), isolated(task.name, batch)
        ends = {0.0: theirs, 1.0: ours}
        return [ends[w] if w in ends else task.type.averaged(ours, theirs, w) for w in weights]

    received.eval()
    isolated.eval()
    return _mean_losses(said, item, batch_size, len(weights), next(received.parameters()).device)


def _of_models(
    received: MultiTaskModel, isolated: MultiTaskModel, item: TaskSet, batch_size: int, weights: Sequence[float]
) -> list[float]:
    """A model for each weight, one after the other."""

    def loss(weight: float) -> float:
        model = BLENDS["weights"](received, isolated, item.task, weight).eval()
        device = next(model.parameters()).device
        return _mean_losses(lambda batch: [model(item.task.name, batch)], item, batch_size, 1, device)[0]

    return [loss(weight) for weight in weights]


LOSSES: Mapping[str, BlendLosses] = {"probabilities": _of_outputs, "weights": _of_models}
"""By the names of `BLENDS`."""


def _mean_losses(
    said: Callable[[Batch], Sequence[Tensor]], item: TaskSet, batch_size: int, blends: int, device: torch.device
) -> list[float]:
    """Mean losses of several outputs for each batch of validation rows, at the best temperature; 0 without rows."""
    kind = item.task.type
    sums, count = torch.zeros(blends, len(kind.temperatures), dtype=torch.float64, device=device), 0
    with torch.inference_mode():
        for places in length_batches(item.validation.lengths, batch_size):
            batch = item.validation.batch(places).to(device)
            assert batch.labels is not None
            for blend, outputs in enumerate(said(batch)):
                for place, temperature in enumerate(kind.temperatures):
                    losses = kind.loss(outputs / temperature, batch.labels, "none", item.units)
                    sums[blend, place] += losses.double().sum()
            count += len(losses)
    return (sums.min(dim=1).values / max(count, 1)).tolist()
