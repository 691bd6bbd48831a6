"""Adaptive sharing: members whose steps agree share a block of the model, others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from common.methods.choice import Bounds
from common.methods.conflict import cosines
from common.methods.relation import Coupling, Float64, Members, Relation

Groups = list[list[int]]


@dataclass(frozen=True)
class AgreementRelation(Relation):
    """After clustered federated learning (Sattler et al. 2020): a group starts each round from its mean by examples.

    Groups are of members whose steps point the same way. All begin as one. A running mean of the cosines between the
    members' steps says who agrees: from round `patience` on, the group whose two halves agree least is split where
    their mean cosine is below -margin / sqrt(parameters), and the two groups that agree most are joined where theirs is
    above the same: one move per round and template, and in between nothing moves. Directions drawn at random have
    cosines of standard deviation 1 / sqrt(parameters), so `margin` counts in those. Halves come from average linkage.
    """

    name = "agreement"
    averages = True
    stands_losing_members = True
    margin: Annotated[float, Bounds(least=0)] = 2.5
    """a mean cosine so many standard errors below 0 splits a group, above 0 joins two"""
    decay: Annotated[float, Bounds(least=0, below=1)] = 0.5
    """share of the old cosines in their running mean"""
    patience: Annotated[int, Bounds(least=1, most=2**31 - 1)] = 2
    """rounds before the first move"""

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        state = members.state
        known: list[str] = list(state.get("holders", []))
        agreed = running_mean(members, known, state.get("agreement", []), self.decay)
        groups = groups_now(members.ids, known, state.get("groups", []))
        rounds = int(state.get("rounds", 0)) + 1
        note = ""
        if rounds >= self.patience:
            groups, note = _moved(groups, agreed, self.margin / np.sqrt(members.size), members.ids)
        remembered = {
            "holders": list(members.ids),
            "groups": [[members.ids[k] for k in group] for group in groups],
            "agreement": [[round(float(v), 6) for v in row] for row in agreed],
            "rounds": rounds,
        }
        return Coupling(start=group_means(members, groups), state=remembered, note=note)


def group_means(members: Members, groups: Groups) -> Float64:
    """Coefficients by which everybody starts from the mean of the group by examples, or the plain one without any."""
    start = np.zeros((members.count, len(members.products)))
    for group in groups:
        weights = members.examples[group]
        weights = weights if weights.any() else np.ones(len(group))
        start[np.ix_(group, group)] = weights / weights.sum()
    return start


def running_mean(members: Members, known: Sequence[str], before: Sequence[Sequence[float]], decay: float) -> Float64:
    """Cosines of this round's steps, mixed with those before where there are any; 0 for pairs never seen."""
    old = np.array(before, dtype=np.float64)
    now = cosines(members.steps)
    seen = members.examples > 0.0
    result = np.eye(members.count)
    places = {member: i for i, member in enumerate(known)}
    for k, one in enumerate(members.ids):
        for j, other in enumerate(members.ids):
            past = float(old[places[one], places[other]]) if one in places and other in places else None
            if k != j and seen[k] and seen[j]:
                result[k, j] = now[k, j] if past is None else decay * past + (1.0 - decay) * now[k, j]
            elif k != j:
                result[k, j] = 0.0 if past is None else past
    return result


def groups_now(ids: Sequence[str], known: Sequence[str], groups: Sequence[Sequence[str]]) -> Groups:
    """The groups as places in `holders`; newcomers join the largest."""
    found = [[ids.index(name) for name in group if name in ids] for group in groups]
    found = [group for group in found if group] or [[]]
    max(found, key=len).extend(k for k, member in enumerate(ids) if member not in known)
    return [sorted(group) for group in found]


def _moved(groups: Groups, agreed: Float64, margin: float, ids: Sequence[str]) -> tuple[Groups, str]:
    """The groups after at most one move, and what it was."""
    splits = [(between(agreed, *pair), i, pair) for i, g in enumerate(groups) if (pair := halves(g, agreed))]
    if splits:
        worst, i, pair = min(splits, key=lambda found: found[0])
        if worst < -margin:
            parts = " from ".join(named(half, ids) for half in pair)
            return [*groups[:i], *pair, *groups[i + 1 :]], f"split {parts}: mean cosine {worst:.4f}"
    joins = [(between(agreed, a, b), i, j) for i, a in enumerate(groups) for j, b in enumerate(groups) if i < j]
    if joins:
        best, i, j = max(joins, key=lambda found: found[0])
        if best > margin:
            rest = [group for k, group in enumerate(groups) if k not in (i, j)]
            text = f"joined {named(groups[i], ids)} with {named(groups[j], ids)}: mean cosine {best:.4f}"
            return [*rest, sorted(groups[i] + groups[j])], text
    return groups, ""


def halves(group: Sequence[int], agreed: Float64) -> tuple[list[int], list[int]] | None:
    """The last two clusters of average linkage within a group."""
    parts = [[k] for k in group]
    if len(parts) < 2:
        return None
    while len(parts) > 2:
        _, i, j = max(
            (between(agreed, a, b), -i, -j) for i, a in enumerate(parts) for j, b in enumerate(parts) if i < j
        )
        joined = sorted(parts[-i] + parts[-j])
        parts = [part for k, part in enumerate(parts) if k not in (-i, -j)] + [joined]
    return parts[0], parts[1]


def between(agreed: Float64, one: Sequence[int], other: Sequence[int]) -> float:
    """The mean cosine between the members of two groups."""
    return float(agreed[np.ix_(one, other)].mean())


def named(group: Sequence[int], ids: Sequence[str]) -> str:
    """A group for people."""
    return "{" + ", ".join(ids[k] for k in group) + "}"
