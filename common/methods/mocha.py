"""The relationship of MOCHA: a covariance of members, learned from what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Literal

import numpy as np

from common.methods import covariance
from common.methods.choice import Bounds, Strength
from common.methods.linkage import Groups, clusters_of, dendrogram
from common.methods.relation import LARGEST_MU, Coupling, Float64, Members, Relation
from common.wire.limits import MAX_CLIENTS


@dataclass(frozen=True)
class MochaRelation(Relation):
    """Learned relationship (MOCHA, Smith et al., NIPS 2017): (strength/2) tr(W Omega W'), Omega = (m Sigma)^-1.

    W are the members' moves from the first values. Sigma, of trace 1, is I/m at first, where Omega = I: `strength` is
    the weight of a move's own square, as if nobody were related. Sigma is learned of inner products in which every
    layer counts alike; it then acts by the majoriser of `precision`:
    mu_k = strength * sum_j |Omega_kj|, anchor_k = w_k - (strength / mu_k) sum_j Omega_kj (w_j - first).
    """

    name = "mocha"
    has_anchors = True
    sees_moves = True
    strength: Strength = 0.1
    """of the pull"""
    learn: Literal["probabilistic", "clustered", "none"] = "probabilistic"
    """how Sigma follows from the models: the root of W'W, or clusters of it; none: it stays I/m"""
    every: Annotated[int, Bounds(least=1, most=2**31 - 1)] = 1
    """rounds from one Sigma to the next"""
    floor: Annotated[float, Bounds(above=0, most=1)] = 1e-4
    """probabilistic: added to the eigenvalues of W'W, relative to their mean"""
    num_clusters: Annotated[int, Bounds(least=1, most=MAX_CLIENTS)] = 2
    """clustered: how many there are"""
    eta: Annotated[float, Bounds(above=0, most=1e6)] = 0.1
    """clustered: the smaller, the closer members stay to what their cluster has in common"""

    def problems(self) -> list[str]:
        """See `Row`."""
        if self.largest_mu(MAX_CLIENTS) <= LARGEST_MU:
            return []
        key = "eta" if self.learn == "clustered" else "floor"
        return [
            f"strength: with {key} as small a pull may exceed {LARGEST_MU:g}, the most an order carries; raise {key}"
        ]

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        assert members.moves is not None
        rounds = int(members.state.get("rounds", 0)) + 1
        known = members.state.get("members") == list(members.ids)
        if known and not self.learns_after(rounds):
            sigma = np.array(members.state["covariance"], dtype=np.float64)
        else:
            sigma = self._of(members.moves)
        clusters = self._clusters(members.moves, sigma)
        omega = covariance.precision(sigma)
        strengths = np.abs(omega).sum(axis=1)
        share = omega / strengths[:, np.newaxis]
        anchor = np.zeros((members.count, len(members.products)))
        anchor[:, : members.count] = np.eye(members.count) - share
        anchor[:, -1] = share.sum(axis=1)  # of the first values
        named = sorted(sorted(members.ids[k] for k in group) for group in clusters)
        state = {
            "members": list(members.ids),
            "covariance": sigma.tolist(),
            "groups": named,
            "moved": members.lengths.tolist(),
            "rounds": rounds,
        }
        found = "; ".join(", ".join(group) for group in named)
        changed = self.learns and named != members.state.get("groups")
        note = f"clusters of models: {found}" if changed else ""
        return Coupling(anchor=anchor, mu=self.strength * strengths, state=state, note=note)

    def _of(self, gram: Float64) -> Float64:
        if self.learn == "none":
            return covariance.independent(len(gram))
        moved = np.diag(gram) > 0.0
        if moved.any() and not moved.all():
            gram = gram + np.diag(np.where(moved, 0.0, np.diag(gram)[moved].mean()))
        if self.learn == "clustered":
            return covariance.clustered(gram, self.num_clusters, self.eta)
        return covariance.learned(gram, self.floor)

    def _clusters(self, gram: Float64, sigma: Float64) -> Groups:
        """Those that were asked for, else those that correlations of models show."""
        if self.learn == "clustered":
            levels = dendrogram(covariance.correlations(sigma))
            return levels[max(len(levels) - self.num_clusters, 0)].groups
        return clusters_of(covariance.correlations(gram))

    def covariance(self, ids: tuple[str, ...], gram: Float64 | None) -> Float64 | None:
        """I/m before there are models. One that is zero counts as of the others' mean square, related to nobody."""
        return covariance.independent(len(ids)) if gram is None else self._of(gram)

    @property
    def learns(self) -> bool:
        """See `Relation`."""
        return self.learn != "none"

    def learns_after(self, rounds: int) -> bool:
        """See `Relation`."""
        return self.learns and rounds % self.every == 0

    def largest_mu(self, members: int) -> float:
        """See `Relation`; rows of Omega sum to sqrt(members) times its largest eigenvalue at most."""
        if self.learn == "none":
            return self.strength
        counts = {members, min(members, self.num_clusters)} if self.learn == "clustered" else {members}
        return self.strength * max(sqrt(count) * self._largest_eigenvalue(count) for count in counts)

    def _largest_eigenvalue(self, members: int) -> float:
        """Of Omega, from the smallest one that Sigma can have."""
        if self.learn == "clustered":
            return 1.0 + min(1.0, self.num_clusters / max(members, 1)) / self.eta
        return sqrt((1.0 + self.floor) / self.floor)
