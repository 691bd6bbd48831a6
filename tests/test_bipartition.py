"""Cosine bipartition: when a group is split, where, and what becomes of its halves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.methods.bipartition import BipartitionRelation
from common.methods.relation import Coupling, Members
from tests.exact_cases import settle_apart

Vector = NDArray[np.float64]


def told(steps: Any, examples: Any = (), state: Mapping[str, Any] | None = None) -> Members:
    """Members a, b, ... that made these steps."""
    moves = np.asarray(steps, dtype=np.float64)
    counts = np.asarray(examples, dtype=np.float64) if len(examples) else np.ones(len(moves))
    gram = moves @ moves.T
    return Members(tuple("abcdef"[: len(moves)]), counts, gram, gram, moves.shape[1], state=state or {})


AT_REST = [[2.0, 0.1], [-2.0, 0.1], [2.0, -0.1], [-2.0, -0.1]]
RULE = BipartitionRelation(patience=0)


def groups(ties: Coupling) -> list[list[str]]:
    return list(ties.state["groups"])


def test_a_group_at_rest_whose_members_pull_apart_is_split_between_opposite_cosines() -> None:
    ties = RULE(told(AT_REST))
    assert groups(ties) == [["a", "c"], ["b", "d"]] and ties.note.startswith("split {a, c} from {b, d}: mean step 0,")
    half = 0.5 * np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]])
    assert ties.start is not None and np.array_equal(ties.start, half)


def test_who_still_moves_together_or_hardly_moves_stays_one() -> None:
    moving = np.add(AT_REST, [0.0, 0.5])  # the mean step is 0.5, not below 0.4
    ties = RULE(told(moving))
    assert groups(ties) == [["a", "b", "c", "d"]]
    assert ties.note == "{a, b, c, d} stay together: mean step 0.5, longest 2.088"
    assert RULE(told(moving, state=ties.state)).note == "", "that is said once"
    assert groups(RULE(told(0.75 * np.array(AT_REST)))) == [["a", "b", "c", "d"]], "the longest is 1.5, not above 1.6"
    assert groups(BipartitionRelation(patience=1)(told(AT_REST))) == [["a", "b", "c", "d"]]
    assert groups(RULE(told(AT_REST, [1, 1, 1, 0]))) == [["a", "b", "c", "d"]], "d was not reached"
    assert groups(RULE(told(AT_REST[:2]))) == [["a", "b"]]
    assert groups(BipartitionRelation(patience=0, min_members=2)(told(AT_REST[:2]))) == [["a"], ["b"]]


def test_the_mean_step_is_weighted_by_examples() -> None:
    """(3 * 2 - 2 + 2 - 2) / 6 = 2/3 is above eps1, though the plain mean is 0."""
    assert groups(RULE(told(AT_REST, [3, 1, 1, 1]))) == [["a", "b", "c", "d"]]


def test_linkage_is_complete() -> None:
    """Angles 0, 80, 160 and 240: average linkage joins by means; here the least alike pair of two groups decides."""
    angles = np.deg2rad([0.0, 80.0, 170.0, 255.0])
    steps = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert groups(BipartitionRelation(eps1=10.0, patience=0)(told(steps))) == [["a", "b"], ["c", "d"]]


def test_groups_are_remembered_and_split_on_their_own() -> None:
    state = RULE(told(AT_REST)).state
    again = RULE(told([[2.0, 0.0], [0.1, 0.0], [-2.0, 0.0], [0.1, 0.0]], state=state))
    assert groups(again) == [["a", "c"], ["b", "d"]], "of two members"
    again = BipartitionRelation(patience=0, min_members=2)(
        told([[2.0, 0.0], [0.1, 0.0], [-2.0, 0.0], [0.1, 0.0]], state=state)
    )
    assert groups(again) == [["a"], ["c"], ["b", "d"]] and again.state["rounds"] == 2


def test_two_populations_of_exact_solvers_come_to_the_mean_of_each() -> None:
    """F_k = ||w - place||^2 / 2 around (5, 0) and (-5, 0): the mean of all is at rest after one round."""
    places = {"a": (5.1, 0.0), "b": (-5.0, 0.2), "c": (4.9, 0.0), "d": (-5.0, -0.2), "e": (5.0, 0.3)}
    problems = {name: (np.eye(2), np.array(place)) for name, place in places.items()}
    found = settle_apart(BipartitionRelation(patience=1), problems, 4)
    for name in "ace":
        np.testing.assert_allclose(found[name], [5.0, 0.1], atol=1e-6)
    for name in "bd":
        np.testing.assert_allclose(found[name], [-5.0, 0.0], atol=1e-6)
