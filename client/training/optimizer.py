"""What turns gradients into steps, and how long a step of each parameter is."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from common.bodies import TrainingSettings
from common.methods.local_optimizers import SGDOptimizer
from common.models.heads import Head
from common.parameters.plan import is_embedding


def new_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), or SGD with the momentum m = momentum m + gradient; step rate x m.

    Weight decay is only on matrices of layers, neither on embeddings nor on biases and norms. With AdamW it shrinks
    them by rate x decay per step; with SGD it joins the gradient, which is the same as long as there is no momentum.
    """
    kinds: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    rates = rates_of(model, settings)
    for name, parameter in model.named_parameters():
        decay = settings.weight_decay if takes_decay(name, parameter) else 0.0
        kinds[rates[name], decay].append(parameter)
    groups = [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in kinds.items()]
    if isinstance(settings.optimizer, SGDOptimizer):
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.optimizer.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def rates_of(model: nn.Module, settings: TrainingSettings) -> dict[str, float]:
    """The learning rate of each parameter by name: heads that start from nothing have their own."""
    blank = tuple(f"{name}." for name, head in model.named_modules() if isinstance(head, Head) and head.is_blank)
    return {
        name: settings.head_learning_rate if name.startswith(blank) else settings.learning_rate
        for name, _ in model.named_parameters()
    }


def takes_decay(name: str, parameter: Tensor) -> bool:
    """Whether `training.weight_decay` pulls on a parameter of the model."""
    return parameter.dim() > 1 and "embedding" not in name and not is_embedding(name)
