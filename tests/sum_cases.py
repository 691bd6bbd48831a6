"""Clients in masked sums without a network: their stores on a disk, and a coordinator of a few lines."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.jobs.summing import cells_in, layouts_of, summed, trained_cells
from client.jobs.synchronizer import PayloadMemory
from client.masking import SumMember
from client.state.pins import Pins
from client.state.secrets import SecretStore
from common.bodies import RING, Evaluate, ScopeVersion, Train
from common.orders import Order, Reply, TaskResult, Update
from common.parameters.schema import ParameterSchema
from common.parameters.vector import Vector
from common.secure.layout import CircleLayout
from common.secure.masking import Gathering, Opening, Terms
from common.secure.ring import Cell, add, fraction_bits
from common.secure.roster import roster_of
from common.secure.terms import Announcement, Circle, SumCell, SumOrder, SumPart, SumTerms
from common.secure.unmasking import unmask
from common.stages import (
    AnnouncedKeys,
    Confirm,
    Keys,
    OpenedShares,
    SealedShares,
    Shares,
    SignedSurvivors,
    Unmask,
    UnmaskPart,
    circle_session,
)
from tests.core_cases import SETTINGS

RUN = "run"
TERMS = SumTerms(largest_change=0.5, largest_weight=100)
PINNED = replace(TERMS, pinned=True)
SCHEMAS = {"shared": ParameterSchema.of({"w": (5, 8)}), "task/sst2": ParameterSchema.of({"h": (7,)})}
FOUR = ("ann", "bob", "cy", "dee")


def circles_of(members: int = 4, terms: SumTerms = TERMS) -> tuple[Circle, ...]:
    """Two circles: one of the shared scope, one of a head."""
    bits = fraction_bits(members, terms.largest_weight, terms.largest_change)
    cells = ((SumCell("shared"),), (SumCell("task/sst2"),))
    return tuple(Circle(str(number), found, (), members, bits) for number, found in enumerate(cells))


def deltas_of(member: str, scale: float = 0.3) -> dict[str, Vector]:
    """A member's changes, float32."""
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(member.encode(), "big")))
    return {name: rng.uniform(-scale, scale, schema.size).astype(np.float32) for name, schema in SCHEMAS.items()}


def stage_order(kind: str, member: str, body: Keys | Shares | Confirm | Unmask, number: int = 7) -> Order:
    return Order(f"{kind}-{number}.{body.attempt}-{member}", number, number - 1, (), 60.0, body)


def keys_order(member: str, number: int = 7, attempt: int = 1, scoring: bool = False, terms: SumTerms = TERMS) -> Order:
    return stage_order("keys", member, Keys(attempt, scoring, terms, circles_of(terms=terms)), number)


def sum_order(member: str, sums: SumOrder, number: int = 7, scoring: bool = False) -> Order:
    body = Evaluate(SETTINGS, 1, sums=sums) if scoring else Train(SETTINGS, 1, RING, sums=sums)
    scopes = tuple(ScopeVersion(scope, 3) for scope in SCHEMAS)
    name = f"{'evaluate' if scoring else 'train'}-{number}.{sums.attempt}-{member}"
    return Order(name, number, number - 1, scopes, 60.0, body, ("sst2",))


def plain(order: Order, member: str, rows: int = 10, scale: float = 0.3) -> tuple[Update, tuple[CircleLayout, ...]]:
    """A member's answer before it is masked."""
    sums = order.body.sums if isinstance(order.body, Train | Evaluate) else None
    assert sums is not None
    layouts = layouts_of(order, sums, SCHEMAS, [])
    results = (TaskResult("sst2", rows, 0.5, None),)
    deltas = {name: d for name, d in deltas_of(member, scale).items() if name in trained_cells(sums, results)}
    return summed(order, layouts, results, deltas, [], PayloadMemory()), layouts


def cells(update: Update, layouts: Sequence[CircleLayout]) -> list[dict[str, Cell]]:
    """Copies of an update's cells."""
    return cells_in(np.frombuffer(bytearray(update.payload), dtype=np.uint8), layouts)


