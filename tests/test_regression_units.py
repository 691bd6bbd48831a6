"""Regressions work in units of the federation: scores of any size are learned alike, and nobody's numbers are told."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.builtin import generate
from client.disclosure import what_leaves
from common.config import Config, load_config
from common.errors import Reason, Refused, WireError
from common.orders import JoinRequest, PollKind, PollReply, UpdateState
from common.targets import LARGEST_TARGET, OWN_UNITS, TargetSums, TargetUnits, coarse, pooled, sums_of
from common.tasks import TASK_KINDS, TaskDefinition
from common.wire import messages
from server.core.admission import check_join
from server.core.effects import Commit, Notice, UnitsFixed
from server.core.events import Joined
from server.reporting.report import round_scores
from server.reporting.values import to_json
from server.runs.saved import load_run
from server.storage.journal import Journal
from simulation.app import simulate
from tests.core_cases import Table, rules
from tests.crashes import model_made_here
from tests.federations import digest_of, federate, small_config

SCORE = TaskDefinition("yield", TASK_KINDS["regression"], (), False, TASK_KINDS["regression"].metrics)
TAG = TaskDefinition("tag", TASK_KINDS["classification"], ("a", "b"), False, ("accuracy",))
TWO = (("x", ("yield",), "1/2"), ("y", ("yield",), "2/2"))


def sums(*targets: float) -> TargetSums:
    return sums_of(np.array(targets, dtype=float))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.sampled_from([0.0, 1e3, -3e6, 1e9]),
    st.sampled_from([1e-9, 1.0, 300.0, 1e6]),
)
def test_units_are_those_of_all_targets_together_but_coarse(seed: int, parts: int, place: float, size: float) -> None:
    rng = np.random.default_rng(seed)
    clients = [place + size * rng.normal(size=int(rng.integers(1, 30))) for _ in range(parts)]
    everything = np.concatenate(clients)
    found = [(len(targets), sums_of(targets)) for targets in clients]
    mean, deviation = pooled(found)
    assert (mean, deviation) == pooled(found[::-1])
    if len(everything) > 1 and size > 1e-12 * abs(place):
        assert mean == pytest.approx(everything.mean(), rel=1e-12, abs=1e-9 * size)
        assert deviation == pytest.approx(everything.std(), rel=1e-4)
        units = coarse(mean, deviation)
        assert 0.7 <= deviation / units.scale <= 1.42 and abs(mean - units.mean) <= units.scale / 8 + 1e-9 * size
        assert np.log2(units.scale).is_integer() and (4 * units.mean / units.scale).is_integer()
        assert units.problem() is None


def test_what_one_client_has_cannot_be_read_from_the_units() -> None:
    """A client that takes its own sums out is left with the same for many others."""
    rng = np.random.default_rng(0)
    mine, theirs = rng.normal(50, 10, 100), rng.normal(50, 10, 100)
    others = [theirs + shift for shift in np.linspace(-1, 1, 20)]
    assert len({coarse(*pooled([(100, sums_of(mine)), (100, sums_of(other))])) for other in others}) == 1


@pytest.mark.parametrize("value", [0.0, 0.1, -7e5, 1e29])
def test_targets_that_are_all_the_same_have_a_scale_of_one(value: float) -> None:
    mean, deviation = pooled([(3, sums(value, value, value)), (1, sums(value))])
    assert deviation == 0.0 and coarse(mean, deviation).scale == 1.0 and coarse(mean, deviation).problem() is None


BOTH = rules(tasks=(SCORE, TAG), schemas={}, min_clients=3)
ALONE = rules(tasks=(SCORE,), schemas={}, min_clients=2)


def joined(table: Table, client: str, task: TaskDefinition, *targets: float) -> None:
    own = ((task.name, sums(*targets)),) if targets else ()
    request = JoinRequest(client, (task,), ((task.name, len(targets) or 5),), targets=own)
    check_join(table.settings, table.state, request)
    table.apply(Joined(table.now, request, f"token-{client}"))


def test_units_are_fixed_with_the_first_round_and_told_to_clients_of_the_task_alone() -> None:
    table = Table(BOTH)
    joined(table, "a", SCORE, 900.0, 1100.0)
    joined(table, "c", TAG)
    assert not table.state.units
    joined(table, "b", SCORE, 1000.0, 1000.0)
    expected = coarse(1000.0, np.sqrt(5000.0))
    assert table.state.units == {"yield": expected} == {"yield": TargetUnits(992.0, 64.0)}
    assert table.order("a").units == table.order("b").units == (("yield", expected),)
    assert table.order("c").units == ()
    joined(table, "d", SCORE, -1e9, 1e9)
    assert table.state.units == {"yield": expected}
    journal = Journal(":memory:")
    for effect in table.of(Commit):
        journal.commit(effect.records)
    assert journal.restore((), 1.0).units == {"yield": expected}
    journal.close()


def test_rows_above_the_cap_move_no_units() -> None:
    """Two rows of each count, so that mean and spread are those of (0, 8) and (16, 16)."""
    table = Table(replace(BOTH, max_examples=2))
    joined(table, "a", SCORE, 0.0, 8.0)
    joined(table, "c", TAG)
    joined(table, "b", SCORE, *[16.0] * 1000)
    assert table.state.units == {"yield": coarse(10.0, np.sqrt((100 + 4 + 36 + 36) / 4))}


def test_targets_that_are_all_the_same_are_told() -> None:
    table = Table(ALONE)
    joined(table, "a", SCORE, 5.0, 5.0)
    joined(table, "b", SCORE, 5.0)
    assert any("the same, so there is nothing to learn" in notice.text for notice in table.of(Notice))


def test_units_of_an_earlier_run_stay_and_scores_far_from_them_are_told() -> None:
    for targets, warns in (((1000.0, 1100.0), False), ((1.0, 2.0), True), ((1000.0, 9e6), True)):
        table = Table(ALONE)
        table.state = replace(table.state, units={"yield": TargetUnits(1024.0, 64.0)})
        joined(table, "a", SCORE, *targets)
        joined(table, "b", SCORE, *targets)
        assert table.state.units == {"yield": TargetUnits(1024.0, 64.0)}
        assert not [r for effect in table.of(Commit) for r in effect.records if isinstance(r, UnitsFixed)]
        assert any("model.warm_start" in notice.text for notice in table.of(Notice)) is warns


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ((), "mean and spread of its scores are missing"),
        ((("yield", TargetSums(float("nan"), 1.0)),), "cannot have"),
        ((("yield", TargetSums(2 * LARGEST_TARGET, 1.0)),), "cannot have"),
        ((("yield", TargetSums(0.0, -1.0)),), "cannot have"),
        ((("yield", TargetSums(0.0, float("inf"))),), "cannot have"),
    ],
)
def test_sums_that_no_targets_have_are_refused(targets: Any, words: str) -> None:
    table = Table(ALONE)
    with pytest.raises(Refused, match=words) as caught:
        check_join(table.settings, table.state, JoinRequest("a", (SCORE,), (("yield", 5),), targets=targets))
    assert caught.value.reason is Reason.MALFORMED and "\n" not in caught.value.message
    with pytest.raises(Refused, match=words):  # one row has no spread
        check_join(table.settings, table.state, JoinRequest("a", (SCORE,), (("yield", 1),), targets=targets))


@pytest.mark.parametrize("units", [(0.0, 0.0), (0.0, -1.0), (1e32, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_units_that_no_head_can_work_in_are_no_message(units: tuple[float, float]) -> None:
    table = Table(ALONE)
    joined(table, "a", SCORE, 1.0, 2.0)
    joined(table, "b", SCORE, 1.0, 2.0)
    order = replace(table.order("a"), units=(("yield", TargetUnits(*units)),))
    reply = PollReply(PollKind.ORDER, UpdateState.NONE, "", order)
    with pytest.raises(WireError, match="units: "):
        messages.POLL_REPLY.decode(messages.POLL_REPLY.encode(reply))


def tables(folder: Path, scale: float = 1.0, shift: float = 0.0, rows: int = 120) -> Path:
    """Features of which the score is a smooth function, with deviation about `scale` around `shift`."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, 4))
    y = np.round((x[:, 0] + np.tanh(x[:, 1])) * 64) / 64  # exact in any unit that is a power of two
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "yield.npz", x=x.astype(np.float32), y=shift + scale * y)
    return folder


