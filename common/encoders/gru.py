"""Gated recurrent units over sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from common.encoders.mlp import Dropout
from common.encoders.row import ArrayEncoder, shape_problems
from common.methods.choice import Bounds

if TYPE_CHECKING:
    from common.inputs.kind import Encoder


@dataclass(frozen=True)
class GRUEncoder(ArrayEncoder):
    """Gated recurrent units along sequences (Cho et al. 2014); heads read the last state."""

    name = "gru"
    kind = "sequences"

    shape: tuple[int, ...]
    """of a row: length, channels"""
    hidden: Annotated[int, Bounds(least=1, most=100_000)] = 64
    """width of the state"""
    layers: Annotated[int, Bounds(least=1, most=100)] = 1
    """one on top of the other"""
    dropout: Dropout = 0.0
    """between layers and before the head"""

    def build(self) -> Encoder:
        """See `ArrayEncoder`."""
        from common.models.recurrent import RecurrentNetwork

        return RecurrentNetwork(self)

    def problems(self) -> list[str]:
        """See `Row`."""
        return shape_problems("shape", self.shape, "length and channels, e.g. [128, 6]", 2)
