"""Grouping by effect: members share a block of the model as long as their own validation rows say that it helps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite, sqrt
from typing import Annotated, Any, Literal

import numpy as np

from common.methods.agreement import Groups, between, group_means, groups_now, halves, named, running_mean
from common.methods.choice import Bounds
from common.methods.relation import CandidateScore, Coupling, Float64, Members, Relation

_SURE = 1e-12
"""The least relative standard error: a gain without any is one of equal rows."""


@dataclass(frozen=True)
class _Move:
    """A change of groups that members compare. They are named, since others may have come or gone since."""

    kind: Literal["part", "leave", "join"]
    sides: tuple[tuple[str, ...], ...]
    """The parts of a group that may part, or groups that may join."""
    names: tuple[str, ...]
    """The candidate that each side compares; nothing for a side that is not asked."""
    sure: int = 0
    """In so many comparisons in a row before it was worth while."""

    @property
    def joins(self) -> bool:
        return self.kind == "join"

    @property
    def whole(self) -> frozenset[str]:
        return frozenset(name for side in self.sides for name in side)

    @property
    def key(self) -> tuple[str, frozenset[tuple[str, ...]]]:
        """The same for the same move in another comparison."""
        return self.kind, frozenset(self.sides)


@dataclass(frozen=True)
class _Measured:
    """A gain relative to the loss, over members by the inverse squares of their standard errors."""

    gain: float = 0.0
    error: float = inf

    @property
    def certainty(self) -> float:
        """The gain in standard errors."""
        return self.gain / self.error

    def __str__(self) -> str:
        return f"{100.0 * self.gain:+.2f} % of the loss ({self.certainty:.1f} standard errors)"


@dataclass(frozen=True)
class EffectRelation(Relation):
    """A group starts each round from its mean by examples; who is in it is decided by measured gains.

    After the look-ahead affinities of TAG (Fifty et al., NeurIPS 2021) and MAS (Li et al. 2024), with a plain rule for
    decisions. After every `every` rounds members compare on their validation rows what they got, their group's mean,
    with what they would have got: their own copy, the mean of all, half of the group, the group joined with another.
    Halves are those of average linkage of the cosines of steps; of pairs of groups, those come first that failed least
    often, then those whose steps agree most. A gain is the mean fall of the loss, in shares of it, with its standard
    error over rows; that of several members is their mean by inverse variances. A move is worth while where a part or
    a member that would leave has a gain above `margin` standard errors, or each of the groups that would join. It is
    made when that was so in `confirm` comparisons in a row; of moves of one group the surest is made, and single
    members wait for halves. In between nothing moves.
    """

    name = "effect"
    probes = "validation"
    averages = True
    stands_losing_members = True
    every: Annotated[int, Bounds(least=1, most=2**31 - 1)] = 2
    """rounds from one comparison to the next"""
    margin: Annotated[float, Bounds(least=0)] = 2.0
    """standard errors by which a gain must be above 0"""
    confirm: Annotated[int, Bounds(least=1, most=100)] = 2
    """comparisons in a row in which a move must be worth while"""
    begin: Literal["together", "apart"] = "together"
    """whether all members are one group at first, or each by itself"""
    decay: Annotated[float, Bounds(least=0, below=1)] = 0.5
    """share of the old cosines in their running mean"""

    def offered(self, state: Mapping[str, Any], member: str) -> Sequence[str]:
        """See `Relation`."""
        names: Sequence[str] = state.get("offers", {}).get(member, ())
        return names

    def __call__(self, members: Members) -> Coupling:
        """See `Relation`."""
        state, ids = members.state, members.ids
        agreed = running_mean(members, state.get("holders", []), state.get("agreement", []), self.decay)
        moves = [_Move(k, tuple(map(tuple, sides)), tuple(names), n) for k, sides, names, n in state.get("moves", [])]
        decision = _Decision(ids, members.scores, self.margin, self.confirm)
        groups, pending, notes = decision.made(self._groups(members), moves)
        failed = _failed(state.get("failed", {}), moves, pending) if members.scores else state.get("failed", {})
        rounds = int(state.get("rounds", 0)) + 1
        offer = _Offer(members, groups, {move.key: move for move in pending})
        if rounds % self.every == 0:
            offer.put(agreed, failed)
        remembered = {
            "holders": list(ids),
            "groups": [[ids[k] for k in group] for group in groups],
            "agreement": [[round(float(v), 6) for v in row] for row in agreed],
            "rounds": rounds,
            "offers": offer.offers,
            "moves": [[move.kind, move.sides, move.names, move.sure] for move in offer.moves or pending],
            "failed": failed,
        }
        start = group_means(members, groups)
        return Coupling(start=start, candidates=offer.candidates, state=remembered, note="; ".join(notes))

    def _groups(self, members: Members) -> Groups:
        """As they were; newcomers join the largest, or are by themselves where all began apart."""
        known = members.state.get("holders", [])
        if self.begin == "together":
            return groups_now(members.ids, known, members.state.get("groups", []))
        alone = [[member] for member in members.ids if member not in known]
        groups = [*members.state.get("groups", []), *alone]
        return groups_now(members.ids, members.ids, groups)


def _pair(sides: Iterable[Iterable[str]]) -> str:
    """How groups stand in the record of what failed."""
    return "|".join(sorted("+".join(side) for side in sides))


def _failed(before: Mapping[str, int], moves: Iterable[_Move], pending: Iterable[_Move]) -> dict[str, int]:
    """How often groups were asked to join and were not sure."""
    lasting = {move.key for move in pending}
    asked = [_pair(move.sides) for move in moves if move.joins and move.key not in lasting]
    return {pair: before.get(pair, 0) + asked.count(pair) for pair in sorted({*before, *asked})}


@dataclass
class _Offer:
    """What members compare before the next round; nothing at first."""

    members: Members
    groups: Groups
    pending: Mapping[object, _Move]
    """Moves that were worth while the last time: they are put to members again."""
    offers: dict[str, list[str]] = field(default_factory=dict)
    """By member, the names of its candidates."""
    candidates: dict[str, Float64] = field(default_factory=dict)
    moves: list[_Move] = field(default_factory=list)

    def put(self, agreed: Float64, failed: Mapping[str, int]) -> None:
        """Offer what may be better than groups as they are."""
        for number, group in enumerate(self.groups):
            if (found := self._parts(group, agreed)) is not None:
                self._move("part", found, [f"part-{number}-{side}" for side in (0, 1)])
            for k in group if len(group) > 2 else ():
                self._move("leave", [[k], [j for j in group if j != k]], [f"own-{self.members.ids[k]}", ""])
        for i, j in self._partners(agreed, failed):
            self._move("join", [self.groups[i], self.groups[j]], [f"join-{i}-{j}"] * 2)
        if len(self.groups) > 2:
            self._move("join", self.groups, ["all"] * len(self.groups))

    def _named(self, sides: Iterable[Iterable[int]]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(self.members.ids[k] for k in side) for side in sides)

    def _move(self, kind: Literal["part", "leave", "join"], sides: Groups, names: Sequence[str]) -> None:
        move = _Move(kind, self._named(sides), tuple(names))
        before = self.pending.get(move.key)
        self.moves.append(move if before is None else replace(move, sure=before.sure))
        for name, side in zip(names, sides, strict=True):
            if name:
                of = sorted(k for each in sides for k in each) if kind == "join" else side
                self.candidates[name] = group_means(self.members, [of])[of[0]]
                for k in side:
                    self.offers.setdefault(self.members.ids[k], []).append(name)

    def _parts(self, group: list[int], agreed: Float64) -> Groups | None:
        """The halves of a group, those of before where they were worth while."""
        for move in self.pending.values():
            sides = [[k for k in group if self.members.ids[k] in side] for side in move.sides]
            if move.kind == "part" and all(sides) and self._named(sides) == move.sides:
                return sides if sum(map(len, sides)) == len(group) else None
        found = halves(group, agreed)
        return None if found is None else [*found]

    def _partners(self, agreed: Float64, failed: Mapping[str, int]) -> list[tuple[int, int]]:
        """Pairs of groups, each in one pair at most."""

        def order(pair: tuple[int, int]) -> tuple[int, int, float]:
            sides = [self.groups[place] for place in pair]
            named_sides = self._named(sides)
            before = self.pending.get(("join", frozenset(named_sides)))
            return (
                -before.sure if before is not None else 0,
                failed.get(_pair(named_sides), 0),
                -between(agreed, *sides),
            )

        found: list[tuple[int, int]] = []
        for pair in sorted(((i, j) for j in range(len(self.groups)) for i in range(j)), key=order):
            if not any({*pair} & {*other} for other in found):
                found.append(pair)
        return sorted(found)


@dataclass(frozen=True)
class _Decision:
    """What follows from scores."""

    ids: Sequence[str]
    scores: Mapping[str, Mapping[str, CandidateScore]]
    margin: float
    confirm: int

    def made(self, groups: Groups, moves: Sequence[_Move]) -> tuple[Groups, list[_Move], list[str]]:
        """The groups after the moves that are made, those that have to be confirmed, and what was done."""
        if not self.scores:
            return groups, list(moves), []
        worth = []
        for move in moves:
            gains = [self._gain(side, name) for side, name in zip(move.sides, move.names, strict=True) if name]
            sure = [gain.certainty for gain in gains]
            least = min(sure) if move.joins else max(sure)
            if least > self.margin:
                worth.append((least, replace(move, sure=move.sure + 1), gains))
        pending: list[_Move] = []
        notes: list[str] = []
        for _, move, gains in sorted(worth, key=lambda found: (found[1].kind == "leave", -found[0])):
            sides = [sorted(self.ids.index(name) for name in side if name in self.ids) for side in move.sides]
            whole = [sorted(k for side in sides for k in side)]
            old, new = (sides, whole) if move.joins else (whole, sides)
            if not all(sides) or any(group not in groups for group in old):
                continue  # its groups are others by now
            waits = move.kind == "leave" and any(
                other.kind == "part" and other.whole == move.whole for other in pending
            )
            if waits or move.sure < self.confirm:
                pending.append(move)
                continue
            groups = [*(group for group in groups if group not in old), *new]
            notes.append(self._told(move, gains))
        return groups, pending, notes

    def _told(self, move: _Move, gains: Sequence[_Measured]) -> str:
        parts = [named(range(len(side)), side) for side in move.sides]
        said = ", ".join(map(str, gains))
        return f"{' joined with ' if move.joins else ' parted from '}".join(parts) + f": {said}"

    def _gain(self, side: Iterable[str], name: str) -> _Measured:
        """Of a side with its candidate; members without two rows, or without a loss, have no say."""
        weights, gains = [], []
        for member in side:
            said = self.scores.get(member, {}).get(name)
            before = said.loss + said.gain if said is not None else 0.0
            if said is not None and before > 0.0 and isfinite(said.error) and (said.gain or said.error):
                weights.append(max(said.error / before, _SURE) ** -2)
                gains.append(said.gain / before)
        if not weights:
            return _Measured()
        total = float(np.sum(weights))
        return _Measured(float(np.dot(weights, gains)) / total, 1.0 / sqrt(total))
