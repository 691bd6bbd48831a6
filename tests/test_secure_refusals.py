"""What members refuse, whatever a coordinator tells them, and that any answer gives a value or a clean error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import WireError
from common.secure.letters import seal, sign_survivors
from common.secure.masking import Gathering, Holding, Opening, Terms, announce, answer, confirm, deal, mask, receive
from common.secure.roster import Roster, roster_of
from common.secure.shamir import PRIME, Share, join, share_value
from common.secure.streams import public_key
from common.secure.terms import Announcement, session_label
from common.secure.unmasking import GivenUpError, check_opening, unmask
from tests.secure_cases import (
    FIVE,
    SESSION,
    Play,
    bytes_of,
    cells_of,
    gathering_of,
    identity_of,
    pinned,
    secrets_of,
    sums_of,
)

DEALT = Play(gathering_of(FIVE)).deal()
MASKED = Play(gathering_of(FIVE)).deal().mask(FIVE)
PINNED = Play(gathering_of(FIVE, pinned(FIVE))).deal().mask(FIVE)
SAID = DEALT.gathering.roster.announcements


def test_a_roster_without_ones_own_keys_is_refused() -> None:
    ann, *rest = SAID
    stranger = replace(announce("ann", SESSION, secrets_of("mallory")), signature=ann.signature)
    for announcements in ([stranger, *rest], rest):
        gathering = Gathering(Terms(3), roster_of(SESSION, announcements))
        with pytest.raises(WireError, match="the roster does not have the keys of ann"):
            deal(gathering, "ann", secrets_of("ann"))


def test_double_ids_keys_and_digests_are_refused() -> None:
    ann, bob, *rest = SAID
    for what, double in [
        ("id", replace(bob, member="ann")),
        ("key", replace(bob, mask_key=ann.mask_key)),
        ("key", replace(bob, letter_key=ann.mask_key)),
        ("key", replace(bob, letter_key=bob.mask_key)),
        ("digest", replace(bob, seed_digest=ann.seed_digest)),
    ]:
        with pytest.raises(WireError, match=f"one {what}.* comes twice"):
            roster_of(SESSION, [ann, double, *rest])


def test_announcements_that_nobody_can_use_are_refused() -> None:
    ann = SAID[0]
    for broken in (
        replace(ann, member=""),
        replace(ann, member="a|b"),
        replace(ann, mask_key=bytes(32)),  # everybody knows what it agrees on
        replace(ann, letter_key=b"\x01" + bytes(31)),
        replace(ann, mask_key=bytes(31)),
        replace(ann, seed_digest=bytes(33)),
    ):
        with pytest.raises(WireError, match=r"ann: |no id"):
            roster_of(SESSION, [broken])


@pytest.mark.parametrize(("members", "terms"), [(FIVE[:2], Terms(3)), (FIVE, Terms(6)), (FIVE[:1], Terms(1))])
def test_a_roster_of_too_few_is_refused(members: tuple[str, ...], terms: Terms) -> None:
    with pytest.raises(WireError, match="are needed"):
        deal(gathering_of(members, terms), "ann", secrets_of("ann"))


def test_with_pinned_identities_a_coordinator_cannot_put_in_keys_of_its_own() -> None:
    terms = pinned(FIVE)
    *rest, eve = SAID
    foreign = announce("eve", SESSION, secrets_of("mallory"), identity_of("mallory"))
    unsigned = replace(eve, signature=b"")
    other_session = announce("eve", session_label("run", 6, 1, "shared"), secrets_of("eve"), identity_of("eve"))
    for found in (foreign, unsigned, other_session):
        with pytest.raises(WireError, match="signature of eve"):
            deal(Gathering(terms, roster_of(SESSION, [*rest, found])), "ann", secrets_of("ann"))
    stranger = announce("mallory", SESSION, secrets_of("mallory"), identity_of("mallory"))
    with pytest.raises(WireError, match="mallory has no pinned identity"):
        deal(Gathering(terms, roster_of(SESSION, [*SAID, stranger])), "ann", secrets_of("ann"))


@pytest.mark.parametrize(
    ("sharers", "why"),
    [
        (FIVE[1:], "has ann not"),
        ((*FIVE, "mallory"), "has others than before"),
        (("ann", "bob"), "has 2, at least 3 are needed"),
        ((), "has ann not"),
    ],
)
def test_lists_that_a_member_does_not_mask_with(sharers: tuple[str, ...], why: str) -> None:
    letters = DEALT.letters_to("ann", [member for member in sharers if member in FIVE])
    with pytest.raises(WireError, match=why):
        receive(DEALT.deals["ann"], sharers, letters)


def test_a_list_below_the_threshold_is_refused_whatever_min_clients_is() -> None:
    play = Play(gathering_of(FIVE, Terms(1))).deal()
    with pytest.raises(WireError, match="has 2 of the neighbourhood of ann, at least 3 are needed"):
        receive(play.deals["ann"], ("ann", "bob"), play.letters_to("ann", ("ann", "bob")))


def test_letters_that_are_missing_too_many_or_not_shares_are_refused() -> None:
    letters = DEALT.letters_to("ann", FIVE)
    roster = DEALT.gathering.roster
    without = {sender: letter for sender, letter in letters.items() if sender != "bob"}
    for wrong in (without, letters | {"mallory": b""}, letters | {"ann": b""}):
        with pytest.raises(WireError, match="not those of its neighbours"):
            receive(DEALT.deals["ann"], FIVE, wrong)
    with pytest.raises(WireError, match="does not open"):
        receive(DEALT.deals["ann"], FIVE, letters | {"bob": letters["cy"]})
    for content in (b"", bytes(65), bytes(67), b"\xff" * 66):
        letter = seal(content, secrets_of("bob").letter_key, roster, "bob", "ann")
        with pytest.raises(WireError, match="letter of bob to ann: a share"):
            receive(DEALT.deals["ann"], FIVE, letters | {"bob": letter})


@pytest.mark.parametrize(
    ("survivors", "why"),
    [
        (FIVE[1:], "has ann not"),
        (FIVE[:2], "has 2, at least 3 are needed"),
        ((*FIVE[:3], "mallory"), "has others than before"),
    ],
)
def test_survivors_that_a_member_does_not_answer(survivors: tuple[str, ...], why: str) -> None:
    with pytest.raises(WireError, match=why):
        answer(MASKED.holdings["ann"], survivors)
    with pytest.raises(WireError, match=why):
        confirm(PINNED.holdings["ann"], survivors, identity_of("ann"))


def test_survivors_are_within_those_that_masked() -> None:
    play = Play(gathering_of(FIVE)).deal().mask(FIVE[:4])
    with pytest.raises(WireError, match="has others than before"):
        answer(play.holdings["ann"], FIVE)


def test_a_member_opens_nothing_before_it_handed_in_and_masks_once() -> None:
    holding = MASKED.holdings["ann"]
    with pytest.raises(WireError, match="handed in nothing"):
        answer(replace(holding, masked=False), FIVE)
    with pytest.raises(ValueError, match="masked before"):
        mask(holding, cells_of("ann"))


def test_a_second_list_is_refused_and_the_same_one_answered_alike() -> None:
    bound, first = answer(MASKED.holdings["ann"], FIVE)
    assert answer(bound, reversed_(FIVE)) == (bound, first)
    for survivors in (FIVE[:4], FIVE[:3]):
        with pytest.raises(WireError, match="second, different list"):
            answer(bound, survivors)
    signed, _ = confirm(PINNED.holdings["ann"], FIVE, identity_of("ann"))
    with pytest.raises(WireError, match="second, different list"):
        confirm(signed, FIVE[:4], identity_of("ann"))
    with pytest.raises(WireError, match="second, different list"):
        answer(signed, FIVE[:4], signatures_of(FIVE[:4]))


def reversed_(members: tuple[str, ...]) -> tuple[str, ...]:
    return members[::-1]


def signatures_of(survivors: tuple[str, ...], signers: tuple[str, ...] | None = None) -> dict[str, bytes]:
    signers = survivors if signers is None else signers
    return {member: sign_survivors(identity_of(member), SESSION, survivors) for member in signers}


def test_with_pinned_identities_a_list_needs_a_threshold_of_signatures() -> None:
    holding, survivors = PINNED.holdings["ann"], FIVE
    assert PINNED.gathering.threshold == 4
    answer(holding, survivors, signatures_of(survivors, FIVE[:4]))
    for signatures, why in [
        (None, "0 signatures, 4 are needed"),
        (signatures_of(survivors, FIVE[:3]), "3 signatures, 4 are needed"),
        (signatures_of(FIVE[:4]), "signature of ann does not fit"),
        (signatures_of(survivors) | {"eve": b""}, "signature of eve does not fit"),
        (signatures_of(survivors) | {"mallory": bytes(64)}, "not from a survivor"),
    ]:
        with pytest.raises(WireError, match=why):
            answer(holding, survivors, signatures)


@pytest.mark.parametrize("play", [MASKED, PINNED], ids=["none", "pinned"])
def test_never_both_shares_of_one_member(play: Play) -> None:
    for size in (3, 4, 5):
        for survivors in combinations(FIVE, size):
            if size >= play.gathering.threshold:
                for opening in play.open(survivors, survivors).values():
                    assert set(opening.seeds) == set(survivors)
                    assert set(opening.mask_keys) == set(FIVE) - set(survivors)


def shares_in(openings: Mapping[str, Opening], kind: str, member: str) -> list[Share]:
    places = MASKED.gathering.roster.places
    return [
        Share(places[holder], share_value(getattr(opening, kind)[member]))
        for holder, opening in openings.items()
        if member in getattr(opening, kind)
    ]


@pytest.mark.parametrize("split", [(FIVE[:3], 2), (FIVE[:4], 3), (FIVE[:4], 1)])
def test_two_lists_told_to_different_members_do_not_open_one_update(split: tuple[tuple[str, ...], int]) -> None:
    """Some members hear that all survived, others that fewer did; none answers twice."""
    fewer, told = split
    openings: dict[str, Opening] = {}
    state: dict[str, Holding] = dict(MASKED.holdings)
    for survivors, members in ((fewer, fewer[:told]), (FIVE, FIVE)):
        for member in members:
            try:
                state[member], openings[member] = answer(state[member], survivors)
            except WireError:
                assert state[member].survivors != frozenset(survivors)
    assert len(openings) == 5
    for member in FIVE:
        both = [shares_in(openings, kind, member) for kind in ("seeds", "mask_keys")]
        assert min(map(len, both)) < MASKED.gathering.threshold
        assert len({share.place for of in both for share in of}) == sum(map(len, both))


def test_everything_a_coordinator_hears_opens_no_secret_before_the_threshold() -> None:
    openings = MASKED.open(FIVE, FIVE[:2])
    shares = shares_in(openings, "seeds", "cy")
    with pytest.raises(ValueError, match="2 shares, 3 are needed"):
        join(shares, 3)
    assert join(shares, 2) != int.from_bytes(secrets_of("cy").seed, "big")
    sums = sums_of(list(MASKED.masked.values()))
    with pytest.raises(GivenUpError, match="does not open from 2 shares"):
        unmask(MASKED.gathering, FIVE, FIVE, openings, sums)


# Any bytes as answers.

NAMES = st.sampled_from([*FIVE, "mallory", "", "a|b", "\ud800"])
SHARES = st.one_of(st.binary(max_size=40), st.integers(0, PRIME - 1).map(lambda value: value.to_bytes(33, "big")))
KEYS = st.one_of(st.binary(max_size=40), st.binary(min_size=32, max_size=32))


@given(
    st.lists(st.builds(Announcement, NAMES, KEYS, KEYS, KEYS, st.binary(max_size=70)), max_size=3),
    st.sets(st.sampled_from(SAID)),
    st.booleans(),
)
def test_any_announcements_give_letters_or_a_clean_error(
    any_: list[Announcement], good: set[Announcement], signed: bool
) -> None:
    try:
        gathering = Gathering(pinned(FIVE) if signed else Terms(3), roster_of(SESSION, [*good, *any_]))
        found = deal(gathering, "ann", secrets_of("ann"))
    except WireError:
        return
    assert set(found.letters) == set(gathering.roster.places) - {"ann"}


@given(st.sets(NAMES), st.dictionaries(NAMES, st.binary(max_size=100)), st.booleans())
@settings(max_examples=50)
def test_any_letters_give_shares_or_a_clean_error(sharers: set[str], letters: dict[str, bytes], good: bool) -> None:
    told = DEALT.letters_to("ann", sharers) if good else {}
    try:
        found = receive(DEALT.deals["ann"], sharers, told | letters)
    except WireError:
        return
    assert set(found.shares) == sharers


@given(st.sets(NAMES), st.dictionaries(NAMES, st.binary(max_size=70)), st.booleans())
@settings(max_examples=50)
def test_any_survivors_and_signatures_give_an_opening_or_a_clean_error(
    survivors: set[str], signatures: dict[str, bytes], signed: bool
) -> None:
    try:
        bound, opening = answer((PINNED if signed else MASKED).holdings["ann"], survivors, signatures)
    except WireError:
        return
    assert bound.survivors == frozenset(opening.seeds) == frozenset(survivors)


OPENINGS = st.builds(Opening, st.dictionaries(NAMES, SHARES), st.dictionaries(NAMES, SHARES))
FULL = st.fixed_dictionaries(dict.fromkeys(FIVE, SHARES)).map(lambda seeds: Opening(seeds, {}))


@given(st.dictionaries(NAMES, st.one_of(OPENINGS, FULL)), st.sets(st.sampled_from(FIVE)))
@settings(max_examples=50)
def test_any_openings_give_the_plain_sum_or_are_given_up(any_: dict[str, Opening], good: set[str]) -> None:
    sums = sums_of(list(MASKED.masked.values()))
    before = {name: cell.tobytes() for name, cell in sums.items()}
    openings = MASKED.open(FIVE, good) | any_
    try:
        wrong = unmask(MASKED.gathering, FIVE, FIVE, openings, sums)
    except GivenUpError:
        assert len(good - set(any_)) < 3
        assert {name: cell.tobytes() for name, cell in sums.items()} == before
    else:
        plain = sums_of([cells_of(member) for member in FIVE])
        assert all((sums[name] == plain[name]).all() for name in plain)
        assert wrong <= set(any_)


@given(NAMES, OPENINGS)
def test_the_form_of_an_opening_is_checked_when_it_comes(member: str, opening: Opening) -> None:
    with pytest.raises(WireError, match=SESSION.replace("|", r"\|")):
        check_opening(MASKED.gathering, FIVE, FIVE, replace(opening, mask_keys={"ann": bytes(33)}), member)
    check_opening(MASKED.gathering, FIVE, FIVE, MASKED.open(FIVE, FIVE)["ann"], "ann")


def test_a_roster_of_another_session_is_another_roster() -> None:
    other = Roster(session_label("run", 6, 1, "shared"), SAID)
    assert other.digest != DEALT.gathering.roster.digest
    replayed = replace(DEALT.deals["ann"], gathering=Gathering(Terms(3), other))
    with pytest.raises(WireError, match="does not open"):
        receive(replayed, FIVE, DEALT.letters_to("ann", FIVE))
    assert public_key(bytes_of("ann", SESSION, "mask")) == SAID[0].mask_key
