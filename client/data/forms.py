"""What distinguishes flat rows, images and sequences where a client reads them; a row of `FORMS` for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.encoders.row import ArrayEncoder
from common.inputs.arrays import Images, Numbers, Parts, Sequences, Tables
from common.inputs.row_scale import spread

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class ArrayForm:
    """One kind of rows of numbers."""

    inputs: str
    """Which of `INPUT_KINDS` they are."""
    fit: Callable[[Array, Shape], Array]
    """From rows as files hold them to rows of this shape, or of another one if they cannot be."""
    channel_axis: int
    """Of a row: along it, each place has a mean and a deviation of its own."""
    from_image_files: bool = False
    """Whether they may also come as image files."""
    has_gaps: bool = False
    """Whether NaN stands for what a row does not have."""
    by_column: bool = False
    """Whether the encoder names the columns of tables that they are made of."""
    categories: Shape = ()
    """Which numbers of a row are places of categories, which have neither mean nor deviation."""
    keeps_bytes: bool = False
    """Whether bytes are the brightness of pixels: they stay bytes, and batches have them as 0 to 1."""
    parts: tuple[tuple[ArrayForm, Shape], ...] = ()
    """The form and the shape of each part of a row, where rows have several, flattened one after the other."""

    def channels(self, row: Shape) -> int:
        """How many columns or channels a row of this shape has."""
        return sum(form.channels(shape) for form, shape in self.parts) if self.parts else row[self.channel_axis]

    def averaged(self, rows: Array) -> Shape:
        """The axes of rows over which mean and deviation are taken."""
        return tuple(axis for axis in range(rows.ndim) if axis != self.channel_axis + 1)

    def along(self, numbers: Sequence[float], row: int) -> NDArray[np.float64]:
        """One number for each column or channel, float64, such that it fits to rows of so many dimensions."""
        if self.parts:
            return spread(numbers, [(shape, form.channel_axis) for form, shape in self.parts])
        shape = [1] * row
        shape[self.channel_axis] = len(numbers)
        return np.array(numbers, dtype=np.float64).reshape(shape)


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
    Numbers.name: ArrayForm(Numbers.name, _flat, Numbers.channel_axis),
    Tables.name: ArrayForm(Tables.name, _flat, Tables.channel_axis, has_gaps=True, by_column=True),
    Images.name: ArrayForm(Images.name, _image, Images.channel_axis, from_image_files=True, keeps_bytes=True),
    Sequences.name: ArrayForm(Sequences.name, _sequence, Sequences.channel_axis),
    Parts.name: ArrayForm(Parts.name, _flat, Parts.channel_axis, has_gaps=True),
}


def form_of(encoder: ArrayEncoder) -> ArrayForm:
    """The form of the rows that an encoder reads."""
    parts = tuple((form_of(part), part.row_shape) for part in encoder.part_encoders.values())
    return replace(FORMS[encoder.inputs], categories=encoder.categories, parts=parts)
