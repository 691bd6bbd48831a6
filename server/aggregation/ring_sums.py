"""The sums of a round whose answers are integers: of each circle a cell of counts, and vectors."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import WireError
from common.parameters.vector import Float64
from common.secure import ring
from common.secure.layout import COUNT_BYTES, COUNTS, VALUE_BYTES, CircleLayout
from common.secure.masking import Gathering, Opening, Terms
from common.secure.ring import Cell, Ring
from common.secure.roster import Roster
from common.secure.terms import SumCell
from common.secure.unmasking import GivenUpError, unmask
from server.core.effects import ClosedCircle, OpenSums

log = logging.getLogger("fedmtl.server")

Bytes = NDArray[np.uint8]
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class OpenedCell:
    """A sum of vectors without masks."""

    cell: SumCell
    total: Ring
    """uint32, (n,)."""
    bits: int
    """Behind the point."""

    def write_to(self, chunks: Sequence[Float64]) -> None:
        """Write int32 * 2^-bits, which float64 has exactly, into chunks of n elements together."""
        values, at = self.total.view(np.int32), 0
        for chunk in chunks:
            np.multiply(values[at : at + len(chunk)], math.ldexp(1.0, -self.bits), out=chunk)
            at += len(chunk)


@dataclass(frozen=True)
class OpenedSums:
    """What the sums of circles say."""

    counts: Mapping[str, tuple[float, ...]]
    """Of each circle that was opened."""
    given_up: Mapping[str, str]
    """Why the others were not."""
    cells: tuple[OpenedCell, ...]
    """Of all that were opened."""


class RingSums:
    """Of each circle a uint32 vector per cell, and a uint64 vector of counts: any order gives the same bits."""

    def __init__(self) -> None:
        self._circles: dict[str, dict[str, Cell]] = {}
        self._digests: dict[str, str] = {}
        """Of the circles' layouts."""

    def add(self, layouts: Sequence[CircleLayout], payload: Bytes) -> None:
        """Add one member's answer to the sums of its circles.

        Args:
            layouts: Of the circles, in the order in which their parts lie in the answer.
            payload: uint8, of so many bytes as the layouts say; read only.

        Raises:
            ValueError: it has more or fewer, or a circle has another layout than before.
        """
        wanted = sum(layout.nbytes for layout in layouts)
        if len(payload) != wanted:
            raise ValueError(f"an answer of {len(payload)} bytes, its circles have {wanted}")
        at = 0
        for layout in layouts:
            name, part = layout.circle.name, payload[at : at + layout.nbytes]
            if self._digests.setdefault(name, layout.digest) != layout.digest:
                raise ValueError(f"circle {name} has two layouts")
            sums = self._circles.setdefault(name, {})
            for cell, values in _cells(layout, part):
                if cell in sums:
                    ring.add(sums[cell], values)
                else:
                    sums[cell] = values.copy()
            at += layout.nbytes

    def parts(self) -> list[bytes | memoryview]:
        """All of it as bytes, in pieces of which `of` makes the same again; valid until the next `add` or `open`."""
        circles = [
            [name, self._digests[name], [[cell, len(values)] for cell, values in cells.items()]]
            for name, cells in self._circles.items()
        ]
        text = json.dumps(circles).encode()
        text += b" " * (-len(text) % COUNT_BYTES)  # so that what follows is aligned
        values = [cell.view(np.uint8).data for cells in self._circles.values() for cell in cells.values()]
        return [len(text).to_bytes(_LENGTH_BYTES, "little") + text, *values]

    @classmethod
    def of(cls, data: Bytes) -> RingSums:
        """The sums of which `parts` made these bytes, uint8, whose memory they take over."""
        found, at = cls(), _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
        for name, digest, cells in json.loads(data[_LENGTH_BYTES:at].tobytes()):
            found._digests[name], found._circles[name] = digest, {}
            for cell, length in cells:
                kind, size = ("<u8", COUNT_BYTES) if cell == COUNTS else ("<u4", VALUE_BYTES)
                values = data[at : at + size * length].view(kind)
                found._circles[name][cell] = values.copy() if cell == COUNTS else values  # aligned to 8 bytes
                at += size * length
        return found

    def open(self, asked: OpenSums) -> OpenedSums:
        """Take the masks out of the sums of closed circles, where there are any. Nothing is left here afterwards.

        Raises:
            ConfigError: `cryptography` is missing.
        """
        counts: dict[str, tuple[float, ...]] = {}
        given_up: dict[str, str] = {}
        opened: list[OpenedCell] = []
        for closed in asked.circles:
            circle, sums = closed.layout.circle, self._circles.pop(closed.layout.circle.name, {})
            if self._digests.get(circle.name) != closed.layout.digest:
                given_up[circle.name] = "there are no such sums"
                continue
            try:
                if asked.terms.masks:
                    _unmask(asked, closed, sums)
            except (GivenUpError, WireError) as error:
                given_up[circle.name] = str(error)
                continue
            counts[circle.name] = tuple(ring.counts(sums[COUNTS].view(np.uint64)).tolist())
            opened += [OpenedCell(cell, sums[cell.name].view(np.uint32), circle.bits) for cell in circle.cells]
        self.clear()
        return OpenedSums(counts, given_up, tuple(opened))

    def clear(self) -> None:
        """Forget all sums."""
        self._circles.clear()
        self._digests.clear()


def _cells(layout: CircleLayout, part: Bytes) -> Iterator[tuple[str, Cell]]:
    """The cells of one member's part, as views of it: counts come first."""
    at = COUNT_BYTES * layout.counts
    yield COUNTS, part[:at].view("<u8")
    for cell, size in zip(layout.circle.cells, layout.sizes, strict=True):
        yield cell.name, part[at : at + VALUE_BYTES * size].view("<u4")
        at += VALUE_BYTES * size


def _unmask(asked: OpenSums, closed: ClosedCircle, sums: Mapping[str, Cell]) -> None:
    """Take the masks out of the sums of one circle, in place.

    Raises:
        GivenUpError: that does not go.
        WireError: what members said fits nobody.
    """
    gathering = Gathering(Terms.of(asked.terms), Roster(closed.session, closed.announcements))
    openings = {name: Opening(dict(given.seeds), dict(given.mask_keys)) for name, given in closed.openings.items()}
    for member in sorted(unmask(gathering, closed.sharers, closed.survivors, openings, sums)):
        log.warning("%s: the shares that %s opened are wrong and left out", closed.session, member)
