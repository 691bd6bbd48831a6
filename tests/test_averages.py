"""Averages of versions: by hand, over whole runs, when processes die, and in what is read from a run folder."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.agent import Agent
from common.clock import ManualClock
from common.config import Config
from common.errors import ConfigError
from common.methods.averages import LastVersions, MovingAverage, VersionAverage
from common.parameters.vector import Vector
from server.aggregation.averaging import averaged
from server.aggregation.strategy import strategy_of
from server.runs.assembly import in_memory
from server.runs.saved import load_run
from simulation.app import simulate
from simulation.inprocess import run_together
from tests.crashes import Cast, crash_and_recover, model_made_here, prepare_run
from tests.federations import Clients, array_config, federate, make_client, make_model
from tests.test_group_scopes import moved_by, moves

TWO: Clients = (("a", ("a0",), "1/2"), ("b", ("b1",), "2/2"))
LAST, EMA = "aggregation.average={name: last_k, rounds: 2}", "aggregation.average={name: ema, decay: 0.5}"


def came_to(rule: VersionAverage, values: list[float], num_rounds: int) -> float:
    moments: dict[str, Vector] = {}
    for version, value in enumerate(values, 1):
        found = averaged({"shared": np.array([value], np.float32)}, moments, rule.share(version, num_rounds))
    return float(found["shared"][0])


def test_the_averages_by_hand() -> None:
    assert came_to(LastVersions(3), [1, 2, 5, 6, 10], 5) == 7.0
    assert came_to(LastVersions(9), [1, 2, 6], 3) == 3.0, "of all, where there are no more"
    assert came_to(LastVersions(1), [1, 2, 6], 3) == 6.0
    assert came_to(MovingAverage(0.75), [4, 8, 12], 3) == 0.75 * (0.75 * 4 + 0.25 * 8) + 0.25 * 12
    assert came_to(MovingAverage(0.0), [4, 8, 12], 3) == 12.0


@pytest.mark.parametrize(("average", "expected"), [(LAST, 3.5), (EMA, 0.125 + 0.125 * 2 + 0.25 * 3 + 0.5 * 4)])
def test_training_goes_on_from_the_plain_versions(average: str, expected: float, tmp_path: Path) -> None:
    """Every parameter grows by 1 in each of four rounds, so that the versions are 1 to 4 more than at first."""
    config = array_config("training.num_rounds=4", average)
    _, found = moves(config, {"p": ("a0", 1.0), "q": ("b1", 1.0)}, tmp_path)
    assert set(found) == {"shared", "task/a0", "task/b1"}
    for values in found.values():
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_a_scope_that_rests_in_some_rounds_counts_in_all(tmp_path: Path) -> None:
    """A client trains its two tasks in turns; heads are 1 1 2 2 and 0 1 1 2 more than at first, and 3 rounds count."""
    config = array_config(
        *("training.num_rounds=4", "federation.tasks_per_order=1", "aggregation.average={name: last_k, rounds: 3}")
    )
    model = make_model(config)
    first = {scope: vector.numpy().copy() for scope, vector in model.vectors.items()}
    coordinator = in_memory(config, model, ManualClock())
    client = replace(make_client(config, "p", ["a0", "b1"], "1/1"), procedure=moved_by(1.0))
    asyncio.run(run_together(coordinator, [Agent(coordinator, client, tmp_path / "p")]))
    found = {scope: vector - first[scope] for scope, vector in coordinator.vectors.items()}
    heads = sorted(float(found[f"task/{task}"].mean()) for task in ("a0", "b1"))
    np.testing.assert_allclose(heads, [4 / 3, 5 / 3], atol=1e-4)
    assert {coordinator.state.version_of(scope) for scope in found} == {4}, "clients fetch all of it"


def test_without_rounds_to_average_it_is_the_last_version(tmp_path: Path) -> None:
    plain = asyncio.run(federate(array_config("federation.min_clients=2"), tmp_path / "plain", TWO))
    one = array_config("federation.min_clients=2", "aggregation.average={name: last_k, rounds: 1}")
    found = asyncio.run(federate(one, tmp_path / "one", TWO))
    for scope, values in plain.vectors.items():
        assert found.vectors[scope].tobytes() == values.tobytes()


@pytest.mark.parametrize("average", [LAST, EMA])
def test_a_coordinator_that_dies_after_any_effect_publishes_the_same_average(average: str, tmp_path: Path) -> None:
    config = array_config("federation.min_clients=2", "training.num_rounds=3", average)
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, TWO)
    expected, effects = asyncio.run(crash_and_recover(config, template, tmp_path / "whole", cast, None, False))
    for step in range(2, len(effects) + 1, 3):
        found, _ = asyncio.run(crash_and_recover(config, template, tmp_path / str(step), cast, step, False))
        assert found == expected, f"died after effect {step}, {effects[step - 1]}"


def run_of(config: Config, resume: bool = False) -> None:
    with model_made_here():
        asyncio.run(simulate(config, resume, None))


def simulated(folder: Path, *overrides: str, tasks: tuple[str, ...] = ("a0", "b1")) -> Config:
    return array_config("simulation.clients=2", f"run.run_dir='{folder}'", *overrides, tasks=tasks)


def test_the_run_folder_holds_the_average_and_the_report_its_scores(tmp_path: Path) -> None:
    """Of rounds 1 and 2; the plain version 1 is in the folder of a run of one round."""
    versions = []
    for rounds in (1, 2):
        run_of(simulated(tmp_path / str(rounds), f"training.num_rounds={rounds}"))
        versions.append(load_run(tmp_path / str(rounds)).vectors)
    run_of(simulated(tmp_path / "mean", "training.num_rounds=2", LAST))
    found = load_run(tmp_path / "mean").vectors
    for scope, values in found.items():
        np.testing.assert_allclose(values, (versions[0][scope] + versions[1][scope]) / 2, atol=1e-6)
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("2", "mean")]
    losses = [[entry["loss"] for entry in report["tasks"]["a0"]["history"]] for report in reports]
    assert losses[0][:-1] == losses[1][:-1] and losses[0][-1] != losses[1][-1]


@pytest.mark.parametrize("average", [LAST, EMA])
def test_a_run_that_is_prolonged_and_gets_a_task_goes_on_from_the_average(average: str, tmp_path: Path) -> None:
    run_of(simulated(tmp_path / "run", "training.num_rounds=2", average))
    more = simulated(tmp_path / "run", "training.num_rounds=4", average, tasks=("a0", "b1", "c2"))
    run_of(more, True)
    saved = load_run(tmp_path / "run")
    assert saved.version == 4 and saved.vectors["task/c2"].any()
    assert strategy_of(more).average == more.aggregation.average


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("aggregation.average=mean",), r"aggregation.average: 'mean' is not a choice; write none, last_k or ema"),
        ((LAST, "sharing.plan=local"), r"aggregation.average: last_k, but plan local publishes no model"),
        ((EMA, "training.patience=2"), r"ema is published after the last round, which training.patience would skip"),
        (("aggregation.average={name: ema, rounds: 2}",), r"aggregation.average.rounds: not read by ema"),
    ],
)
def test_averages_of_nothing_are_refused(overrides: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        array_config(*overrides)
