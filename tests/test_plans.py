"""Sharing plans: which layers stay at a client, and that they really stay there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from common.config import Config
from common.errors import ConfigError
from common.models.layout import scope_schemas
from common.orders import ModelArchitecture
from common.parameters.plan import PLANS, ScopeRule, SharingPlan
from common.parameters.schema import ParameterSchema
from common.tasks import KNOWN_TASKS
from server.core.facts import RunFacts
from server.core.phases import Phase
from server.reporting.report import build_report
from server.reporting.values import to_json
from tests.federations import CLIENTS, digest_of, federate, make_model, small_config
from tests.training_cases import CONFIGS

KEPT = ["private_heads", "fedper", "lg", "local"]
"""Plans that keep something at the client."""

HOW = ("direct", "grpc")


pytestmark = pytest.mark.usefixtures("one_tokenizer")


def schemas_of(kind: str, plan: str, private_layers: int, layers: int = 3) -> dict[str, ParameterSchema]:
    config = CONFIGS[kind] | {"num_hidden_layers": layers, "n_layers": layers}
    architecture = ModelArchitecture(json.dumps(config), "siamese", 32, "", 0)
    return scope_schemas(architecture, [KNOWN_TASKS["sst2"]], SharingPlan(PLANS[plan], private_layers))


def parts_of(schema: ParameterSchema) -> set[str]:
    """embeddings, 0, 1, ..., pooler and head: what a scope's parameters belong to."""
    found = set()
    for entry in schema.entries:
        words = entry.name.split(".")
        number = next((word for word in words if word.isdigit()), None) if words[0] == "encoder" else None
        found.add(words[0] if words[0] == "heads" else number or words[1])
    return found


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_fedper_keeps_the_top_and_lg_the_bottom(kind: str, count: int) -> None:
    pooler = set() if kind == "distilbert" else {"pooler"}
    layers = ["0", "1", "2"]
    top = schemas_of(kind, "fedper", count)
    assert sorted(top) == sorted({"private", "private/sst2", "shared"} - (set() if count or pooler else {"private"}))
    assert parts_of(top["private/sst2"]) == {"heads"}
    assert parts_of(top["shared"]) == {"embeddings", *layers[: 3 - count]}
    assert parts_of(top["private"]) == {*layers[3 - count :], *pooler} if count or pooler else True
    bottom = schemas_of(kind, "lg", count)
    assert parts_of(bottom["private"]) == {"embeddings", *layers[:count]}
    assert parts_of(bottom["task/sst2"]) == {"heads"}
    shared = {*layers[count:], *pooler}
    assert ("shared" in bottom) == bool(shared)
    assert not shared or parts_of(bottom["shared"]) == shared


def test_the_number_of_layers_is_that_of_the_encoder() -> None:
    assert parts_of(schemas_of("bert", "fedper", 1, layers=12)["private"]) == {"11", "pooler"}
    with pytest.raises(ConfigError, match=r"sharing.private_layers: 4, but the encoder has 3 layers"):
        schemas_of("bert", "fedper", 4)


@pytest.mark.parametrize("plan", ["fedper", "lg"])
def test_an_encoder_whose_layers_are_tied_is_refused(plan: str) -> None:
    with pytest.raises(ConfigError, match="ALBERT's layers are one and the same"):
        schemas_of("albert", plan, 1)
    assert set(schemas_of("albert", "private_heads", 1)) == {"private/sst2", "shared"}


def test_a_parameter_that_a_plan_does_not_know_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'encoder.encoder.relative_attention_bias.weight'"):
        schemas_of("mpnet", "fedper", 1)


def test_rules_may_speak_of_layers_and_clients_get_them_written_out(tmp_path: Path) -> None:
    rules = "sharing={plan: rules, private_layers: 2, rules: [{'{bottom}.*': private}, {'*': shared}]}"
    config = deep_config(tmp_path, rules)
    shapes = {e.name: e.shape for s in make_model(config).schemas.values() for e in s.entries}
    written = config.sharing_plan().resolved(shapes)
    assert [rule.match for rule in written.rules] == ["encoder.encoder.layer.0.*", "encoder.encoder.layer.1.*", "*"]
    assert written.resolved(shapes) == written
    assert SharingPlan((ScopeRule("*", "shared"),)).resolved([]).rules == (ScopeRule("*", "shared"),)


def test_private_layers_must_be_read_by_the_plan(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sharing.private_layers: not read by plan hard"):
        deep_config(tmp_path, "sharing.private_layers=2")


def deep_config(folder: Path, *overrides: str) -> Config:
    """The small federation with an encoder of three layers."""
    config = small_config(folder, "sharing.plan=full")
    path = Path(config.model.server_model) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))
    deep = folder / "deep"
    path.parent.rename(deep)
    return small_config(folder, f"model.server_model='{deep}'", *overrides)


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_comes_to_one_model_over_every_transport(tmp_path: Path, plan: str) -> None:
    config = deep_config(tmp_path, f"sharing.plan={plan}", "training.num_rounds=1")
    found = [asyncio.run(federate(config, tmp_path / how, how=how, shuffle=3)) for how in HOW]
    assert len({digest_of(coordinator) for coordinator in found}) == 1
    assert all(coordinator.state.phase is Phase.FINISHED for coordinator in found)
    kept = [{p.parent.parent.name: load_file(p) for p in (tmp_path / how).rglob("private.safetensors")} for how in HOW]
    np.testing.assert_equal(kept[0], kept[1])
    assert sorted(kept[0]) == (sorted(name for name, _, _ in CLIENTS) if plan in KEPT else [])


def test_local_shares_nothing_and_still_learns_and_reports(tmp_path: Path) -> None:
    coordinator = asyncio.run(federate(deep_config(tmp_path, "sharing.plan=local"), tmp_path / "state"))
    rounds = coordinator.journal.rounds()
    assert not coordinator.vectors and coordinator.bytes_up == 0 and not coordinator.settings.schemas
    orders = [order for round_ in rounds for order in round_.orders.values()]
    assert all(not order.scopes and not order.nbytes for order in orders)
    assert [(round_.number, round_.version) for round_ in rounds] == [(1, 0), (2, 1), (2, 2)]
    report = to_json(
        build_report(RunFacts(), 0, coordinator.settings.tasks, rounds, coordinator.journal.clients(), "finished", "")
    )
    history = report["tasks"]["sst2"]["history"]
    assert [entry["round"] for entry in history] == [0, 1, 2]
    assert len({entry["loss"] for entry in history}) == 3, "the models that were scored did not move"
