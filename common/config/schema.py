"""The configuration's sections. Nothing is coerced, unknown keys are refused and every value is frozen.

What spans several keys is checked in `rules`; `federated_config.yaml` shows every key.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from common.bodies import RowNoise, TrainingSettings
from common.config.aggregation_section import AggregationSection
from common.config.choices import Chosen
from common.config.client_section import ClientSection
from common.config.data_section import DataSection, files_named
from common.config.model_section import ModelSection
from common.config.privacy_section import PrivacySection
from common.config.secure_section import SecureAggregationSection
from common.config.server_section import ServerSection
from common.config.simulation_section import SimulationSection
from common.config.task_section import TaskSection
from common.config.training_section import TrainingSection
from common.config.values import (
    Count,
    CountOrZero,
    Fraction,
    Location,
    RuleText,
    RunName,
    Seconds,
    Section,
    TaskName,
    Trains,
    group_tree,
)
from common.inputs import Header
from common.methods.own_models import BlendedModel, IsolatedModel, NoOwnModel, OwnModelRow
from common.methods.relation import Relation
from common.methods.relations import RELATIONS
from common.parameters.membership import Membership, groups_of
from common.parameters.plan import NORM_STATISTICS, PLANS, ScopeRule, SharingPlan, groups_plan
from common.parameters.scope import LAYERED, OWN, OWN_BLOCK, PRIVATE, SHARED
from common.privacy.clipping import Clip
from common.secure.terms import SumTerms, largest_change, largest_weight, task_factors
from common.tasks import TaskDefinition


class RunSection(Section):
    """Which run this is: its name, its seed and its folder (`runs/<name>` unless `run_dir` is given)."""

    name: RunName = "fedmtl"
    """name of the run: letters, digits, _ . -"""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 42
    """0 or more; all randomness of the run derives from it"""
    run_dir: Location | None = None
    """folder of models, journal and reports; null: runs/<name>"""

    @property
    def folder(self) -> Path:
        """Where the coordinator keeps models, journal and reports."""
        return Path(self.run_dir) if self.run_dir else Path("runs") / self.name


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
    """hard (one encoder, a head per task) | full | private_heads | fedper (top layers, heads stay) | lg (bottom stays)
    | local (all stays) | groups | soft (a copy per member) | adaptive (copies that agree are one) | rules"""
    groups: Annotated[dict[TaskName, Any], AfterValidator(group_tree)] = Field(default={})
    """for plan groups: a tree, e.g. {pairs: [qqp, stsb], sentences: [sst2]}"""
    members: Literal["clients", "tasks"] = "tasks"
    """soft, adaptive: who holds a copy: tasks (all clients with the same) | clients"""
    private_layers: Annotated[int, Field(ge=0, le=1000)] = 1
    """encoder layers that stay with fedper and lg, 0 or more"""
    norm_statistics: Literal["private", "shared"] = "private"
    """of batch normalisation: private (each client's own) | shared (averaged as the plan says)"""
    by_layer: bool = False
    """true: a scope per layer of what is shared, for clients of less capacity"""
    rules: Annotated[tuple[RuleSection, ...], Field(strict=False)] = ()
    """for plan rules; the first match decides. Scopes: shared, private, task/<name>, group/{1} (of the first level of
    groups), member/{member}"""


class FederationSection(Section):
    """How a round is held. `quorum` is the share of its orders that must come back by its deadline.

    Clients say that they live four times per lease, and time is looked at twice per second: hence its least value.
    `update_encoding` is how updates travel: see `common.parameters.encodings`. With `tasks_per_order` a client
    trains so many of its tasks per round, by `task_choice`: see `server.core.selection`.
    """

    clients_per_task: Count = 1
    """clients that must be present for each task before the first round"""
    min_clients: Count = 1
    """clients in all before a round; set it to repeat a run exactly"""
    max_clients: Count = 10_000
    """who joins when the run knows so many clients is refused; those that went away count, too"""
    client_fraction: Fraction = 1.0
    """share of the present clients asked per round, more than 0, at most 1"""
    quorum: Fraction = 0.5
    """share of a round's orders that must come back by its deadline"""
    min_updates: Count = 1
    """a round never closes with fewer updates, nor opens with fewer orders"""
    start_timeout_seconds: Seconds = 600.0
    """longest wait for the first clients"""
    rejoin_timeout_seconds: Annotated[float, Field(ge=0, le=365 * 86400)] = 120.0
    """later rounds wait so long for min_clients, once until all are back; 0: no wait"""
    round_timeout_seconds: Seconds = 1800.0
    """deadline of one round"""
    round_attempts: Count = 3
    """tries of a round that misses its quorum, then the run fails"""
    offences: CountOrZero = 10
    """answers of a client that are refused for what is in them before it is put into quarantine; 0: never"""
    lease_seconds: Annotated[float, Field(ge=2, le=365 * 86400)] = 60.0
    """a client that is silent for so long counts as gone, 2 or more"""
    server_learning_rate: Annotated[float, Field(gt=0)] = 1.0
    """scale of the averaged step; 1.0 is plain federated averaging"""
    update_encoding: Literal["dense-float32", "rows-float32", "dense-bfloat16", "rows-bfloat16"] = "dense-float32"
    """of updates: dense-float32 | rows-float32 (exact too: only embedding rows that changed) | dense-bfloat16 |
    rows-bfloat16 (rounded to half the bytes)"""
    tasks_per_order: Count | None = None
    """a client with more tasks trains so many of them per round; null: all"""
    task_choice: Literal["rotate", "examples"] = "rotate"
    """which: rotate (in turns) | examples (drawn: at first by their rows, in the end all alike)"""


class GuardSection(Section):
    """Whether tasks that sharing hurts fall back to models of their clients' own; `guard: true` is the short form.

    Worse by more than `margin` on validation rows, in units of the task's primary metric, and not catching up, for
    `rounds` in a row.
    """

    enabled: bool = False
    """true: clients train one beside it, twice the work; short form guard: true"""
    margin: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    """how much worse, in units of the primary metric on validation rows, counts against sharing"""
    rounds: Count = 2
    """so many such rounds in a row, without catching up, and the task falls back"""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, body: Any) -> Any:
        return {"enabled": body} if isinstance(body, bool) else body


