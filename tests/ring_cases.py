"""Answers of five members to two circles without masks, and what numpy makes of them."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.secure.layout import COUNTS, CircleLayout
from common.secure.ring import Cell, counts, fraction_bits, quantise, quantise_counts
from common.secure.terms import Circle, SumCell, SumTerms
from server.aggregation.ring_sums import OpenedSums, RingSums
from server.core.effects import ClosedCircle, OpenSums
from tests.secure_cases import FIVE

BITS = fraction_bits(5, 100, 0.5)
ALL = CircleLayout(Circle("0", (SumCell("shared"),), ("a",), 5, BITS), 3, (51,), "of all")
SOME = CircleLayout(Circle("1", (SumCell("task/b"), SumCell("shared", "b")), ("b",), 3, BITS), 4, (7, 20), "of some")
LAYOUTS = {"0": ALL, "1": SOME}
MEMBERS = {"0": FIVE, "1": FIVE[1:4]}
FIRST = FIVE[0]
PLAIN = SumTerms(min_clients=2, masks=False)


def numbers(member: str, layout: CircleLayout) -> dict[str, Cell]:
    """A member's cells of a circle, before masks."""
    generator = np.random.default_rng(int.from_bytes(f"{member}{layout.circle.name}".encode(), "big"))
    found: dict[str, Cell] = {COUNTS: quantise_counts(generator.uniform(-9, 9, layout.counts), 5)}
    for cell, size in zip(layout.circle.cells, layout.sizes, strict=True):
        found[cell.name] = quantise(generator.uniform(-0.5, 0.5, size), 100, BITS, 0.5)
    return found


def payload(parts: Sequence[Mapping[str, Cell]]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(cell.tobytes() for part in parts for cell in part.values()), dtype=np.uint8)


def circles_of(member: str) -> list[CircleLayout]:
    return [layout for name, layout in LAYOUTS.items() if member in MEMBERS[name]]


def plain_sums(members: Sequence[str] = FIVE) -> RingSums:
    """The sums of members without masks."""
    sums = RingSums()
    for member in members:
        layouts = circles_of(member)
        sums.add(layouts, payload([numbers(member, layout) for layout in layouts]))
    return sums


def plainly(*circles: str, stored: str = "") -> OpenSums:
    return OpenSums(stored, PLAIN, tuple(ClosedCircle(LAYOUTS[name], "", MEMBERS[name]) for name in circles or LAYOUTS))


def expected(layout: CircleLayout, members: Collection[str]) -> dict[str, Cell]:
    """By numpy."""
    first, *others = [numbers(member, layout) for member in members]
    found = {name: cell.copy() for name, cell in first.items()}
    for name, cell in found.items():
        for other in others:
            cell += other[name]
    return found


def same(opened: OpenedSums, survivors: Mapping[str, Collection[str]]) -> bool:
    """Whether the sums are those of these members, to the last bit."""
    wanted = {name: expected(LAYOUTS[name], members) for name, members in survivors.items()}
    cells = {found.cell.name: found.total.tobytes() for found in opened.cells}
    said = {name: tuple(counts(cells[COUNTS].view(np.uint64)).tolist()) for name, cells in wanted.items()}
    values = {name: cell.tobytes() for cells in wanted.values() for name, cell in cells.items() if name != COUNTS}
    return opened.counts == said and cells == values
