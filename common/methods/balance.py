"""How the tasks of one client meet in a step of its training; what these rows do is in `client.training.balance`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from common.methods.choice import Rate, Row, Strength


class BalanceRow(Row):
    """Base of the rows. Each acts where at least two tasks have a batch."""

    compares_losses: ClassVar[bool] = False
    """Whether it looks at the losses before and after a step, which must then belong to one point."""


@dataclass(frozen=True)
class PlainBalance(BalanceRow):
    """The sum of task weight times loss (Caruana 1997)."""

    name = "plain"


@dataclass(frozen=True)
class UncertaintyBalance(BalanceRow):
    """Kendall, Gal and Cipolla 2018: sum of L_t exp(-s_t)/2 + s_t/2 with s_t learned along."""

    name = "uncertainty"
    rate: Rate = 0.025
    """learning rate of the tasks' weights"""


@dataclass(frozen=True)
class GradNormBalance(BalanceRow):
    """GradNorm (Chen et al. 2018): weights under which the tasks' gradients keep one pace."""

    name = "gradnorm"
    rate: Rate = 0.025
    """learning rate of the tasks' weights"""
    alpha: Strength = 1.5
    """how strongly tasks are held to one pace"""


@dataclass(frozen=True)
class FamoBalance(BalanceRow):
    """FAMO (Liu et al. 2023): weights under which all losses fall at one relative rate; a second forward pass."""

    name = "famo"
    compares_losses = True
    rate: Rate = 0.025
    """learning rate of the tasks' weights"""
    decay: Strength = 1e-3
    """pull of the weights to equal ones"""
