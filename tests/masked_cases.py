"""Rounds whose answers enter sums, on a table: members as values, and sums that are really masked and opened."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.bodies import RING, Evaluate, Train
from common.orders import Answer, Order, Reply, ReplyContent, ScopePayload, TaskResult, Update, UpdateHeader
from common.secure.counts import numbers_of
from common.secure.layout import COUNTS, CircleLayout, layout_of
from common.secure.letters import identity_key
from common.secure.masking import (
    Dealt,
    Gathering,
    Holding,
    MemberSecrets,
    Opening,
    Terms,
    announce,
    answer,
    confirm,
    deal,
    mask,
    receive,
)
from common.secure.ring import Cell, add, counts, quantise, quantise_counts
from common.secure.roster import roster_of
from common.secure.terms import SumOrder, SumTerms
from common.secure.unmasking import GivenUpError, unmask
from common.stages import (
    AnnouncedKeys,
    CircleShares,
    Confirm,
    Keys,
    OpenedShares,
    SealedShares,
    Shares,
    SignedSurvivors,
    Stage,
    Unmask,
    circle_session,
)
from server.core.effects import AddToSums, Combine, Effect, OpenSums, StoreSums
from server.core.events import Answered, OrderFailed, Outcome, SumsOpened, Tick
from server.core.phases import (
    MASKED,
    MASKED_PINNED,
    MASKED_PINNED_SCORING,
    MASKED_SCORING,
    PLAIN,
    SCORING,
)
from server.core.state import RunSettings
from server.core.step import step
from server.core.sum_facts import SumRules
from tests.core_cases import SCORES, Table, rules
from tests.secure_cases import identity_of

LARGEST = 0.5


def masked_rules(masks: bool = True, pinned: bool = False, least: int = 3, **changes: Any) -> RunSettings:
    """A run whose answers enter sums of at least so many."""
    terms = SumTerms(least, masks, LARGEST, 1000, pinned=pinned)
    clients = ("ann", "bob", "cy", "dee", "eve")
    identities = {client: identity_key(identity_of(client)) for client in clients} if pinned else {}
    protocol = (MASKED_PINNED if pinned else MASKED) if masks else PLAIN
    scoring = (MASKED_PINNED_SCORING if pinned else MASKED_SCORING) if masks else SCORING
    return rules(
        **{"sums": SumRules(terms, 60.0, identities), "protocol": protocol, "scoring": scoring, "num_rounds": 1}
        | changes
    )


def delta_of(client: str, scope: str, size: int) -> NDArray[np.float32]:
    """What a client's training changes, the same in each round."""
    generator = np.random.default_rng(abs(hash_of(f"{client} {scope}")))
    return generator.uniform(-LARGEST, LARGEST, size).astype(np.float32)


def hash_of(text: str) -> int:
    """A number that depends on a text only."""
    return int.from_bytes(text.encode()[:40], "big")


