"""Whole federations whose answers enter sums: one digest, masked or not, by every transport, through crashes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from common.config import render
from federated_main import main
from server.storage.journal import Journal
from tests.crashes import one_digest_whenever_it_dies
from tests.federations import CLIENTS, array_config, digest_of, federate, small_config

FOUR = tuple((name, ("a0", "b1"), f"{i + 1}/4") for i, name in enumerate("abcd"))
FEW_SHARE = (("a", ("a0",), "1/4"), ("b", ("a0", "b1"), "2/4"), ("c", ("a0", "b1"), "3/4"), ("d", ("a0",), "4/4"))
MASKED = ("secure_aggregation.enabled=true", "secure_aggregation.min_clients=3", "federation.min_clients=4")
UNMASKED = (*MASKED, "secure_aggregation.masks=false")
METHODS = {
    "hard": (),
    "private heads": ("sharing.plan=private_heads",),
    "nothing shared": ("sharing.plan=local",),
    "copies by task": ("sharing.plan=soft", "sharing.members=tasks"),
    "by task": ("aggregation.weights=task_balanced", "aggregation.conflict=pcgrad"),
    "uniform, server adam": ("aggregation.weights=uniform", "aggregation.optimizer=adam"),
    "blend": ("blend=true",),
    "fedprox": ("training.procedure={name: fedprox, mu: 0.1}",),
    "weights of tasks": ("tasks.a0.weight=0.5",),
}
SIX = ("simulation.clients=6", "simulation.tasks_per_client=2")


def digest(config, place, clients=FOUR, how="direct", shuffle=None):
    return digest_of(asyncio.run(federate(config, place, clients, how, shuffle)))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_masked_and_plain_sums_come_to_one_digest(tmp_path: Path, method: tuple[str, ...]) -> None:
    config = array_config(*MASKED, *method)
    ways = (("direct", None), ("codec", None), ("grpc", None), ("direct", 3))
    found = [digest(config, tmp_path / f"{how}{shuffle}", FOUR, how, shuffle) for how, shuffle in ways]
    found.append(digest(array_config(*UNMASKED, *method), tmp_path / "plain"))
    assert len(set(found)) == 1


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_sums_in_the_ring_come_close_to_sums_of_floats(tmp_path: Path, method: tuple[str, ...]) -> None:
    """The worst error of the mean is 2^-(bits + 1) for each client of weight 1, so far below that of training."""
    masked = asyncio.run(federate(array_config(*MASKED, *method), tmp_path / "masked", FOUR))
    plain = asyncio.run(federate(array_config("federation.min_clients=4", *method), tmp_path / "plain", FOUR))
    assert masked.vectors.keys() == plain.vectors.keys()
    for scope, vector in plain.vectors.items():
        assert masked.vectors[scope] == pytest.approx(vector, abs=2e-3), scope


def test_what_a_task_of_too_few_clients_has_of_its_own_stays_as_it_is(tmp_path: Path) -> None:
    coordinator = asyncio.run(federate(array_config(*MASKED), tmp_path / "run", FEW_SHARE))
    first = asyncio.run(federate(array_config(*MASKED, "training.num_rounds=1"), tmp_path / "one", FEW_SHARE))
    assert (first.vectors["task/b1"] == coordinator.vectors["task/b1"]).all()
    assert (first.vectors["task/a0"] != coordinator.vectors["task/a0"]).any()
    assert coordinator.state.versions["task/b1"] == 0


def test_nothing_of_one_client_is_in_the_journal(tmp_path: Path) -> None:
    coordinator = asyncio.run(federate(array_config(*MASKED), tmp_path, FOUR))
    rounds = coordinator.journal.rounds()
    orders = [order for round_ in rounds for order in round_.orders.values()]
    assert all(order.results == () and order.content is None and order.seconds == 0.0 for order in orders)
    assert not any(order.weights.get(scope) for order in orders for scope in order.weights)
    assert {count for client in coordinator.journal.clients() for count in client.examples.values()} == {1}
    trained = [round_ for round_ in rounds if round_.phase.publishes]
    assert [{r.task: r.examples for r in round_.results} for round_ in trained] == [{"a0": 160, "b1": 160}] * 2


def test_nothing_of_a_round_that_is_over_is_left_on_disk(tmp_path: Path) -> None:
    place = tmp_path / "run"
    (tmp_path / "c.yaml").write_text(render(array_config(*MASKED, *SIX, f"run.run_dir='{place}'")))
    assert main(["--mode", "simulate", "--config", str(tmp_path / "c.yaml")]) == 0
    assert not list((place / "sums").iterdir())
    assert not list(place.rglob("secure.bin")), "clients in the coordinator's process keep their secrets in memory"
    report = json.loads((place / "report.json").read_text())
    assert report["rounds_completed"] == 2
    assert report["tasks"]["a0"]["metrics"]["accuracy"] is not None
    history = report["tasks"]["a0"]["history"]
    assert [entry["round"] for entry in history] == [0, 1, 2]


def test_a_simulation_with_masks_comes_to_the_digest_without(tmp_path: Path) -> None:
    found = set()
    for name, settings in (("masked", MASKED), ("plain", UNMASKED)):
        place = tmp_path / name
        (tmp_path / "c.yaml").write_text(render(array_config(*settings, *SIX, f"run.run_dir='{place}'")))
        assert main(["--mode", "simulate", "--config", str(tmp_path / "c.yaml")]) == 0
        found.add(json.loads((place / "report.json").read_text())["model_digest"])
    assert len(found) == 1


def test_texts_and_clients_with_other_tasks_come_to_one_digest(tmp_path: Path) -> None:
    few = ("secure_aggregation.min_clients=2",)
    masked, plain = (small_config(tmp_path, *settings, *few) for settings in (MASKED, UNMASKED))
    assert digest(masked, tmp_path / "masked", CLIENTS, "grpc", 5) == digest(plain, tmp_path / "plain", CLIENTS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("clients_die", [False, True])
def test_a_coordinator_that_dies_after_any_effect_comes_to_the_same_digest(tmp_path: Path, clients_die: bool) -> None:
    config = array_config(*MASKED, "federation.round_attempts=9")

    def whole(run: Path) -> None:
        assert Journal.read(run / "journal.sqlite").completed() == 2
        assert not list((run / "sums").iterdir())

    assert one_digest_whenever_it_dies(config, tmp_path, FOUR, whole, clients_die) > 20
