"""What can happen to the coordinator. `now` is in seconds of the clock that the caller chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.errors import Reason
from common.orders import JoinRequest, Reply, UpdateHeader
from server.core.client_list import ClientList
from server.core.dual_facts import Relationship
from server.core.effects import Combine, TaskCosines
from server.core.facts import NO_TRAFFIC, Traffic
from server.core.state import Related


@dataclass(frozen=True)
class Started:
    """The coordinator is up; after a restart the state holds what the journal knew."""

    now: float


@dataclass(frozen=True)
class Joined:
    """A client introduces itself; see `ClientList.check` and `check_join`. `today` is in UTC, such as `2026-03-01`."""

    now: float
    request: JoinRequest
    token: str
    today: str = ""


@dataclass(frozen=True)
class Seen:
    """A client polled or sent a heartbeat."""

    now: float
    client_id: str
    activity: str


@dataclass(frozen=True)
class Answered:
    """The answer to an order is complete; the payload of an update matches its digest and is finite."""

    now: float
    client_id: str
    answer: UpdateHeader | Reply
    traffic: Traffic = NO_TRAFFIC


@dataclass(frozen=True)
class UpdateRefused:
    """An update was refused, by the core or because its bytes were unusable."""

    now: float
    client_id: str
    reason: str
    kind: Reason


@dataclass(frozen=True)
class OrderFailed:
    """A client cannot carry out its order."""

    now: float
    client_id: str
    order_id: str
    reason: str


@dataclass(frozen=True)
class Left:
    """A client went away in good order."""

    now: float
    client_id: str


@dataclass(frozen=True)
class Withdrew:
    """A client is to be left out for good."""

    now: float
    client_id: str


@dataclass(frozen=True)
class Tick:
    """Time has passed. The clients in `connected` have a call open at this moment: a parked poll, a transfer."""

    now: float
    connected: frozenset[str] = frozenset()
    traffic: Traffic = NO_TRAFFIC


@dataclass(frozen=True)
class Combined:
    """What `Combine` came to: new values, and what their round has to record beside them."""

    now: float
    asked: Combine
    cosines: tuple[TaskCosines, ...] = ()
    related: tuple[Related, ...] = ()
    relationship: Relationship | None = None
    """How heads depend on each other now, in runs that solve a dual."""
    clip: float | None = None
    """The longest update from now on, where the clip follows a quantile."""
    lengths: Mapping[str, float] = field(default_factory=dict)
    """How long the folded updates were as they came, by order id; none where only sums can be read."""


@dataclass(frozen=True)
class VersionSpoiled:
    """What `Combine` came to: values in these scopes would not be finite.

    `lengths` are the longest of the folded updates: order id and Euclidean norm, the longest first.
    """

    now: float
    scopes: tuple[str, ...]
    lengths: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class SumsOpened:
    """What `OpenSums` came to."""

    now: float
    counts: Mapping[str, tuple[float, ...]]
    """The sums of the counts of each circle that was opened."""
    given_up: Mapping[str, str]
    """Why the others were not."""


@dataclass(frozen=True)
class DrainRequested:
    """The operator wants the coordinator to stop after the round under way, or sooner."""

    now: float


@dataclass(frozen=True)
class ListChanged:
    """Whoever runs the coordinator has read the list of clients again; `today` as in `Joined`."""

    now: float
    roster: ClientList
    today: str


@dataclass(frozen=True)
class RolledBack:
    """A client brought an order that comes after all that the ledger knows of: the run folder is an older copy."""

    now: float
    client_id: str
    order_id: str


Outcome = Combined | VersionSpoiled | SumsOpened
"""What came of `Combine` or `OpenSums`; the core hears it before anything else happens."""

Event = (
    Started
    | Joined
    | Seen
    | Answered
    | UpdateRefused
    | OrderFailed
    | Left
    | Withdrew
    | Tick
    | ListChanged
    | RolledBack
    | Outcome
    | DrainRequested
)
