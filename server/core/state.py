"""What the coordinator knows: ids, versions, counts and decisions. Never a tensor, never a clock, never a socket."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from common.bodies import DENSE_FLOAT32, TrainingSettings
from common.capabilities import Capabilities
from common.inputs.header import Header
from common.methods.relation import Relation
from common.orders import Session
from common.parameters.capacity import Blocks, absent_scopes, untrained_scopes
from common.parameters.membership import Membership
from common.parameters.scope import Scope, is_sum, isolated_scopes
from common.standardising import InputScale, InputSums
from common.targets import TargetSums, TargetUnits
from common.tasks import TaskDefinition
from server.core.client_list import EVERYBODY, ClientList
from server.core.conduct import NO_OFFENCES, NOT_MEASURED, Conduct, Norms
from server.core.dual_facts import Dual, DualSettings
from server.core.facts import NEWEST_ONLY, NO_TRAFFIC, NOTHING_SCORED, Keep, Scored, Traffic
from server.core.open_round import OpenOrder, OpenRound
from server.core.phases import PLAIN, SCORING, Phase, RoundPhase, RoundProtocol
from server.core.privacy_facts import Ledger, NoiseRules
from server.core.readers import Stretch
from server.core.schedule import NO_CHANGE, TrainingSchedule
from server.core.sum_facts import SumRules


@dataclass(frozen=True)
class Guard:
    """A task that is worse off than alone by more than `margin`, in so many `rounds` in a row, falls back.

    `margin` is in units of the task's primary metric.
    """

    margin: float
    rounds: int


@dataclass(frozen=True)
class RunSettings:
    """What does not change during a run.

    `schemas` maps every travelling scope, or template of `membership`, to its schema digest and bytes, `tensors` to how
    many tensors it holds. With `related`, members' scopes change together: a relation acts on them after each round.
    `update_encoding` is asked of every client that offers it; `payload_bytes` maps encodings other than dense float32
    to the least and most bytes of each travelling scope's payload. `by_task` asks for a sum per task where tasks share
    a scope; `one_each` lets every update weigh 1 instead of its examples. `blocks` says which parts of the model each
    scope has parameters of, private scopes included; `schedule` says how `training` changes with the round. Orders to
    train name at most `tasks_per_order` of a client's tasks, by `task_choice`. `headers` say what the numbers in a row
    of each task are, none where rows are texts. A client's examples of a task count up to `max_examples`, or up to
    `max_medians` times the median of the clients in the round. `max_length` is that of a text, in tokens.
    """

    run_id: str
    seed: int
    tasks: tuple[TaskDefinition, ...]
    schemas: Mapping[str, tuple[str, int]]
    num_rounds: int
    training: TrainingSettings
    clients_per_task: int = 1
    min_clients: int = 1
    max_clients: int = 10_000
    client_fraction: float = 1.0
    quorum: float = 0.5
    round_attempts: int = 3
    start_timeout_seconds: float = 600.0
    round_timeout_seconds: float = 1800.0
    lease_seconds: float = 60.0
    tensors: Mapping[str, int] = field(default_factory=dict)
    update_encoding: str = DENSE_FLOAT32
    payload_bytes: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    max_examples: int | None = None
    max_medians: float | None = None
    max_length: int = 512
    min_updates: int = 1
    offences: int = 0
    rejoin_timeout_seconds: float = 120.0
    by_task: bool = False
    one_each: bool = False
    tasks_per_order: int | None = None
    task_choice: str = "rotate"
    blocks: Blocks = field(default_factory=dict)
    schedule: TrainingSchedule = NO_CHANGE
    membership: Membership = field(default_factory=Membership)
    related: bool = False
    probes: Relation | None = None
    """The relation whose candidates clients compare, in runs with one."""
    guard: Guard | None = None
    headers: Mapping[str, Header] = field(default_factory=dict)
    scaled: int = 0
    """How many columns or channels of a row are standardised by the rows of all clients; 0: none."""
    categories: tuple[int, ...] = ()
    """Which columns are categories, which have no scale."""
    anchor_strength: float = 0.0
    """Of a proximal term that holds what everybody shares to the run's first values."""
    private_anchors: tuple[str, ...] = ()
    """The private scopes that it holds to theirs, where nothing is shared."""
    protocol: RoundProtocol = PLAIN
    """The phases of each round that trains."""
    keep: Keep = NEWEST_ONLY
    """The versions that are kept besides the newest ones."""
    dual: DualSettings | None = None
    """Of a run that solves the dual of linear heads."""
    stretches: Mapping[str, tuple[Stretch, ...]] = field(default_factory=dict)
    """Of templates in which a mean is over the updates of those alone whose tasks read a parameter."""
    averages: bool = False
    """The version of the last round is an average of versions."""
    patience: int | None = None
    """The run ends after so many versions that were no better than the best one."""
    noise: NoiseRules | None = None
    """Of the coordinator, on what it publishes."""
    scoring: RoundProtocol = SCORING
    """The phases of a round that scores."""
    sums: SumRules | None = None
    """Of a run in which nothing but sums can be read."""
    roster: ClientList = EVERYBODY

    def definition(self, task: str) -> TaskDefinition | None:
        """The task's definition, or None if this federation does not have it."""
        return next((known for known in self.tasks if known.name == task), None)

    def reads(self, scope: str, tasks: Collection[str]) -> bool:
        """Whether the update of a client that trained these tasks says anything about a scope."""
        stretches = self.stretches.get(Scope.parse(scope).template)
        return stretches is None or any(not stretch.tasks.isdisjoint(tasks) for stretch in stretches)

    def parts_of(self, task: str) -> int:
        """The most tokens or numbers that an example of a task has."""
        header = self.headers.get(task)
        return self.max_length if header is None else header.count

    def training_in(self, number: int) -> TrainingSettings:
        """The settings of a round to train."""
        share, settings = self.schedule.rate.share(number, self.num_rounds), self.training
        return replace(
            settings,
            learning_rate=settings.learning_rate * share,
            head_learning_rate=settings.head_learning_rate * share,
            frozen=self.schedule.frozen_in(number),
        )

    def scopes_of(self, client: ClientRecord, tasks: tuple[str, ...]) -> tuple[str, ...]:
        """The scopes that a client exchanges when it works on some of its tasks."""
        return self.held_scopes(self.schemas, client, tasks)

    def scopes_in(
        self, phase: RoundPhase, number: int, client: ClientRecord, tasks: tuple[str, ...]
    ) -> tuple[str, ...]:
        """The scopes of its order in a round: to train, with the sums that belong to those that it may train."""
        scopes = self.scopes_of(client, tasks)
        if phase.publishes and self.dual is not None:
            return scopes + tuple(s.support for s in map(Scope.parse, scopes) if client.examples.get(s.task, 0))
        if not (phase.publishes and self.training.procedure.has_controls):
            return scopes
        untrained = untrained_scopes(client.capabilities.capacity, self.blocks, self.schedule.frozen_in(number))
        return scopes + tuple(s.control for s in map(Scope.parse, scopes) if s.template not in untrained)

    def held_scopes(self, templates: Collection[str], client: ClientRecord, tasks: tuple[str, ...]) -> tuple[str, ...]:
        """The scopes for these templates that a client holds for some of its tasks, without absent layers and parts."""
        absent = absent_scopes(client.capabilities.capacity, self.blocks)
        held = self.membership.scopes(templates, client.client_id, client.tasks, tasks)
        return tuple(scope for scope in held if Scope.parse(scope).template not in absent)

    def untrained_scopes(
        self, client: ClientRecord, tasks: tuple[str, ...], number: int, fallback_tasks: Collection[str] = ()
    ) -> frozenset[str]:
        """The scopes that it then receives in a round to train, and does not train."""
        scopes = self.scopes_of(client, tasks)
        if self.dual is not None:
            return frozenset(scopes)
        of_capacity = untrained_scopes(client.capabilities.capacity, self.blocks, self.schedule.frozen_in(number))
        frozen = frozenset(scope for scope in scopes if Scope.parse(scope).template in of_capacity)
        return frozen | isolated_scopes(scopes, tasks, fallback_tasks)

    def codec_for(self, capabilities: Capabilities) -> str:
        """The codec that a client with these capabilities is asked for."""
        return self.update_encoding if self.update_encoding in capabilities.codecs else DENSE_FLOAT32

    def payload_range(self, encoding: str, scope: str) -> tuple[int, int]:
        """Least and most bytes of a scope's payload."""
        if encoding != DENSE_FLOAT32:
            return self.payload_bytes[encoding][scope]
        nbytes = self.schemas[scope][1]
        return nbytes, nbytes


