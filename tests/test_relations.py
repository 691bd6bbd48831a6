"""The relations by themselves: rows of weights, limits, groups that split and join."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.methods.agreement import AgreementRelation
from common.methods.linear import AttentionRelation, ClusterRelation, PartialRelation, SimilarityRelation
from common.methods.relation import Coupling, Members
from server.relations.relate import relate

Vector = NDArray[np.float64]
SLOT = "member/{member}"


def members(copies: Any, steps: Any = None, examples: Any = None, state: Mapping[str, Any] | None = None) -> Members:
    """Members named a, b, ... with these copies (K, d) and steps."""
    values = np.asarray(copies, dtype=np.float64)
    centred = values - values.mean(axis=0)
    moves = np.asarray(copies if steps is None else steps, dtype=np.float64)
    counts = np.ones(len(values)) if examples is None else np.asarray(examples, dtype=np.float64)
    names = tuple("abcdefgh"[: len(values)])
    return Members(names, counts, centred @ centred.T, moves @ moves.T, values.shape[1], state=state or {})


def drawn(count: int, size: int, seed: int = 7) -> Vector:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=(count, size))


# ---- rows of weights ----


def start_of(ties: Coupling) -> Vector:
    assert ties.start is not None
    return ties.start


def test_attention_is_a_mean_of_all_that_prefers_the_near_and_knows_no_scale() -> None:
    copies = drawn(4, 6)
    ties = AttentionRelation(0.5, 1.0)(members(copies))
    weights = start_of(ties)
    assert ties.anchor is not None and np.array_equal(weights, ties.anchor) and ties.mu.tolist() == [0.5] * 4
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-14)
    distances = ((copies[:, None] - copies) ** 2).sum(axis=2)
    assert (np.argsort(-weights, axis=1) == np.argsort(distances, axis=1)).all()
    for scale in (10.0, 1e-6, 1e6):
        np.testing.assert_allclose(start_of(AttentionRelation(0.5, 1.0)(members(copies * scale))), weights, rtol=1e-9)
    alike = AttentionRelation(0.0, 1.0)(members(np.ones((3, 5))))
    np.testing.assert_allclose(start_of(alike), 1 / 3)
    assert alike.anchor is None


def test_attention_of_four_million_parameters_does_not_underflow() -> None:
    """Three independent copies lie equally far apart, m = ||w_k - w_j||^2 = 8e6, up to some 1e-3 of it.

    The weights are 1 : e^-1 : e^-1, so a member keeps 1 / (1 + 2/e) = 0.5761 of its own; exp(-8e6) would keep all.
    """
    rng = np.random.Generator(np.random.PCG64(1))
    fresh = {f"member/{name}": rng.standard_normal(4_000_000, dtype=np.float32) for name in "abc"}
    base = {SLOT: np.zeros(4_000_000, dtype=np.float32)}
    known = base | dict.fromkeys(fresh, base[SLOT])
    moved, record = relate(AttentionRelation(0.0, 1.0), SLOT, known, fresh, dict.fromkeys(fresh, 1), 1, "")
    own, other = 1 / (1 + 2 / np.e), 1 / (np.e + 2)
    some = slice(1_999_990, 2_000_010)  # also where one block of work ends
    expected = own * fresh["member/a"][some] + other * (fresh["member/b"][some] + fresh["member/c"][some])
    np.testing.assert_allclose(moved["member/a"][some], expected, atol=5e-3)
    assert record.mu == {}


def test_similarity_of_opposites_and_of_those_alike() -> None:
    """d_k = w_k - mean: of two members they are opposite, of (1,0), (-1,0), (0,1), (0,-1) orthogonal or opposite."""
    cross = [[1, 0], [-1, 0], [0, 1], [0, -1]]
    np.testing.assert_allclose(start_of(SimilarityRelation(0.0, 1.0)(members(cross))), np.eye(4), atol=1e-12)
    np.testing.assert_allclose(start_of(SimilarityRelation(0.0, 1.0)(members(drawn(2, 5)))), np.eye(2), atol=1e-12)
    np.testing.assert_allclose(start_of(SimilarityRelation(0.0, 1.0)(members(np.ones((3, 4))))), 1 / 3)
    wide = start_of(SimilarityRelation(1.0, 1.0)(members(drawn(5, 9))))
    assert (wide > 0).all()
    np.testing.assert_allclose(wide.sum(axis=1), 1.0)
    third = start_of(SimilarityRelation(1.0, 1.0)(members(cross)))
    np.testing.assert_allclose(third[0], [0.5, 0.0, 0.25, 0.25], atol=1e-12, err_msg="(1 + 1, 1 - 1, 1, 1) / 4")
    half = start_of(SimilarityRelation(1.0, 0.5)(members(cross)))
    np.testing.assert_allclose(half, 0.5 * np.eye(4) + 0.5 * third)


def test_a_share_of_the_way_to_the_mean_has_both_ends_bit_for_bit() -> None:
    fresh = {f"member/{name}": row for name, row in zip("abc", drawn(3, 50).astype(np.float32), strict=True)}
    known = {SLOT: np.zeros(50, np.float32)} | {scope: np.zeros(50, np.float32) for scope in fresh}

    def moved(share: float) -> dict[str, Any]:
        return relate(PartialRelation(share), SLOT, known, fresh, dict.fromkeys(fresh, 1), 1, "")[0]

    assert all(np.array_equal(moved(0.0)[scope], fresh[scope]) for scope in fresh)
    mean = np.mean([row.astype(np.float64) for row in fresh.values()], axis=0)
    for scope in fresh:
        np.testing.assert_allclose(moved(1.0)[scope], mean, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(moved(0.25)[scope], 0.75 * fresh[scope] + 0.25 * mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(moved(0.0)[SLOT], mean, rtol=1e-6, atol=1e-7, err_msg="newcomers begin with the mean")


def test_given_clusters_pull_inside_and_loners_to_nothing() -> None:
    ties = ClusterRelation(0.5, {"1": ("a", "b"), "2": ("c",), "3": ("x", "y")})(members(drawn(4, 3)))
    assert ties.anchor is not None
    assert ties.mu.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert ties.anchor.tolist() == [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("block", [1, 3, 1 << 21])
def test_the_size_of_blocks_changes_no_bit_of_a_mix(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = {f"member/{name}": row for name, row in zip("abc", drawn(3, 31).astype(np.float32), strict=True)}
    known = {SLOT: np.zeros(31, np.float32)} | {scope: np.zeros(31, np.float32) for scope in fresh}
    whole, _ = relate(PartialRelation(0.3), SLOT, known, fresh, dict.fromkeys(fresh, 1), 1, "")
    monkeypatch.setattr("server.relations.relate.BLOCK_ELEMENTS", block)
    found, _ = relate(PartialRelation(0.3), SLOT, known, fresh, dict.fromkeys(fresh, 1), 1, "")
    for name, values in whole.items():
        np.testing.assert_array_max_ulp(found[name], values, 1)


# ---- agreement ----


class Story:
    """One slot's agreement, round by round, by the steps of its members."""

    def __init__(self, margin: float = 0.1, decay: float = 0.5, patience: int = 2) -> None:
        self._relation = AgreementRelation(margin, decay, patience)
        self._state: Mapping[str, Any] = {}
        self.note = ""
        self.start: Vector = np.empty(0)

    def round(self, *steps: tuple[float, float], examples: Any = None) -> list[str]:
        """The groups after a round with these steps, of members a, b, ...; (0, 0) with 0 examples: not there."""
        counts = [float(any(step)) for step in steps] if examples is None else examples
        ties = self._relation(members(steps, steps, counts, self._state))
        self._state, self.note, self.start = ties.state, ties.note, start_of(ties)
        return sorted("".join(group) for group in ties.state["groups"])


