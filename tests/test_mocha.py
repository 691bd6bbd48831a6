"""The learned relationship of neural models: what Sigma says of members, and where federations come to rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.methods.choice import LARGEST
from common.methods.covariance import correlations, learned, precision
from common.methods.mocha import MochaRelation
from common.methods.relation import LARGEST_MU
from common.parameters.schema import ParameterSchema
from common.wire.limits import MAX_CLIENTS
from server.relations.relate import Context, relate
from tests.exact_cases import Problems, joint, member_config, quadratics, settle, settle_apart

Vector = NDArray[np.float64]
SLOT = "member/{member}"
FIRST = f"anchor/{SLOT}"
LAYERS = ParameterSchema.of({"one.weight": (6, 4), "one.bias": (6,), "two.weight": (2, 6)})


def after(
    relation: MochaRelation, moves: Mapping[str, Vector], state: str = "", schema: ParameterSchema | None = LAYERS
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is remembered, and all values, after a round to which members moved from the same first values."""
    first = np.random.Generator(np.random.PCG64(0)).normal(size=len(next(iter(moves.values()))))
    fresh = {f"member/{name}": first + move for name, move in moves.items()}
    vectors = {SLOT: first} | dict.fromkeys(fresh, first)
    values, record = relate(relation, SLOT, vectors, fresh, dict.fromkeys(fresh, 1), 1, state, Context(schema))
    assert np.array_equal(values[FIRST], first)
    return json.loads(record.state), {**values, "mu": record.mu, "fresh": fresh, "note": record.note}


def drawn(count: int, seed: int = 2, size: int = LAYERS.size) -> Vector:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=(count, size))


@pytest.mark.parametrize("relation", [MochaRelation(), MochaRelation(learn="clustered", eta=0.01)], ids=str)
def test_members_that_move_alike_are_correlated_and_opposite_ones_the_other_way(relation: MochaRelation) -> None:
    """Although what they have in common, the first values, is most of every model."""
    one, other = drawn(2)
    state, _ = after(relation, {"a": one, "b": one, "c": -one, "d": other})
    alike = correlations(np.array(state["covariance"]))
    assert alike[0, 1] > 0.97 and alike[0, 2] < -0.97 and abs(alike[0, 3]) < 0.3
    np.testing.assert_allclose(state["moved"], [np.linalg.norm(m) for m in (one, one, one, other)], rtol=1e-12)


