"""What a client does with an order to train: a small closed table, and the settings of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

LARGEST_MU = 1e6
MOST_EPOCHS = 2**31 - 1
LARGEST_MOMENTUM = 0.9999


class ProcedureName(StrEnum):
    """The rows. Papers and what they do: docs/methods.md."""

    PLAIN = "plain"
    FEDPROX = "fedprox"
    FEDREP = "fedrep"
    DITTO = "ditto"
    PER_FEDAVG = "per_fedavg"


class OptimizerName(StrEnum):
    """What turns a client's gradients into steps."""

    ADAMW = "adamw"
    SGD = "sgd"


class PullStep(StrEnum):
    """How a pull (mu/2) ||theta - anchor||^2 is followed.

    GRADIENT adds mu (theta - anchor) to the gradient; with plain gradient steps of rate eta it diverges for
    eta mu > 2. PROXIMAL steps without it and then goes to the minimum of the pull around there,
    (theta + eta mu anchor) / (1 + eta mu), which is stable for every mu.
    """

    GRADIENT = "gradient"
    PROXIMAL = "proximal"


READS: Mapping[ProcedureName, frozenset[str]] = {
    ProcedureName.PLAIN: frozenset({"pull", "finetune_epochs"}),
    ProcedureName.FEDPROX: frozenset({"mu", "pull", "finetune_epochs"}),
    ProcedureName.FEDREP: frozenset({"pull", "head_epochs", "finetune_epochs"}),
    ProcedureName.DITTO: frozenset({"mu", "pull"}),
    ProcedureName.PER_FEDAVG: frozenset({"pull", "inner_learning_rate", "finetune_epochs"}),
}
"""Which settings each row reads; all others keep their defaults."""


@dataclass(frozen=True)
class LocalProcedure:
    """One row with its settings.

    `mu` is the strength of a pull to the received values, `head_epochs` are passes with the encoder frozen before
    `local_epochs` passes with the heads frozen, `inner_learning_rate` that of the step that a meta-gradient looks
    ahead, `finetune_epochs` passes over a client's rows after the last round, for a model of its own. With `isolated` a
    client also trains a model that nobody else moves: what it would have alone.
    """

    name: ProcedureName = ProcedureName.PLAIN
    mu: float = 0.0
    pull: PullStep = PullStep.GRADIENT
    head_epochs: int = 0
    inner_learning_rate: float = 0.0
    finetune_epochs: int = 0
    isolated: bool = False

    def problem(self) -> str | None:
        """What is wrong with the settings, as `name: reason`, or None."""
        for field, most in (("mu", LARGEST_MU), ("inner_learning_rate", LARGEST_MU)):
            value = getattr(self, field)
            if not (isfinite(value) and 0.0 <= value <= most):
                return f"{field}: {value} is not from 0 to {most:g}"
        for field in ("head_epochs", "finetune_epochs"):
            if not 0 <= getattr(self, field) <= MOST_EPOCHS:
                return f"{field}: {getattr(self, field)} is not from 0 to {MOST_EPOCHS}"
        for field in ("mu", "pull", "head_epochs", "inner_learning_rate", "finetune_epochs"):
            if field not in READS[self.name] and getattr(self, field) != getattr(LocalProcedure, field):
                return f"{field}: {getattr(self, field)} means nothing to procedure {self.name}"
        if self.isolated and (self.name is ProcedureName.DITTO or self.finetune_epochs):
            return "isolated: clients with personal or fine-tuned models have no place for another one"
        return None

    @property
    def personal(self) -> bool:
        """Whether the client trains a second model of its own beside the one that it hands in."""
        return self.isolated or self.name is ProcedureName.DITTO


PLAIN = LocalProcedure()
