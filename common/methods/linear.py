"""Relations that need no memory: pulls to a mean, along a graph or a precision matrix, and mixed starts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from common.methods.choice import LARGEST, Bounds, Share, Strength
from common.methods.covariance import of_graph, of_precision
from common.methods.relation import LARGEST_MU, Coupling, Float64, Members, Relation
from common.wire.limits import MAX_CLIENTS

Links = tuple[tuple[str, str, float], ...]
"""Pairs of members with the weight of their link."""

_SINGULAR = 1e-12
"""Relative to the largest entry of a precision matrix: an eigenvalue below this is none above zero."""


@dataclass(frozen=True)
class MeanRelation(Relation):
    """Soft sharing (Evgeniou and Pontil, KDD 2004): all are pulled to their mean, (strength/2) ||w_k - mean||^2.

    The mean over members is that of the last round, so that rounds minimise sum F_k + (strength/2) sum ||w_k - mean||^2
    over copies and mean in turns.
    """

    name = "mean"
    has_anchors = True
    strength: Strength = 0.1
    """of the pull"""

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        count = members.count
        anchor = over_rows(members, np.full((count, count), 1.0 / count))
        return Coupling(anchor=anchor, mu=np.full(count, self.strength))

    def covariance(self, ids: tuple[str, ...], gram: Float64 | None) -> Float64 | None:
        """Sigma^-1 proportional to I + strength (I - 11'/m): the graph of all pairs, linked by 1/m each."""
        return of_graph(np.full((len(ids), len(ids)), 1.0 / max(len(ids), 1)), self.strength)

    def largest_mu(self, members: int) -> float:
        """See `Relation`."""
        return self.strength


@dataclass(frozen=True)
class GraphRelation(Relation):
    """Graph l2 (FedU, Dinh et al. 2022): (strength/2) sum over pairs of A_kj ||w_k - w_j||^2.

    Member k is pulled to its neighbours' mean weighted by A with strength * degree; without neighbours to nothing.
    """

    name = "graph"
    has_anchors = True
    strength: Strength = 0.1
    """of the pull"""
    links: Links = ()
    """pairs of members with weights, [[a, b, 1.0], ...]; none: all are linked by 1"""

    def problems(self) -> list[str]:
        """See `Row`."""
        return link_problems(self.links, self.largest_mu(MAX_CLIENTS), attract=True)

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        adjacency = adjacency_of(members.ids, self.links)
        degrees = adjacency.sum(axis=1)
        alone = np.diag((degrees == 0.0).astype(np.float64))
        anchor = adjacency / np.where(degrees == 0.0, 1.0, degrees)[:, np.newaxis] + alone
        return Coupling(anchor=over_rows(members, anchor), mu=self.strength * degrees)

    def covariance(self, ids: tuple[str, ...], gram: Float64 | None) -> Float64 | None:
        """Sigma^-1 proportional to I + strength L, with L the graph's Laplacian."""
        return of_graph(adjacency_of(ids, self.links), self.strength)

    def largest_mu(self, members: int) -> float:
        """See `Relation`."""
        return self.strength * largest_degree(self.links, members)

    def named_members(self) -> list[tuple[str, str]]:
        """See `Relation`."""
        return named_in(self.links)


@dataclass(frozen=True)
class PrecisionRelation(Relation):
    """A given precision matrix Omega (Zhang and Yeung 2010; the primal of MOCHA, Smith et al. 2017).

    (strength/2) tr(W Omega W'), followed by its majoriser: mu_k = strength * sum_j |Omega_kj| and
    anchor_k = w_k - (strength / mu_k) sum_j Omega_kj w_j. The Jacobi step -Omega_kj / Omega_kk would diverge where
    members are strongly coupled; this one descends for every Omega.
    """

    name = "precision"
    has_anchors = True
    strength: Strength = 0.1
    """of the pull"""
    links: Links = ()
    """pairs of members with weights, [[a, b, 1.0], ...]; none: all are linked by 1"""
    diagonal: Annotated[float, Bounds(least=-LARGEST, most=LARGEST)] = 1.0
    """diagonal of the matrix"""

    def problems(self) -> list[str]:
        """See `Row`."""
        return link_problems(self.links, self.largest_mu(MAX_CLIENTS), attract=False)

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        omega = adjacency_of(members.ids, self.links) + self.diagonal * np.eye(members.count)
        strengths = np.abs(omega).sum(axis=1)
        share = omega / np.where(strengths == 0.0, 1.0, strengths)[:, np.newaxis]
        return Coupling(anchor=over_rows(members, np.eye(members.count) - share), mu=self.strength * strengths)

    def covariance(self, ids: tuple[str, ...], gram: Float64 | None) -> Float64 | None:
        """The inverse of the matrix, whatever the strength; None if that is not positive definite."""
        omega = adjacency_of(ids, self.links) + self.diagonal * np.eye(len(ids))
        least = float(np.linalg.eigvalsh(omega).min(initial=LARGEST))
        return of_precision(omega) if least > _SINGULAR * float(np.abs(omega).max(initial=0.0)) else None

    def largest_mu(self, members: int) -> float:
        """See `Relation`."""
        return self.strength * (abs(self.diagonal) + largest_degree(self.links, members))

    def named_members(self) -> list[tuple[str, str]]:
        """See `Relation`."""
        return named_in(self.links)


@dataclass(frozen=True)
class ClusterRelation(Relation):
    """Given clusters (after Jacob, Bach and Vert 2008): `mean` within each; others are pulled to nothing."""

    name = "clusters"
    has_anchors = True
    strength: Strength = 0.1
    """of the pull"""
    clusters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """members by name: {north: [a, b], south: [c, d]}"""

    def problems(self) -> list[str]:
        """See `Row`."""
        if not self.clusters:
            return ["clusters: needed by relation clusters; write e.g. {north: [a, b], south: [c, d]}"]
        named = Counter(member for group in self.clusters.values() for member in group)
        return [f"clusters: '{member}' is in two; keep one" for member, times in named.items() if times > 1]

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        anchor, mu = np.eye(members.count), np.zeros(members.count)
        for group in self.clusters.values():
            inside = np.array([member in group for member in members.ids])
            if inside.sum() > 1:
                anchor[np.ix_(inside, inside)] = 1.0 / inside.sum()
                mu[inside] = self.strength
        return Coupling(anchor=over_rows(members, anchor), mu=mu)

    def covariance(self, ids: tuple[str, ...], gram: Float64 | None) -> Float64 | None:
        """Sigma^-1 proportional to I + strength L, L of all pairs in a cluster of n, linked by 1/n each."""
        inside = np.array([[member in group for member in ids] for group in self.clusters.values()], dtype=np.float64)
        sizes = np.maximum(inside.sum(axis=1), 1.0)
        return of_graph((inside.T / sizes) @ inside, self.strength)

    def largest_mu(self, members: int) -> float:
        """See `Relation`."""
        return self.strength

    def named_members(self) -> list[tuple[str, str]]:
        """See `Relation`."""
        return [(f"clusters.{name}", member) for name, group in self.clusters.items() for member in group]


@dataclass(frozen=True)
class AttentionRelation(Relation):
    """FedAMP (Huang et al., AAAI 2021): start and anchor are a mix of all, more of what is near.

    The weights are softmax(-||w_k - w_j||^2 / (temperature * m)) over j, k included, where m is the mean squared
    distance between different members: without it the exponent grows with the number of parameters, and every member
    would be alone. A member's own weight is the largest and never negative. In FedAMP it is what the others leave,
    1 - alpha sum_j A'(||w_k - w_j||^2), which a large alpha makes negative.
    """

    name = "attention"
    has_anchors = True
    strength: Strength = 0.1
    """of the pull"""
    temperature: Annotated[float, Bounds(above=0)] = 1.0
    """the smaller, the more a member keeps to what is near"""

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        distances = squared_distances(members.products[: members.count, : members.count])
        others = distances.sum() / max(members.count * (members.count - 1), 1)
        scores = -distances / (self.temperature * others) if others > 0.0 else np.zeros_like(distances)
        weights = np.exp(scores)
        mix = over_rows(members, weights / weights.sum(axis=1, keepdims=True))
        mu = np.full(members.count, self.strength)
        return Coupling(start=mix, anchor=mix if self.strength else None, mu=mu)

    def largest_mu(self, members: int) -> float:
        """See `Relation`."""
        return self.strength


@dataclass(frozen=True)
class SimilarityRelation(Relation):
    """MaT-FL (Cai et al., CVPR 2023): starts are mixed by max(0, cos(d_k, d_j) + threshold), d_k = w_k - mean."""

    name = "similarity"
    threshold: Share = 0.5
    """added to cosines before those below 0 are dropped"""
    share: Share = 1.0
    """of a start, how much is the mix (1: as published); the rest is the member's own copy"""

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        gram = members.products[: members.count, : members.count]
        lengths = np.sqrt(np.diag(gram))
        scales = np.outer(lengths, lengths)
        cosines = np.divide(gram, scales, out=np.eye(members.count), where=scales > 0.0)
        if not lengths.any():  # all are alike
            cosines[:] = 1.0
        np.fill_diagonal(cosines, 1.0)
        weights = np.maximum(0.0, cosines + self.threshold)
        mix = weights / weights.sum(axis=1, keepdims=True)
        return Coupling(start=over_rows(members, self.share * mix + (1.0 - self.share) * np.eye(members.count)))


@dataclass(frozen=True)
class PartialRelation(Relation):
    """After L2GD (Hanzely and Richtarik 2020): starts move a share of the way to the mean of all."""

    name = "partial"
    share: Share = 1.0
    """of the way; 0 is every member alone, 1 their plain mean"""

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        count, share = members.count, self.share
        mix = (1.0 - share) * np.eye(count) + np.full((count, count), share / count)
        return Coupling(start=over_rows(members, mix))


def link_problems(links: Links, largest_mu: float, attract: bool) -> list[str]:
    """What is wrong with links, or with the strongest proximal term that they come to; `attract` refuses opposites."""
    found = [f"links.{i}: '{a}' is linked to itself; name two members" for i, (a, b, _) in enumerate(links) if a == b]
    found += [
        f"links.{i}: weight {weight:g} is below 0; only precision knows opposites"
        for i, (*_, weight) in enumerate(links)
        if attract and weight < 0
    ]
    pairs = Counter(frozenset((one, other)) for one, other, _ in links)
    found += [f"links: {' and '.join(sorted(pair))} are linked twice; keep one" for pair, n in pairs.items() if n > 1]
    if largest_mu > LARGEST_MU:
        remedy = f"orders carry {LARGEST_MU:g} at most; lower one of them"
        found.append(f"strength: times the weights of a member it comes to {largest_mu:g}, {remedy}")
    return found


def named_in(links: Links) -> list[tuple[str, str]]:
    """(place, member) for each end of a link."""
    return [(f"links.{i}", member) for i, (one, other, _) in enumerate(links) for member in (one, other)]


def adjacency_of(ids: Sequence[str], links: Links) -> Float64:
    """The symmetric matrix of weights between members, zero on the diagonal; without links all weights are 1."""
    count = len(ids)
    if not links:
        return np.ones((count, count)) - np.eye(count)
    weights = {frozenset((one, other)): weight for one, other, weight in links}
    pairs = [[weights.get(frozenset((one, two)), 0.0) if one != two else 0.0 for two in ids] for one in ids]
    return np.array(pairs, dtype=np.float64).reshape(count, count)


def largest_degree(links: Links, members: int) -> float:
    """The largest sum of a member's weights, signs left out, among so many members."""
    degrees: dict[str, float] = defaultdict(float)
    for one, other, weight in links:
        degrees[one] += abs(weight)
        degrees[other] += abs(weight)
    return max(degrees.values()) if links else float(max(members - 1, 0))


def squared_distances(gram: Float64) -> Float64:
    """Between rows, from their inner products."""
    squares = np.diag(gram)
    return np.maximum(squares[:, np.newaxis] + squares - 2.0 * gram, 0.0)


def over_rows(members: Members, coefficients: Float64) -> Float64:
    """Coefficients over members as coefficients over all rows."""
    return np.pad(coefficients, ((0, 0), (0, len(members.products) - members.count)))
