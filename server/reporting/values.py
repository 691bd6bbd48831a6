"""The report as a value: its fields have the names that `report.json` has for them, and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from common.targets import TargetUnits
from server.core.facts import Best

T = TypeVar("T")
Scores = Mapping[str, float | None]
"""Metric, or `loss`, to value; None where it is not defined."""

_INLINE = {"json": "keys beside the others"}


@dataclass(frozen=True)
class OwnScores:
    """What the clients' own models scored, and how many clients have one; None where only sums can be read."""

    scores: Scores = field(metadata=_INLINE)
    clients: int | None


@dataclass(frozen=True)
class RoundScores:
    """Of the model of round `round`, on validation rows; the loss is of training in the round that began with it."""

    round: int
    scores: Scores = field(default_factory=dict, metadata=_INLINE)
    validation_examples: int | None = None
    clients: int | None = None
    personal: OwnScores | None = None
    local_training_loss_next_round: float | None = None


@dataclass(frozen=True)
class Personalisation:
    """What a client's received and own model scored last; `round` is that of the received one."""

    round: int
    received: Scores
    personal: Scores


@dataclass(frozen=True)
class UploadTotals:
    """Accepted updates of one codec, and the bytes of their payloads."""

    updates: int
    bytes: int


@dataclass(frozen=True)
class CosineMatrix:
    """Cosines between the steps of tasks in one scope and round; row and column i belong to `tasks[i]`."""

    tasks: Sequence[str]
    values: Sequence[Sequence[float]]


@dataclass(frozen=True)
class RoundCosines:
    """By scope."""

    round: int
    scopes: Mapping[str, CosineMatrix]


@dataclass(frozen=True)
class LargestShare:
    """The client that moved a scope the most."""

    client: str
    share: float


@dataclass(frozen=True)
class ScopeShares:
    """How many clients a scope's step came from."""

    clients: int
    largest: LargestShare


@dataclass(frozen=True)
class RoundShares:
    """By scope, or by scope and task."""

    round: int
    scopes: Mapping[str, ScopeShares]


@dataclass(frozen=True)
class RoundNorms:
    """How long the updates of a published round were as they came; outliers are much longer than the others."""

    round: int
    clients: int
    median: float | None
    outliers: Mapping[str, float]
    lengths: Mapping[str, float] | None = None
    """Of all clients, where there are not too many."""
    quantiles: Mapping[str, float] | None = None
    """Where there are."""


@dataclass(frozen=True)
class RelationReport:
    """What a relation did with the members of a template in a round; its groups or fused pairs, if it has any.

    The last entry of a template also has what a learned covariance came to: `correlations`, whose rows and columns are
    `names`, those that are alike together; and how far each member's model is from its first values.
    """

    round: int
    template: str
    note: str
    groups: Sequence[Sequence[str]] | None = None
    fused: Sequence[Sequence[str]] | None = None
    names: Sequence[str] | None = None
    correlations: Sequence[Sequence[float]] | None = None
    moved: Mapping[str, float] | None = None


@dataclass(frozen=True)
class ProbeCosts:
    """What it cost that clients compared candidates: accepted answers of so many rounds, all together."""

    rounds: int
    answers: int
    candidates: int
    """That were scored, the published model counted where it was one of them."""
    bytes: int
    """Of candidates that were offered; what a client still held was not sent again."""
    seconds: float
    """Of clients."""


@dataclass(frozen=True)
class GuardReport:
    """Which model a task's clients use, after which round it fell back, and the last scores of both."""

    model: str
    fallen_back: int | None
    metric: str
    received: float | None
    isolated: float | None


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """One task."""

    type: str
    auxiliary: bool
    metrics: Scores
    guard: GuardReport | None = None
    units: TargetUnits | None = None
    class_weights: Mapping[str, float] | None = None
    scored_round: int | None
    history: Sequence[RoundScores]
    clients: Sequence[str]
    examples: int
    """Of all clients, as they said when they joined; of those in the newest sum, where nothing else can be read."""
    rounds_trained: int


