"""A model of a client's own beside the one that it hands in: rows, whose functions are in `client.training.own_models`.

One field of an order says which, so a client has one at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.capabilities import ALL
from common.methods.choice import Epochs, Row, Strength, table
from common.parameters.capacity import is_capacity

MIXES = ("probabilities", "weights")
"""What a blend averages."""


class OwnModelRow(Row):
    """Base of the rows."""

    def extra_epochs(self, num_rounds: int, local_epochs: int) -> int:
        """Passes over a client's examples in the whole run, beyond those of the model that is handed in."""
        return num_rounds * local_epochs


@dataclass(frozen=True)
class NoOwnModel(OwnModelRow):
    """The client has none."""

    name = "none"

    def extra_epochs(self, num_rounds: int, local_epochs: int) -> int:
        """See `OwnModelRow`."""
        return 0


@dataclass(frozen=True)
class IsolatedModel(OwnModelRow):
    """Trained in each round as if there were no other clients: what the guard compares with."""

    name = "isolated"


@dataclass(frozen=True)
class BlendedModel(OwnModelRow):
    """Trained as an isolated model, and scored together with the received one: what a client answers with is a blend.

    After Mansour et al. 2020 (model interpolation) and Deng et al. 2020 (APFL), whose weights are trained.
    """

    name = "blended"
    mix: str = "probabilities"
    """what is averaged: predictions (probabilities), or parameters (weights)"""
    trains: str = ALL
    """how much of it is trained, as clients say of theirs"""

    def problems(self) -> list[str]:
        """See `Row`."""
        found = []
        if self.mix not in MIXES:
            found.append(f"mix: '{self.mix[:80]}' is not one of {', '.join(MIXES)}; write one of them")
        if not is_capacity(self.trains):
            found.append(f"trains: '{self.trains[:80]}' is not all, head or top_<n>; write e.g. top_2")
        return found


@dataclass(frozen=True)
class PulledModel(OwnModelRow):
    """Trained in each round and pulled to the received model (Li et al. 2021, Ditto)."""

    name = "pulled"
    mu: Strength = 0.1
    """strength of the pull"""


@dataclass(frozen=True)
class FineTunedModel(OwnModelRow):
    """Made of the last published model by some more epochs."""

    name = "fine_tuned"
    epochs: Epochs = 1
    """passes over the client's examples"""

    def extra_epochs(self, num_rounds: int, local_epochs: int) -> int:
        """See `OwnModelRow`."""
        return self.epochs


OWN_MODELS: dict[str, type[OwnModelRow]] = table(NoOwnModel, IsolatedModel, BlendedModel, PulledModel, FineTunedModel)
