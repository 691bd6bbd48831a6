"""Relations that need no memory: pulls to a mean, along a graph or a precision matrix, and mixed starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from common.quadratic import Float64
from server.relations.ties import Members, Relation, Ties

Links = Mapping[frozenset[str], float]
"""Weights between pairs of members."""


def mean(strength: float) -> Relation:
    """Mean-regularised, or soft sharing (Evgeniou and Pontil, KDD 2004): (strength/2) ||w_k - mean||^2 for every k.

    The mean over members is that of the last round, so that rounds minimise sum F_k + (strength/2) sum ||w_k - mean||^2
    over copies and mean in turns.
    """

    def observe(members: Members) -> Ties:
        count = members.count
        return Ties(anchor=_over_rows(members, np.full((count, count), 1.0 / count)), mu=np.full(count, strength))

    return observe


def graph(strength: float, links: Links) -> Relation:
    """Graph l2 (FedU, Dinh et al. 2022): (strength/2) sum over pairs of A_kj ||w_k - w_j||^2.

    Member k is pulled to its neighbours' mean weighted by A with strength * degree; without neighbours to nothing.
    Without `links` all members are neighbours.
    """

    def observe(members: Members) -> Ties:
        adjacency = adjacency_of(members.holders, links)
        degrees = adjacency.sum(axis=1)
        alone = np.diag((degrees == 0.0).astype(np.float64))
        anchor = adjacency / np.where(degrees == 0.0, 1.0, degrees)[:, np.newaxis] + alone
        return Ties(anchor=_over_rows(members, anchor), mu=strength * degrees)

    return observe


def precision(strength: float, links: Links, diagonal: float) -> Relation:
    """A given precision matrix Omega: (strength/2) tr(W Omega W'), followed by its majoriser.

    mu_k = strength * sum_j |Omega_kj| and anchor_k = w_k - (strength / mu_k) sum_j Omega_kj w_j. The Jacobi step
    -Omega_kj / Omega_kk would diverge where members are strongly coupled; this one descends for every Omega.
    """

    def observe(members: Members) -> Ties:
        omega = adjacency_of(members.holders, links) + diagonal * np.eye(members.count)
        strengths = np.abs(omega).sum(axis=1)
        share = omega / np.where(strengths == 0.0, 1.0, strengths)[:, np.newaxis]
        return Ties(anchor=_over_rows(members, np.eye(members.count) - share), mu=strength * strengths)

    return observe


def clusters(strength: float, groups: Sequence[Sequence[str]]) -> Relation:
    """Given clusters: mean-regularised within each (after Jacob, Bach and Vert 2008); others are pulled to nothing."""

    def observe(members: Members) -> Ties:
        anchor, mu = np.eye(members.count), np.zeros(members.count)
        for group in groups:
            inside = np.array([holder in group for holder in members.holders])
            if inside.sum() > 1:
                anchor[np.ix_(inside, inside)] = 1.0 / inside.sum()
                mu[inside] = strength
        return Ties(anchor=_over_rows(members, anchor), mu=mu)

    return observe


def attention(strength: float, temperature: float) -> Relation:
    """Attention, as FedAMP (Huang et al., AAAI 2021): start and anchor are a mix of all, more of what is near.

    The weights are softmax(-||w_k - w_j||^2 / (temperature * m)) over j, k included, where m is the mean squared
    distance between different members: without it the exponent grows with the number of parameters, and every member
    would be alone. A member's own weight is the largest and never negative. In FedAMP it is what the others leave,
    1 - alpha sum_j A'(||w_k - w_j||^2), which a large alpha makes negative.
    """

    def observe(members: Members) -> Ties:
        distances = squared_distances(members.products[: members.count, : members.count])
        others = distances.sum() / max(members.count * (members.count - 1), 1)
        scores = -distances / (temperature * others) if others > 0.0 else np.zeros_like(distances)
        weights = np.exp(scores)
        mix = _over_rows(members, weights / weights.sum(axis=1, keepdims=True))
        return Ties(start=mix, anchor=mix if strength else None, mu=np.full(members.count, strength))

    return observe


def similarity(threshold: float, share: float) -> Relation:
    """As MaT-FL (Cai et al., CVPR 2023): starts are mixed by max(0, cos(d_k, d_j) + threshold), d_k = w_k - mean.

    `share` of a start is the mix, the rest the member's own copy: 1 is theirs.
    """

    def observe(members: Members) -> Ties:
        gram = members.products[: members.count, : members.count]
        lengths = np.sqrt(np.diag(gram))
        scales = np.outer(lengths, lengths)
        cosines = np.divide(gram, scales, out=np.eye(members.count), where=scales > 0.0)
        if not lengths.any():  # all are alike
            cosines[:] = 1.0
        np.fill_diagonal(cosines, 1.0)
        weights = np.maximum(0.0, cosines + threshold)
        mix = weights / weights.sum(axis=1, keepdims=True)
        return Ties(start=_over_rows(members, share * mix + (1.0 - share) * np.eye(members.count)))

    return observe


def towards_mean(share: float) -> Relation:
    """Starts move a share of the way to the mean of all: 0 is every member alone, 1 their plain mean (L2GD-like)."""

    def observe(members: Members) -> Ties:
        count = members.count
        return Ties(start=_over_rows(members, (1.0 - share) * np.eye(count) + np.full((count, count), share / count)))

    return observe


def adjacency_of(holders: Sequence[str], links: Links) -> Float64:
    """The symmetric matrix of weights between members, zero on the diagonal; without links all weights are 1."""
    if not links:
        return np.ones((len(holders), len(holders))) - np.eye(len(holders))
    pairs = [[links.get(frozenset((one, other)), 0.0) if one != other else 0.0 for other in holders] for one in holders]
    return np.array(pairs, dtype=np.float64).reshape(len(holders), len(holders))


def squared_distances(gram: Float64) -> Float64:
    """Between rows, from their inner products."""
    squares = np.diag(gram)
    return np.maximum(squares[:, np.newaxis] + squares - 2.0 * gram, 0.0)


def _over_rows(members: Members, coefficients: Float64) -> Float64:
    """Coefficients over members as coefficients over all rows."""
    return np.pad(coefficients, ((0, 0), (0, len(members.products) - members.count)))