@dataclass
class Member:
    """A client of such rounds, as values."""

    name: str
    settings: RunSettings
    examples: dict[str, int]
    secrets: dict[str, MemberSecrets] = field(default_factory=dict)
    dealt: dict[str, Dealt] = field(default_factory=dict)
    holdings: dict[str, Holding] = field(default_factory=dict)
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    """Of its last answer, by circle: masked if the run masks."""
    plain: dict[str, dict[str, Cell]] = field(default_factory=dict)

    @property
    def identity(self) -> bytes | None:
        rules = self.settings.sums
        assert rules is not None
        return identity_of(self.name) if rules.terms.pinned else None

    def session(self, order: Order, attempt: int, scoring: bool, circle: str) -> str:
        return circle_session(self.settings.run_id, order.round, attempt, scoring, circle)

    def answer(self, order: Order) -> Answer:
        """What it says to any order of such a round."""
        if isinstance(order.body, Stage):
            return Reply(order.order_id, (), 0.0, self.staged(order, order.body))
        assert isinstance(order.body, Train | Evaluate) and order.body.sums is not None
        return self.summed(order, order.body.sums, isinstance(order.body, Evaluate))

    def staged(self, order: Order, body: Stage) -> ReplyContent:
        match body:
            case Keys():
                return self.keys(order, body)
            case Shares():
                return self.shares(order, body)
            case Confirm():
                assert self.identity is not None
                signatures = []
                for circle, survivors in body.survivors:
                    self.holdings[circle], signature = confirm(self.holdings[circle], survivors, self.identity)
                    signatures.append((circle, signature))
                return SignedSurvivors(tuple(signatures))
            case Unmask():
                return self.opened(body)
        raise AssertionError(body)

    def keys(self, order: Order, body: Keys) -> AnnouncedKeys:
        found = []
        self.secrets = {circle.name: MemberSecrets() for circle in body.circles}
        for circle in body.circles:
            session = self.session(order, body.attempt, body.is_scoring, circle.name)
            found.append((circle.name, announce(self.name, session, self.secrets[circle.name], self.identity)))
        return AnnouncedKeys(tuple(found))

    def shares(self, order: Order, body: Shares) -> SealedShares:
        rules = self.settings.sums
        assert rules is not None
        terms, letters = Terms.of(rules.terms, rules.identities), []
        for circle, announcements in body.rosters:
            session = self.session(order, body.attempt, body.is_scoring, circle)
            gathering = Gathering(terms, roster_of(session, announcements))
            self.dealt[circle] = deal(gathering, self.name, self.secrets[circle])
            letters.append((circle, tuple(sorted(self.dealt[circle].letters.items()))))
        return SealedShares(tuple(letters))

    def opened(self, body: Unmask) -> OpenedShares:
        found = []
        for part in body.parts:
            signatures = dict(part.signatures) if self.identity is not None else None
            holding, opening = answer(self.holdings[part.circle], part.survivors, signatures)
            self.holdings[part.circle] = holding
            seeds, masks = tuple(sorted(opening.seeds.items())), tuple(sorted(opening.mask_keys.items()))
            found.append(CircleShares(part.circle, seeds, masks))
        return OpenedShares(tuple(found))

    def results(self, order: Order) -> dict[str, TaskResult]:
        trains = isinstance(order.body, Train)
        rows = {task: self.examples[task] if trains else 0 for task in order.tasks}
        return {task: TaskResult(task, n, 0.5 if n else None, SCORES[task]) for task, n in rows.items()}

    def summed(self, order: Order, sums: SumOrder, scoring: bool) -> Update:
        results, scopes, payload = self.results(order), [], b""
        examples = {task: result.examples for task, result in results.items()}
        self.cells = {}
        for part in sums.parts:
            circle = part.circle
            layout = self.layout(circle)
            weights = [sums.weight(cell, examples) for cell in circle.cells]
            tasks = [task for task in self.settings.tasks if task.name in circle.tasks]
            numbers = [float(weight) for weight in weights]
            numbers += [n for name in circle.tasks for n in numbers_of(by_name(tasks)[name], results[name])]
            cells: dict[str, Cell] = {COUNTS: quantise_counts(numbers, circle.members)}
            for cell, weight, size in zip(circle.cells, weights, layout.sizes, strict=True):
                cells[cell.name] = quantise(delta_of(self.name, cell.scope, size), weight, circle.bits, LARGEST)
            self.plain[circle.name] = {name: values.copy() for name, values in cells.items()}
            if sums.terms.masks:
                holding = receive(self.dealt[circle.name], part.sharers, dict(part.letters))
                self.holdings[circle.name] = mask(holding, cells)
            self.cells[circle.name] = cells
            scopes.append(ScopePayload(circle.scope, order.version, layout.digest, layout.nbytes))
            payload += b"".join(values.tobytes() for values in cells.values())
        return Update(UpdateHeader(order.order_id, RING, tuple(scopes), "d" * 32, (), 0.0), payload)

    def layout(self, circle: Any) -> CircleLayout:
        sizes = {name: (digest, nbytes // 4) for name, (digest, nbytes) in self.settings.schemas.items()}
        return layout_of(circle, sizes, by_name(self.settings.tasks))


def by_name(tasks: Collection[Any]) -> dict[str, Any]:
    return {task.name: task for task in tasks}


class MaskedTable(Table):
    """A coordinator's core whose sums are made of what members hand in."""

    def __init__(self, settings: RunSettings, members: dict[str, dict[str, int]]) -> None:
        self.members = {name: Member(name, settings, examples) for name, examples in members.items()}
        self.sums: dict[str, dict[str, Cell]] = {}
        self.stored: dict[str, dict[str, dict[str, Cell]]] = {}
        self.opened: dict[str, dict[str, Cell]] = {}
        """What the sums of the last round came to, by circle."""
        super().__init__(settings)
        for name, examples in members.items():
            self.join(name, *examples, examples=1, validation=1)

    def apply(self, event: Any) -> list[Effect]:
        self.state, effects = step(self.settings, self.state, event)
        for effect in effects:  # grows, as in the writer
            outcome = self.carried_out(event.now, effect)
            if outcome is not None:
                self.state, more = step(self.settings, self.state, outcome)
                effects += more
        self.effects += effects
        return effects

    def carried_out(self, now: float, effect: Effect) -> Outcome | None:
        match effect:
            case AddToSums(order_id, layouts):
                member = next(m for m in self.members.values() if order_id.endswith(f"-{m.name}"))
                for layout in layouts:
                    for name, cell in member.cells[layout.circle.name].items():
                        of = self.sums.setdefault(layout.circle.name, {})
                        if name in of:
                            add(of[name], cell)
                        else:
                            of[name] = cell.copy()
            case StoreSums(name):
                self.stored, self.sums = {name: self.sums}, {}
            case OpenSums():
                return self.open(now, effect)
            case Combine():
                return self.outcome(now, effect)
        return None

    def open(self, now: float, asked: OpenSums) -> Outcome:
        found, given_up = {}, {}
        self.opened = self.stored[asked.name] if asked.name else self.sums
        self.sums = {}
        for closed in asked.circles:
            cells, name = self.opened[closed.layout.circle.name], closed.layout.circle.name
            if asked.terms.masks:
                gathering = Gathering(Terms.of(asked.terms), roster_of(closed.session, closed.announcements))
                shares = {m: Opening(dict(s.seeds), dict(s.mask_keys)) for m, s in closed.openings.items()}
                try:
                    unmask(gathering, closed.sharers, closed.survivors, shares, cells)
                except GivenUpError as error:
                    given_up[name] = str(error)
                    continue
            numbers = cells[COUNTS]
            assert numbers.dtype == np.uint64
            found[name] = tuple(counts(numbers.astype(np.uint64)).tolist())
        return SumsOpened(now, found, given_up)

    def answers(self, *clients: str) -> None:
        """These clients answer the orders that they have."""
        for name in clients:
            order = self.order(name)
            assert order is not None, f"{name} has no order in {self.phase}"
            self.apply(Answered(self.now, name, self.members[name].answer(order).head))

    def fail(self, *clients: str) -> None:
        """These clients cannot carry out their orders."""
        for name in clients:
            order = self.order(name)
            assert order is not None
            self.apply(OrderFailed(self.now, name, order.order_id, "gone"))

    def stage_over(self) -> None:
        """The deadline of the open phase passes."""
        assert self.state.open is not None
        self.now = self.state.open.deadline
        self.apply(Tick(self.now, frozenset(self.state.clients)))

    @property
    def phase(self) -> str:
        """The name of the open phase."""
        return self.state.open.phase.name if self.state.open is not None else self.state.phase.value

    def plain_sum(self, circle: str, cell: str, *clients: str) -> Cell:
        """What the sum of these must be."""
        first, *others = (self.members[name].plain[circle][cell] for name in clients)
        total = first.copy()
        for other in others:
            add(total, other)
        return total


FIVE = {
    "ann": {"sst2": 10, "qqp": 20},
    "bob": {"sst2": 30},
    "cy": {"sst2": 50, "qqp": 5},
    "dee": {"sst2": 7, "qqp": 9},
    "eve": {"qqp": 100},
}
ALL = tuple(FIVE)


def table_of(members: dict[str, dict[str, int]] | None = None, **changes: Any) -> MaskedTable:
    found = members or FIVE
    return MaskedTable(masked_rules(**{"min_clients": len(found)} | changes), found)


def trained(table: MaskedTable, *gone: str) -> MaskedTable:
    """Up to the order to unmask."""
    for _ in ("keys", "shares", "train"):
        table.answers(*(name for name in table.members if name not in gone))
    return table


def combined(table: MaskedTable) -> Combine:
    found = table.of(Combine)[-1]
    assert isinstance(found, Combine)
    return found
