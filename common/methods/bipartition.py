"""Clustered federated learning as published: groups at rest whose members still pull apart are split in two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from common.methods.agreement import Groups, group_means, groups_now, named
from common.methods.choice import Bounds
from common.methods.conflict import cosines
from common.methods.linkage import dendrogram
from common.methods.relation import Coupling, Float64, Members, Relation


@dataclass(frozen=True)
class BipartitionRelation(Relation):
    """CFL (Sattler, Mueller and Samek, IEEE TNNLS 2020): a group starts each round from its mean by examples.

    All begin as one. After `patience` rounds a group is split when its mean step, by examples, is shorter than `eps1`
    while a member's step is longer than `eps2`: then the group is at rest, and its members are not. The halves are the
    last two clusters of complete linkage on cosines of steps, which makes the largest cosine between the two small.
    Groups never join again. A round that did not reach all members of a group does not split it.
    """

    name = "bipartition"
    averages = True
    stands_losing_members = True
    eps1: Annotated[float, Bounds(above=0)] = 0.4
    """a mean step below this length is at rest"""
    eps2: Annotated[float, Bounds(above=0)] = 1.6
    """a member's step above this length pulls"""
    patience: Annotated[int, Bounds(least=0, most=2**31 - 1)] = 20
    """rounds before the first split"""
    min_members: Annotated[int, Bounds(least=2, most=2**31 - 1)] = 3
    """smaller groups are not split"""

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        state = members.state
        groups = groups_now(members.ids, state.get("holders", []), state.get("groups", []))
        rounds = int(state.get("rounds", 0)) + 1
        notes: list[str] = []
        if rounds > self.patience:
            parts = [self._parted(group, members, notes, rounds == self.patience + 1) for group in groups]
            groups = [part for found in parts for part in found]
        remembered = {
            "holders": list(members.ids),
            "groups": [[members.ids[k] for k in group] for group in groups],
            "rounds": rounds,
        }
        return Coupling(start=group_means(members, groups), state=remembered, note="; ".join(notes))

    def _parted(self, group: list[int], members: Members, notes: list[str], first: bool) -> Groups:
        """A group, or its halves; for the first time people are told how long steps are in any case."""
        steps, weights = members.steps[np.ix_(group, group)], members.examples[group]
        if len(group) < self.min_members or not weights.all():
            return [group]
        mean, longest = _lengths(steps, weights / weights.sum())
        lengths = f"mean step {mean:.4g}, longest {longest:.4g}"
        if mean >= self.eps1 or longest <= self.eps2:
            notes.extend([f"{named(group, members.ids)} stay together: {lengths}"] if first else [])
            return [group]
        halves = [sorted(group[k] for k in part) for part in dendrogram(cosines(steps), complete=True)[-2].groups]
        parts = " from ".join(named(half, members.ids) for half in halves)
        notes.append(f"split {parts}: {lengths}")
        return halves


def _lengths(steps: Float64, weights: Float64) -> tuple[float, float]:
    """Of the mean step and of the longest one, from inner products."""
    return float(np.sqrt(max(float(weights @ steps @ weights), 0.0))), float(np.sqrt(np.diag(steps).max()))
