"""Gradients of single rows from what a module read and the slopes of what it gave: their lengths, and clipped sums.

A row's gradient of a weight is a sum over its positions, and is never put together where its length alone is asked for
(Goodfellow 2015, "Efficient per-example gradient computations"; Li et al., ICLR 2022, "Large language models can be
strong differentially private learners", section 4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_CHUNK = 1 << 24
"""Elements of row gradients that are put together at once: 64 MiB."""
GHOST_COST = 3
"""How much more an element of a product in float64 takes than one in float32."""


@dataclass(frozen=True)
class Traces:
    """What a module read, and the slopes of the summed row losses in what it gave, position by position."""

    read: Tensor
    """(rows, positions, inputs) float32; of embeddings the indices, (rows, positions) int64."""
    slopes: Tensor
    """(rows, positions, outputs) float32."""

    def scaled(self, factors: Tensor, dropped: Tensor | None) -> Traces:
        """The same with each row's slopes times its factor, (rows,); of dropped rows, bool (rows,), all is zero."""
        slopes, read = self.slopes * factors[:, None, None], self.read
        if dropped is not None:  # zero times infinity is none
            slopes = slopes.masked_fill(dropped[:, None, None], 0.0)
            if read.is_floating_point():
                read = read.masked_fill(dropped[:, None, None], 0.0)
        return Traces(read, slopes)


@dataclass(frozen=True)
class Lengths:
    """Squared lengths of the rows' gradients, (rows,) float64, and of sums without signs, which they cannot exceed."""

    squares: Tensor
    reaches: Tensor
    """The square of the sum over positions of |read| |slope|: how large terms were that may have cancelled out."""

    def plus(self, other: Lengths) -> Lengths:
        """Of the gradients of more parameters together."""
        return Lengths(self.squares + other.squares, self.reaches + other.reaches)


class RowKind(ABC):
    """Modules of one kind: what they read is `traces`, from which lengths and sums of row gradients follow."""

    def problem(self, module: nn.Module) -> str:
        """Why such a module cannot be trained row by row, or nothing."""
        return ""

    @abstractmethod
    def traces(self, module: nn.Module, read: Tensor, slopes: Tensor) -> Traces:
        """One call of the module; rows are the first axis of both tensors."""

    @abstractmethod
    def lengths(self, module: nn.Module, traces: Traces) -> Lengths:
        """Of the gradient of all the module's trained parameters."""

    @abstractmethod
    def sums(self, module: nn.Module, traces: Traces) -> Mapping[str, Tensor]:
        """The sum over rows of the gradients of trained parameters, by name within the module."""


def _trained(module: nn.Module, name: str) -> bool:
    found = getattr(module, name, None)
    return found is not None and bool(found.requires_grad)


def _summed_lengths(slopes: Tensor, sizes: Tensor | None = None) -> Lengths:
    """Of the sum of slopes over positions, whose lengths (rows, positions) may be known."""
    sizes = torch.linalg.vector_norm(slopes, dim=2).double() if sizes is None else sizes
    return Lengths(slopes.sum(dim=1).double().square().sum(dim=1), sizes.sum(dim=1).square())


