"""From a configuration and a model to what the coordinator is made of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.clock import Clock
from common.config import Config
from common.orders import ModelArchitecture
from common.parameters.plan import is_private
from common.parameters.schema import ParameterSchema
from server.coordinator import Coordinator, Federation, Observer
from server.core.state import FederationState, Rules
from server.model import MTLServerModel
from server.storage.journal import Journal
from server.storage.models import MemoryModels

Vectors = Mapping[str, NDArray[np.float32]]


def make_rules(config: Config, run_id: str, schemas: Mapping[str, ParameterSchema]) -> Rules:
    """What the core must know of the configuration."""
    section = config.federation
    return Rules(
        run_id=run_id,
        seed=config.run.seed,
        tasks=config.definitions(),
        schemas={scope: (schema.digest, schema.nbytes) for scope, schema in schemas.items() if not is_private(scope)},
        num_rounds=config.training.num_rounds,
        training=config.training.settings(),
        clients_per_task=section.clients_per_task,
        min_clients=section.min_clients,
        client_fraction=section.client_fraction,
        quorum=section.quorum,
        round_attempts=section.round_attempts,
        start_timeout_seconds=section.start_timeout_seconds,
        round_timeout_seconds=section.round_timeout_seconds,
        lease_seconds=section.lease_seconds,
    )


def make_federation(
    config: Config,
    architecture: ModelArchitecture,
    schemas: Mapping[str, ParameterSchema],
    tokenizer: bytes,
    vectors: Vectors,
) -> Federation:
    """What the coordinator serves; `vectors` are the values of all scopes, private ones included."""
    return Federation(
        run_name=config.run.name,
        architecture=architecture,
        rules=tuple((rule.match, rule.scope) for rule in config.sharing_plan().rules),
        digests={scope: schema.digest for scope, schema in schemas.items()},
        tokenizer=tokenizer,
        vectors={scope: vector for scope, vector in vectors.items() if not is_private(scope)},
        private_vectors={scope: vector for scope, vector in vectors.items() if is_private(scope)},
        server_learning_rate=config.federation.server_learning_rate,
    )


def in_memory(
    config: Config,
    model: MTLServerModel,
    clock: Clock,
    observer: Observer | None = None,
    journal: Journal | None = None,
) -> Coordinator:
    """A coordinator that keeps everything in memory; for simulation, benchmarks and tests."""
    rules = make_rules(config, "memory", model.schemas)
    vectors = {scope: vector.numpy().copy() for scope, vector in model.vectors.items()}
    federation = make_federation(config, model.architecture, model.schemas, model.tokenizer_bytes, vectors)
    state = FederationState(dict.fromkeys(rules.schemas, 0))
    return Coordinator(rules, state, federation, journal or Journal(":memory:"), MemoryModels(), clock, observer)
