"""A round under way: its orders, and what came back. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from common.bodies import DENSE_FLOAT32, ScopeVersion
from common.orders import ReplyContent, TaskResult
from server.core.phases import RoundPhase
from server.core.sum_facts import Circles, RoundSums, Stand


class OrderState(StrEnum):
    """How an order stands. Only ISSUED can change."""

    ISSUED = "issued"
    ACCEPTED = "accepted"
    FAILED = "failed"
    EXPIRED = "expired"


@dataclass(frozen=True)
class OpenOrder:
    """An order of the open round and, once accepted, what came back.

    `codec` is asked of its update, of whose payload there are `nbytes`, of a probe those of candidates that were
    offered; `weights` are integers per scope. The scopes in `untrained` are received and not trained, so the update
    does not hold them.
    """

    order_id: str
    client_id: str
    tasks: tuple[str, ...]
    scopes: tuple[ScopeVersion, ...]
    state: OrderState = OrderState.ISSUED
    digest: str = ""
    results: tuple[TaskResult, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    nbytes: int = 0
    seconds: float = 0.0
    note: str = ""
    codec: str = DENSE_FLOAT32
    untrained: frozenset[str] = frozenset()
    content: ReplyContent | None = None
    """Of a reply that brought more than results."""

    @property
    def trained(self) -> tuple[ScopeVersion, ...]:
        """What the update holds."""
        return tuple(scope for scope in self.scopes if scope.scope not in self.untrained)


@dataclass(frozen=True)
class OpenRound:
    """The round under way. Its orders start from the published `version`; examples count up to `caps`, by task."""

    number: int
    attempt: int
    phase: RoundPhase
    version: int
    deadline: float
    orders: Mapping[str, OpenOrder]
    caps: Mapping[str, int] = field(default_factory=dict)
    variates: Mapping[str, int] = field(default_factory=dict)
    """How many clients have a control variate of each scope, in rounds that exchange such."""
    earlier: tuple[OpenRound, ...] = ()
    """The phases before this one, with what was answered."""
    began: float = 0.0
    """When its first phase opened, in this process."""
    sums: RoundSums | None = None
    """What its sums said once they were opened, in runs in which nothing else can be read."""
    circles: Circles = ()
    """Of such a run: follows from the orders of the round's first phase."""
    stands: tuple[Stand, ...] = ()
    """How far they had come when this phase opened: follows from the phases before."""

    @property
    def results(self) -> tuple[TaskResult, ...]:
        """Of accepted answers, by order id, or of their sums."""
        accepted = (order for _, order in sorted(self.orders.items()) if order.state is OrderState.ACCEPTED)
        return tuple(result for order in accepted for result in order.results) + (
            self.sums.results if self.sums else ()
        )

    def order_of(self, client_id: str) -> OpenOrder | None:
        """The client's order of this round."""
        order = self.orders.get(order_id(self.phase, self.number, self.attempt, client_id))
        return order if order is not None and order.client_id == client_id else None

    def count(self, state: OrderState) -> int:
        """How many orders are in `state`."""
        return sum(order.state is state for order in self.orders.values())


def order_id(phase: RoundPhase, number: int, attempt: int, client_id: str) -> str:
    """The name of an order: the same after a restart, so that a client's stored update still fits."""
    return f"{phase.name}-{number}.{attempt}-{client_id}"


def client_in(order: str) -> str:
    """The client in the name of an order."""
    return order.split("-", 2)[-1]
