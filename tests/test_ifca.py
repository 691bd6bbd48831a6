"""IFCA: planted groups are found; every round is that of a plain loop; the same bits by every way and after kills."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.clock import ManualClock
from common.config import load_config
from common.errors import ConfigError
from common.methods.ifca import IFCARelation
from common.methods.relation import CandidateScore, Members
from common.parameters.schema import ParameterSchema
from server.engine.coordinator import Coordinator
from server.relations.first import drawn
from server.reporting.relations import relation_reports
from server.runs.assembly import in_memory
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.federations import array_config, digest_of, federate, make_model
from tests.ifca_cases import ifca_config, plain_ifca, planted, run
from tests.test_simulation import MIXED, over_grpc, simulated

BODY, HEAD = "member/{member}", "member/{member}/task/a0"


def models_of(coordinator: Coordinator, count: int) -> list[NDArray[np.float64]]:
    """The models that are offered next, encoder and head one after the other."""
    parts = [[f"candidate/{number}/{template}" for template in (BODY, HEAD)] for number in range(count)]
    return [np.concatenate([coordinator.vectors[name] for name in names]).astype(np.float64) for names in parts]


@pytest.mark.parametrize(("groups", "seed"), [(2, 3), (3, 13)])
def test_planted_groups_are_found_and_models_are_those_of_a_plain_loop(groups: int, seed: int, tmp_path: Path) -> None:
    """Float32 against float64, 10 rounds of 3 steps: 1e-6, and the same choices in every round.

    Groups are found from these seeds after 3 and 7 rounds; from others, IFCA may leave a model without clients.
    """
    config, rows = ifca_config(f"run.seed={seed}", models=groups), planted(groups, 3)
    first = models_of(in_memory(config, make_model(config), ManualClock()), groups)
    coordinator = run(config, rows, tmp_path)
    wanted, choices = plain_ifca(first, rows, 10)
    for ours, plain in zip(models_of(coordinator, groups), wanted, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=0.0, atol=1e-6)
    records = [record for record in coordinator.journal.relations() if record.template == BODY]
    found = [json.loads(record.state)["groups"] for record in records]
    assert found == [[sorted(c for c, m in each.items() if m == k) for k in range(groups)] for each in choices]
    assert sorted(found[-1]) == [[f"g{group}c{client}" for client in range(3)] for group in range(groups)]
    for record in coordinator.journal.relations():
        assert json.loads(record.state)["groups"] == found[record.round - 1], "heads go with the encoder"
    own = {
        client: np.concatenate([coordinator.vectors[f"member/{client}{end}"] for end in ("", "/task/a0")])
        for client in rows
    }
    published = models_of(coordinator, groups)
    for number, members in enumerate(found[-1]):
        for member in members:
            assert np.array_equal(own[member], published[number]), "a member's copy is that of its model"


def test_a_round_is_recorded_and_told_where_choices_change(tmp_path: Path) -> None:
    coordinator = run(ifca_config("training.num_rounds=3"), planted(2, 2), tmp_path)
    reports = relation_reports(coordinator.journal.relations())
    assert [report.round for report in reports] == [1, 1, 2, 2, 3, 3]
    assert reports[0].groups is not None and sorted(map(len, reports[0].groups)) in ([0, 4], [1, 3], [2, 2])
    assert reports[0].note.startswith("model 0: {")
    for before, now in zip(reports, reports[2:], strict=False):
        assert (now.note == "") == (now.groups == before.groups)
    kinds = [(round_.phase.name, round_.number) for round_ in coordinator.journal.rounds()]
    assert kinds == [(kind, n) for n in (1, 2, 3) for kind in ("probe", "train")] + [("evaluate", 3)]


def score(loss: float) -> CandidateScore:
    return CandidateScore(10, loss, 0.0, 1.0)


def test_who_was_not_reached_keeps_its_model_and_a_model_that_nobody_chose_stays() -> None:
    """By hand: b and c choose model 1 with 1 and 3 examples; a was not asked; of equal losses the lower one counts."""
    relation, rows = IFCARelation(num_models=3), np.zeros((6, 6))
    scores = {
        "b": {"0": score(2.0), "1": score(1.0), "2": score(1.0)},
        "c": {"0": score(5.0), "1": score(1.0), "2": score(3.0)},
    }
    members = Members(
        ("a", "b", "c"), np.array([0.0, 1.0, 3.0]), rows, rows[:3, :3], 4,
        candidates=("0", "1", "2"), scores=scores, state={"groups": [[], [], ["a", "b"]]},
    )  # fmt: skip
    made = relation(members)
    mean, kept = [0.0, 0.25, 0.75, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert made.start is not None and made.start.tolist() == [kept, mean, mean]
    assert {name: row.tolist() for name, row in made.candidates.items()} == {
        "0": [0.0, 0.0, 0.0, 1.0, 0.0, 0.0], "1": mean, "2": kept,
    }  # fmt: skip
    assert made.state["groups"] == [[], ["b", "c"], ["a"]] and made.newcomer is not None
    assert made.newcomer.tolist() == mean and made.note == "model 0: {}; model 1: {b, c}; model 2: {a}"


def test_models_begin_apart_with_the_scale_of_the_first_values() -> None:
    schema = ParameterSchema.of({"w": (50, 40), "norm": (30,)})
    first = np.concatenate([np.random.Generator(np.random.PCG64(1)).normal(0.5, 2.0, 2000), np.ones(30)]).astype("f4")
    assert np.array_equal(drawn(first, schema, 0.0, 7), first)
    for away in (0.3, 1.0):
        other = drawn(first, schema, away, 7)
        assert np.array_equal(other, drawn(first, schema, away, 7)) and not np.array_equal(
            other, drawn(first, schema, away, 8)
        )
        assert np.array_equal(other[2000:], first[2000:]), "a tensor of one value stays"
        assert abs(other[:2000].std() - 2.0) < 0.1 and abs(other[:2000].mean() - 0.5) < 0.15
        like = np.corrcoef(other[:2000], first[:2000])[0, 1]
        assert abs(like - np.sqrt(1.0 - away**2)) < 0.05


def test_one_model_is_refused_with_one_line() -> None:
    with pytest.raises(ConfigError, match=r"relation\.num_models: 1 is out of range; write at least 2"):
        ifca_config(models=1)
    with pytest.raises(ConfigError, match=r"relation\.name: ifca acts on copies of members' own"):
        load_config(None, ["relation.name=ifca", "sharing.plan=hard"])


CLIENTS = (("a", ("a0",), "1/2"), ("b", ("b1",), "1/2"), ("c", ("a0", "b1"), "2/2"))
CHOOSING = ("sharing={plan: soft, members: clients}", "relation=ifca")


def test_direct_calls_grpc_and_a_simulation_have_the_same_bits(tmp_path: Path) -> None:
    config = array_config(*CHOOSING, "simulation.workers=2")
    virtual = simulated(config, tmp_path / "virtual", MIXED, codec=True)
    real = asyncio.run(over_grpc(config, tmp_path / "real", MIXED))
    assert digest_of(virtual) == digest_of(real)
    assert [record.state for record in virtual.journal.relations()] == [r.state for r in real.journal.relations()]
    direct = asyncio.run(federate(array_config(*CHOOSING, "federation.min_clients=3"), tmp_path / "direct", CLIENTS))
    shuffled = asyncio.run(
        federate(array_config(*CHOOSING, "federation.min_clients=3"), tmp_path / "codec", CLIENTS, "codec", shuffle=3)
    )
    assert digest_of(direct) == digest_of(shuffled)


@pytest.mark.parametrize("deaths", [(3, 4, 6), pytest.param(range(1, 100), marks=pytest.mark.slow)])
def test_a_coordinator_that_dies_after_any_effect_comes_to_the_same_bits(deaths: Sequence[int], tmp_path: Path) -> None:
    config = array_config(*CHOOSING)
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, CLIENTS)
    digest, effects = asyncio.run(crash_and_recover(config, template, tmp_path / "whole", cast, None, False))
    assert effects[:5] == ["Commit", "Wake", "Commit", "Wake", "Fold"]
    for number, clients_die in (*((n, False) for n in deaths[: len(effects) - 1]), (4, True)):
        place = tmp_path / f"{number}-{clients_die}"
        found, _ = asyncio.run(crash_and_recover(config, template, place, cast, number, clients_die))
        assert found == digest, effects[number - 1]


def test_members_have_the_whole_model_that_they_chose_also_what_is_not_trained(tmp_path: Path) -> None:
    config = ifca_config("training.num_rounds=2", "training.frozen_layers=all", "training.frozen_rounds=2")
    rows = planted(2, 2)
    first = models_of(in_memory(config, make_model(config), ManualClock()), 2)
    coordinator = run(config, rows, tmp_path)
    (last,) = (r for r in coordinator.journal.relations() if (r.round, r.template) == (2, BODY))
    for number, members in enumerate(json.loads(last.state)["groups"]):
        for member in members:
            assert np.array_equal(coordinator.vectors[f"member/{member}"], first[number][:48].astype("f4"))
