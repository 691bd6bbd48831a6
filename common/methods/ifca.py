"""Several models, of which every client trains the one that fits its rows best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from common.methods.agreement import named
from common.methods.choice import Bounds
from common.methods.relation import CandidateScore, Coupling, Float64, Members, Relation


@dataclass(frozen=True)
class IFCARelation(Relation):
    """IFCA (Ghosh, Chung, Yin and Ramchandran, NeurIPS 2020): k models; a client trains that with its least loss.

    Every round begins with a phase in which clients score all models on their training rows; of equal losses the lower
    number counts. Updates of a model are averaged by examples, and a model that nobody chose stays as it is. A model
    is all that members have copies of: with plan `soft` the encoder and the heads. Model 0 begins with the first
    values, the others with w = m + sqrt(1 - spread^2) (first - m) + spread s z, where m and s are mean and deviation
    of a tensor's first values and z is drawn from the run's seed.
    """

    name = "ifca"
    probes = "train"
    whole_models = True
    averages = True
    stands_losing_members = True
    num_models: Annotated[int, Bounds(least=2, most=64)] = 2
    """how many there are"""
    spread: Annotated[float, Bounds(above=0, most=1)] = 1.0
    """how far models are apart at first; 1: drawn anew, less keeps some of a pretrained encoder"""

    def first_candidates(self) -> Mapping[str, float]:
        """See `Relation`."""
        return {name: self.spread if place else 0.0 for place, name in enumerate(self._names)}

    def offered(self, state: Mapping[str, Any], member: str) -> Sequence[str]:
        """See `Relation`."""
        return self._names

    def chosen(self, scores: Mapping[str, CandidateScore]) -> str:
        """See `Relation`."""
        return min(self._names, key=lambda name: scores[name].loss)

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        before = members.state.get("groups", [])
        groups = self._groups(members, before)
        rows = len(members.products)
        kept = members.count + len(members.duals)  # where the rows of candidates begin
        models = np.zeros((self.num_models, rows))
        for number, (name, group) in enumerate(zip(self._names, groups, strict=True)):
            weights = members.examples[group]
            if weights.any():
                models[number, group] = weights / weights.sum()
            else:
                models[number, kept + members.candidates.index(name)] = 1.0
        start = np.zeros((members.count, rows))
        for number, group in enumerate(groups):
            start[group] = models[number]
        found = [[members.ids[k] for k in group] for group in groups]
        told = "; ".join(f"model {n}: {named(g, members.ids)}" for n, g in enumerate(groups))
        return Coupling(
            start=start,
            candidates=dict(zip(self._names, models, strict=True)),
            newcomer=models[self._largest(members.examples, groups)],
            state={"holders": list(members.ids), "groups": found},
            note="" if found == before else told,
        )

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.num_models)))

    def _groups(self, members: Members, before: Sequence[Sequence[str]]) -> list[list[int]]:
        """Who is with which model: as chosen in this round, or else the last time."""
        last = {member: number for number, group in enumerate(before) for member in group}
        now = {m: self._names.index(self.chosen(found)) for m, found in members.scores.items()}
        groups: list[list[int]] = [[] for _ in self._names]
        for k, member in enumerate(members.ids):
            groups[now.get(member, last.get(member, 0))].append(k)
        return groups

    def _largest(self, examples: Float64, groups: Sequence[Sequence[int]]) -> int:
        """The model with the most examples in this round."""
        return int(np.argmax([examples[list(group)].sum() for group in groups]))