def _chunks(rows: int, elements: int) -> Iterator[slice]:
    """Slices of rows with so many elements each."""
    size = max(1, LARGEST_CHUNK // max(elements, 1))
    return (slice(start, start + size) for start in range(0, rows, size))


class Products(RowKind):
    """Sums over positions of a matrix times what stands there: linear layers, and convolutions by their windows."""

    def traces(self, module: nn.Module, read: Tensor, slopes: Tensor) -> Traces:
        """See `RowKind`."""
        if read.dim() == 2:
            return Traces(read[:, None], slopes[:, None])
        return Traces(read.flatten(1, -2), slopes.flatten(1, -2))

    def lengths(self, module: nn.Module, traces: Traces) -> Lengths:
        """By inner products of positions, or by the gradients themselves, whichever takes less."""
        read, slopes = traces.read, traces.slopes
        sizes = torch.linalg.vector_norm(slopes, dim=2).double()
        squares = reaches = torch.zeros(len(read), dtype=torch.float64, device=read.device)
        if _trained(module, "weight"):
            reaches = (torch.linalg.vector_norm(read, dim=2).double() * sizes).sum(dim=1).square()
            squares = reaches if read.shape[1] == 1 else _products(read, slopes)
        found = Lengths(squares, reaches)
        return found.plus(_summed_lengths(slopes, sizes)) if _trained(module, "bias") else found

    def sums(self, module: nn.Module, traces: Traces) -> Mapping[str, Tensor]:
        """One product over all rows and positions (Bu et al., ICML 2023, "book-keeping")."""
        found = {}
        if _trained(module, "weight"):
            product = traces.slopes.flatten(0, 1).T @ traces.read.flatten(0, 1)
            found["weight"] = product.view_as(module.weight)  # type: ignore[arg-type]
        if _trained(module, "bias"):
            found["bias"] = traces.slopes.sum(dim=(0, 1))
        return found


def _products(read: Tensor, slopes: Tensor) -> Tensor:
    """Squared lengths of the rows' sums of outer products, (rows,) float64.

    Inner products are in float64: terms may cancel out, and then a difference of squares has no digits left.
    """
    rows, positions, inputs = read.shape
    outputs = slopes.shape[2]
    if GHOST_COST * positions * (inputs + outputs) <= inputs * outputs:
        a, b = read.double(), slopes.double()
        found = (torch.bmm(a, a.mT) * torch.bmm(b, b.mT)).sum(dim=(1, 2))
        return found.clamp_min(0.0)
    parts = [
        torch.linalg.vector_norm(torch.bmm(slopes[part].mT, read[part]), dim=(1, 2)).double().square()
        for part in _chunks(rows, inputs * outputs)
    ]
    return torch.cat(parts)


class Windows(Products):
    """Convolutions: every place of the result is a position, what its window covers is what stands there."""

    def problem(self, module: nn.Module) -> str:
        """Groups and other paddings than zeros are not read."""
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        if module.groups != 1:
            return "it is a convolution in groups"
        plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return "" if plain else "its padding is not a number of zeros"

    def traces(self, module: nn.Module, read: Tensor, slopes: Tensor) -> Traces:
        """See `RowKind`."""
        assert isinstance(module, nn.Conv1d | nn.Conv2d) and not isinstance(module.padding, str)
        flat = isinstance(module, nn.Conv1d)
        images = read[:, :, None] if flat else read

        def pair(values: tuple[int, ...], other: int) -> tuple[int, ...]:
            return (other, *values) if flat else values

        windows = functional.unfold(
            images,
            pair(module.kernel_size, 1),
            pair(module.dilation, 1),
            pair(module.padding, 0),
            pair(module.stride, 1),
        )
        return Traces(windows.mT, slopes.flatten(2).mT)


class Scales(RowKind):
    """A factor and a summand per channel after normalisation: layer and group norms."""

    def traces(self, module: nn.Module, read: Tensor, slopes: Tensor) -> Traces:
        """See `RowKind`; what was read is normalised again, which costs less than keeping it."""
        if isinstance(module, nn.LayerNorm):
            normal = functional.layer_norm(read, module.normalized_shape, eps=module.eps)
            shape = (len(read), -1, prod(module.normalized_shape))
            return Traces(normal.reshape(shape), slopes.reshape(shape))
        assert isinstance(module, nn.GroupNorm)
        normal = functional.group_norm(read, module.num_groups, eps=module.eps)
        if read.dim() == 2:
            return Traces(normal[:, None], slopes[:, None])
        return Traces(normal.flatten(2).mT, slopes.flatten(2).mT)

    def lengths(self, module: nn.Module, traces: Traces) -> Lengths:
        """Of sums over positions, channel by channel."""
        none = torch.zeros(len(traces.read), dtype=torch.float64, device=traces.read.device)
        found = Lengths(none, none)
        if _trained(module, "weight"):
            found = found.plus(_summed_lengths(traces.read * traces.slopes))
        if _trained(module, "bias"):
            found = found.plus(_summed_lengths(traces.slopes))
        return found

    def sums(self, module: nn.Module, traces: Traces) -> Mapping[str, Tensor]:
        """See `RowKind`."""
        assert isinstance(module, nn.LayerNorm | nn.GroupNorm)
        shape = module.weight.shape
        found = {}
        if _trained(module, "weight"):
            found["weight"] = (traces.read * traces.slopes).sum(dim=(0, 1)).view(shape)
        if _trained(module, "bias"):
            found["bias"] = traces.slopes.sum(dim=(0, 1)).view(shape)
        return found


class Lookups(RowKind):
    """Embeddings: a position's slope belongs to the row of the table that its index names."""

    def problem(self, module: nn.Module) -> str:
        """Tables whose rows change when they are read, or whose gradients are counted or sparse."""
        assert isinstance(module, nn.Embedding)
        odd = module.max_norm is not None or module.scale_grad_by_freq or module.sparse
        return "it has max_norm, or sparse or scaled gradients" if odd else ""

    def traces(self, module: nn.Module, read: Tensor, slopes: Tensor) -> Traces:
        """See `RowKind`; nothing moves the row of padding, so that its positions have no slopes."""
        assert isinstance(module, nn.Embedding)
        ids, slopes = read.flatten(1), slopes.reshape(len(read), -1, module.embedding_dim)
        if module.padding_idx is not None:
            slopes = slopes.masked_fill((ids == module.padding_idx)[..., None], 0.0)
        return Traces(ids, slopes)

    def lengths(self, module: nn.Module, traces: Traces) -> Lengths:
        """Slopes of equal indices are added up within a row, and squared."""
        assert isinstance(module, nn.Embedding)
        rows, _, width = traces.slopes.shape
        numbers = torch.arange(rows, device=traces.read.device)[:, None]
        keys, places = torch.unique(traces.read + numbers * module.num_embeddings, return_inverse=True)
        added = traces.slopes.new_zeros(len(keys), width)
        added.index_add_(0, places.flatten(), traces.slopes.reshape(-1, width))
        found = torch.zeros(rows, dtype=torch.float64, device=keys.device)
        found.index_add_(0, keys // module.num_embeddings, added.double().square().sum(dim=1))
        return Lengths(found, torch.linalg.vector_norm(traces.slopes, dim=2).double().sum(dim=1).square())

    def sums(self, module: nn.Module, traces: Traces) -> Mapping[str, Tensor]:
        """See `RowKind`."""
        assert isinstance(module, nn.Embedding)
        table = traces.slopes.new_zeros(module.weight.shape)
        table.index_add_(0, traces.read.flatten(), traces.slopes.flatten(0, 1))
        return {"weight": table}


ROW_KINDS: Mapping[type[nn.Module], RowKind] = {
    nn.Linear: Products(),
    nn.Conv1d: Windows(),
    nn.Conv2d: Windows(),
    nn.LayerNorm: Scales(),
    nn.GroupNorm: Scales(),
    nn.Embedding: Lookups(),
}
"""By the class of a module itself: a subclass may compute something else."""