class BlendSection(Section):
    """Whether clients answer with a blend of the shared model and one of their own; `blend: true` is the short form.

    Each client weighs the two for each of its tasks by its validation rows; few rows leave them alike.
    """

    enabled: bool = False
    """true: clients train one beside it, twice the work; short form blend: true"""
    mix: Literal["probabilities", "weights"] = "probabilities"
    """what is averaged: probabilities (predictions of both models) | weights (parameters, into one model)"""
    trains: Trains = "all"
    """how much of its own model a client trains: all | head | top_<n> (head and n top layers, for less work)"""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, body: Any) -> Any:
        return {"enabled": body} if isinstance(body, bool) else body


class CompareSection(Section):
    """Methods of your own for `--mode compare`: name -> values to set, by their paths, such as `sharing.plan: lg`."""

    methods: dict[RunName, dict[str, Any]] = Field(default={})
    """of your own, beside the built-in ones of docs/methods.md: name -> values that differ from this file"""


class Config(Section):
    """The whole configuration; everything has a default except the tasks."""

    run: RunSection = RunSection.model_construct()
    """which run this is"""
    model: ModelSection = ModelSection.model_construct()
    """the encoder, and how texts are read"""
    training: TrainingSection = TrainingSection.model_construct()
    """rounds, and what a client does in one"""
    tasks: dict[TaskName, TaskSection] = Field(default_factory=dict)
    """at least one; clients choose theirs from these"""
    data: DataSection = DataSection.model_construct()
    """where a client's rows come from"""
    sharing: SharingSection = SharingSection.model_construct()
    """which parameters are shared by whom: docs/methods.md"""
    relation: Annotated[Relation | None, Chosen(RELATIONS, none=True)] = None
    """how members' copies pull on each other: docs/methods.md"""
    federation: FederationSection = FederationSection.model_construct()
    """how a round is held"""
    guard: GuardSection = GuardSection.model_construct()
    """tasks that sharing hurts fall back to their clients' isolated models"""
    blend: BlendSection = BlendSection.model_construct()
    """clients answer with a blend of the shared and their isolated models"""
    aggregation: AggregationSection = AggregationSection.model_construct()
    """how updates become one step: docs/methods.md"""
    privacy: PrivacySection = PrivacySection.model_construct()
    """noise that hides single clients or rows, and its budget: docs/use/privacy.md"""
    secure_aggregation: SecureAggregationSection = SecureAggregationSection.model_construct()
    """masks, so that the coordinator sees sums over several clients alone: docs/use/privacy.md"""
    server: ServerSection = ServerSection.model_construct()
    """where the coordinator listens, and who may join"""
    client: ClientSection = ClientSection.model_construct()
    """one client: where it calls, what it keeps and computes on"""
    simulation: SimulationSection = SimulationSection.model_construct()
    """for --mode simulate alone: many clients in one process"""
    compare: CompareSection = CompareSection.model_construct()
    """for --mode compare alone: does sharing help?"""

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
    def _sites_mean_files(cls, body: Any) -> Any:
        """As `data.dir` does: folders are all that a person has to name."""
        sections = [body.get(name) or {} for name in ("simulation", "data")] if isinstance(body, dict) else []
        if not all(isinstance(section, dict) for section in sections) or not sections or not sections[0].get("sites"):
            return body
        return {**body, "data": files_named(sections[1])}

    @model_validator(mode="before")
    @classmethod
    def _no_tasks(cls, body: Any) -> Any:
        return {**body, "tasks": {}} if isinstance(body, dict) and body.get("tasks", {}) is None else body

    @property
    def by_task(self) -> bool:
        """Whether what tasks share is summed task by task."""
        return self.aggregation.by_task or any(task.auxiliary for task in self.tasks.values())

    def own_models(self) -> dict[str, OwnModelRow]:
        """The clients' own models that are asked for, by key; `common.config.checks` allows one."""
        found = self.training.own_models()
        if self.guard.enabled:
            found["guard"] = IsolatedModel()
        if self.blend.enabled:
            found["blend"] = BlendedModel(self.blend.mix, self.blend.trains)
        return found

    def order_settings(self) -> TrainingSettings:
        """What travels with every order to train."""
        own = next(iter(self.own_models().values()), NoOwnModel())
        private = self.privacy.keeps_scores
        return replace(self.training.settings(), own_model=own, keeps_scores=private, row_noise=self.row_noise())

    def heaviest(self) -> int:
        """The most that one client weighs in a masked sum."""
        terms = self.secure_aggregation.terms or SumTerms()
        one_each = self.privacy.of_coordinator or not (self.aggregation.weights.counts_examples or self.by_task)
        return largest_weight(terms, task_factors({name: task.weight for name, task in self.tasks.items()}), one_each)

    def largest_change(self) -> float:
        """Of one parameter in a masked sum."""
        section = self.privacy
        clip = Clip(section.clip, section.head_scale) if section.of_coordinator else None
        return largest_change(self.secure_aggregation.terms or SumTerms(), clip)

    def row_noise(self) -> RowNoise | None:
        """How clients hide single rows; None: they do not."""
        section = self.privacy
        if not section.of_rows:
            return None
        spare = self.federation.round_attempts - 1  # an order that comes to nothing stays charged
        rounds = self.training.num_rounds + spare
        scores_noise = section.scores_noise if section.noises_scores else None
        return RowNoise(section.clip, section.delta, rounds, section.epsilon, section.noise_multiplier, scores_noise)

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
        encoder = self.model.array_encoder
        has_parts = encoder is not None and bool(encoder.part_encoders)
        if sharing.by_layer or has_parts:
            rules = tuple(ScopeRule(r.match, LAYERED if r.scope == SHARED else r.scope) for r in rules)
        if has_parts:
            rules = tuple(ScopeRule(r.match, OWN_BLOCK if r.scope == OWN else r.scope) for r in rules)
        if encoder is not None and encoder.has_norm_statistics and sharing.norm_statistics == "private":
            rules = (*(ScopeRule(f"*.{name}", PRIVATE) for name in NORM_STATISTICS), *rules)
        return SharingPlan(rules, sharing.private_layers)
