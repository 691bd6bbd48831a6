"""Rows of numbers of one shape: what a client holds of a task over sensors, tables, images or sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Self

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from client.data.augmenting import DrawnChanges, drawn_changes
from client.data.examples import Tokenizer, UsedTokens
from client.data.forms import FORMS, ArrayForm
from common.augmentation import Augmentation
from common.encoders.row import ArrayEncoder
from common.errors import WireError
from common.inputs.arrays import ArrayBatch, Numbers
from common.inputs.kind import BRIGHTEST, as_read
from common.inputs.row_scale import RowScale
from common.standardising import LEAST_ROWS, InputScale, InputSums
from common.tasks import TaskDefinition
from common.tasks.kind import Labels


@dataclass(frozen=True)
class ArrayExamples:
    """A task's rows of numbers; see `RawExamples` and `PreparedExamples`, for they are batched as they were read."""

    values: NDArray[np.float32] | NDArray[np.uint8]
    """Finite, (examples, *shape). Bytes are the brightness of pixels; batches have them as 0 to 1."""
    labels: Labels
    """int64 (examples,) for classes, float64 (examples,) for scores, float32 (examples, labels) of zeros and ones; of
    pixels, uint8 (examples, height, width) for classes and float32 for numbers."""
    form: ArrayForm = FORMS[Numbers.name]
    scale: InputScale | None = None
    """By which batches have them, if the federation has fixed one."""
    augmentation: Augmentation | None = None
    """How an epoch changes them, if they are images to train on."""
    changes: DrawnChanges | None = None
    """What the present epoch has drawn of that."""

    @property
    def inputs(self) -> str:
        """See `RawExamples`."""
        return self.form.inputs

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Ones: all rows are equally long, so batches are cut from a random order alone."""
        return np.ones(len(self.labels), dtype=np.int64)

    def take(self, places: NDArray[np.integer]) -> ArrayExamples:
        """A copy of these rows, in this order."""
        return replace(self, values=self.values[places], labels=self.labels[places])

    def joined(self, others: Sequence[Self]) -> Self:
        """These rows, and after them those of others."""
        every = (self, *others)
        values, labels = (np.concatenate(parts) for parts in zip(*((e.values, e.labels) for e in every), strict=True))
        return replace(self, values=values, labels=labels)

    def digests(self) -> NDArray[np.uint64]:
        """See `RawExamples`."""
        rows = zip(self.values, self.labels, strict=True)
        found = (xxhash.xxh3_64_intdigest(row.tobytes() + np.asarray(label).tobytes()) for row, label in rows)
        return np.fromiter(found, dtype=np.uint64, count=len(self))

    def row_scale(self) -> RowScale:
        """Mean and deviation of each feature or channel, which never leave the client."""
        return RowScale.by(*self._mean_and_deviation())

    def on_scale(self, scale: RowScale) -> ArrayExamples:
        """The same rows on this scale."""
        return replace(self, values=scale.scaled(self._numbers(self.values)))

    def _numbers(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Values as batches have them, before any scale."""
        return values.astype(np.float64) / (BRIGHTEST if values.dtype == np.uint8 else 1.0)

    def _mean_and_deviation(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each feature or channel, as arrays that fit to the rows; 0 and 1 where there is nothing to average."""
        if self.form.parts:
            found = [(*part._mean_and_deviation(), shape) for part, shape in self._parts()]
            columns = ([np.broadcast_to(each[of], (1, *each[2])).reshape(1, -1) for each in found] for of in (0, 1))
            mean, deviation = (np.concatenate(each, axis=1) for each in columns)
            return mean, deviation
        if not len(self):
            shape = [1] * self.values.ndim
            return np.zeros(shape), np.ones(shape)
        wide, axes = self._numbers(self.values), self.form.averaged(self.values)
        if not self.form.by_column:
            return wide.mean(axis=axes, keepdims=True), wide.std(axis=axes, keepdims=True)
        missing = np.isnan(wide)
        unknown = [*self.form.categories, *np.flatnonzero(missing.all(axis=0))]
        wide[:, unknown], missing[:, unknown] = 0.0, False
        mean, deviation = (of(axis=0, keepdims=True, where=~missing) for of in (wide.mean, wide.std))
        deviation[:, unknown] = 1.0
        return mean, deviation

    def input_sums(self) -> InputSums:
        """See `RawExamples`; of bytes, those of the numbers that batches have of them."""
        return InputSums(*zip(*self._sums(), strict=True))

    def _sums(self) -> Iterator[tuple[int, float, float]]:
        """By column or channel, of one part after the other."""
        if self.form.parts:
            for part, _ in self._parts():
                yield from part._sums()
        else:
            yield from map(self._sums_of, range(self.form.channels(self.values.shape[1:])))

    def _parts(self) -> Iterator[tuple[ArrayExamples, tuple[int, ...]]]:
        """Of each part the rows that have it, and their shape."""
        start = 0
        for form, shape in self.form.parts:
            values = self.values[:, start : start + prod(shape)]
            has = ~np.isnan(values).all(axis=1)
            yield ArrayExamples(values[has].reshape(-1, *shape), self.labels[has], form), shape
            start += prod(shape)

    def _sums_of(self, channel: int) -> tuple[int, float, float]:
        """Rows, mean and squared deviations of one column or channel; zeros where there is nothing to say."""
        if not len(self):
            return 0, 0.0, 0.0
        values = np.take(self.values, channel, axis=self.form.channel_axis + 1).reshape(len(self), -1)
        wide = self._numbers(values)
        wide = wide[~np.isnan(wide).any(axis=1)]
        if len(wide) < LEAST_ROWS or channel in self.form.categories:
            return 0, 0.0, 0.0
        mean = float(wide.mean())
        return len(wide), mean, float(((wide - mean) ** 2).mean(axis=1).sum())

    def lacking(self, encoder: ArrayEncoder) -> frozenset[str]:
        """See `RawExamples`."""
        start, found = 0, set()
        for name, part in encoder.part_encoders.items():
            end = start + prod(part.row_shape)
            if np.isnan(self.values[:, start:end]).all():
                found.add(name)
            start = end
        return frozenset(found)

    def prepare(
        self, task: TaskDefinition, tokenizer: Tokenizer | None, pair_mode: str, max_length: int
    ) -> ArrayExamples:
        """There is nothing to do."""
        return self

    def drawn(self, seed: int) -> ArrayExamples:
        """With changes that are drawn anew, if these are images that change; see `PreparedExamples`."""
        if self.augmentation is None:
            return self
        return replace(self, changes=drawn_changes(self.augmentation, len(self), seed))

    def batch(self, places: NDArray[np.integer]) -> ArrayBatch:
        """The batch of these rows."""
        values = as_read(torch.from_numpy(self.values[places]))
        if self.scale is not None:
            values = standardise(values, self.scale, self.form)
        labels = torch.from_numpy(self.labels[places])
        if self.changes is not None:
            values, labels = self._changed(places, values, self.changes), self.changes.labels(places, labels)
        return ArrayBatch(values, labels)

    def _changed(self, places: NDArray[np.integer], values: Tensor, changes: DrawnChanges) -> Tensor:
        """Images as the epoch has them; of rows with several parts, each part that is one, where it is not missing."""
        if not self.form.parts:
            return changes.images(places, values)
        found, sizes = [], [prod(shape) for _, shape in self.form.parts]
        for (form, shape), rows in zip(self.form.parts, values.split_with_sizes(sizes, dim=1), strict=True):
            if form.can_be_mirrored:
                changed = changes.images(places, rows.reshape(-1, *shape)).reshape(len(rows), -1)
                rows = torch.where(rows.isnan().all(dim=1, keepdim=True), rows, changed)
            found.append(rows)
        return torch.cat(found, dim=1)

    def augmented(self, augmentation: Augmentation) -> ArrayExamples:
        """See `RawExamples`."""
        return replace(self, augmentation=augmentation)

    def scaled(self, scale: InputScale | None) -> ArrayExamples:
        """See `PreparedExamples`; batches have them so."""
        channels = self.form.channels(self.values.shape[1:])
        if scale is not None and len(scale.means) != channels:
            raise WireError(f"a scale of {len(scale.means)} columns is not for rows of {channels}")
        return replace(self, scale=scale)

    def used_tokens(self) -> Sequence[UsedTokens]:
        """There are no tokens."""
        return ()

    def renumbered(self, numbers: NDArray[np.int32]) -> ArrayExamples:
        """There are no tokens."""
        return self


def standardise(values: Tensor, scale: InputScale, form: ArrayForm) -> Tensor:
    """Rows of numbers by a scale of the federation, float32 (rows, *shape); NaN, for a missing number, stays."""
    mean, width = (
        torch.from_numpy(form.along(n, values.ndim - 1)).to(values.device) for n in (scale.means, scale.scales)
    )
    return ((values.double() - mean) / width).float()
