"""Means over those who read a parameter: who they are, what a round comes to, and what it must not change."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.config import Config
from common.errors import ConfigError
from common.parameters.schema import ParameterSchema
from common.parameters.vector import Vector
from server.aggregation.strategy import AggregationStrategy
from server.core.readers import Stretch, stretches_of
from server.engine.coordinator import Coordinator
from server.runs.run_folder import RunFolder
from server.runs.unread import unread_by
from tests.core_cases import rules
from tests.crashes import prepare_run
from tests.federations import Clients, array_config, digest_of, federate, make_model, small_config
from tests.test_combining import CLIENTS, DELTAS, hold, vector

READERS = "aggregation.mean_over=readers"
TWO: Clients = (("a", ("sst2",), "1/2"), ("b", ("qqp",), "1/2"))
SEVERAL: Clients = (*TWO, ("c", ("sst2", "qqp"), "2/2"))

pytestmark = pytest.mark.usefixtures("one_tokenizer")


def texts(folder: Path, *overrides: str) -> Config:
    return small_config(folder, "federation.min_clients=2", "training.num_rounds=1", *overrides)


@pytest.mark.parametrize("pair_mode", ["siamese", "cross"])
def test_the_pooler_is_not_read_where_texts_of_a_pair_are_read_one_by_one(pair_mode: str, tmp_path: Path) -> None:
    model = make_model(texts(tmp_path, f"model.pair_mode={pair_mode}")).model
    unread = {task: {name for name in names if name.startswith("encoder.")} for task, names in unread_by(model).items()}
    pooler = {"encoder.pooler.dense.weight", "encoder.pooler.dense.bias"}
    assert unread == {"sst2": set(), "qqp": pooler if pair_mode == "siamese" else set()}
    assert all(value.grad is None for value in model.parameters()), "nothing of it is left"


def test_stretches_join_neighbours_and_cover_everything() -> None:
    schema = ParameterSchema.of({"a": (2, 3), "b": (4,), "c": (1,), "d": (5,)})
    unread = {"x": {"c", "d"}, "y": {"d"}, "z": {"d", "c"}}
    everybody = frozenset("xyz")
    assert stretches_of(schema, "xyz", unread) == (
        *(Stretch(0, 10, everybody), Stretch(10, 11, frozenset("y")), Stretch(11, 16, everybody)),
    )


HALVES = (Stretch(0, 1, frozenset(("sst2", "qqp"))), Stretch(1, 2, frozenset(("qqp",))))


@pytest.mark.parametrize("by_task", [False, True])
def test_a_round_by_hand(by_task: bool) -> None:
    """a and b have 10 and 30 rows of sst2, c 5 of qqp, d 20 and 15; the second number is read by qqp alone.

    Without sums by task d counts with all of its rows, since its qqp may have moved what it hands in.
    """
    settings = rules(by_task=by_task, stretches={"shared": HALVES})
    found, _, asked = hold(settings, CLIENTS, DELTAS | {"b": vector(2, 0)}, AggregationStrategy())
    first = (10 * 1 + 30 * 2 + 5 * 3 + 35 * -1) / 80
    second = (5 * 3 + 15 * 4) / 20 if by_task else (5 * 3 + 35 * 4) / 40
    np.testing.assert_allclose(found["shared"], [first, second], rtol=1e-6)
    assert [part.total for part in asked.stretches["shared"]] == [80, 40]


def test_who_reads_nothing_of_a_scope_weighs_nothing_in_it() -> None:
    settings = rules(stretches={"shared": (Stretch(0, 2, frozenset(("qqp",))),)})
    found, _, asked = hold(settings, CLIENTS, DELTAS, AggregationStrategy())
    np.testing.assert_allclose(found["shared"], [(5 * 3 + 35 * -1) / 40, (5 * 3 + 35 * 4) / 40], rtol=1e-6)
    assert asked.totals["shared"] == 40 and not asked.stretches


def by_name(coordinator: Coordinator, schemas: dict[str, ParameterSchema]) -> dict[str, Vector]:
    return {
        entry.name: coordinator.vectors[scope][entry.offset : entry.offset + entry.count]
        for scope, schema in schemas.items()
        for entry in schema.entries
    }


def test_only_what_a_task_does_not_read_changes_and_blocks_of_their_own_do_the_same(tmp_path: Path) -> None:
    """Both clients have 24 rows, so the pooler's step is twice as long, in a scope or a copy of its own too."""
    config = texts(tmp_path)
    model = make_model(config)
    first = {name: value.detach().double().numpy().ravel().copy() for name, value in model.model.named_parameters()}
    plain = by_name(asyncio.run(federate(config, tmp_path / "all", TWO)), model.schemas)
    found = by_name(asyncio.run(federate(texts(tmp_path, READERS), tmp_path / "readers", TWO)), model.schemas)
    for name, values in found.items():
        if name.startswith("encoder.pooler"):
            step = plain[name].astype(np.float64) - first[name]
            np.testing.assert_allclose(values - first[name], 2 * step, atol=1e-7)
            assert np.abs(step).max() > 1e-5
        else:
            assert values.tobytes() == plain[name].tobytes(), name
    layers = texts(tmp_path, READERS, "sharing.by_layer=true")
    apart = by_name(asyncio.run(federate(layers, tmp_path / "layers", TWO)), make_model(layers).schemas)
    assert {name: values.tobytes() for name, values in apart.items()} == {
        name: values.tobytes() for name, values in found.items()
    }
    copies = texts(tmp_path, READERS, "sharing.plan=adaptive", "relation={name: parting, together: 1.0}")
    member = asyncio.run(federate(copies, tmp_path / "copies", TWO)).vectors
    pooler = np.concatenate([found[f"encoder.pooler.dense.{part}"] for part in ("weight", "bias")])
    for task in ("sst2", "qqp"):
        np.testing.assert_allclose(np.sort(member[f"member/{task}/top"]), np.sort(pooler), atol=1e-7)


