"""Who masks with whom: known sizes, what their promises mean, and rings that do not fall apart."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from common.secure.graph import MOST_COMPLETE, neighbours, parameters

DIGEST = hashlib.sha256(b"a roster").digest()


def ids_of(members: int) -> list[str]:
    return [f"client-{number}" for number in range(members)]


def reached(near: Mapping[str, Collection[str]], left: set[str]) -> set[str]:
    """Whom one of those that are left reaches through others that are left."""
    found, waiting = set[str](), [min(left)]
    while waiting:
        member = waiting.pop()
        if member not in found:
            found.add(member)
            waiting.extend(set(near[member]) & left)
    return found


@pytest.mark.parametrize(
    ("members", "lying", "degree", "threshold"),
    [(1000, True, 66, 49), (100, True, 22, 17), (64, False, 63, 33), (64, True, 63, 43), (5, False, 4, 3)],
)
def test_known_sizes(members: int, lying: bool, degree: int, threshold: int) -> None:
    assert parameters(members, 0.1, 0.05, lying) == (degree, threshold)


def test_up_to_64_members_more_than_half_or_two_thirds_open_a_secret() -> None:
    for members in range(2, MOST_COMPLETE + 1):
        assert parameters(members, 0.3, 0.3, False) == (members - 1, members // 2 + 1)
        assert parameters(members, 0.3, 0.3, True) == (members - 1, 2 * members // 3 + 1)


def keeps_promises(members: int, bad: int, gone: int, degree: int, threshold: int, lying: bool) -> bool:
    """Both promises of a ring, with SciPy's tails."""
    pairs = members * (members - degree - 1) / 2
    parted = pairs * hypergeom.pmf(degree, members, min(members, bad + gone), degree)
    # Corrupt neighbours that open what they should not: as many as a threshold, or so many that two lists do.
    opens = 2 * threshold - degree - 1 if lying else threshold
    private = members * hypergeom.sf(opens - 1, members, bad, degree)
    correct = members * hypergeom.sf(degree - threshold, members, gone, degree)
    beside_a_gap = degree // 2 + 1
    return bool(parted < 2.0**-41 and private <= 2.0**-41 and correct <= 2.0**-20 and threshold > beside_a_gap)


@given(
    st.integers(MOST_COMPLETE + 1, 3000),
    st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.2]),
    st.sampled_from([0.0, 0.01, 0.05, 0.1]),
    st.booleans(),
)
@settings(max_examples=40)
def test_the_smallest_ring_that_keeps_its_promises(members: int, corrupt: float, dropouts: float, lying: bool) -> None:
    degree, threshold = parameters(members, corrupt, dropouts, lying)
    bad, gone = -int(-members * corrupt // 1), -int(-members * dropouts // 1)
    if degree == members - 1:
        degree = members - 1 + members % 2
    else:
        assert degree % 2 == 0
        assert keeps_promises(members, bad, gone, degree, threshold, lying)
    for smaller in range(2, degree, 2):
        least = smaller // 2 + 2
        assert not any(
            keeps_promises(members, bad, gone, smaller, some, lying) for some in range(least, smaller + 1)
        ), smaller


@pytest.mark.parametrize("bad", [(1, 0.1, 0.1), (5, -0.1, 0.1), (5, 1.0, 0.1), (5, 0.1, 1.0), (5, 0.1, -1.0)])
def test_shares_that_are_none_are_refused(bad: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="at least"):
        parameters(*bad, lying=False)


@pytest.mark.parametrize(("members", "degree"), [(2, 1), (5, 4), (6, 4), (7, 4), (70, 18), (200, 30), (31, 30), (4, 2)])
def test_everybody_has_as_many_neighbours_and_they_are_mutual(members: int, degree: int) -> None:
    ids = ids_of(members)
    near = neighbours(ids, DIGEST, degree)
    assert set(near) == set(ids)
    for member, others in near.items():
        assert len(others) == degree
        assert member not in others
        assert all(member in near[other] for other in others)
    mixed = Random(1).sample(ids, members)
    assert neighbours(mixed, DIGEST, degree) == near


def test_the_ring_is_in_the_order_of_digests_that_another_roster_changes() -> None:
    ids = ids_of(100)
    order = sorted(ids, key=lambda member: hashlib.sha256(DIGEST + member.encode()).digest())
    near = neighbours(ids, DIGEST, 4)
    assert near[order[0]] == {order[98], order[99], order[1], order[2]}
    assert neighbours(ids, hashlib.sha256(b"other").digest(), 4) != near


@pytest.mark.parametrize("degree", [0, -2, 3, 10, 12])
def test_degrees_that_no_ring_has_are_refused(degree: int) -> None:
    with pytest.raises(ValueError, match="no ring"):
        neighbours(ids_of(10), DIGEST, degree)


@given(st.integers(70, 150), st.booleans(), st.floats(0.0, 0.6), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_a_ring_never_falls_apart_while_all_who_are_left_have_a_threshold(
    members: int, lying: bool, share: float, generator: Random
) -> None:
    degree, threshold = parameters(members, 0.1, 0.05, lying)
    near = neighbours(ids_of(members), DIGEST, degree)
    order = sorted(near, key=lambda member: hashlib.sha256(DIGEST + member.encode()).digest())
    # Whole stretches of the ring go, which random members hardly ever do.
    start, run = generator.randrange(members), generator.randrange(degree)
    left = {member for member in order if generator.random() > share / 2}
    for first in (start, start + members // 2):
        left -= {order[(first + at) % members] for at in range(run)}
    if left and all(len(near[member] & left) + 1 >= threshold for member in left):
        assert reached(near, left) == left


def test_a_ring_does_fall_apart_where_two_stretches_go() -> None:
    near = neighbours(ids_of(20), DIGEST, 4)
    order = sorted(near, key=lambda member: hashlib.sha256(DIGEST + member.encode()).digest())
    left = set(order) - {order[0], order[1], order[10], order[11]}
    assert len(reached(near, left)) == 8
