"""A schedule of sharing: copies are one in the first rounds, then of a cluster, and in the end each member's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.methods.agreement import Groups, group_means, named
from common.methods.choice import Share
from common.methods.relation import Coupling, Members, Relation

ONE, CLUSTERS, ALONE = range(3)
"""The stages of a block."""

_ROUNDING = 1e-9
"""Shares of rounds are quotients of floats: 3 of 10 rounds are a share of 0.3."""


@dataclass(frozen=True)
class PartingRelation(Relation):
    """Share first, part later: a block starts each round from a mean by examples, until its members part.

    At first the mean is over all members, which is federated averaging. It is so after each of the first `together`
    share of the run's rounds; then over given clusters for another share, `grouped`; then every member goes on alone,
    from the last mean. Blocks that lie higher part sooner, by up to `stagger` (Yosinski et al. 2014: the higher a
    layer, the more it is a task's own). Nobody joins again, whatever becomes of the number of rounds.
    """

    name = "parting"
    averages = True
    stands_losing_members = True
    together: Share = 0.5
    """share of the rounds after which all are one: 1 is federated averaging, 0 is each alone"""
    grouped: Share = 0.0
    """share of the rounds that follow, after which the members of a cluster are one"""
    stagger: Share = 0.0
    """so much sooner the top block parts than the lowest one, a share of the rounds; the others evenly in between"""
    clusters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """members by name: {north: [a, b], south: [c, d]}"""

    def problems(self) -> list[str]:
        """See `Row`."""
        if self.grouped and not self.clusters:
            return ["clusters: needed where grouped is above 0; write e.g. {pairs: [qqp, stsb], sentences: [sst2]}"]
        if self.clusters and not self.grouped:
            return ["grouped: clusters are not read without it; write the share of the rounds that they last"]
        counts = Counter(member for group in self.clusters.values() for member in group)
        return [f"clusters: '{member}' is in two; keep one" for member, times in counts.items() if times > 1]

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        before = int(members.state.get("stage", ONE))
        stage = max(before, self._stage(members))
        groups = self._groups(stage, members.ids)
        note = f"parted: {', '.join(named(group, members.ids) for group in groups)}" if stage > before else ""
        remembered = {"stage": stage, "groups": [[members.ids[k] for k in group] for group in groups]}
        start = None if stage == ALONE else group_means(members, groups)
        return Coupling(start=start, state=remembered, note=note)

    def _stage(self, members: Members) -> int:
        """What the schedule says after this round."""
        passed = members.passed + self.stagger * members.height - _ROUNDING
        if passed <= self.together:
            return ONE
        return CLUSTERS if passed <= self.together + self.grouped else ALONE

    def _groups(self, stage: int, ids: tuple[str, ...]) -> Groups:
        if stage == ONE:
            return [list(range(len(ids)))]
        given = self.clusters.values() if stage == CLUSTERS else ()
        clusters = [[k for k, member in enumerate(ids) if member in cluster] for cluster in given]
        grouped = {k for cluster in clusters for k in cluster}
        return [*filter(None, clusters), *([k] for k in range(len(ids)) if k not in grouped)]

    def named_members(self) -> list[tuple[str, str]]:
        """See `Relation`."""
        return [(f"clusters.{name}", member) for name, group in self.clusters.items() for member in group]
