"""A masked session as values: the sum is the plain one, bit for bit, or there is none; and one upload tells nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from common.errors import WireError
from common.secure.graph import parameters
from common.secure.masking import MemberSecrets, Opening, Terms, mask
from common.secure.ring import Cell, add, fraction_bits, means, quantise
from common.secure.shamir import PRIME, Share, join, share_bytes, share_value, value_at
from common.secure.terms import session_label
from common.secure.unmasking import GivenUpError, unmask
from tests.secure_cases import FIVE, SESSION, Play, cells_of, gathering_of, pinned, sums_of

PATTERNS = "shares", "upload", "unmask", "stays"
"""Before which stage a member goes."""


def plain(survivors: tuple[str, ...] | list[str]) -> dict[str, Cell]:
    return sums_of([cells_of(member) for member in survivors])


def same(one: dict[str, Cell], other: dict[str, Cell]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def opened(play: Play, sharers: list[str], survivors: list[str], asked: list[str]) -> dict[str, Cell]:
    """The sum of survivors, unmasked."""
    sums = sums_of([play.masked[member] for member in survivors])
    wrong = unmask(play.gathering, sharers, survivors, play.open(survivors, asked), sums)
    assert wrong == frozenset()
    return sums


def test_a_masked_sum_is_the_plain_one() -> None:
    play = Play(gathering_of(FIVE)).deal().mask(FIVE)
    everybody = list(FIVE)
    assert not same(sums_of(list(play.masked.values())), plain(everybody))
    assert same(opened(play, everybody, everybody, everybody), plain(everybody))


def test_a_masked_mean_is_that_of_the_plain_ring() -> None:
    bits = fraction_bits(len(FIVE), 300, 0.5)
    changes = {member: np.random.default_rng(at).normal(0, 0.1, 1000) for at, member in enumerate(FIVE)}
    play = Play(gathering_of(FIVE)).deal().mask(FIVE)
    total, sums = np.zeros(1000, dtype=np.uint32), np.zeros(1000, dtype=np.uint32)
    for at, member in enumerate(FIVE):
        part = quantise(changes[member], 100 + at, bits, 0.5)
        add(total, part)
        mask(replace(play.holdings[member], masked=False), {"shared": part})
        add(sums, part)
    unmask(play.gathering, FIVE, FIVE, play.open(FIVE, FIVE), {"shared": sums})
    assert means(sums, bits, 510).tobytes() == means(total, bits, 510).tobytes()
    exact = sum(change * (100 + at) for at, change in enumerate(changes.values())) / 510
    assert np.max(np.abs(means(sums, bits, 510) - exact)) <= 2.0 ** -(bits + 1) * 5 / 510


def test_of_1024_ways_to_go_106_give_the_exact_sum_and_918_none() -> None:
    play = Play(gathering_of(FIVE)).deal()
    assert play.gathering.threshold == 3
    tally: Counter[str] = Counter()
    by_sharers: dict[frozenset[str], list[dict[str, str]]] = {}
    for pattern in product(PATTERNS, repeat=len(FIVE)):
        goes = dict(zip(FIVE, pattern, strict=True))
        by_sharers.setdefault(frozenset(m for m in FIVE if goes[m] != "shares"), []).append(goes)
    for sharers, group in by_sharers.items():
        try:
            play.mask(sharers)
        except WireError:
            tally["given up"] += len(group)
            continue
        for goes in group:
            survivors = [member for member in FIVE if goes[member] in ("unmask", "stays")]
            if not survivors:
                tally["given up"] += 1
                continue
            try:
                found = opened(play, list(sharers), survivors, [m for m in survivors if goes[m] == "stays"])
            except (WireError, GivenUpError):
                tally["given up"] += 1
            else:
                tally["exact" if same(found, plain(survivors)) else "wrong"] += 1
    assert tally == {"exact": 106, "given up": 918}


@pytest.mark.parametrize(("before", "after", "signed"), [(0, 0, True), (2, 1, True), (1, 3, False)])
def test_a_ring_of_70_gives_the_plain_sum(before: int, after: int, signed: bool) -> None:
    generator = Random(before)
    members = [f"client-{number}" for number in range(70)]
    play = Play(gathering_of(members, pinned(members) if signed else Terms(10))).deal()
    degree, threshold = parameters(70, 0.1, 0.05, signed)
    assert degree < 69
    assert play.gathering.threshold == threshold
    sharers = generator.sample(members, 70 - before)
    play.mask(sharers)
    survivors = generator.sample(sharers, len(sharers) - after)
    assert same(opened(play, sharers, survivors, survivors), plain(survivors))


def damaged(opening: Opening, generator: Random) -> Opening:
    """Every share of an answer changed."""
    other = {
        kind: {
            member: share_bytes((share_value(share) + generator.randrange(1, PRIME)) % PRIME) for member, share in of
        }
        for kind, of in (("seeds", opening.seeds.items()), ("mask_keys", opening.mask_keys.items()))
    }
    return Opening(other["seeds"], other["mask_keys"])


@pytest.mark.parametrize("liars", [["ann"], ["dee"], ["bob", "dee"], ["ann", "eve"], ["eve"], []])
def test_wrong_shares_are_noticed_and_left_out(liars: list[str]) -> None:
    members = [*FIVE, "fay", "gus"]
    play = Play(gathering_of(members)).deal().mask(members)
    survivors = members[:6]
    sums = sums_of([play.masked[member] for member in survivors])
    openings = play.open(survivors, survivors)
    generator = Random(2)
    openings |= {member: damaged(openings[member], generator) for member in liars}
    wrong = unmask(play.gathering, members, survivors, openings, sums)
    assert wrong == set(liars)
    assert same(sums, plain(survivors))


def test_one_wrong_share_of_one_secret_is_noticed() -> None:
    play = Play(gathering_of(FIVE)).deal().mask(FIVE)
    openings = play.open(FIVE, FIVE)
    seeds = dict(openings["ann"].seeds) | {"dee": bytes(33)}
    openings["ann"] = Opening(seeds, openings["ann"].mask_keys)
    sums = sums_of(list(play.masked.values()))
    assert unmask(play.gathering, FIVE, FIVE, openings, sums) == {"ann"}
    assert same(sums, plain(FIVE))


def test_a_share_chosen_so_that_the_secret_has_33_bytes_is_left_out() -> None:
    play = Play(gathering_of(FIVE)).deal().mask(FIVE)
    openings = play.open(FIVE, FIVE)
    # Ann's share that goes with these two and the secret p - 1; places are counted back from 4, since 0 is none.
    others = [Share(place, share_value(openings[holder].seeds["dee"])) for place, holder in ((2, "bob"), (3, "cy"))]
    chosen = value_at([Share(4, PRIME - 1), *(Share(4 - place, value) for place, value in others)], 3, 3)
    assert join([Share(1, chosen), *others], 3) == PRIME - 1
    openings["ann"] = Opening(dict(openings["ann"].seeds) | {"dee": share_bytes(chosen)}, {})
    sums = sums_of(list(play.masked.values()))
    assert unmask(play.gathering, FIVE, FIVE, openings, sums) == {"ann"}
    assert same(sums, plain(FIVE))


def test_with_a_cell_that_is_none_the_others_stay_as_they_are() -> None:
    play = Play(gathering_of(FIVE)).deal().mask(FIVE)
    good = np.zeros(3, dtype=np.uint32)
    cells: Any = {"shared": good, "scores": np.zeros(3)}
    with pytest.raises(ValueError, match="a cell is"):
        mask(replace(play.holdings["ann"], masked=False), cells)
    with pytest.raises(ValueError, match="a cell is"):
        unmask(play.gathering, FIVE, FIVE, play.open(FIVE, FIVE), cells)
    assert not good.any()


def test_with_too_few_good_shares_no_sum_changes() -> None:
    members = [*FIVE, "fay", "gus"]
    play = Play(gathering_of(members)).deal().mask(members)
    openings = play.open(members, members)
    generator = Random(3)
    openings |= {member: damaged(openings[member], generator) for member in members[:4]}
    sums = sums_of(list(play.masked.values()))
    before = {name: cell.copy() for name, cell in sums.items()}
    with pytest.raises(GivenUpError, match="does not open from 7 shares, 4 good ones are needed"):
        unmask(play.gathering, members, members, openings, sums)
    assert same(sums, before)


def test_liars_in_a_ring_are_found_by_random_sets() -> None:
    members = [f"client-{number}" for number in range(70)]
    play = Play(gathering_of(members)).deal().mask(members)
    openings = play.open(members, members)
    generator = Random(4)
    liars = sorted(play.gathering.neighbours["client-0"])[:2]
    openings |= {member: damaged(openings[member], generator) for member in liars}
    sums = sums_of(list(play.masked.values()))
    assert unmask(play.gathering, members, members, openings, sums) == set(liars)
    assert same(sums, plain(members))


def test_what_is_not_a_sum_of_enough_is_given_up() -> None:
    play = Play(gathering_of(FIVE)).deal().mask(FIVE[:4])
    openings = play.open(FIVE[:4], FIVE[:4])
    for sharers, survivors in [(FIVE[:4], FIVE), (FIVE[:4], FIVE[:2]), ((*FIVE[:4], "mallory"), FIVE[:4])]:
        with pytest.raises(GivenUpError, match="survivors"):
            unmask(play.gathering, sharers, survivors, openings, sums_of(list(play.masked.values())))
    with pytest.raises(ValueError, match="a cell is"):
        unmask(play.gathering, FIVE[:4], FIVE[:4], openings, {"shared": np.zeros(1, dtype=np.int64)})  # type: ignore[dict-item]


@pytest.mark.parametrize("member", ["ann", "cy"])
def test_masked_bytes_are_uniform_and_differ_between_rounds(member: str) -> None:
    """The bytes of a vector of zeros; secrets are fixed, so the test says the same in every run."""
    found = []
    for round_number in (7, 8):
        session = session_label("run", round_number, 1, "shared")
        play = Play(gathering_of(FIVE, session=session)).deal().mask(FIVE)
        cell = np.zeros(2**16, dtype=np.uint32)
        mask(replace(play.holdings[member], masked=False), {"shared": cell})
        found.append(cell)
    for words in (*found, found[0] - found[1]):
        for part in range(4):
            counted = np.bincount((words >> np.uint32(8 * part)).astype(np.uint8), minlength=256)
            assert chisquare(counted).pvalue > 1e-4
    assert np.mean(found[0].view(np.uint8) == found[1].view(np.uint8)) == pytest.approx(1 / 256, rel=0.05)


def test_opening_one_circle_does_not_open_another() -> None:
    """Two circles with the same members: `shared` is unmasked, the head fell short and nobody was asked."""
    sessions = [session_label("run", 7, 1, circle) for circle in ("shared", "task/a")]
    shared, head = (Play(gathering_of(FIVE, session=session)).deal().mask(FIVE) for session in sessions)
    openings = shared.open(FIVE, FIVE)
    assert same(opened(shared, list(FIVE), list(FIVE), list(FIVE)), plain(FIVE))
    sums = sums_of(list(head.masked.values()))
    with pytest.raises(GivenUpError, match="does not open"):
        unmask(head.gathering, FIVE, FIVE, openings, sums)


def test_with_the_same_keys_another_session_has_other_streams() -> None:
    """A replay: should keys ever come twice, the session is in every label."""
    streams = []
    for circle in ("shared", "task/a"):
        session = session_label("run", 7, 1, circle)
        play = Play(gathering_of(FIVE, session=session)).deal().mask(FIVE)
        holding = replace(
            play.holdings["ann"], masked=False, secrets=MemberSecrets(*(bytes([n]) * 32 for n in range(3)))
        )
        cell = np.zeros(100, dtype=np.uint32)
        mask(holding, {"shared": cell})
        streams.append(cell)
    assert not np.array_equal(streams[0], streams[1])


def test_secrets_are_drawn_anew_and_not_shown() -> None:
    one, other = MemberSecrets(), MemberSecrets()
    assert len({one.mask_key, one.letter_key, one.seed, other.mask_key, other.letter_key, other.seed}) == 6
    with pytest.raises(ValueError, match="32 bytes each"):
        MemberSecrets(seed=bytes(31))
    play = Play(gathering_of(FIVE)).deal().mask(FIVE)
    shown = repr(play.deals["ann"].secrets) + repr(play.holdings["ann"]) + repr(play.open(FIVE, FIVE))
    assert str(play.holdings["ann"].shares["bob"]) not in shown
    assert str(play.holdings["ann"].secrets.seed) not in shown
    assert SESSION in shown
