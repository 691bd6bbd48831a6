"""The relationship of MOCHA: a covariance of members, learned from what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from common.methods import covariance
from common.methods.choice import Bounds, Strength
from common.methods.relation import Float64, Relation
from common.wire.limits import MAX_CLIENTS


@dataclass(frozen=True)
class MochaRelation(Relation):
    """Learned relationship (MOCHA, Smith et al., NIPS 2017): (strength/2) tr(W Omega W'), Omega = (m Sigma)^-1.

    Sigma, of trace 1, is I/m at first. The factor m makes Omega = I of it, so that `strength` is the weight of a
    model's own square, as if nobody were related.
    """

    name = "mocha"
    strength: Strength = 0.1
    """of the penalty"""
    learn: Literal["probabilistic", "clustered", "none"] = "probabilistic"
    """how Sigma follows from the models: root of W'W, or a number of clusters; none: it stays I/m"""
    every: Annotated[int, Bounds(least=1, most=2**31 - 1)] = 1
    """rounds from one Sigma to the next"""
    floor: Annotated[float, Bounds(above=0, most=1)] = 1e-4
    """probabilistic: added to the eigenvalues of W'W, relative to their mean"""
    num_clusters: Annotated[int, Bounds(least=1, most=MAX_CLIENTS)] = 2
    """clustered: how many"""
    eta: Annotated[float, Bounds(above=0, most=1e6)] = 0.1
    """clustered: the smaller, the closer members stay to what their cluster has in common"""

    def covariance(self, ids: tuple[str, ...], gram: Float64 | None) -> Float64 | None:
        """See `Relation`; I/m without `gram`."""
        if gram is None or self.learn == "none":
            return covariance.independent(len(ids))
        if self.learn == "clustered":
            return covariance.clustered(gram, self.num_clusters, self.eta)
        return covariance.learned(gram, self.floor)

    def learns_after(self, rounds: int) -> bool:
        """See `Relation`."""
        return self.learn != "none" and rounds % self.every == 0
