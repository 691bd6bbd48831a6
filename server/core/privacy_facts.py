"""The noise of a run as the core knows it: rules, and the ledger of what was published under them.

A cell is one sum of the coordinator: of a scope, or of one task in a scope that is summed task by task. A release is a
published version: one Gaussian mechanism over all its cells, since each update is clipped as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.privacy.accounting import Mechanism, Spending
from common.secure.terms import SumCell


def cell_of(scope: str, task: str = "") -> str:
    """The name of the sum of a scope, or of one of its tasks' sums."""
    return SumCell(scope, task).name


@dataclass(frozen=True)
class NoiseRules:
    """What does not change during a run with noise of the coordinator."""

    min_clients: int = 1
    """Cells of fewer clients stay as they are."""
    fraction: float = 1.0
    """The share of all clients that a round asks."""
    coin: bytes = b""
    """The secret by which each client is asked or not; empty: the choice is public."""
    head_scale: float = 1.0
    """Lengths of scopes of single tasks count divided by this."""

    @property
    def is_sampled(self) -> bool:
        """Whether nobody knows who is asked, so that releases are charged to everybody, at a lower price."""
        return bool(self.coin)


@dataclass(frozen=True)
class Charges:
    """How many releases of one kind clients are charged with."""

    mechanism: Mechanism
    releases: Mapping[str, int]


@dataclass(frozen=True)
class Ledger:
    """What was published under noise, and what may still be. A record of the journal; the last one counts."""

    mechanism: Mechanism
    """Of every release of this run."""
    delta: float
    clip: float
    """Longest update of the round to come."""
    limit: int | None = None
    """A client is charged with at most so many releases; None: there is no budget."""
    releases: int = 0
    spent: Mapping[str, int] = field(default_factory=dict)
    """Releases that clients are charged with."""
    cells: Mapping[str, float] = field(default_factory=dict)
    """What sums are divided by: how many clients are asked for a cell when it first opens. Fixed from then on."""
    open: tuple[str, ...] = ()
    """The cells that the round under way moves."""
    earlier: tuple[Charges, ...] = ()
    """What clients are charged with by runs that this one started from."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """The limits of clients with earlier charges."""

    def is_within(self, client: str) -> bool:
        """Whether a client may be charged with one more release."""
        limit = self.limits.get(client, self.limit)
        return limit is None or self.spent.get(client, 0) < limit

    def epsilon_of(self, client: str) -> float:
        """What all releases say at most about a client, with `delta`."""
        total = Spending()
        for charges in (*self.earlier, Charges(self.mechanism, self.spent)):
            total = total.add(charges.mechanism, charges.releases.get(client, 0))
        return total.epsilon(self.delta)

    def epsilon(self) -> float:
        """The largest `epsilon_of` any client; 0 before the first release."""
        counts = [charges.releases for charges in self.earlier] + [self.spent]
        alike = {tuple(count.get(client, 0) for count in counts): client for client in sorted(set().union(*counts))}
        return max(map(self.epsilon_of, alike.values()), default=0.0)


@dataclass(frozen=True)
class Noising:
    """The noise of a release."""

    multiplier: float
    """Of the values and, where the clip follows a quantile, of the share of short updates, in all."""
    clip: float
    cells: Mapping[str, float]
    """The cells that are released, and what each sum is divided by."""
    clients: float
    """How many clients may be in them, as far as that is public: what the share of short updates is divided by."""
