"""Covariances of members: laws, optimality, numbers by hand, and the penalties that rows of relations mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from common.methods.covariance import (
    clustered,
    correlations,
    coupling_bound,
    independent,
    learned,
    of_graph,
    ordered,
    precision,
)
from common.methods.lasso import LassoRelation
from common.methods.linear import ClusterRelation, GraphRelation, MeanRelation, PrecisionRelation
from common.methods.relation import Relation

Matrix = NDArray[np.float64]
Rule = Callable[[Matrix], Matrix]

RULES: dict[str, Rule] = {
    "learned": lambda gram: learned(gram, 1e-6),
    "clustered": lambda gram: clustered(gram, 3, 0.1),
    "soft": lambda gram: clustered(gram, 2, 5.0),
}


def drawn(*shape: int, seed: int = 3) -> Matrix:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=shape)


def gram(*shape: int, seed: int = 3) -> Matrix:
    models = drawn(*shape, seed=seed)
    return np.asarray(models.T @ models)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", [40, 5], ids=["of full rank", "fewer dimensions than members"])
def test_a_covariance_is_symmetric_positive_of_trace_one_and_knows_no_order_or_scale(name: str, size: int) -> None:
    rule, products = RULES[name], gram(size, 12)
    sigma = rule(products)
    assert np.array_equal(sigma, sigma.T) and np.trace(sigma) == pytest.approx(1.0, abs=1e-14)
    assert np.linalg.eigvalsh(sigma).min() > 0.0
    order = np.random.Generator(np.random.PCG64(1)).permutation(12)
    at = np.ix_(order, order)
    np.testing.assert_allclose(rule(products[at]), sigma[at], rtol=0, atol=1e-12)
    np.testing.assert_allclose(rule(products * 1e8), sigma, rtol=0, atol=1e-12)
    assert np.array_equal(rule(np.zeros((4, 4))), np.eye(4) / 4)


def test_identical_models_are_correlated_and_opposite_ones_the_other_way() -> None:
    model, other = drawn(8), drawn(8, seed=4)
    other -= model * (model @ other) / (model @ model)
    models = np.stack([model, model, -model, other], axis=1)
    for sigma in (learned(models.T @ models, 1e-6), clustered(models.T @ models, 2, 0.01)):
        found = correlations(sigma)
        assert found[0, 1] > 0.97 and found[0, 2] < -0.97 and abs(found[0, 3]) < 1e-9
        assert (np.diag(found) == 1.0).all()


def test_the_root_of_the_gram_matrix_is_the_best_covariance() -> None:
    """For tr(W Sigma^-1 W') + e tr(Sigma^-1), of which the minimum is (tr (W'W + e I)^(1/2))^2."""
    products = gram(5, 6)
    e = 1e-3 * np.trace(products) / 6
    sigma = learned(products, 1e-3)

    def cost(candidate: Matrix) -> float:
        return float(np.trace(np.linalg.solve(candidate, products + e * np.eye(6))))

    roots = np.sqrt(np.linalg.eigvalsh(products) + e)
    assert cost(sigma) == pytest.approx(roots.sum() ** 2, rel=1e-9)
    for seed in range(20):
        step = drawn(6, 6, seed=seed)
        step = step + step.T
        step -= np.eye(6) * np.trace(step) / 6
        assert cost(sigma + 1e-4 * step / np.abs(step).max()) > cost(sigma)


@pytest.mark.parametrize("eta", [0.01, 0.3, 5.0])
def test_the_relaxed_clusters_are_the_best_ones(eta: float) -> None:
    """M = (eta m + k) Sigma - eta I keeps 0 <= M <= I and tr M = k, and nobody between it and another does better."""
    products, count, k = gram(20, 7), 7, 3

    def cost(m: Matrix) -> float:
        return float(np.trace(np.linalg.solve(eta * np.eye(count) + m, products)))

    best = (eta * count + k) * clustered(products, k, eta) - eta * np.eye(count)
    values = np.linalg.eigvalsh(best)
    assert np.trace(best) == pytest.approx(k, abs=1e-11) and values.min() > -1e-12 and values.max() < 1 + 1e-12
    for seed in range(20):
        basis, _ = np.linalg.qr(drawn(count, count, seed=seed))
        other = basis[:, :k] @ basis[:, :k].T
        for share in (1.0, 0.1, 1e-3):
            assert cost((1 - share) * best + share * other) >= cost(best) * (1 - 1e-12)


def test_two_pairs_of_equal_models_are_two_clusters() -> None:
    """W'W has eigenvalues 2 and 2 on the clusters' indicators, so M is E E' with entries of 1/2."""
    products: Matrix = np.asarray(np.kron(np.eye(2), np.ones((2, 2))), dtype=np.float64)
    expected = (0.1 * np.eye(4) + products / 2) / (0.1 * 4 + 2)
    np.testing.assert_allclose(clustered(products, 2, 0.1), expected, atol=1e-6)
    assert np.array_equal(clustered(products, 4, 0.1), np.eye(4) / 4)


# ---- fixed relations ----


def cost_of(relation: Relation, names: str, models: Matrix) -> float:
    """tr(W Sigma^-1 W') with Sigma^-1 scaled so that it is 1 for one model that is alone with its square."""
    sigma = relation.covariance(tuple(names), None)
    assert sigma is not None and np.trace(sigma) == pytest.approx(1.0)
    return float(np.trace(models @ np.linalg.inv(sigma) @ models.T))


