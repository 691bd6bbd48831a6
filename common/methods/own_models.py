"""A model of a client's own beside the one that it hands in: rows, whose functions are in `client.training.own_models`.

One field of an order says which, so a client has one at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.methods.choice import Epochs, Row, Strength, table


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


OWN_MODELS: dict[str, type[OwnModelRow]] = table(NoOwnModel, IsolatedModel, PulledModel, FineTunedModel)