def test_who_comes_first_does_not_matter_nor_who_carries_it(tmp_path: Path) -> None:
    config = texts(tmp_path, READERS, "federation.min_clients=3", "aggregation.scale=norm", "training.num_rounds=2")
    ways = (("direct", 1), ("grpc", 2))
    found = [asyncio.run(federate(config, tmp_path / how, SEVERAL, how, order)) for how, order in ways]
    assert len({digest_of(run) for run in found}) == 1


def test_where_all_is_read_by_all_nothing_changes(tmp_path: Path) -> None:
    clients: Clients = (("a", ("a0",), "1/2"), ("b", ("b1",), "2/2"))
    found = [
        asyncio.run(federate(array_config("federation.min_clients=2", way), tmp_path / way, clients))
        for way in (READERS, "aggregation.mean_over=all")
    ]
    assert digest_of(found[0]) == digest_of(found[1])
    assert found[0].settings.stretches and replace(found[0].settings, stretches={}) == found[1].settings


def test_a_run_folder_knows_what_is_not_read(tmp_path: Path) -> None:
    prepare_run(texts(tmp_path, READERS), tmp_path / "run")
    prepare_run(texts(tmp_path), tmp_path / "plain")
    unread = RunFolder(tmp_path / "run").read_unread()
    assert "encoder.pooler.dense.bias" in unread["qqp"] and "encoder.pooler.dense.bias" not in unread["sst2"]
    assert RunFolder(tmp_path / "plain").read_unread() == {}


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("aggregation.robust=median", "aggregation.weights=uniform"), r"aggregation.mean_over: median sees every"),
        (("training.anchor=start",), r"aggregation.mean_over: training.anchor pulls what a task does not read"),
        (("sharing.plan=local",), r"aggregation.mean_over: plan local has no means"),
        (
            (
                *("training.procedure=scaffold", "training.optimizer=sgd", "training.max_grad_norm=0"),
                "aggregation.weights=uniform",
            ),
            r"aggregation.mean_over: variates are means over all clients",
        ),
    ],
)
def test_means_over_some_that_contradict_something_are_refused(overrides: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        array_config(READERS, *overrides)
