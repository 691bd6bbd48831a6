"""Sharing first, parting later: the schedule by hand, its limits, and a loop of a few lines that it must equal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from client.agent import Agent
from client.training.work import ClientState, Procedure, Trained, Work
from common.clock import ManualClock
from common.config import Config
from common.errors import ConfigError
from common.methods.parting import ALONE, CLUSTERS, ONE, PartingRelation
from common.methods.relation import Members
from common.parameters.plan import PLANS, SharingPlan, heights_of
from server.runs.assembly import in_memory
from simulation.inprocess import run_together
from tests.federations import Clients, array_config, federate, make_client, make_model

PAIRS = {"pairs": ("a", "c")}
TWO: Clients = (("a", ("a0",), "1/2"), ("b", ("b1",), "2/2"))


def told(passed: float, height: float = 0.0, state: Mapping[str, Any] | None = None) -> Members:
    """Members a, b and c with 3, 1 and 1 examples."""
    flat = np.zeros((3, 3))
    counts = np.array([3.0, 1.0, 1.0])
    return Members(("a", "b", "c"), counts, flat, flat, 9, state=state or {}, passed=passed, height=height)


def stages(rule: PartingRelation, rounds: int, height: float = 0.0) -> list[int]:
    return [rule(told(number / rounds, height)).state["stage"] for number in range(1, rounds + 1)]


def test_the_schedule_by_hand() -> None:
    assert stages(PartingRelation(), 8) == [ONE] * 4 + [ALONE] * 4
    assert stages(PartingRelation(0.3), 10) == [ONE] * 3 + [ALONE] * 7
    assert stages(PartingRelation(1.0), 3) == [ONE] * 3
    assert stages(PartingRelation(0.0), 3) == [ALONE] * 3
    assert stages(PartingRelation(0.25, 0.5, clusters=PAIRS), 4) == [ONE, CLUSTERS, CLUSTERS, ALONE]
    fall = PartingRelation(0.75, stagger=0.5)
    assert [stages(fall, 8, height).count(ONE) for height in (0.0, 1 / 3, 2 / 3, 1.0)] == [6, 4, 3, 2]


def test_starts_are_means_by_examples_of_those_who_are_one() -> None:
    rule = PartingRelation(0.25, 0.5, clusters=PAIRS)
    first, second, third = (rule(told(passed)) for passed in (0.25, 0.75, 1.0))
    np.testing.assert_array_equal(first.start, np.tile([0.6, 0.2, 0.2], (3, 1)))
    np.testing.assert_array_equal(second.start, [[0.75, 0, 0.25], [0, 1, 0], [0.75, 0, 0.25]])
    assert third.start is None, "as they are"
    assert [found.note for found in (first, second, third)] == ["", "parted: {a, c}, {b}", "parted: {a}, {b}, {c}"]
    assert second.state["groups"] == [["a", "c"], ["b"]]
    assert rule(told(0.75, state=second.state)).note == "", "that is said once"


def test_who_has_parted_stays_apart_in_a_run_that_is_extended() -> None:
    """After 5 of 8 rounds all are alone; of 40 rounds the sixth is among the first half again."""
    parted = PartingRelation()(told(5 / 8))
    assert PartingRelation()(told(6 / 40)).state["stage"] == ONE
    later = PartingRelation()(told(6 / 40, state=parted.state))
    assert (later.start, later.state, later.note) == (None, parted.state, "")


def test_blocks_lie_one_above_the_other() -> None:
    names = ("embeddings.w", "encoder.layer.0.w", "encoder.layer.1.w", "encoder.layer.10.w", "pooler.w")
    schemas = SharingPlan(PLANS["adaptive"]).schemas({f"encoder.{name}": (2,) for name in names})
    place = "member/{member}/"
    assert {name.removeprefix(place): round(3 * height * 4 / 3) for name, height in heights_of(schemas).items()} == {
        **{"embeddings": 0, "layer_0": 1, "layer_1": 2, "layer_10": 3, "top": 4}
    }


# ---- whole runs ----


def near(target: float) -> Procedure:
    """A local procedure that goes a quarter of the way to a model of equal numbers."""

    def go(work: Work, state: ClientState) -> Trained:
        with torch.no_grad():
            for parameter in work.model.parameters():
                parameter.add_(0.25 * (target - parameter))
        return Trained(dict.fromkeys(work.examples.tasks, 0.0))

    return go


def adaptive(*overrides: str) -> Config:
    return array_config("federation.min_clients=2", "sharing.plan=adaptive", "sharing.members=clients", *overrides)


def test_each_block_is_federated_averaging_until_it_parts_and_local_training_from_there(tmp_path: Path) -> None:
    """Of 6 rounds the lower layer is one for 4, the upper for 2; a has 40 rows and goes to 1, b 20 and goes to -1."""
    schedule = "relation={name: parting, together: 0.7, stagger: 0.35}"
    config = adaptive(schedule, "training.num_rounds=6", "model.mlp.hidden=[4, 3]", "tasks.b1.train_samples=20")
    model = make_model(config)
    first = {scope: vector.double().numpy().copy() for scope, vector in model.vectors.items()}
    coordinator = in_memory(config, model, ManualClock())
    targets = {"a": 1.0, "b": -1.0}
    agents = [
        Agent(
            coordinator,
            replace(make_client(config, name, tasks, part), procedure=near(targets[name])),
            tmp_path / name,
        )
        for name, tasks, part in TWO
    ]
    asyncio.run(run_together(coordinator, agents))
    for block, rounds in (("layer_0", 4), ("layer_1", 2)):
        copies = dict.fromkeys("ab", first[f"member/{{member}}/{block}"])
        for number in range(1, 7):
            copies = {name: 0.75 * w + 0.25 * targets[name] for name, w in copies.items()}
            if number <= rounds:
                copies = dict.fromkeys("ab", 2 / 3 * copies["a"] + 1 / 3 * copies["b"])
        for name, expected in copies.items():
            np.testing.assert_allclose(coordinator.vectors[f"member/{name}/{block}"], expected, atol=1e-6)
    notes = {(record.round, record.template[-7:]): record.note for record in coordinator.journal.relations()}
    assert {place: note for place, note in notes.items() if note} == {
        **{(5, "layer_0"): "parted: {a}, {b}", (3, "layer_1"): "parted: {a}, {b}"}
    }


def test_together_to_the_end_is_hard_sharing(tmp_path: Path) -> None:
    """To 1e-6, not to the bit: copies are rounded once before the mean and once after it."""
    hard = asyncio.run(federate(array_config("federation.min_clients=2"), tmp_path / "hard", TWO))
    found = asyncio.run(federate(adaptive("relation={name: parting, together: 1.0}"), tmp_path / "found", TWO))
    for name in "ab":
        np.testing.assert_allclose(found.vectors[f"member/{name}/layer_0"], hard.vectors["shared"], atol=1e-6)
    for head in ("task/a0", "task/b1"):
        np.testing.assert_allclose(found.vectors[head], hard.vectors[head], atol=1e-6)


def test_never_together_is_local_training(tmp_path: Path) -> None:
    """From the same first values; to 1e-6, since a copy that travels is its base plus a rounded difference."""
    asyncio.run(federate(array_config("federation.min_clients=2", "sharing.plan=local"), tmp_path / "local", TWO))
    found = asyncio.run(federate(adaptive("relation={name: parting, together: 0.0}"), tmp_path / "found", TWO))
    for name, (task,), _ in TWO:
        (kept,) = (tmp_path / "local" / name).rglob("private.safetensors")
        alone = load_file(kept)
        np.testing.assert_allclose(found.vectors[f"member/{name}/layer_0"], alone["private"], atol=1e-6)
        np.testing.assert_allclose(found.vectors[f"task/{task}"], alone[f"private/{task}"], atol=1e-6)
    assert json.loads(found.journal.relations()[0].state)["stage"] == ALONE


@pytest.mark.parametrize(
    ("relation", "problem"),
    [
        ("{name: parting, grouped: 0.5}", r"relation.clusters: needed where grouped is above 0; write e.g."),
        ("{name: parting, clusters: {x: [a0]}}", r"relation.grouped: clusters are not read without it"),
        ("{name: parting, grouped: 0.5, clusters: {x: [a0], y: [a0]}}", r"relation.clusters: 'a0' is in two"),
        ("{name: parting, grouped: 0.5, clusters: {x: [c9]}}", r"relation.clusters.x: 'c9' is no set of tasks"),
        ("{name: parting, together: 1.5}", r"relation.together: .* 1"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(relation: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        array_config("sharing.plan=adaptive", f"relation={relation}")