RIGHT, LEFT, UP = (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0)


def test_members_split_and_join_with_hysteresis() -> None:
    """c and d step against a and b for two rounds, then with them: their mean cosine goes -1, -1, 0, 0.5.

    The split waits for the second round (patience); 0 lies inside the margin, 0.1 / sqrt(2), so they join at 0.5.
    """
    story = Story()
    assert story.round(RIGHT, RIGHT, LEFT, LEFT) == ["abcd"]
    np.testing.assert_allclose(story.start, 0.25)
    assert story.round(RIGHT, RIGHT, LEFT, LEFT) == ["ab", "cd"]
    assert story.note == "split {a, b} from {c, d}: mean cosine -1.0000"
    np.testing.assert_allclose(story.start, np.kron(np.eye(2), np.full((2, 2), 0.5)))
    assert story.round(RIGHT, RIGHT, RIGHT, RIGHT) == ["ab", "cd"] and story.note == ""
    assert story.round(RIGHT, RIGHT, RIGHT, RIGHT) == ["abcd"]
    assert story.note == "joined {a, b} with {c, d}: mean cosine 0.5000"


def test_one_move_per_round() -> None:
    """Three steps at 120 degrees: each pair has cosine -0.5, so all part, but one round after the other."""
    away = [(np.cos(turn), np.sin(turn)) for turn in (0.0, 2 * np.pi / 3, 4 * np.pi / 3)]
    story = Story(patience=1)
    sizes = [len(story.round(*away)) for _ in range(4)]
    assert sizes == [2, 3, 3, 3]


def test_a_group_starts_from_its_mean_by_examples() -> None:
    story = Story(patience=1)
    assert story.round(RIGHT, RIGHT, LEFT, examples=[30.0, 10.0, 5.0]) == ["ab", "c"]
    np.testing.assert_allclose(story.start, [[0.75, 0.25, 0], [0.75, 0.25, 0], [0, 0, 1]])


def test_newcomers_join_the_largest_group_and_those_who_are_away_keep_theirs() -> None:
    story = Story(patience=1)
    assert story.round(RIGHT, RIGHT, LEFT) == ["ab", "c"]
    assert story.round(RIGHT, RIGHT, LEFT, UP) == ["abd", "c"]
    assert story.round(RIGHT, RIGHT, (0.0, 0.0), UP) == ["abd", "c"]
    np.testing.assert_allclose(story.start[2], [0, 0, 1, 0])


def test_right_angles_move_nobody() -> None:
    story = Story(margin=0.0, patience=1)
    assert [story.round(RIGHT, UP) for _ in range(3)] == [["ab"]] * 3
