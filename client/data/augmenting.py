"""Images of an epoch: mirrored, moved, brighter or darker, as was drawn from the epoch's seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.augmentation import Augmentation
from common.tasks.dense import UNLABELLED


@dataclass(frozen=True)
class DrawnChanges:
    """What happens to each image of an epoch, whichever batch it is in."""

    flipped: NDArray[np.bool_]
    """(images,)"""
    moved: NDArray[np.int64]
    """By how many pixels down and to the right, (images, 2)."""
    most_moved: int
    contrast: NDArray[np.float32] | None
    """A factor, (images,)."""
    brightness: NDArray[np.float32] | None
    """In deviations of the image, (images,)."""

    def images(self, places: NDArray[np.integer], values: Tensor) -> Tensor:
        """Images (rows, channels, height, width) that are at these places, changed."""
        found = self._placed(places, values, 0.0)
        if self.contrast is None or self.brightness is None:
            return found
        light = (self.contrast[places], self.brightness[places])
        contrast, brightness = (torch.from_numpy(each)[:, None, None, None] for each in light)
        mean = values.mean(dim=(1, 2, 3), keepdim=True)
        deviation = values.std(dim=(1, 2, 3), keepdim=True, correction=0)
        return mean + contrast * (found - mean) + brightness * deviation

    def labels(self, places: NDArray[np.integer], labels: Tensor) -> Tensor:
        """Labels of pixels go with their pixels, (rows, height, width); others stay, (rows, ...)."""
        if labels.ndim != 3:
            return labels
        nothing = UNLABELLED if labels.dtype == torch.uint8 else torch.nan
        return self._placed(places, labels[:, None], nothing)[:, 0]

    def _placed(self, places: NDArray[np.integer], values: Tensor, nothing: float) -> Tensor:
        """Mirrored and moved; `nothing` is what comes in from outside."""
        (height, width), edge = values.shape[2:], self.most_moved
        padded = torch.nn.functional.pad(values, (edge,) * 4, value=nothing) if edge else values
        flipped, moved = torch.from_numpy(self.flipped[places]), torch.from_numpy(self.moved[places])
        down = torch.arange(height) + edge - moved[:, :1]
        right = torch.arange(width) + edge - moved[:, 1:]
        right = torch.where(flipped[:, None], right.flip(1), right)
        rows = torch.arange(len(values))[:, None, None, None]
        channels = torch.arange(values.shape[1])[:, None, None]
        return padded[rows, channels, down[:, None, :, None], right[:, None, None, :]]


def drawn_changes(augmentation: Augmentation, images: int, seed: int) -> DrawnChanges:
    """The changes of an epoch, which depend on the seed and the place of an image alone."""
    rng = np.random.Generator(np.random.PCG64(seed))
    most, jitter = augmentation.crop, augmentation.jitter
    flipped = rng.integers(2, size=images) == 1
    moved = rng.integers(-most, most, size=(images, 2), endpoint=True)
    light = rng.uniform(-jitter, jitter, size=(2, images)).astype(np.float32) if jitter else None
    changed = (None, None) if light is None else (1 + light[0], light[1])
    return DrawnChanges(flipped & augmentation.flip, moved, most, *changed)
