"""PatchTST of Hugging Face's transformers: attention over patches of sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from common.encoders.mlp import Dropout
from common.encoders.row import LARGEST_SIZE, MOST_LAYERS, ArrayEncoder, shape_problems
from common.methods.choice import Bounds

if TYPE_CHECKING:
    from common.inputs.kind import Encoder

Size = Annotated[int, Bounds(least=1, most=LARGEST_SIZE)]


@dataclass(frozen=True)
class PatchTSTEncoder(ArrayEncoder):
    """PatchTST (Nie et al. 2023): each channel is cut into patches, which attend to each other."""

    name = "patchtst"
    kind = "sequences"
    example = "shape: [128, 6]"

    shape: tuple[int, ...]
    """of a row: length, channels"""
    patch: Size = 16
    """steps in a patch, fewer than the length"""
    stride: Size = 8
    """steps from one patch to the next"""
    hidden: Size = 64
    """width for each channel, an even number and a multiple of heads; heads of tasks read that of all channels"""
    layers: Annotated[int, Bounds(least=1, most=MOST_LAYERS)] = 3
    """one on top of the other"""
    heads: Annotated[int, Bounds(least=1, most=MOST_LAYERS)] = 4
    """of attention"""
    norm: Literal["layer", "batch"] = "layer"
    """in each layer: layer (needs no statistics) | batch (sharing.norm_statistics)"""
    scaled: bool = True
    """true: each channel of each row is brought to mean 0 and deviation 1 first; its level is then not seen"""
    dropout: Dropout = 0.0
    """in attention and feed-forward layers, and before the head"""

    @property
    def has_norm_statistics(self) -> bool:
        """See `ArrayEncoder`."""
        return self.norm == "batch"

    @property
    def row_shape(self) -> tuple[int, ...]:
        """See `ArrayEncoder`."""
        return self.shape

    def build(self) -> Encoder:
        """See `ArrayEncoder`."""
        from common.models.patchtst import PatchTSTNetwork

        return PatchTSTNetwork(self)

    def problems(self) -> list[str]:
        """See `Row`."""
        if found := shape_problems("shape", self.shape, "length and channels, e.g. [128, 6]", 2):
            return found
        if self.patch >= self.shape[0]:
            return [f"patch: {self.patch} steps of a length of {self.shape[0]} are not several; write a smaller one"]
        if self.hidden % self.heads or self.hidden % 2:
            return [f"hidden: {self.hidden} is no even multiple of {self.heads} heads; write e.g. {16 * self.heads}"]
        return []