class Crowd:
    """Clients with their folders; every call opens their stores anew, as after a restart."""

    def __init__(self, folder: Path, names: Sequence[str] = FOUR, terms: SumTerms = TERMS) -> None:
        self.folder, self.names, self.terms = folder, names, terms
        self.members: Path | None = None
        if terms.pinned:
            folder.mkdir(parents=True, exist_ok=True)
            self.members = folder / "members"
            lines = [f"{name} {Pins(folder / name, name).public_key.hex()}  # {name}'s house" for name in names]
            self.members.write_text("\n".join(["# id key", "", *lines]))
        self.announced: dict[str, dict[str, Announcement]] = {}
        self.letters: dict[str, dict[str, dict[str, bytes]]] = {}
        self.updates: dict[str, tuple[Update, Update, tuple[CircleLayout, ...]]] = {}

    def store(self, name: str) -> SecretStore:
        return SecretStore(self.folder / name / RUN)

    def member(self, name: str) -> SumMember:
        return SumMember(RUN, name, self.store(name), Pins(self.folder / name, name, self.members))

    def answer(self, name: str, order: Order) -> Reply:
        return self.member(name).answer(order)

    def keys(self) -> Crowd:
        for name in self.names:
            content = self.answer(name, keys_order(name, terms=self.terms)).content
            assert isinstance(content, AnnouncedKeys)
            self.announced[name] = dict(content.circles)
        return self

    def rosters(self) -> tuple[tuple[str, tuple[Announcement, ...]], ...]:
        return tuple(
            (circle.name, tuple(self.announced[name][circle.name] for name in sorted(self.announced)))
            for circle in circles_of()
        )

    def shares_order(self, name: str) -> Order:
        return stage_order("shares", name, Shares(1, False, self.rosters()))

    def shares(self) -> Crowd:
        for name in self.announced:
            content = self.answer(name, self.shares_order(name)).content
            assert isinstance(content, SealedShares)
            self.letters[name] = {circle: dict(found) for circle, found in content.letters}
        return self

    def train_order(self, name: str) -> Order:
        sharers = tuple(sorted(self.letters))
        parts = tuple(
            SumPart(circle, sharers, tuple((s, self.letters[s][circle.name][name]) for s in sharers if s != name))
            for circle in circles_of(terms=self.terms)
        )
        return sum_order(name, SumOrder(self.terms, 1, parts))

    def train(self, name: str) -> Update:
        """What a member hands in."""
        order, member = self.train_order(name), self.member(name)
        assert isinstance(order.body, Train) and order.body.sums is not None
        covering = member.begin(order, order.body.sums)
        assert covering is not None
        before, layouts = plain(order, name)
        kept = Update(before.header, bytes(before.payload))
        member.mark(covering)
        after = member.mask(covering, before, layouts)
        self.updates[name] = kept, after, layouts
        return after

    def trained(self, names: Collection[str] = ()) -> Crowd:
        for name in names or self.names:
            self.train(name)
        return self

    def confirm_order(self, name: str, survivors: Sequence[str]) -> Order:
        found = tuple((circle.name, tuple(sorted(survivors))) for circle in circles_of())
        return stage_order("confirm", name, Confirm(1, False, found))

    def unmask_order(
        self, name: str, survivors: Sequence[str], signed: Mapping[str, Mapping[str, bytes]] | None = None
    ) -> Order:
        parts = tuple(
            UnmaskPart(
                circle.name,
                tuple(sorted(survivors)),
                tuple((other, found[circle.name]) for other, found in sorted((signed or {}).items())),
            )
            for circle in circles_of()
        )
        return stage_order("unmask", name, Unmask(1, False, parts))

    def sign(self, survivors: Sequence[str]) -> dict[str, dict[str, bytes]]:
        found = {}
        for name in survivors:
            content = self.answer(name, self.confirm_order(name, survivors)).content
            assert isinstance(content, SignedSurvivors)
            found[name] = dict(content.signatures)
        return found

    def open(self, survivors: Sequence[str]) -> list[tuple[dict[str, Cell], dict[str, Cell]]]:
        """The sums of each circle as the coordinator opens them, and those of the plain payloads."""
        signed = self.sign(survivors) if self.terms.pinned else None
        openings: dict[str, dict[str, Opening]] = {circle.name: {} for circle in circles_of()}
        for name in survivors:
            content = self.answer(name, self.unmask_order(name, survivors, signed)).content
            assert isinstance(content, OpenedShares)
            for part in content.circles:
                openings[part.circle][name] = Opening(dict(part.seeds), dict(part.mask_keys))
        found = []
        for number, (circle, roster) in enumerate(self.rosters()):
            session = circle_session(RUN, 7, 1, False, circle)
            gathering = Gathering(Terms.of(self.terms), roster_of(session, roster))
            unmasked, wanted = (self.total(survivors, number, which) for which in (1, 0))
            assert unmask(gathering, self.letters, survivors, openings[circle], unmasked) == frozenset()
            found.append((unmasked, wanted))
        return found

    def total(self, survivors: Sequence[str], number: int, which: int) -> dict[str, Cell]:
        parts = [cells((self.updates[n][0], self.updates[n][1])[which], self.updates[n][2])[number] for n in survivors]
        for part in parts[1:]:
            for name, cell in part.items():
                add(parts[0][name], cell)
        return parts[0]
