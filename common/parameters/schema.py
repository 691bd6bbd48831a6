"""The layout of one scope's flat vector."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod


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
    """Names, shapes and offsets of the parameters in one contiguous float32 vector, in the vector's order."""

    entries: tuple[ParameterEntry, ...]

    @staticmethod
    def of(shapes: Mapping[str, tuple[int, ...]]) -> ParameterSchema:
        """Lay the named shapes out one after the other, in the mapping's order."""
        entries, offset = [], 0
        for name, shape in shapes.items():
            entries.append(ParameterEntry(name, tuple(shape), offset))
            offset += prod(shape)
        return ParameterSchema(tuple(entries))

    @cached_property
    def size(self) -> int:
        """Number of elements of the vector."""
        return sum(entry.count for entry in self.entries)

    @property
    def nbytes(self) -> int:
        """Size of the vector in bytes (float32)."""
        return 4 * self.size

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the ordered names, shapes and the element type; equal digests mean equal layouts."""
        layout = "\n".join(f"{e.name}:{'x'.join(map(str, e.shape))}" for e in self.entries)
        return hashlib.sha256(f"float32\n{layout}".encode()).hexdigest()
