"""Two models that answer a task together: what was received and a client's isolated model.

The weight is that of the received model: at 1 the blend is the received model, at 0 the isolated one, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from common.inputs import Batch
from common.models.multitask import MultiTaskModel
from common.parameters.flat import tensors_of
from common.tasks import TaskDefinition

MakeBlend = Callable[[MultiTaskModel, MultiTaskModel, TaskDefinition, float], MultiTaskModel]
"""Makes one model of the received one and the isolated one for a task; the two stay as they are."""


class TwoModels(MultiTaskModel):
    """Both models, whose predictions are averaged as the task's kind says (`TaskKind.averaged`). Not for training.

    Encoder and heads are those of the received model.
    """

    def __init__(self, received: MultiTaskModel, isolated: MultiTaskModel, task: TaskDefinition, weight: float) -> None:
        nn.Module.__init__(self)
        self.architecture, self.inputs, self.precision = received.architecture, received.inputs, received.precision
        self.encoder, self.heads = received.encoder, received.heads
        self.isolated, self.task, self.weight = isolated, task, weight

    def part(self, tasks: Sequence[str]) -> TwoModels:
        """See `MultiTaskModel`; of the one task that it answers."""
        return TwoModels(super().part(tasks), self.isolated.part(tasks), self.task, self.weight)

    def forward(self, task: str, batch: Batch) -> Tensor:
        """See `MultiTaskModel`."""
        if self.weight == 1.0:
            return super().forward(task, batch)
        isolated: Tensor = self.isolated(task, batch)
        if self.weight == 0.0:
            return isolated
        return self.task.type.averaged(super().forward(task, batch), isolated, self.weight)


def interpolated(
    received: MultiTaskModel, isolated: MultiTaskModel, task: TaskDefinition, weight: float
) -> MultiTaskModel:
    """One model whose parameters are weight x received + (1 - weight) x isolated (Wortsman et al. 2022, WiSE-FT)."""
    found, other = (deepcopy(model.part([task.name])) for model in (received, isolated))
    with torch.no_grad():
        for name, values in tensors_of(found).items():
            values.copy_(tensors_of(other)[name].lerp(values, weight))
    return found


BLENDS: Mapping[str, MakeBlend] = {"probabilities": TwoModels, "weights": interpolated}
"""By what `blend.mix` says."""
