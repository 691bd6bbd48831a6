"""The layout of one scope's flat vector."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from math import prod


class ElementType(StrEnum):
    """The type of a vector's elements, by the name that numpy has for it."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"

    @property
    def nbytes(self) -> int:
        """Bytes of an element."""
        return {ElementType.FLOAT32: 4, ElementType.FLOAT64: 8}[self]


@dataclass(frozen=True)
class ParameterEntry:
    """One parameter inside a flat vector; `offset` and `count` are in elements."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class ParameterSchema:
    """Names, shapes and offsets of the parameters in one contiguous vector, in the vector's order."""

    entries: tuple[ParameterEntry, ...]
    dtype: ElementType = ElementType.FLOAT32

    @staticmethod
    def of(shapes: Mapping[str, tuple[int, ...]], dtype: ElementType = ElementType.FLOAT32) -> ParameterSchema:
        """Lay the named shapes out one after the other, in the mapping's order."""
        entries, offset = [], 0
        for name, shape in shapes.items():
            entries.append(ParameterEntry(name, tuple(shape), offset))
            offset += prod(shape)
        return ParameterSchema(tuple(entries), dtype)

    @cached_property
    def size(self) -> int:
        """Number of elements of the vector."""
        return sum(entry.count for entry in self.entries)

    @property
    def nbytes(self) -> int:
        """Size of the vector in bytes."""
        return self.dtype.nbytes * self.size

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the ordered names, shapes and the element type; equal digests mean equal layouts."""
        layout = "\n".join(f"{e.name}:{'x'.join(map(str, e.shape))}" for e in self.entries)
        return hashlib.sha256(f"{self.dtype}\n{layout}".encode()).hexdigest()

    def named_under(self, prefix: str) -> ParameterSchema:
        """The same layout for parameters whose names begin with a prefix."""
        return replace(self, entries=tuple(replace(entry, name=f"{prefix}{entry.name}") for entry in self.entries))
