"""What the coordinator must do, as data, in order: persist before publish, publish before notify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common.inputs.header import Header
from common.log_fields import LogFields
from common.secure.layout import CircleLayout
from common.secure.terms import Announcement, SumTerms
from common.stages import CircleShares
from common.standardising import InputScale
from common.targets import TargetUnits
from server.core.conduct import Conduct, Norms
from server.core.dual_facts import Certificate, Dual, HeadRows
from server.core.facts import RunBegan, RunConfiguration, Traffic
from server.core.open_round import OpenRound
from server.core.phases import Phase
from server.core.privacy_facts import Ledger, Noising, cell_of
from server.core.probe_facts import NOT_PROBED, Probed
from server.core.readers import StretchTotal
from server.core.state import ClientRecord, Related


@dataclass(frozen=True)
class Fold:
    """Add the staged update of an order to the sums, with an integer weight per scope.

    A scope that is in `rows` has a sum per task instead, and the update enters each with the weight given there.
    """

    order_id: str
    weights: Mapping[str, int]
    rows: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    clip: float | None = None
    """The longest that all of it together may be where noise is added to the sums; None without."""
    median: float | None = None
    """The median length of the updates of the last published round, where it is known."""


@dataclass(frozen=True)
class AddToSums:
    """Add the staged answer of an order to the sums of circles; their parts lie in it one after the other."""

    order_id: str
    layouts: tuple[CircleLayout, ...]


@dataclass(frozen=True)
class StoreSums:
    """Make the sums of circles durable under a name, before anybody is asked to open them."""

    name: str


@dataclass(frozen=True)
class ClosedCircle:
    """A circle whose sum nobody can enter any more, and what takes its masks out; without masks, nothing does."""

    layout: CircleLayout
    session: str
    survivors: tuple[str, ...]
    """Whose answers are in the sum (U3)."""
    announcements: tuple[Announcement, ...] = ()
    sharers: tuple[str, ...] = ()
    """Who masked (U2)."""
    openings: Mapping[str, CircleShares] = field(default_factory=dict)
    """What survivors opened, by member."""


@dataclass(frozen=True)
class OpenSums:
    """Take the masks out of the sums of circles, which then are sums of the round like any others.

    Always the last effect of its step, like `Combine`: what came of it is the next event, `SumsOpened`.
    """

    name: str
    """Of the sums, as they were stored; empty: they are in memory."""
    terms: SumTerms
    circles: tuple[ClosedCircle, ...]


@dataclass(frozen=True)
class ClearSums:
    """Forget what was folded: the round starts again."""


@dataclass(frozen=True)
class Combine:
    """Turn the sums of `totals`' scopes (scope -> weight sum) into new values, in memory.

    Always the last effect of its step: what came of it is the next event, `Combined` or `VersionSpoiled`.

    `rows` holds the scopes that are summed by task: scope -> task -> examples, without tasks that brought none.
    `trends` are, for every round up to this one, the tasks' training losses divided by those of the round before,
    where both are known.
    """

    version: int
    totals: Mapping[str, int]
    rows: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    trends: Sequence[Mapping[str, float]] = ()
    heads: Mapping[str, HeadRows] = field(default_factory=dict)
    """The heads that are made anew of their supports, in runs that solve a dual."""
    remembered: Mapping[str, str] = field(default_factory=dict)
    """What the relation said to remember, by template: `Related.state`."""
    stretches: Mapping[str, Sequence[StretchTotal]] = field(default_factory=dict)
    """The weight sums of the stretches of a scope, where not all of it is read by the same tasks."""
    probed: Probed = NOT_PROBED
    """What clients said of candidates before they trained."""
    noise: Noising | None = None
    """What is added to the sums first."""

    def divisor(self, scope: str, task: str = "") -> float:
        """What a sum is divided by: its weights, or under noise what the ledger fixed."""
        if self.noise is not None:
            return self.noise.cells[cell_of(scope, task)]
        return self.rows[scope][task] if task else self.totals[scope]


@dataclass(frozen=True)
class StoreVersion:
    """Make the values that were combined durable on disk; of older versions only some stay."""

    version: int
    kept: frozenset[int] = frozenset()
    """Those that stay besides the one before."""


@dataclass(frozen=True)
class Commit:
    """Make all these records durable in one transaction."""

    records: tuple[Record, ...]


@dataclass(frozen=True)
class InstallVersion:
    """Serve the stored version from now on; its round is durable."""

    version: int


@dataclass(frozen=True)
class Wake:
    """Answer parked polls again: something changed for them."""


@dataclass(frozen=True)
class Notice:
    """Tell the person at the coordinator; `about` says the same to machines."""

    text: str
    warning: bool = False
    about: LogFields = field(default_factory=LogFields)


Effect = (
    Fold
    | AddToSums
    | StoreSums
    | OpenSums
    | ClearSums
    | Combine
    | StoreVersion
    | Commit
    | InstallVersion
    | Wake
    | Notice
)


@dataclass(frozen=True)
class ClientChanged:
    """A client as it is now."""

    client: ClientRecord


@dataclass(frozen=True)
class RoundOpened:
    """A round and its orders."""

    round: OpenRound


@dataclass(frozen=True)
class PhaseClosed:
    """A phase with the final state of its orders; its round goes on with another."""

    round: OpenRound


@dataclass(frozen=True)
class RoundClosed:
    """A round with the final state of its orders.

    `totals` are the weight sums of the scopes that changed; `published` is the version it made, or None for an
    abandoned attempt or an evaluation; `learning_rate` is that of the clients, where they trained.
    """

    round: OpenRound
    totals: Mapping[str, int]
    published: int | None
    learning_rate: float | None = None


@dataclass(frozen=True)
class RunEnded:
    """The run is over."""

    phase: Phase
    reason: str


@dataclass(frozen=True)
class HeaderFixed:
    """What the numbers in a task's rows are from now on, as its first client said."""

    task: str
    header: Header


@dataclass(frozen=True)
class TaskCosines:
    """How far the tasks' mean steps of a scope in a round pointed the same way: cosines, row by row.

    Measured while a version is combined, and committed together with its round.
    """

    round: int
    scope: str
    tasks: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Guarded:
    """How the models of a task compared at the end of a round, on the rows that both were scored on.

    `received` and `isolated` are values of its primary metric. `behind` counts the rounds in a row up to this one that
    the guard did not like; `fell_back` says that the isolated model takes over. `final` is the choice after the last
    round. `gap` is by how much the isolated model is better.
    """

    round: int
    task: str
    received: float | None
    isolated: float | None
    behind: int
    fell_back: bool
    final: bool
    gap: float = 0.0


@dataclass(frozen=True)
class UnitsFixed:
    """The units of a task's head and loss for the rest of the run."""

    task: str
    units: TargetUnits


@dataclass(frozen=True)
class ScaleFixed:
    """By what the numbers in a task's rows are standardised for the rest of the run."""

    task: str
    scale: InputScale


Record = (
    RunBegan
    | RunConfiguration
    | Traffic
    | ClientChanged
    | HeaderFixed
    | UnitsFixed
    | ScaleFixed
    | RoundOpened
    | PhaseClosed
    | RoundClosed
    | RunEnded
    | TaskCosines
    | Related
    | Guarded
    | Dual
    | Certificate
    | Ledger
    | Norms
    | Conduct
)
