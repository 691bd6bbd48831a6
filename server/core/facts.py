"""What there is to know of a run as a whole, beside its rounds and clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.inputs.header import Header
from common.standardising import InputScale
from common.targets import TargetUnits
from server.core.conduct import NO_OFFENCES, Conduct, Norms
from server.core.phases import Phase
from server.core.privacy_facts import Ledger


@dataclass(frozen=True)
class RunBegan:
    """Everything that the run starts from is there."""

    run_id: str
    name: str
    seed: int
    encoder_init: str
    """Where the encoder's first values come from."""


@dataclass(frozen=True)
class RunConfiguration:
    """The configuration that the run was started with last."""

    sharing_plan: str = ""
    sections: Mapping[str, str] = field(default_factory=dict)
    """Sections that the report repeats, as JSON."""


@dataclass(frozen=True)
class Traffic:
    """What a run has cost, up to a commit."""

    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0


NO_TRAFFIC = Traffic()


@dataclass(frozen=True)
class Keep:
    """Which versions are kept besides the newest ones."""

    best: str = ""
    """The one that scored best: `mean`, `tasks` (the mean's, and each task's own) or `<task>/<metric>`."""
    every: int | None = None
    """Every so many versions one."""


NEWEST_ONLY = Keep()


@dataclass(frozen=True)
class Best:
    """The version that is the best so far by one criterion, and its values of the metrics by task."""

    version: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Scored:
    """What the scores so far say of the versions."""

    best: Mapping[str, Best] = field(default_factory=dict)
    """By criterion: `mean`, and `<task>/<metric>`."""
    stale: int = 0
    """Versions that were compared by the run's criterion since its best one."""
    newest: int = -1
    """The newest version that has scores."""


NOTHING_SCORED = Scored()


@dataclass(frozen=True)
class RunFacts:
    """All of it, as of the last commit."""

    began: RunBegan | None = None
    settings: RunConfiguration = field(default_factory=RunConfiguration)
    traffic: Traffic = field(default_factory=Traffic)
    ended: Phase = Phase.WAITING
    reason: str = ""
    headers: Mapping[str, Header] = field(default_factory=dict)
    """The named features of the first client that joined with a task, by task."""
    units: Mapping[str, TargetUnits] = field(default_factory=dict)
    """The units of heads and losses, by task."""
    scales: Mapping[str, InputScale] = field(default_factory=dict)
    """By which the numbers in rows are standardised, by task."""
    ledger: Ledger | None = None
    """What was published under noise of the coordinator."""
    norms: tuple[Norms, ...] = ()
    """Of published rounds, in their order."""
    conduct: Conduct = NO_OFFENCES
