"""A run that starts from an earlier one: what it takes, what is new, what it refuses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config import Config, load_config, render
from common.errors import ConfigError, ModelError, RunFolderError
from server.reporting.values import to_json
from server.runs.model import MTLServerModel
from server.runs.preparation import prepare_run as prepare
from server.runs.run_folder import RunFolder
from server.runs.saved import load_run
from server.storage.models import ModelFiles
from simulation.app import simulate
from tests.crashes import model_made_here, prepare_run
from tests.federations import array_config, make_model, small_config

QUICK = ("simulation.clients=2", "training.local_epochs=2")


def config_of(folder: Path, *overrides: str, tasks: tuple[str, ...] = ("a0", "b1")) -> Config:
    return array_config(*QUICK, f"run.run_dir='{folder}'", f"run.name={folder.name}", *overrides, tasks=tasks)


def simulated(config: Config) -> dict[str, Any]:
    with model_made_here():
        return to_json(asyncio.run(simulate(config, False, None)))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two rounds over a0 and b1."""
    folder = tmp_path_factory.mktemp("runs") / "earlier"
    simulated(config_of(folder))
    return folder


def initial(config: Config, folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """Values by parameter name of version 0, private ones included, and the origin that the log tells."""
    RunFolder.create(folder)
    origin = prepare(config, folder).origin
    _, schemas = RunFolder(folder).read_description()
    files = ModelFiles(folder, schemas)
    vectors = files.read(0) | files.read_private()
    named = {
        entry.name: vectors[scope][entry.offset : entry.offset + entry.count]
        for scope, schema in schemas.items()
        for entry in schema.entries
    }
    return named, origin


def values(model: MTLServerModel) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().ravel() for name, value in model.model.named_parameters()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], prefix: str) -> bool:
    names = [name for name in one if name.startswith(prefix)]
    return bool(names) and all(np.array_equal(one[name], other[name]) for name in names)


def test_the_newest_version_is_the_start_and_new_tasks_are_fresh(earlier: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "next", f"model.warm_start='{earlier}'", tasks=("b1", "c2"))
    found, origin = initial(config, tmp_path / "next")
    then, fresh = values(load_run(earlier).model), values(make_model(config))
    assert same(found, then, "encoder.") and not same(found, fresh, "encoder.")
    assert same(found, then, "heads.b1.") and same(found, fresh, "heads.c2.")
    assert origin == f"run 'earlier' in '{earlier}', version 2; heads taken: b1; new: c2"


def test_a_task_that_means_something_else_gets_a_new_head(earlier: Path, tmp_path: Path) -> None:
    other = "tasks.b1={type: classification, labels: ['yes', 'no'], metrics: [accuracy]}"
    config = config_of(tmp_path / "next", f"model.warm_start='{earlier}'", other, "tasks.a0.weight=2.0")
    found, origin = initial(config, tmp_path / "next")
    assert same(found, values(load_run(earlier).model), "heads.a0.") and origin.endswith("heads taken: a0; new: b1")


def test_a_whole_run_starts_better_and_says_from_where(earlier: Path, tmp_path: Path) -> None:
    report = simulated(config_of(tmp_path / "next", f"model.warm_start='{earlier}'"))
    before = json.loads((earlier / "report.json").read_text())
    assert report["encoder_init"].startswith(f"run 'earlier' in '{earlier}', version 2; heads taken: a0, b1")
    for task in ("a0", "b1"):
        first, last = report["tasks"][task]["history"][0], before["tasks"][task]["history"][-1]
        assert first["loss"] == last["loss"] and first["round"] == 0


def test_texts_start_without_the_hub_and_private_layers_from_their_initial_values(tmp_path: Path) -> None:
    clients = ("simulation.clients=2", "simulation.tasks_per_client=2", "federation.min_clients=1")
    first = small_config(tmp_path, *clients, "sharing.plan=fedper", f"run.run_dir='{tmp_path / 'first'}'")
    simulated(first)
    config = small_config(tmp_path, f"model.warm_start='{tmp_path / 'first'}'", "run.seed=7")
    found, origin = initial(config, tmp_path / "next")
    start, saved = values(make_model(first)), values(load_run(tmp_path / "first").model)
    assert same(found, start, "encoder.encoder.layer.0.") and same(found, saved, "encoder.embeddings.")
    assert not same(found, start, "encoder.embeddings.word")
    assert same(found, values(make_model(config)), "heads.sst2.")
    assert (
        "18 of 23 encoder tensors were private there: its initial values; heads taken: none; new: sst2, qqp" in origin
    )


def test_what_does_not_fit_is_refused_in_one_line(earlier: Path, tmp_path: Path) -> None:
    unborn = tmp_path / "unborn"
    prepare_run(config_of(unborn), unborn)
    alone = tmp_path / "alone"
    simulated(config_of(alone, "sharing.plan=local"))
    cases = [
        (tmp_path / "nothing", (), RunFolderError, "model.warm_start: '.*nothing' holds no run; give the run folder"),
        (unborn, (), ModelError, "model.warm_start: the run in .*unborn' has published no round yet"),
        (earlier, ("model.mlp.hidden=[9]",), ModelError, "model.mlp: differs from that of the run in .*earlier'"),
        (alone, (), ModelError, "model.warm_start: the run in .*alone' shared nothing of its encoder"),
    ]
    for number, (folder, overrides, kind, text) in enumerate(cases):
        place = tmp_path / f"next-{number}"
        config = config_of(place, f"model.warm_start='{folder}'", *overrides)
        RunFolder.create(place)
        with pytest.raises(kind, match=text) as caught:
            prepare(config, place)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"model.weights: random contradicts model.warm_start"):
        load_config(None, ["tasks.sst2=", "model.warm_start=runs/x", "model.weights=random"])


def test_a_resumed_run_does_not_read_the_earlier_one_again(earlier: Path, tmp_path: Path) -> None:
    import shutil

    gone = tmp_path / "gone"
    shutil.copytree(earlier, gone)
    config = config_of(tmp_path / "next", f"model.warm_start='{gone}'")
    prepare_run(config, tmp_path / "next")
    shutil.rmtree(gone)
    assert "warm_start" in render(config)
    assert to_json(asyncio.run(simulate(config, True, None)))["status"] == "finished"