@dataclass(frozen=True, kw_only=True)
class ClientReport:
    """One client."""

    tasks: Sequence[str]
    trains: str
    layers: int | None
    lacks: Sequence[str]
    examples: Mapping[str, int]
    """As it said when it joined; empty where nothing but sums can be read."""
    rounds: int
    bytes: int = 0
    """Payloads of its accepted updates."""
    assigned: int
    refused: int
    failed: int
    expired: int
    scores: Mapping[str, RoundScores]
    step_shares: Mapping[str, float]
    quarantined: str | None = None
    """Why it is in quarantine, if it is."""


@dataclass(frozen=True)
class CertificateReport:
    """That a version's objective is at most `gap` above the optimum: the primal value, and the dual below it.

    Of `silent` clients the loss was bounded, because they said nothing of this version.
    """

    version: int
    primal: float
    dual: float
    gap: float
    silent: int


@dataclass(frozen=True)
class PrivacyReport:
    """What was published under noise of the coordinator, and what that says at most about a client."""

    noise_multiplier: float
    sampling_probability: float
    clip: float
    delta: float
    releases: int
    epsilon: float
    """Of the client that is charged with the most, with what runs before this one published about it."""
    most_releases: int | None
    """What the budget allows for a client; null: there is no budget."""
    counts_earlier_runs: bool


@dataclass(frozen=True)
class SumsReport:
    """How updates, losses, scores and row counts became sums, so that nothing is known of single clients."""

    min_clients: int
    masks: bool
    identities: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """One run. `training`, `aggregation`, `guard`, `blend` and `relation` repeat its configuration."""

    run: str
    run_id: str
    status: str
    reason: str
    rounds_completed: int
    seconds: float
    seed: int
    data: str
    encoder_init: str
    sharing_plan: str
    training: Mapping[str, object]
    aggregation: Mapping[str, object]
    guard: Mapping[str, object]
    model_digest: str
    bytes_down: int
    bytes_up: int
    uploads: Mapping[str, UploadTotals]
    task_cosines: Sequence[RoundCosines]
    step_shares: Sequence[RoundShares]
    relation: Mapping[str, object]
    relations: Sequence[RelationReport]
    tasks: Mapping[str, TaskReport]
    clients: Mapping[str, ClientReport]
    personalisation: Mapping[str, Mapping[str, Personalisation]]
    certificates: Sequence[CertificateReport] = ()
    """Of each version, in runs that solve a dual."""
    best: Mapping[str, Best] = field(default_factory=dict)
    """The versions that scored best, by `mean` and by `<task>/<metric>`, whether or not they are kept."""
    blend: Mapping[str, object] = field(default_factory=dict)
    probes: ProbeCosts | None = None
    """In runs whose clients compare candidates."""
    privacy: PrivacyReport | None = None
    """In runs with noise of the coordinator."""
    norms: Sequence[RoundNorms] | None = None
    """Of each published round, in runs whose updates come one by one."""
    secure_aggregation: SumsReport | None = None
    """In runs in which nothing but sums can be read."""


def to_json(value: object) -> Any:
    """A value, or a part of one, ready for JSON; a field whose default is None is left out where it is None."""
    if is_dataclass(value):
        found: dict[str, object] = {}
        for part in fields(value):
            inner = getattr(value, part.name)
            if part.metadata:
                found |= inner
            elif inner is not None or part.default is not None:
                found[part.name] = to_json(inner)
        return found
    if isinstance(value, Mapping):
        return {name: to_json(inner) for name, inner in value.items()}
    return [to_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def from_json(kind: type[T], found: Any) -> T:
    """The value of type `kind` of which `to_json` made `found`."""
    read: Any = found
    if is_dataclass(kind):
        hints, parts = get_type_hints(kind), {part.name: part for part in fields(kind)}
        inline = [name for name, part in parts.items() if part.metadata]
        read = {name: from_json(hints[name], found[name]) for name in parts if name in found and name not in inline}
        rest = {name: value for name, value in found.items() if name not in read}
        read = kind(**read, **dict.fromkeys(inline, rest))
    elif found is not None and type(None) in get_args(kind):
        read = from_json(get_args(kind)[0], found)
    elif get_origin(kind) is Mapping:
        read = {name: from_json(get_args(kind)[1], inner) for name, inner in found.items()}
    elif get_origin(kind) is Sequence:
        read = tuple(from_json(get_args(kind)[0], inner) for inner in found)
    result: T = read
    return result
