"""How the tasks of one client meet in a step of its training: a small closed table, and the settings of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

LARGEST = 1e6


class BalanceRule(StrEnum):
    """The rows. Papers and what they do: docs/methods.md."""

    PLAIN = "plain"
    UNCERTAINTY = "uncertainty"
    GRADNORM = "gradnorm"
    FAMO = "famo"
    PCGRAD = "pcgrad"
    MGDA = "mgda"
    CAGRAD = "cagrad"
    NASH = "nash"
    IMTL_G = "imtl_g"
    UPGRAD = "upgrad"


_SETTLES = frozenset({"rescale"})

READS: Mapping[BalanceRule, frozenset[str]] = {
    BalanceRule.PLAIN: frozenset(),
    BalanceRule.UNCERTAINTY: frozenset({"rate"}),
    BalanceRule.GRADNORM: frozenset({"rate", "alpha"}),
    BalanceRule.FAMO: frozenset({"rate", "decay"}),
    BalanceRule.PCGRAD: _SETTLES,
    BalanceRule.MGDA: _SETTLES,
    BalanceRule.CAGRAD: _SETTLES | {"cagrad_c"},
    BalanceRule.NASH: _SETTLES,
    BalanceRule.IMTL_G: _SETTLES,
    BalanceRule.UPGRAD: _SETTLES,
}
"""Which settings each row reads; all others keep their defaults."""


@dataclass(frozen=True)
class LocalBalance:
    """One row with its settings.

    `rate` is the learning rate of the tasks' weights, `alpha` how strongly GradNorm holds tasks to one pace, `decay`
    the pull of FAMO's weights to equal ones, `cagrad_c` how far CAGrad may leave the mean. With `rescale` a settled
    gradient gets the length of the plain one.
    """

    rule: BalanceRule = BalanceRule.PLAIN
    rate: float = 0.0
    alpha: float = 0.0
    decay: float = 0.0
    cagrad_c: float = 0.0
    rescale: bool = False

    def problem(self) -> str | None:
        """What is wrong with the settings, as `name: reason`, or None."""
        for field in ("rate", "alpha", "decay", "cagrad_c"):
            value = getattr(self, field)
            if not (isfinite(value) and 0.0 <= value <= LARGEST):
                return f"{field}: {value} is not from 0 to {LARGEST:g}"
        for field in ("rate", "alpha", "decay", "cagrad_c", "rescale"):
            if field not in READS[self.rule] and getattr(self, field) != getattr(LocalBalance, field):
                return f"{field}: {getattr(self, field)} means nothing to balance {self.rule}"
        return None


PLAIN = LocalBalance()
