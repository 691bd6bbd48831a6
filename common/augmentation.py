"""How images that are trained on are changed anew in every epoch: a row of the section `data`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from common.methods.choice import Bounds, Row


@dataclass(frozen=True)
class Augmentation(Row):
    """Images to train on are mirrored, moved and made brighter or darker at random, anew in every epoch."""

    name = "augment"

    flip: bool = False
    """each image is mirrored, left to right, with probability 1/2"""
    crop: Annotated[int, Bounds(least=0, most=1000)] = 0
    """images are moved by up to so many pixels in each direction; what comes in is 0, without a label"""
    jitter: Annotated[float, Bounds(least=0, below=1)] = 0.0
    """contrast is changed by up to this share, brightness by up to this share of an image's deviation"""

    def problems(self) -> list[str]:
        """See `Row`."""
        if self.flip or self.crop or self.jitter:
            return []
        return ["flip: nothing is changed; write flip: true, crop or jitter, or remove data.augment"]
