"""What turns a client's gradients into steps; the optimizers themselves are torch's (`client.training.loop`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from common.methods.choice import Bounds, Row, table


class LocalOptimizer(Row):
    """Base of the rows."""

    steps_by_rate: ClassVar[bool] = False
    """Whether each number moves by about the rate, however small its gradient is."""


@dataclass(frozen=True)
class AdamWOptimizer(LocalOptimizer):
    """AdamW (Loshchilov and Hutter 2019): steps divided by the size of the gradient; starts fresh in every round."""

    name = "adamw"
    steps_by_rate = True


@dataclass(frozen=True)
class SGDOptimizer(LocalOptimizer):
    """SGD (McMahan et al. 2017): the rate, of 0.01 to 1, times the gradient."""

    name = "sgd"
    momentum: Annotated[float, Bounds(least=0, most=0.9999)] = 0.0
    """share of the step before that each step goes on with; starts fresh in every round"""


LOCAL_OPTIMIZERS: dict[str, type[LocalOptimizer]] = table(AdamWOptimizer, SGDOptimizer)