def test_permuted_members_permute_sigma() -> None:
    moves = dict(zip("abcde", drawn(5), strict=True))
    straight, _ = after(MochaRelation(), moves)
    names = list("dbaec")
    turned, _ = after(MochaRelation(), {new: moves[old] for new, old in zip("abcde", names, strict=True)})
    at = [list("abcde").index(name) for name in names]
    expected = np.array(straight["covariance"])[np.ix_(at, at)]
    np.testing.assert_allclose(turned["covariance"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("learn", ["probabilistic", "clustered"])
def test_clusters_planted_in_twelve_members_are_found(learn: Any) -> None:
    truth = np.array([0, 1, 2] * 4)
    moves = 1.5 * drawn(3, 8)[truth] + drawn(12, 9)
    names = [f"m{k:02}" for k in range(12)]
    state, found = after(MochaRelation(learn=learn, num_clusters=3), dict(zip(names, moves, strict=True)))
    assert state["groups"] == [[name for name, own in zip(names, truth, strict=True) if own == k] for k in range(3)]
    assert found["note"].startswith("clusters of models: m00, m03, m06, m09; m01")


def test_members_that_have_nothing_in_common_are_no_clusters() -> None:
    state, _ = after(MochaRelation(), dict(zip("abcde", drawn(5, size=4000), strict=True)), schema=None)
    assert sorted(state["groups"]) == [["a"], ["b"], ["c"], ["d"], ["e"]]


def test_the_scale_of_a_layer_does_not_matter_and_weight_and_bias_are_one() -> None:
    moves = drawn(4)
    (first, second), names = (slice(0, 30), slice(30, 42)), "abcd"
    larger, bias = moves.copy(), moves.copy()
    larger[:, second] *= 1e3
    bias[:, 24:30] *= 1e3
    plain, scaled, biased = (
        np.array(after(MochaRelation(), dict(zip(names, m, strict=True)))[0]["covariance"])
        for m in (moves, larger, bias)
    )
    np.testing.assert_allclose(scaled, plain, atol=1e-12)
    assert np.abs(biased - plain).max() > 1e-3
    gram = sum(
        moves[:, part] @ moves[:, part].T / (np.linalg.norm(moves[:, part]) ** 2 / 4) for part in (first, second)
    )
    np.testing.assert_allclose(plain, learned(np.asarray(gram), 1e-4), atol=1e-12)


def test_who_has_not_moved_yet_is_of_the_others_mean_and_related_to_nobody() -> None:
    state, _ = after(MochaRelation(floor=1e-6), {"a": drawn(1)[0], "b": drawn(1)[0], "c": np.zeros(LAYERS.size)})
    sigma = np.array(state["covariance"])
    assert sigma[2, 0] == sigma[2, 1] == 0.0 and sigma[2, 2] > 0.2
    nobody, _ = after(MochaRelation(), dict.fromkeys("abc", np.zeros(LAYERS.size)))
    assert np.array_equal(nobody["covariance"], np.eye(3) / 3)


def test_sigma_stays_between_updates_and_newcomers_bring_a_new_one() -> None:
    relation = MochaRelation(every=3)
    moves = dict(zip("abc", drawn(3), strict=True))
    first, _ = after(relation, moves)
    assert first["rounds"] == 1
    others = dict(zip("abc", drawn(3, 5), strict=True))
    second, _ = after(relation, others, json.dumps(first))
    third, _ = after(relation, others, json.dumps(second))
    assert second["covariance"] == first["covariance"] != third["covariance"]
    grown, _ = after(relation, dict(zip("abcd", drawn(4), strict=True)), json.dumps(third))
    assert len(grown["covariance"]) == 4


def test_no_pull_is_stronger_than_is_said_and_anchors_are_those_of_the_majoriser() -> None:
    """Two equal members need the strongest one."""
    for relation in (
        MochaRelation(0.3, floor=1e-3),
        MochaRelation(0.3, "clustered", num_clusters=2, eta=0.01),
        MochaRelation(0.3, "none"),
    ):
        one, other = drawn(2)
        state, found = after(relation, {"a": one, "b": one, "c": other})
        omega = precision(np.array(state["covariance"]))
        mu = np.array(list(found["mu"].values()))
        np.testing.assert_allclose(mu, 0.3 * np.abs(omega).sum(axis=1), rtol=1e-12)
        assert mu.max() <= relation.largest_mu(3) * (1 + 1e-9)
        pull = omega @ np.stack([one, one, other])
        for k, name in enumerate("abc"):
            expected = found["fresh"][f"member/{name}"] - 0.3 / mu[k] * pull[k]
            np.testing.assert_allclose(found[f"anchor/member/{name}"], expected, atol=1e-9)


def test_a_pull_that_no_order_carries_is_refused() -> None:
    (line,) = MochaRelation(LARGEST, floor=1e-12).problems()
    assert line.startswith("strength: with floor as small") and not MochaRelation(LARGEST).problems()
    assert MochaRelation(LARGEST, "clustered", eta=1e-9).problems()
    assert MochaRelation(LARGEST).largest_mu(MAX_CLIENTS) <= LARGEST_MU


# ---- where federations of exact solvers come to rest ----


def related_problems() -> Problems:
    """b is a and some noise, c has nothing to do with them."""
    problems = dict(quadratics("abc", 4, 1))
    hessian, linear = problems["a"]
    problems["b"] = hessian, linear + 0.05 * drawn(1, 3, 4)[0]
    return problems


def test_a_learned_relation_comes_to_one_linear_solve_of_its_own_sigma(tmp_path: Path) -> None:
    """Both at once: (H_k + s Omega_kk) w_k = b_k - s sum_j Omega_kj w_j, and Sigma = (W'W + e I)^(1/2) / trace."""
    config = member_config(4, 120, "relation.name=mocha", "relation.strength=0.05", "relation.floor=0.05")
    problems = related_problems()
    coordinator, found = settle(config, problems, tmp_path)
    sigma = np.array(json.loads(coordinator.journal.relations()[-1].state)["covariance"])
    expected = joint(problems, 0.05 * precision(sigma))
    assert max(float(np.abs(found[name] - expected[name]).max()) for name in "abc") < 1e-5
    models = np.stack([found[name] for name in "abc"])
    np.testing.assert_allclose(sigma, learned(models @ models.T, 0.05), atol=1e-5)
    alike = correlations(sigma)
    assert alike[0, 1] > 0.65 > 0.3 > abs(alike[0, 2])


def test_without_learning_members_are_alone_with_a_pull_to_their_first_values() -> None:
    problems = related_problems()
    found = settle_apart(MochaRelation(0.5, "none"), problems, 40)
    expected = joint(problems, 0.5 * np.eye(3))
    assert max(float(np.abs(found[name] - expected[name]).max()) for name in "abc") < 1e-6
