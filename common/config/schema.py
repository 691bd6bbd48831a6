"""The configuration's sections. Nothing is coerced, unknown keys are refused and every value is frozen.

What spans several keys is checked in `rules`; `federated_config.yaml` shows every key with its default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from common.config.aggregation_section import AggregationSection
from common.config.balance_section import BalanceSection
from common.config.client_section import ClientSection
from common.config.relation_section import RelationSection
from common.config.task_section import TaskSection
from common.config.values import (
    Count,
    CountOrZero,
    Fraction,
    FrozenLayers,
    Host,
    Location,
    Partition,
    RuleText,
    RunName,
    Seconds,
    Section,
    TaskName,
    group_tree,
)
from common.inputs import Header, InputKind, input_of
from common.orders import TrainingSettings
from common.parameters.membership import Membership, groups_of
from common.parameters.plan import PLANS, ScopeRule, SharingPlan, groups_plan
from common.parameters.scope import LAYERED, SHARED
from common.procedures import LARGEST_MOMENTUM, READS, LocalProcedure, OptimizerName, ProcedureName, PullStep
from common.tasks import TaskDefinition
from common.wire.limits import MAX_LAYERS


class RunSection(Section):
    """Which run this is: its name, its seed and its folder (`runs/<name>` unless `run_dir` is given)."""

    name: RunName = "fedmtl"
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 42
    run_dir: Location | None = None

    @property
    def folder(self) -> Path:
        """Where the coordinator keeps models, journal and reports."""
        return Path(self.run_dir) if self.run_dir else Path("runs") / self.name


class MLPSection(Section):
    """Sizes of the encoder `mlp`: numbers per row (the same for all tasks), widths of its layers, dropout."""

    features: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], Field(strict=False, min_length=1, max_length=MAX_LAYERS)
    ] = (64,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ModelSection(Section):
    """The encoder, where its weights and tokenizer come from, and how texts are read.

    `tokenizer` is a folder or a vocab.txt (None: the model's own); `warm_start` is the folder of an earlier run, from
    which encoder and heads start; `max_length` is in tokens. The encoder `mlp` reads rows of numbers instead.
    """

    server_model: Location = "prajjwal1/bert-tiny"
    client_model: Location | None = None
    weights: Literal["auto", "pretrained", "random"] = "auto"
    tokenizer: Location | None = None
    warm_start: Location | None = None
    pair_mode: Literal["siamese", "cross"] = "siamese"
    max_length: Annotated[int, Field(ge=8, le=8192)] = 128
    hub_timeout_seconds: Seconds = 10.0
    mlp: MLPSection = MLPSection.model_construct()

    @property
    def inputs(self) -> InputKind:
        """What examples are made of."""
        return input_of(self.server_model)


class TrainingSection(Section):
    """Rounds, and what a client does in one; `local_epochs` 0 gives zero deltas, `max_grad_norm` 0 is off.

    `procedure` and what it reads (`common.procedures`) say how a client trains; the others are left out.
    """

    num_rounds: Count = 10
    local_epochs: Annotated[int, Field(ge=0, le=2**31 - 1)] = 3
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    final_rate_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    batch_size: Count = 16
    eval_batch_size: Count = 128
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[float, Field(ge=0, le=LARGEST_MOMENTUM)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    frozen_rounds: CountOrZero = 0
    frozen_layers: FrozenLayers = "all"
    procedure: Literal["plain", "fedprox", "fedrep", "ditto", "per_fedavg"] = "plain"
    mu: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    pull: Literal["gradient", "proximal"] = "gradient"
    head_epochs: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    inner_learning_rate: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    finetune_epochs: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    balance: BalanceSection = BalanceSection.model_construct()

    def settings(self) -> TrainingSettings:
        """What travels with every order."""
        return TrainingSettings(
            local_epochs=self.local_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            eval_batch_size=self.eval_batch_size,
            procedure=self.local_procedure(),
            balance=self.balance.chosen(),
            optimizer=OptimizerName(self.optimizer),
            momentum=self.momentum,
        )

    def local_procedure(self) -> LocalProcedure:
        """The procedure with the settings that it reads."""
        name = ProcedureName(self.procedure)
        read = {key: getattr(self, key) for key in READS[name] - {"pull"}}
        return LocalProcedure(name, **read, pull=PullStep(self.pull if "pull" in READS[name] else "gradient"))


class DataSection(Section):
    """Where a client's rows come from; `partition` i/n takes one of n parts.

    `dir` turns source `builtin` into `files`, so that a folder is all that a person has to name. `standardise` is for
    rows of numbers.
    """

    source: Literal["builtin", "glue", "files"] = "builtin"
    dir: Location | None = None
    partition: Partition | None = None
    standardise: bool = False

    @model_validator(mode="before")
    @classmethod
    def _dir_means_files(cls, body: Any) -> Any:
        if isinstance(body, dict) and body.get("dir") is not None and body.get("source", "builtin") == "builtin":
            return {**body, "source": "files"}
        return body

    @property
    def part(self) -> tuple[int, int] | None:
        """`partition` as (i, n) with 1 <= i <= n, or None for all rows."""
        if self.partition is None:
            return None
        index, parts = self.partition.split("/")
        return int(index), int(parts)


class RuleSection(Section):
    """Parameters whose name matches `match` live in `scope`; `- match: scope` is the short form."""

    match: RuleText
    scope: RuleText

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, body: Any) -> Any:
        if isinstance(body, dict) and len(body) == 1 and not body.keys() & {"match", "scope"}:
            match, scope = next(iter(body.items()))
            return {"match": match, "scope": scope}
        return body


class SharingSection(Section):
    """Which parameters are shared by whom: a named plan, or `rules` of which the first match decides.

    `private_layers` is what fedper keeps at the top of the encoder and lg at its bottom; with `by_layer` each layer
    of what is shared is a scope of its own, so that clients may train some and not others. `groups` is a tree of names
    with lists of tasks as leaves; `members` is who holds a copy in plans soft and adaptive: every client, or all
    clients with the same tasks together.
    """

    plan: Literal["hard", "full", "private_heads", "fedper", "lg", "local", "groups", "soft", "adaptive", "rules"] = (
        "hard"
    )
    groups: Annotated[dict[TaskName, Any], AfterValidator(group_tree)] = Field(default={})
    members: Literal["clients", "tasks"] = "tasks"
    private_layers: Annotated[int, Field(ge=0, le=1000)] = 1
    by_layer: bool = False
    rules: Annotated[tuple[RuleSection, ...], Field(strict=False)] = ()


class FederationSection(Section):
    """How a round is held. `quorum` is the share of its orders that must come back by its deadline.

    Clients say that they live four times per lease, and time is looked at twice per second: hence its least value.
    `update_encoding` is how updates travel: see `common.parameters.encodings`. With `tasks_per_order` a client
    trains so many of its tasks per round, by `task_choice`: see `server.core.selection`.
    """

    clients_per_task: Count = 1
    min_clients: Count = 1
    client_fraction: Fraction = 1.0
    quorum: Fraction = 0.5
    min_updates: Count = 1
    start_timeout_seconds: Seconds = 600.0
    rejoin_timeout_seconds: Annotated[float, Field(ge=0, le=365 * 86400)] = 120.0
    round_timeout_seconds: Seconds = 1800.0
    round_attempts: Count = 3
    lease_seconds: Annotated[float, Field(ge=2, le=365 * 86400)] = 60.0
    server_learning_rate: Annotated[float, Field(gt=0)] = 1.0
    update_encoding: Literal["dense-float32", "rows-float32", "dense-bfloat16", "rows-bfloat16"] = "dense-float32"
    tasks_per_order: Count | None = None
    task_choice: Literal["rotate", "examples"] = "rotate"


class GuardSection(Section):
    """Whether tasks that sharing hurts fall back to models of their clients' own; `guard: true` is the short form.

    Worse by more than `margin` on validation rows, in units of the task's primary metric, and not catching up, for
    `rounds` in a row.
    """

    enabled: bool = False
    margin: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    rounds: Count = 2

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, body: Any) -> Any:
        return {"enabled": body} if isinstance(body, bool) else body


class SimulationSection(Section):
    """Who takes part in `--mode simulate`, how rows are dealt out, and what goes wrong how often.

    `alpha` is for partition `dirichlet`; `dropouts` and `stragglers` are shares of all orders to train.
    """

    clients: Count = 100
    tasks_per_client: Count = 1
    partition: Literal["iid", "dirichlet"] = "iid"
    alpha: Annotated[float, Field(ge=0.01, le=1000)] = 0.5
    dropouts: Annotated[float, Field(ge=0, lt=1)] = 0.0
    stragglers: Annotated[float, Field(ge=0, lt=1)] = 0.0
    workers: Annotated[int, Field(ge=1, le=256)] = 1


class CompareSection(Section):
    """Methods of your own for `--mode compare`: name -> values to set, by their paths, such as `sharing.plan: lg`."""

    methods: dict[RunName, dict[str, Any]] = Field(default={})


class ServerTLSSection(Section):
    """PEM files of the coordinator; with `client_ca` clients must show a certificate of that authority."""

    certificate: Location | None = None
    key: Location | None = None
    client_ca: Location | None = None


class ServerSection(Section):
    """Where the coordinator listens (port 0: any free one) and how it proves who it is."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 50051
    tls: ServerTLSSection = ServerTLSSection.model_construct()
    insecure: bool = False


class Config(Section):
    """The whole configuration; everything has a default except the tasks."""

    run: RunSection = RunSection.model_construct()
    model: ModelSection = ModelSection.model_construct()
    training: TrainingSection = TrainingSection.model_construct()
    tasks: dict[TaskName, TaskSection] = Field(default_factory=dict)
    data: DataSection = DataSection.model_construct()
    sharing: SharingSection = SharingSection.model_construct()
    relation: RelationSection = RelationSection.model_construct()
    federation: FederationSection = FederationSection.model_construct()
    guard: GuardSection = GuardSection.model_construct()
    aggregation: AggregationSection = AggregationSection.model_construct()
    server: ServerSection = ServerSection.model_construct()
    client: ClientSection = ClientSection.model_construct()
    simulation: SimulationSection = SimulationSection.model_construct()
    compare: CompareSection = CompareSection.model_construct()

    @model_validator(mode="before")
    @classmethod
    def _relation_of_plan(cls, body: Any) -> Any:
        """Copies of members' own are of little use without a relation, so these plans bring one."""
        if isinstance(body, dict) and isinstance(body.get("sharing"), dict):
            meant = {"soft": "mean", "adaptive": "agreement"}.get(str(body["sharing"].get("plan")))
            section = body.get("relation") or {}
            if meant and isinstance(section, dict):
                return {**body, "relation": {"name": meant, **section}}
        return body

    @model_validator(mode="before")
    @classmethod
    def _no_tasks(cls, body: Any) -> Any:
        return {**body, "tasks": {}} if isinstance(body, dict) and body.get("tasks", {}) is None else body

    @property
    def by_task(self) -> bool:
        """Whether what tasks share is summed task by task."""
        return self.aggregation.by_task or any(task.auxiliary for task in self.tasks.values())

    def membership(self) -> Membership:
        """Which groups tasks belong to, and who holds a member's copy."""
        return Membership(groups_of(self.sharing.groups, list(self.tasks)), self.sharing.members)

    def definitions(self) -> tuple[TaskDefinition, ...]:
        """Every task, in the file's order.

        Raises:
            ConfigError: a task's section does not define it.
        """
        return tuple(section.definition(name) for name, section in self.tasks.items())

    def headers(self) -> dict[str, Header]:
        """What the numbers in each task's examples are, by task, as far as that is said here."""
        return self.model.inputs.headers(self)

    def sharing_plan(self) -> SharingPlan:
        """The rules that `sharing` stands for; layers are written out when it meets a model."""
        sharing = self.sharing
        if sharing.plan == "groups":
            rules = groups_plan(self.membership().levels)
        else:
            rules = PLANS.get(sharing.plan) or tuple(ScopeRule(rule.match, rule.scope) for rule in sharing.rules)
        if sharing.by_layer:
            rules = tuple(ScopeRule(r.match, LAYERED if r.scope == SHARED else r.scope) for r in rules)
        return SharingPlan(rules, sharing.private_layers)
