"""What the coordinator hears of a masked round tells nothing but sums: uploads are uniform, and circles do not open
each other."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from common.errors import WireError
from common.secure.letters import open_letter
from common.secure.masking import MemberSecrets
from common.secure.ring import Cell
from common.secure.roster import Roster
from common.secure.shamir import SECRET_BYTES, Share, join, share_value
from common.secure.streams import add_to_cells, agree
from common.stages import CircleShares
from server.core.effects import ClosedCircle, OpenSums
from tests.core_cases import SCHEMAS
from tests.masked_cases import ALL, Member, table_of, trained

LARGE = {name: (digest, 400_000) for name, (digest, _) in SCHEMAS.items()}


def chance(values: Cell | NDArray[np.uint32]) -> float:
    """How likely uniform bytes are to be spread as unevenly as these: the p-value of Pearson's chi-square test."""
    found = np.bincount(values.view(np.uint8), minlength=256)
    expected = len(values) * values.itemsize / 256
    return float(chi2.sf(np.sum((found - expected) ** 2) / expected, 255))


def uneven(cell: Cell) -> bool:
    return chance(cell) < 1e-9


def test_an_upload_is_uniform_and_another_one_for_the_same_update() -> None:
    table = table_of(schemas=LARGE, num_rounds=2)
    uploads: list[dict[str, Cell]] = []
    for _ in range(2):
        trained(table)
        ann = table.members["ann"]
        assert all(uneven(cells[name]) for cells in ann.plain.values() for name in cells if name in LARGE)
        uploads.append({name: cell for cells in ann.cells.values() for name, cell in cells.items() if name in LARGE})
        table.answers(*ALL)
    first, second = uploads
    assert first.keys() == second.keys() == {"shared", "task/sst2", "task/qqp"}
    for name, cell in first.items():
        difference = cell.view(np.uint32) - second[name].view(np.uint32)
        assert not uneven(cell) and not uneven(second[name]) and not uneven(difference), name


def taken_out(roster: Roster, member: Member, circle: str, keys: str, cell: str) -> Cell:
    """A member's cell of a circle, less the streams that its secrets of circle `keys` make in its session."""
    found, secrets = member.cells[circle][cell].copy(), member.secrets[keys]
    add_to_cells({cell: found}, secrets.seed, roster.session, subtract=True)
    for other in member.holdings[circle].sharers - {member.name}:
        pair = agree(secrets.mask_key, roster.by_member[other].mask_key)
        add_to_cells({cell: found}, pair, roster.session, subtract=roster.places[other] > roster.places[member.name])
    return found


def heard(opened: ClosedCircle, member: str) -> bytes:
    """The seed that answers to the last order open, of a member that is in the sum."""
    places = {said.member: place for place, said in enumerate(opened.announcements, start=1)}
    said: dict[str, CircleShares] = dict(opened.openings)
    shares = [Share(places[holder], share_value(dict(part.seeds)[member])) for holder, part in said.items()]
    threshold = len(places) // 2 + 1
    return join(shares[:threshold], threshold).to_bytes(SECRET_BYTES, "big")


def test_what_opens_one_circle_opens_no_other_one_that_fell_short() -> None:
    """Two of four come back for the head of qqp, so it is not opened; what the coordinator then has of the others."""
    table = table_of(schemas=LARGE)
    table.answers(*ALL)
    table.answers(*ALL)
    table.answers("ann", "bob", "cy")
    table.fail("dee", "eve")
    table.answers("ann", "bob", "cy")
    asked = table.of(OpenSums)[-1]
    assert isinstance(asked, OpenSums)
    opened = {cell.name: closed for closed in asked.circles for cell in closed.layout.circle.cells}
    assert opened.keys() == {"task/sst2", "shared"}
    told = [part.circle for closed in asked.circles for part in closed.openings.values()]
    ann, shared = table.members["ann"], opened["shared"]
    assert ann.cells.keys() == {"0", "1", "2"} and set(told) == {"1", "2"}
    assert heard(shared, "ann") == ann.secrets["2"].seed
    head = ann.dealt["0"].gathering.roster
    assert hashlib.sha256(heard(shared, "ann")).digest() != head.by_member["ann"].seed_digest
    plain = ann.plain["0"]["task/qqp"]
    for keys in ("1", "2"):  # all secrets of a circle, its unopened ones too
        assert not uneven(taken_out(head, ann, "0", keys, "task/qqp"))
    assert np.array_equal(taken_out(head, ann, "0", "0", "task/qqp"), plain)  # what its own ones would do


@pytest.mark.parametrize("circle", ["0", "1", "2"])
def test_letters_of_a_circle_open_with_its_own_keys_alone(circle: str) -> None:
    table = table_of()
    table.answers(*ALL)
    table.answers(*ALL)
    ann, cy = table.members["ann"], table.members["cy"]
    letter, roster = ann.dealt[circle].letters["cy"], cy.dealt[circle].gathering.roster
    assert open_letter(letter, cy.secrets[circle].letter_key, roster, "ann", "cy")
    others: list[MemberSecrets] = [secrets for name, secrets in cy.secrets.items() if name != circle]
    for secrets in others:
        with pytest.raises(WireError, match="does not open"):
            open_letter(letter, secrets.letter_key, roster, "ann", "cy")
