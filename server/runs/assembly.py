"""From a configuration and a model to what the coordinator is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from common.clock import Clock
from common.config import Config
from common.config.keep_section import NONE
from common.orders import ModelArchitecture
from common.parameters.capacity import blocks_of
from common.parameters.encodings import ENCODINGS
from common.parameters.schema import ParameterSchema
from common.parameters.scope import ByTemplate, Scope, is_private
from common.parameters.vector import Vector
from server.aggregation.strategy import dual_of, strategy_of
from server.core.client_list import ClientList, Member
from server.core.facts import Keep
from server.core.readers import Unread, stretches_of
from server.core.schedule import TrainingSchedule
from server.core.state import FederationState, Guard, RunSettings
from server.engine.coordinator import Coordinator, Federation
from server.engine.observer import Observer
from server.runs.noise import first_ledger, noise_settings, rules_of
from server.runs.sums import scoring_protocol, sum_rules, training_protocol
from server.storage.journal import Journal
from server.storage.models import MemoryModels

if TYPE_CHECKING:  # it brings torch, which a coordinator at work does not need
    from server.runs.model import MTLServerModel

Vectors = Mapping[str, Vector]


_AS_WRITTEN = (
    "clients_per_task",
    "min_clients",
    "max_clients",
    "client_fraction",
    "quorum",
    "min_updates",
    "rejoin_timeout_seconds",
    "round_attempts",
    "offences",
    "start_timeout_seconds",
    "round_timeout_seconds",
    "lease_seconds",
    "update_encoding",
    "tasks_per_order",
    "task_choice",
)
"""Keys of the section `federation` that the core knows by the same names."""


def make_settings(
    config: Config,
    run_id: str,
    schemas: Mapping[str, ParameterSchema],
    unread: Unread = MappingProxyType({}),
    key: bytes = b"",
) -> RunSettings:
    """What the core must know of the configuration, of what tasks do not read, and of the noise's key."""
    section = config.federation
    probes = config.relation is not None and config.relation.probes is not None
    travelling = {scope: schema for scope, schema in schemas.items() if not is_private(scope)}
    as_written: dict[str, Any] = {name: getattr(section, name) for name in _AS_WRITTEN}
    return RunSettings(
        **as_written,
        run_id=run_id,
        seed=config.run.seed,
        tasks=config.definitions(),
        schemas=ByTemplate({scope: (schema.digest, schema.nbytes) for scope, schema in travelling.items()}),
        num_rounds=config.training.num_rounds,
        training=config.order_settings(),
        max_examples=config.aggregation.most_examples,
        max_medians=config.aggregation.most_medians,
        max_length=config.model.max_length,
        tensors=ByTemplate({scope: len(schema.entries) for scope, schema in schemas.items()}),
        payload_bytes=_payload_bytes(travelling),
        by_task=config.by_task,
        one_each=config.privacy.of_coordinator or not config.aggregation.weights.counts_examples,
        blocks=blocks_of(schemas),
        schedule=_schedule(config),
        membership=config.membership(),
        related=config.relation is not None and not config.training.procedure.is_dual,
        guard=Guard(config.guard.margin, config.guard.rounds) if config.guard.enabled else None,
        headers=config.headers(),
        scaled=config.model.inputs.scaled(config) if config.data.statistics == "federation" else 0,
        categories=config.model.inputs.categories(config),
        anchor_strength=config.training.anchor.strength if config.training.anchor else 0.0,
        private_anchors=_private_anchors(config, schemas),
        keep=Keep("" if config.model.keep.best == NONE else config.model.keep.best, config.model.keep.every or None),
        stretches={s: stretches_of(schema, list(config.tasks), unread) for s, schema in travelling.items() if unread},
        averages=config.aggregation.average is not None,
        patience=config.training.patience or None,
        dual=dual_of(config),
        protocol=training_protocol(config),
        probes=config.relation if probes else None,
        noise=rules_of(config, key),
        scoring=scoring_protocol(config),
        sums=sum_rules(config),
        roster=roster_of(config),
    )


def roster_of(config: Config) -> ClientList:
    """Who may take part."""
    listed = config.server.clients
    members = None if listed is None else {name: Member(**one.model_dump()) for name, one in listed.items()}
    return ClientList(members)


def _payload_bytes(travelling: Mapping[str, ParameterSchema]) -> Mapping[str, Mapping[str, tuple[int, int]]]:
    return {
        name: ByTemplate({scope: encoding.bounds(schema) for scope, schema in travelling.items()})
        for name, encoding in ENCODINGS.items()
    }


def _private_anchors(config: Config, schemas: Mapping[str, ParameterSchema]) -> tuple[str, ...]:
    """Where every client trains alone, all but its heads; else what is private is free."""
    scopes = [Scope.parse(scope) for scope in schemas]
    alone = all(scope.task or is_private(str(scope)) for scope in scopes)
    return tuple(str(scope) for scope in scopes if not scope.task) if config.training.anchor and alone else ()


def _schedule(config: Config) -> TrainingSchedule:
    section = config.training
    return TrainingSchedule(section.schedule, section.frozen_layers, section.frozen_rounds)


def make_federation(
    config: Config,
    architecture: ModelArchitecture,
    schemas: Mapping[str, ParameterSchema],
    tokenizer: bytes,
    private_vectors: Vectors,
    key: bytes = b"",
) -> Federation:
    """What the coordinator serves besides the published model; `key` is the noise's."""
    return Federation(
        run_name=config.run.name,
        architecture=architecture,
        rules=plan_rules(config, schemas),
        schemas=ByTemplate(schemas),
        tokenizer=tokenizer,
        private_vectors=private_vectors,
        strategy=replace(strategy_of(config), noise=noise_settings(config, key)),
    )


def plan_rules(config: Config, schemas: Mapping[str, ParameterSchema]) -> tuple[tuple[str, str], ...]:
    """The sharing plan as (match, template) in order, written out for the model with these schemas."""
    plan = config.sharing_plan().resolved(entry.name for schema in schemas.values() for entry in schema.entries)
    return tuple((rule.match, rule.scope) for rule in plan.rules)


def _unread(model: MTLServerModel) -> Unread:
    from server.runs.unread import unread_by

    return unread_by(model.model)


def in_memory(
    config: Config,
    model: MTLServerModel,
    clock: Clock,
    observer: Observer | None = None,
    journal: Journal | None = None,
    key: bytes = b"",
) -> Coordinator:
    """A coordinator that keeps everything in memory; for simulation, benchmarks and tests. `key` is the noise's."""
    unread = _unread(model) if config.aggregation.among_readers else {}
    settings = make_settings(config, "memory", model.schemas, unread, key)
    vectors = {scope: vector.numpy() for scope, vector in model.vectors.items()}
    models = MemoryModels()
    public = {scope: vector for scope, vector in vectors.items() if not is_private(scope)}
    models.write(0, public, public)
    private = {scope: vector.copy() for scope, vector in vectors.items() if is_private(scope)}
    federation = make_federation(config, model.architecture, model.schemas, model.tokenizer_bytes, private, key)
    state = FederationState(ByTemplate(dict.fromkeys(settings.schemas, 0)), ledger=first_ledger(config))
    return Coordinator(settings, state, federation, journal or Journal(":memory:"), models, clock, observer)