def mlp_config(folder: Path, *overrides: str) -> Config:
    settings = (
        "model={server_model: mlp, mlp: {features: 4, hidden: [8]}}",
        "training={num_rounds: 8, local_epochs: 4, learning_rate: 1e-2, batch_size: 8}",
        "tasks={yield: {type: regression}}",
        f"data.dir='{folder}'",
        "federation.min_clients=2",
    )
    return load_config(None, [*settings, *overrides])


def pairs(folder: Path, scale: float, shift: float) -> Path:
    """Built-in pairs with scores in other units."""
    for split, count in (("train", 96), ("validation", 32)):
        place = folder / "stsb"
        place.mkdir(parents=True, exist_ok=True)
        rows = [
            f"{e.text}\t{e.text_pair}\t{shift + scale * round(float(e.label) * 64) / 64}"
            for e in generate("stsb", split, count, 3)
        ]
        (place / f"{split}.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    return folder


def last_scores(coordinator: Any) -> dict[str, float]:
    return round_scores(coordinator.settings.tasks, coordinator.journal.rounds()[-1])[
        coordinator.settings.tasks[0].name
    ].scores


def test_scores_around_a_thousand_are_learned(tmp_path: Path) -> None:
    config = mlp_config(tables(tmp_path / "data", 300.0, 1000.0))
    scores = last_scores(asyncio.run(federate(config, tmp_path / "state", TWO)))
    assert scores["rmse"] < 120 and scores["pearson"] > 0.9 and scores["loss"] < 0.3


@pytest.mark.parametrize("how", ["codec", "grpc"])
def test_other_units_give_the_same_model_bit_for_bit_by_every_path(how: str, tmp_path: Path) -> None:
    made = []
    for number, (scale, shift, path) in enumerate([(1.0, 0.0, "direct"), (256.0, 4096.0, how)]):
        config = mlp_config(tables(tmp_path / f"data{number}", scale, shift))
        made.append(asyncio.run(federate(config, tmp_path / f"state{number}", TWO, path)))
    assert digest_of(made[0]) == digest_of(made[1])
    first, second = map(last_scores, made)
    assert second["rmse"] == pytest.approx(256 * first["rmse"], rel=1e-5) and second["loss"] == first["loss"]


@pytest.mark.parametrize(("scale", "shift"), [(32.0, 0.0), (0.25, 0.0), (64.0, 1024.0)])
def test_a_siamese_head_learns_alike_in_all_units(scale: float, shift: float, tmp_path: Path) -> None:
    made = []
    for number, units in enumerate([(1.0, 0.0), (scale, shift)]):
        data = pairs(tmp_path / f"data{number}", *units)
        sizes = ("tasks.stsb.train_samples=96", "tasks.stsb.val_samples=32", "federation.min_clients=1")
        config = small_config(tmp_path, f"data.dir='{data}'", *sizes, tasks=("stsb",))
        made.append(asyncio.run(federate(config, tmp_path / f"state{number}", (("a", ("stsb",), "1/1"),))))
    assert digest_of(made[0]) == digest_of(made[1])
    assert last_scores(made[1])["rmse"] == pytest.approx(scale * last_scores(made[0])["rmse"], rel=1e-5)


def simulated(folder: Path, data: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
    config = mlp_config(data, f"run.run_dir='{folder}'", "simulation.clients=2", "training.num_rounds=2", *overrides)
    with model_made_here():
        return to_json(asyncio.run(simulate(config, resume, None)))


def test_saved_runs_and_those_that_start_from_them_know_the_units(tmp_path: Path) -> None:
    data = tables(tmp_path / "data", 300.0, 1000.0)
    report = simulated(tmp_path / "first", data)
    units = load_run(tmp_path / "first").units_of("yield")
    assert units != OWN_UNITS and report["tasks"]["yield"]["units"] == {"mean": units.mean, "scale": units.scale}
    second = simulated(tmp_path / "second", data, f"model.warm_start='{tmp_path / 'first'}'")
    assert load_run(tmp_path / "second").units_of("yield") == units
    before, after = (r["tasks"]["yield"]["history"] for r in (report, second))
    assert after[0]["rmse"] == pytest.approx(before[-1]["rmse"], rel=1e-6)


def test_a_regression_that_joins_a_run_gets_units_of_its_own(tmp_path: Path) -> None:
    data = tables(tmp_path / "data", 300.0, 1000.0)
    tables(tmp_path / "other", 2.0, -40.0).joinpath("yield.npz").rename(data / "rain.npz")
    folder = tmp_path / "run"
    simulated(folder, data)
    before = load_run(folder).units
    simulated(folder, data, "tasks.rain={type: regression}", "training.num_rounds=4", resume=True)
    after = load_run(folder).units
    assert before.keys() == {"yield"} and after["yield"] == before["yield"]
    assert abs(after["rain"].mean + 40) < 2 and after["rain"].scale in (2.0, 4.0)
    report = json.loads((folder / "report.json").read_text())
    assert report["tasks"]["rain"]["metrics"]["rmse"] < 10


def test_what_leaves_names_the_sums_of_scores(tmp_path: Path) -> None:
    lines = "\n".join(what_leaves(small_config(tmp_path, tasks=("sst2", "stsb")), ["sst2", "stsb"]))
    assert "once, of stsb: mean and sum of squared deviations of the training scores" in lines
    assert "deviations" not in "\n".join(what_leaves(small_config(tmp_path), ["sst2"]))