@dataclass(frozen=True)
class Tally:
    """A client's orders, counted by how they ended."""

    assigned: int = 0
    completed: int = 0
    failed: int = 0
    expired: int = 0
    refused: int = 0

    def add(self, **more: int) -> Tally:
        """The tally with the named counts raised."""
        return replace(self, **{name: getattr(self, name) + count for name, count in more.items()})


@dataclass(frozen=True)
class ClientRecord:
    """A client that has joined this run. `committed` is its last durable order.

    `examples` and `validation` are its rows to train and to score on, per task, as it said when it joined. `targets`
    are sums over its training targets, `inputs` over its training rows; they are not durable, since what is made of
    them is.
    """

    client_id: str
    tasks: tuple[str, ...]
    examples: Mapping[str, int]
    capabilities: Capabilities
    token: str
    last_seen: float
    present: bool = True
    left: bool = False
    withdrawn: bool = False
    """Whether it is left out for good; it has then left, too."""
    activity: str = ""
    committed: str = ""
    tally: Tally = Tally()
    validation: Mapping[str, int] = field(default_factory=dict)
    targets: Mapping[str, TargetSums] = field(default_factory=dict)
    inputs: Mapping[str, InputSums] = field(default_factory=dict)


@dataclass(frozen=True)
class Related:
    """What a relation did with a template's members at the end of a round; committed together with it.

    `mu` is how strongly each scope is pulled to its anchor, without entries where there are no anchors. `state` is
    what the relation remembers, JSON; `note` tells people what changed.
    """

    round: int
    template: str
    mu: Mapping[str, float]
    state: str
    note: str