def test_mean_graph_and_clusters_mean_their_penalties() -> None:
    """A ridge of the same weight beside: ||W||^2 + strength * penalty, up to one factor for all W."""
    one, other = drawn(6, 4), drawn(6, 4, seed=9)
    links = (("a", "b", 1.0), ("b", "c", 0.5))

    def pull(models: Matrix, *groups: list[int]) -> float:
        return sum(float(((models[:, g].T - models[:, g].mean(axis=1)) ** 2).sum()) for g in groups)

    def edges(models: Matrix) -> float:
        return float(((models[:, 0] - models[:, 1]) ** 2).sum() + 0.5 * ((models[:, 1] - models[:, 2]) ** 2).sum())

    meant: list[tuple[Relation, Callable[[Matrix], float]]] = [
        (MeanRelation(3.0), lambda models: pull(models, [0, 1, 2, 3])),
        (GraphRelation(3.0, links), edges),
        (ClusterRelation(3.0, {"x": ("a", "c"), "y": ("b", "gone")}), lambda models: pull(models, [0, 2])),
    ]
    for relation, penalty in meant:
        ratios = [
            cost_of(relation, "abcd", models) / (float((models**2).sum()) + 3.0 * penalty(models))
            for models in (one, other)
        ]
        assert ratios[0] == pytest.approx(ratios[1], rel=1e-12)


def test_a_precision_matrix_that_is_not_positive_definite_and_what_is_not_quadratic_have_no_covariance() -> None:
    sigma = PrecisionRelation(7.0, (("a", "b", -0.9),), 1.0).covariance(("a", "b"), None)
    assert sigma is not None
    np.testing.assert_allclose(sigma, np.array([[1.0, 0.9], [0.9, 1.0]]) / 2, atol=1e-14)
    assert PrecisionRelation(1.0, (("a", "b", -1.0),), 1.0).covariance(("a", "b"), None) is None
    assert LassoRelation().covariance(("a", "b"), None) is None


def test_the_mean_of_a_strong_pull_is_one_model() -> None:
    sigma = MeanRelation(1e6).covariance(("a", "b", "c"), None)
    assert sigma is not None
    np.testing.assert_allclose(sigma, np.full((3, 3), 1 / 3), atol=1e-6)
    assert MeanRelation(0.0).covariance(("a", "b", "c"), None) == pytest.approx(np.eye(3) / 3)
    np.testing.assert_allclose(of_graph(np.zeros((2, 2)), 5.0), np.eye(2) / 2)


def test_precision_is_one_of_members_that_are_not_related() -> None:
    np.testing.assert_allclose(precision(independent(5)), np.eye(5), atol=1e-15)
    sigma = learned(gram(9, 4), 1e-6)
    np.testing.assert_allclose(precision(sigma) @ sigma, np.eye(4) / 4, atol=1e-12)


# ---- the coupling bound and the order ----


def test_the_coupling_bound_by_hand() -> None:
    assert coupling_bound(independent(4), range(4)) == pytest.approx(1.0)
    assert coupling_bound(independent(4), [0, 1, 1, 1]) == pytest.approx(3.0)
    sigma = np.array([[2.0, -1.0], [-1.0, 1.0]]) / 3
    assert coupling_bound(sigma, [0, 1]) == pytest.approx(1 + 0.5**0.5)  # their correlation is -1 / root of 2
    assert coupling_bound(sigma, [0, 0, 1]) == pytest.approx((3 + 5**0.5) / 2)  # of [[2, -1], [-1, 1]]
    assert coupling_bound(sigma, [0, 0]) == pytest.approx(2.0)  # nobody holds the second


@pytest.mark.parametrize("seed", range(5))
def test_the_coupling_bound_holds_for_all_steps(seed: int) -> None:
    sigma, blocks = learned(gram(3, 5, seed=seed), 1e-4), [0, 0, 1, 2, 3, 3, 3, 4]
    steps = drawn(8, 6, seed=seed + 50)
    tied = sigma[np.ix_(blocks, blocks)]
    together = float(np.sum(tied * (steps @ steps.T)))
    apart = float(np.diag(tied) @ (steps**2).sum(axis=1))
    assert together <= coupling_bound(sigma, blocks) * apart * (1 + 1e-12)
    worst = np.linalg.eigvalsh(tied / np.sqrt(np.outer(np.diag(tied), np.diag(tied)))).max()
    assert worst == pytest.approx(coupling_bound(sigma, blocks))
    rows = np.abs(tied).sum(axis=1) / np.diag(tied)
    assert coupling_bound(sigma, blocks) <= rows.max() * (1 + 1e-11)  # the bound of the paper


def test_clusters_stand_together_in_the_order() -> None:
    truth = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
    models = 3.0 * drawn(20, 3)[:, truth] + drawn(20, 12, seed=5)
    found = truth[list(ordered(learned(models.T @ models, 1e-6)))]
    assert int((np.diff(found) != 0).sum()) == 2, found
    assert ordered(independent(3)) == (0, 1, 2) and ordered(np.ones((1, 1))) == (0,)
