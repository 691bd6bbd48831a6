"""Sums in the ring at the coordinator: what is added, stored, opened, and what becomes of it."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import RunFolderError
from common.parameters.schema import ParameterSchema
from common.parameters.vector import Vector
from common.secure.masking import Opening, Terms, mask, receive
from common.secure.ring import Cell
from common.secure.terms import SumTerms, session_label
from common.stages import CircleShares
from server.aggregation.aggregator import Aggregator
from server.aggregation.ring_sums import RingSums
from server.aggregation.strategy import AggregationStrategy
from server.core.effects import ClosedCircle, Combine, OpenSums
from server.storage.sums import MemorySums, SumFiles, SumStore
from tests.ring_cases import (
    ALL,
    BITS,
    FIRST,
    LAYOUTS,
    MEMBERS,
    circles_of,
    expected,
    numbers,
    payload,
    plain_sums,
    plainly,
    same,
)
from tests.secure_cases import FIVE, Play, gathering_of, pinned


class Masked:
    """The same circles with masks: who shares, who hands in, who opens."""

    def __init__(self, terms: Terms | None = None) -> None:
        self.plays = {
            name: Play(gathering_of(members, terms, session_label("run", 7, 1, name))).deal()
            for name, members in MEMBERS.items()
        }

    def sums(self, survivors: Collection[str], sharers: Collection[str] = FIVE) -> RingSums:
        parts: dict[str, list[Mapping[str, Cell]]] = {member: [] for member in survivors}
        for name, play in self.plays.items():
            masking = [member for member in play.members if member in sharers]
            for member in masking:
                cells = numbers(member, LAYOUTS[name])
                holding = receive(play.deals[member], masking, play.letters_to(member, masking))
                play.holdings[member] = mask(holding, cells)
                if member in survivors:
                    parts[member].append(cells)
        sums = RingSums()
        for member, found in parts.items():
            sums.add(circles_of(member), payload(found))
        return sums

    def asked(self, survivors: Collection[str], opening: Collection[str], terms: SumTerms) -> OpenSums:
        closed = []
        for name, play in self.plays.items():
            left = tuple(member for member in play.members if member in survivors)
            openings = play.open(left, [member for member in left if member in opening])
            shares = {member: _shares(name, found) for member, found in openings.items()}
            roster, sharers = play.gathering.roster, tuple(play.holdings)
            closed.append(ClosedCircle(LAYOUTS[name], roster.session, left, roster.announcements, sharers, shares))
        pinned = any(play.gathering.terms.identities is not None for play in self.plays.values())
        return OpenSums("sums", replace(terms, pinned=pinned), tuple(closed))


def _shares(circle: str, opening: Opening) -> CircleShares:
    return CircleShares(circle, tuple(opening.seeds.items()), tuple(opening.mask_keys.items()))


def sums_copy(sums: RingSums) -> RingSums:
    return RingSums.of(np.frombuffer(bytearray(b"".join(sums.parts())), dtype=np.uint8))


def test_sums_are_those_of_numpy_in_any_order() -> None:
    assert same(plain_sums().open(plainly()), MEMBERS)
    assert same(plain_sums(FIVE[::-1]).open(plainly()), MEMBERS)


def test_answers_of_the_wrong_size_or_layout_are_not_added() -> None:
    sums = plain_sums()
    with pytest.raises(ValueError, match="bytes"):
        sums.add([ALL], payload([numbers(FIRST, ALL)])[:-1])
    with pytest.raises(ValueError, match="two layouts"):
        sums.add([replace(ALL, digest="another")], payload([numbers(FIRST, ALL)]))
    assert same(sums.open(plainly()), MEMBERS)


def test_a_sum_that_is_not_there_is_given_up_and_nothing_is_left_behind() -> None:
    sums = plain_sums([FIRST])
    opened = sums.open(plainly())
    assert same(opened, {"0": [FIRST]}) and opened.given_up.keys() == {"1"}
    assert sums.open(plainly()).given_up.keys() == {"0", "1"}


@pytest.mark.parametrize("pin", [False, True])
def test_masked_sums_open_to_the_bits_of_plain_ones(pin: bool) -> None:
    masked = Masked(pinned(FIVE) if pin else None)
    sums = masked.sums(FIVE)
    assert not same(sums_copy(sums).open(plainly()), MEMBERS)
    assert same(sums.open(masked.asked(FIVE, FIVE, SumTerms(3, pinned=pin))), MEMBERS)


def test_who_went_before_its_upload_is_not_in_the_sum_and_its_streams_go() -> None:
    masked, left = Masked(), ("bob", "cy", "dee", "eve")
    sums = masked.sums(left)
    found = sums.open(masked.asked(left, ("bob", "cy", "dee"), SumTerms(3)))
    assert same(found, {"0": left, "1": MEMBERS["1"]}) and not found.given_up


def test_a_circle_without_enough_shares_is_given_up_and_the_others_open() -> None:
    masked = Masked()
    sums = masked.sums(FIVE)
    found = sums.open(masked.asked(FIVE, ("ann", "eve", "bob"), SumTerms(3)))
    assert same(found, {"0": FIVE})
    assert "does not open from 1 shares" in found.given_up["1"]


def test_who_opens_wrong_shares_is_named(caplog: pytest.LogCaptureFixture) -> None:
    masked = Masked()
    sums, asked = masked.sums(FIVE), masked.asked(FIVE, FIVE, SumTerms(3))
    first = asked.circles[0]
    seeds = tuple((member, bytes([share[0], share[1] ^ 1, *share[2:]])) for member, share in first.openings["cy"].seeds)
    wrong = replace(first, openings={**first.openings, "cy": replace(first.openings["cy"], seeds=seeds)})
    with caplog.at_level(logging.WARNING, "fedmtl.server"):
        found = sums.open(replace(asked, circles=(wrong, *asked.circles[1:])))
    assert same(found, MEMBERS)
    assert [record.message for record in caplog.records if "cy" in record.message and first.session in record.message]
    assert len(caplog.records) == 1


@pytest.fixture(params=["files", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SumStore:
    return MemorySums() if request.param == "memory" else SumFiles(tmp_path)


def test_stored_sums_come_back_whatever_happens_to_those_in_memory(store: SumStore) -> None:
    sums = plain_sums()
    store.write("train-1.1", sums.parts())
    sums.add([ALL], payload([numbers(FIRST, ALL)]))
    store.write("train-1.2", sums.parts())
    for _ in range(2):  # opening changes what was read, and not what is stored
        assert same(RingSums.of(store.read("train-1.1")).open(plainly()), MEMBERS)
    assert not same(RingSums.of(store.read("train-1.2")).open(plainly()), MEMBERS)
    more = RingSums.of(store.read("train-1.1"))
    more.add([ALL], payload([numbers(FIRST, ALL)]))
    assert b"".join(more.parts()) == b"".join(sums.parts())
    store.forget()
    for name in ("train-1.1", "train-1.2"):
        with pytest.raises(RunFolderError):
            store.read(name)


def test_damaged_sums_are_noticed(tmp_path: Path) -> None:
    files = SumFiles(tmp_path)
    files.write("train-1.1", plain_sums().parts())
    path = files.path("train-1.1")
    whole = path.read_bytes()
    for place in (0, 40, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RunFolderError, match="damaged"):
            files.read("train-1.1")
    path.write_bytes(whole[:-4])
    with pytest.raises(RunFolderError, match="damaged"):
        files.read("train-1.1")
    path.unlink()
    with pytest.raises(RunFolderError, match=str(path)):
        files.read("train-1.1")


def aggregator() -> tuple[Aggregator, dict[str, Vector]]:
    sizes = {"shared": 51, "task/b": 7}
    schemas = {scope: ParameterSchema.of({scope: (size,)}) for scope, size in sizes.items()}
    vectors = {scope: np.zeros(size, dtype=np.float32) for scope, size in sizes.items()}
    return Aggregator(AggregationStrategy(), schemas=schemas), vectors


def test_what_is_opened_is_combined_as_sums_of_floats_are() -> None:
    made, vectors = aggregator()
    for stored in (None, plain_sums()):
        for member in FIVE if stored is None else ():
            layouts = circles_of(member)
            made.ring.add(layouts, payload([numbers(member, layout) for layout in layouts]))
        made.open(plainly("0"), stored)
        values = expected(ALL, FIVE)["shared"].view(np.int32).astype(np.float64) * 2.0**-BITS
        assert made.combine(vectors, Combine(1, {"shared": 300}))["shared"].tobytes() == (
            (values / 300).astype(np.float32).tobytes()
        )


def test_of_a_circle_that_was_given_up_nothing_is_there() -> None:
    masked, (made, vectors) = Masked(), aggregator()
    sums = masked.sums(FIVE)
    opened = made.open(masked.asked(FIVE, (), SumTerms(3)), sums)
    assert opened.given_up.keys() == {"0", "1"} and not opened.counts and not opened.cells
    assert made.combine(vectors, Combine(1, {})) == {}


def test_clearing_forgets_what_was_added() -> None:
    made, _ = aggregator()
    made.ring.add([ALL], payload([numbers(FIRST, ALL)]))
    made.clear()
    assert made.open(plainly("0")).given_up.keys() == {"0"}
