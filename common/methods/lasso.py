"""Graph l1, or network lasso: neighbours become equal in the limit, where their tasks allow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.methods.choice import Rate, Strength
from common.methods.linear import Links, adjacency_of, largest_degree, link_problems, named_in
from common.methods.relation import Coupling, Float64, Members, Relation
from common.wire.limits import MAX_CLIENTS


class _Edge(NamedTuple):
    one: int
    other: int
    weight: float


@dataclass(frozen=True)
class LassoRelation(Relation):
    """Network lasso (Hallac, Leskovec and Boyd, KDD 2015, section 3): strength * sum over pairs A_kj ||w_k - w_j||_2.

    By ADMM, every edge has copies z_kj, z_jk of its ends and scaled duals u_kj, u_jk. With a = w_k + u_kj and
    b = w_j + u_jk,

        theta = max(1 - strength A_kj / (penalty ||a - b||), 1/2),
        z_kj = theta a + (1 - theta) b,  z_jk = (1 - theta) a + theta b,  u += w - z,

    and member k minimises F_k + (penalty/2) sum_j ||w_k - z_kj + u_kj||^2: its anchor is the mean of z_kj - u_kj over
    its neighbours, its mu penalty * number of neighbours. theta = 1/2 makes both copies of an edge one, which `state`
    lists as fused; the members at its ends are only pulled there, and become equal as rounds go on.
    """

    name = "graph_l1"
    has_anchors = True
    strength: Strength = 0.1
    """of the pull"""
    links: Links = ()
    """pairs of members with weights, [[a, b, 1.0], ...]; none: all are linked by 1"""
    penalty: Rate = 1.0
    """of ADMM"""

    def problems(self) -> list[str]:
        """See `Row`."""
        return link_problems(self.links, self.largest_mu(MAX_CLIENTS), attract=True)

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        adjacency = adjacency_of(members.ids, self.links)
        edges = [_Edge(k, j, adjacency[k, j]) for k, j in np.argwhere(np.triu(adjacency) > 0.0).tolist()]
        rows, old = np.eye(len(members.products)), _dual_rows(members)
        anchor, degrees = np.zeros((members.count, len(rows))), np.zeros(members.count)
        duals: dict[tuple[str, str], Float64] = {}
        fused = []
        for k, j, weight in edges:
            ends = (members.ids[k], members.ids[j]), (members.ids[j], members.ids[k])
            before = [old[end] if end in old else np.zeros(len(rows)) for end in ends]
            a, b = rows[k] + before[0], rows[j] + before[1]
            gap = float(np.sqrt(max((a - b) @ members.products @ (a - b), 0.0)))
            theta = max(1.0 - self.strength * weight / (self.penalty * gap), 0.5) if gap > 0.0 else 0.5
            copies = theta * a + (1.0 - theta) * b, (1.0 - theta) * a + theta * b
            for member, end, sum_, copy in zip((k, j), ends, (a, b), copies, strict=True):
                duals[end] = sum_ - copy
                anchor[member] += copy - duals[end]
                degrees[member] += 1.0
            if theta == 0.5:
                fused.append(sorted(ends[0]))
        alone = degrees == 0.0
        anchor[~alone] /= degrees[~alone, np.newaxis]
        anchor[alone] = rows[: members.count][alone]
        changed = fused != members.state.get("fused", [])
        note = f"{len(fused)} of {len(edges)} edges are fused" if changed else ""
        return Coupling(anchor=anchor, mu=self.penalty * degrees, duals=duals, state={"fused": fused}, note=note)

    def largest_mu(self, members: int) -> float:
        """See `Relation`."""
        return self.penalty * largest_degree(tuple((one, other, 1.0) for one, other, _ in self.links), members)

    def named_members(self) -> list[tuple[str, str]]:
        """See `Relation`."""
        return named_in(self.links)


def _dual_rows(members: Members) -> Mapping[tuple[str, str], Float64]:
    rows = np.eye(len(members.products))
    return {end: rows[members.count + i] for i, end in enumerate(members.duals)}
