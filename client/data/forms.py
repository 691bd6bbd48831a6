"""What distinguishes flat rows, images and sequences where a client reads them; a row of `FORMS` for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from common.inputs.arrays import Images, Numbers, Parts, Sequences

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class ArrayForm:
    """One kind of rows of numbers."""

    inputs: str
    """Which of `INPUT_KINDS` they are."""
    fit: Callable[[Array, Shape], Array]
    """From rows as files hold them to rows of this shape, or of another one if they cannot be."""
    averaged: Shape
    """The axes over which mean and deviation are taken where they are standardised."""
    from_image_files: bool = False
    """Whether they may also come as image files."""
    has_gaps: bool = False
    """Whether NaN stands for what a row does not have."""
    keeps_bytes: bool = False
    """Whether bytes are the brightness of pixels: they stay bytes, and batches have them as 0 to 1."""


def _flat(x: Array, shape: Shape) -> Array:
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _image(x: Array, shape: Shape) -> Array:
    """Files may have the channels last, or no axis for a single one."""
    channels, *area = shape
    if x.shape[1:] == tuple(area) and channels == 1:
        return x[:, None]
    return x.transpose(0, 3, 1, 2) if x.shape[1:] == (*area, channels) != shape else x


def _sequence(x: Array, shape: Shape) -> Array:
    """Files may have no axis for a single channel."""
    return x[..., None] if (*x.shape[1:], 1) == shape else x


FORMS = {
    Numbers.name: ArrayForm(Numbers.name, _flat, averaged=(0,)),
    Images.name: ArrayForm(Images.name, _image, averaged=(0, 2, 3), from_image_files=True, keeps_bytes=True),
    Sequences.name: ArrayForm(Sequences.name, _sequence, averaged=(0, 1)),
    Parts.name: ArrayForm(Parts.name, _flat, averaged=(0,), has_gaps=True),
}
