"""Who masks with whom, and how many shares open a secret.

Up to 64 members everybody is everybody's neighbour. Beyond that the graph is a ring in a random order, in which
everybody is a neighbour of the next degree / 2 on either side (a Harary graph); degree and threshold are those of Bell
et al. 2020 ("Secure single-server aggregation with (poly)logarithmic overhead", sections 3 and 4).

A member holds a share of its own secrets too, so a secret has degree + 1 shares.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MOST_COMPLETE = 64
"""Members up to which the graph is complete."""
PRIVACY_BITS = 40
"""An update is open to who should not see it with a probability below 2^-40."""
CORRECTNESS_BITS = 20
"""A sum cannot be opened with a probability below 2^-20, if no more members go than expected."""

_ROUNDING = 1e-9


class Parameters(NamedTuple):
    """A graph and its threshold."""

    degree: int
    """Neighbours of each member: members - 1 in a complete graph, else even."""
    threshold: int
    """Shares that open a secret, of degree + 1."""


@lru_cache(maxsize=64)
def parameters(members: int, corrupt: float, dropouts: float, lying: bool) -> Parameters:
    """The graph with the fewest neighbours that keeps both promises.

    Three things may go wrong in a graph that is not complete: corrupt and missing members part the others, so that the
    sum of a part can be told; somebody has too many corrupt neighbours; somebody has too few neighbours left. How many
    of some neighbours are corrupt or missing is hypergeometric. A lying coordinator can tell neighbours different
    survivors: those who do not collude give it a share of either the mask key or the seed, corrupt ones give both, so
    2 * threshold must exceed all shares and corrupt neighbours together.

    Where no such graph has fewer edges, the complete one is taken.

    Args:
        members: All members of the session, at least 2.
        corrupt: The largest share of members that collude with each other and the coordinator, 0 to below 1.
        dropouts: The share of members that may be missing, 0 to below 1.
        lying: The coordinator may lie (identities are pinned), instead of only keeping what it sees.

    Raises:
        ValueError: a number is outside.
    """
    if members < 2:
        raise ValueError(f"{members} members: at least 2 are needed")
    if not (0 <= corrupt < 1 and 0 <= dropouts < 1):
        raise ValueError(f"corrupt {corrupt} and dropouts {dropouts} must be at least 0 and below 1")
    if members > MOST_COMPLETE:
        bad, gone = _count(members, corrupt), _count(members, dropouts)
        for degree in range(2, members - 1, 2):
            threshold = _threshold(members, bad, gone, degree, lying)
            if threshold is not None:
                return Parameters(degree, threshold)
    return Parameters(members - 1, 2 * members // 3 + 1 if lying else members // 2 + 1)


def neighbours(members: Iterable[str], roster_digest: bytes, degree: int) -> dict[str, frozenset[str]]:
    """Every member's neighbours, without itself; everybody who knows the roster finds the same.

    The order of the ring is that of SHA-256(roster digest, id). Nobody knows it before all keys are known.

    Args:
        members: Ids, at least 2, each once.
        roster_digest: From `Roster.digest`.
        degree: From `parameters`.

    Raises:
        ValueError: the degree is neither even and at least 2, nor that of a complete graph.
    """
    ids = sorted(members, key=lambda found: (hashlib.sha256(roster_digest + found.encode()).digest(), found))
    if degree == len(ids) - 1:
        return {found: frozenset(ids) - {found} for found in ids}
    if degree < 2 or degree % 2 or degree >= len(ids):
        raise ValueError(f"no ring of {len(ids)} members has degree {degree}")
    steps = [step for step in range(-degree // 2, degree // 2 + 1) if step]
    return {found: frozenset(ids[(at + step) % len(ids)] for step in steps) for at, found in enumerate(ids)}


def _threshold(members: int, bad: int, gone: int, degree: int, lying: bool) -> int | None:
    """The least threshold of a degree that keeps both promises, or nothing."""
    # Half of what may go wrong for privacy is for each of its two events.
    private = Fraction(1, 2 ** (PRIVACY_BITS + 1))
    if _parted(members, bad + gone, degree) >= private:
        return None
    corrupt = _at_most(members, bad, degree, private / members)
    missing = _at_most(members, gone, degree, Fraction(1, 2**CORRECTNESS_BITS) / members)
    least = (degree + 1 + corrupt) // 2 + 1 if lying else corrupt + 1
    # Who stands beside a gap of half its neighbours then has no threshold left: if more go than expected, the sum
    # cannot be opened, rather than be opened in parts.
    threshold = max(least, degree // 2 + 2)
    # One's own share is not counted on: who survives may still be missing when shares are asked for.
    return threshold if threshold <= degree - missing else None


def _parted(members: int, removed: int, degree: int) -> Fraction:
    """A bound of the probability that the ring without the removed members falls apart.

    To part it, two runs of degree / 2 neighbours each must be removed; there are at most members * (members - degree -
    1) / 2 pairs of places for them.
    """
    pairs = Fraction(members * (members - degree - 1), 2)
    return pairs * Fraction(math.comb(removed, degree), math.comb(members, degree))


def _at_most(members: int, marked: int, drawn: int, error: Fraction) -> int:
    """The least c for which more than c of the drawn members are marked with a probability of at most `error`."""
    ways = math.comb(members, drawn)
    beyond = 0
    for count in range(min(marked, drawn), -1, -1):
        beyond += math.comb(marked, count) * math.comb(members - marked, drawn - count)
        if beyond > error * ways:
            return count
    return 0


def _count(members: int, share: float) -> int:
    """How many members a share is, rounded up; the last bits of a product such as 1000 * 0.07 do not count."""
    return min(members, math.ceil(members * share - _ROUNDING))