@dataclass(frozen=True)
class FederationState:
    """Everything that `step` reads and writes.

    `versions` maps each travelling scope to its version; scopes of groups and members that have none yet are at
    their template's. `losses` are the tasks' mean local training losses in the last round that was published,
    `trends` for every such round its losses divided by those of the one before, where both are known. `behind`
    counts the last rounds in a row in which a task slipped behind going alone, `gaps` is by how much it was worse;
    `fallback_tasks` are those that the guard took out, and after which round. `headers` are the named features of
    the first client that joined with a task, `units` those of heads and losses, as soon as they are fixed, `scales`
    by which the numbers in rows are standardised; `short_since`: since when a later round lacks clients.
    """

    versions: Mapping[str, int]
    phase: Phase = Phase.WAITING
    completed_rounds: int = 0
    attempt: int = 1
    waiting_since: float = 0.0
    short_since: float | None = None
    clients: Mapping[str, ClientRecord] = field(default_factory=dict)
    open: OpenRound | None = None
    draining: bool = False
    reason: str = ""
    """Why the run ended, where that was not its last round."""
    losses: Mapping[str, float] = field(default_factory=dict)
    trends: tuple[Mapping[str, float], ...] = ()
    behind: Mapping[str, int] = field(default_factory=dict)
    gaps: Mapping[str, float] = field(default_factory=dict)
    fallback_tasks: Mapping[str, int] = field(default_factory=dict)
    headers: Mapping[str, Header] = field(default_factory=dict)
    units: Mapping[str, TargetUnits] = field(default_factory=dict)
    scales: Mapping[str, InputScale] = field(default_factory=dict)
    relations: Mapping[str, Related] = field(default_factory=dict)
    """What the relation did last, by template: how strongly scopes are pulled to their anchors."""
    traffic: Traffic = NO_TRAFFIC
    """What the run has cost, as of the last event that said so."""
    dual: Dual | None = None
    """Where a dual method stands, in runs with one."""
    scored: Scored = NOTHING_SCORED
    """What scores say of the versions, where something depends on it."""
    ledger: Ledger | None = None
    """What was published under noise, in runs with noise of the coordinator."""
    norms: Norms = NOT_MEASURED
    """Of the last published round whose updates came one by one."""
    conduct: Conduct = NO_OFFENCES
    roster: ClientList | None = None
    """The list of clients as it was read last, if that was during the run."""

    def version_of(self, scope: str) -> int:
        """The version of a scope; a sum over clients begins at 0 and has nothing of its template."""
        return self.versions.get(scope, 0) if is_sum(scope) else self.versions[scope]

    def present(self) -> list[ClientRecord]:
        """Clients that are here now, by id."""
        return [self.clients[name] for name in sorted(self.clients) if self.clients[name].present]

    def with_client(self, client: ClientRecord) -> FederationState:
        """The state with this client added or replaced."""
        return replace(self, clients={**self.clients, client.client_id: client})

    def with_order(self, order: OpenOrder) -> FederationState:
        """The state with this order of the open round replaced."""
        assert self.open is not None
        return replace(self, open=replace(self.open, orders={**self.open.orders, order.order_id: order}))

    def client_of(self, session: Session) -> ClientRecord | None:
        """The client that a session speaks for, or None if it is unknown or superseded."""
        client = self.clients.get(session.client_id)
        return client if client is not None and client.token and client.token == session.token else None
