"""First rounds in which the encoder, or its lower part, stands still."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from common.bodies import ScopeVersion, Train
from common.capabilities import WHOLE, Capacity
from common.config import load_config
from common.errors import ConfigError, RunFolderError, WireError
from common.orders import Order, PollKind, PollReply, UpdateState
from common.parameters.capacity import frozen_blocks, frozen_problem, untrained_scopes
from common.wire.messages import POLL_REPLY
from server.engine.coordinator import Coordinator
from server.runs.backup import back_up
from server.runs.preparation import prepare_run as prepare
from server.runs.recovery import examine
from server.runs.run_folder import RunFolder
from server.runs.saved import load_run
from simulation.app import simulate
from tests.crashes import Cast, crash_and_recover, model_made_here, prepare_run
from tests.federations import CLIENTS, array_config, digest_of, federate, make_model
from tests.processes import log_given_back
from tests.test_capacity import BLOCKS, by_name, run_mixed
from tests.test_plans import deep_config
from tests.training_cases import SETTINGS

pytestmark = pytest.mark.usefixtures("one_tokenizer")


@pytest.mark.parametrize(
    ("frozen", "still"),
    [
        ("", set()),
        ("0", {"embeddings"}),
        ("2", {"embeddings", "layer_0", "layer_1"}),
        ("3", {"embeddings", "layer_0", "layer_1", "layer_2"}),
        ("all", {"embeddings", "layer_0", "layer_1", "layer_2", "top"}),
    ],
)
def test_what_stands_still(frozen: str, still: set[str]) -> None:
    assert frozen_blocks(frozen, BLOCKS) == still and frozen_problem(frozen, BLOCKS) is None
    assert untrained_scopes(WHOLE, BLOCKS, frozen) == {f"shared/{name}" for name in still}
    small = untrained_scopes(Capacity("top_2"), BLOCKS)
    assert untrained_scopes(Capacity("top_2"), BLOCKS, frozen) == small | untrained_scopes(WHOLE, BLOCKS, frozen)


def test_a_scope_with_a_trained_part_is_not_fixed() -> None:
    blocks = {"shared": frozenset({"embeddings", "layer_0"}), "task/a": frozenset({"heads"})}
    assert untrained_scopes(WHOLE, blocks, "0") == frozenset() and untrained_scopes(WHOLE, blocks, "all") == {"shared"}


def moved(config: Any, found: Coordinator) -> set[str]:
    """Blocks whose published values are no longer the initial ones."""
    start = make_model(config)
    before = {name: value.detach().numpy().ravel() for name, value in start.model.named_parameters()}
    names = {name for name, value in by_name(found).items() if not np.array_equal(value, before[name])}
    parts = {"embeddings": "embeddings", "layer.0.": "0", "layer.1.": "1", "layer.2.": "2", "heads": "heads"}
    return {short for part, short in parts.items() if any(part in name for name in names)}


@pytest.mark.parametrize(
    ("overrides", "trained"),
    [
        (("training.frozen_layers=2",), {"2", "heads"}),
        ((), {"heads"}),
        (("aggregation.weights=task_balanced", "aggregation.conflict=pcgrad"), {"heads"}),
        (("training.procedure=fedrep", "sharing.plan=private_heads"), set()),
        (("training.procedure=ditto", "training.weight_decay=0.1", "aggregation.optimizer=momentum"), {"heads"}),
    ],
)
def test_nothing_else_moves_before_its_time(overrides: tuple[str, ...], trained: set[str], tmp_path: Path) -> None:
    config = deep_config(tmp_path, "training.num_rounds=1", "training.frozen_rounds=1", *overrides)
    found = asyncio.run(federate(config, tmp_path / "state"))
    assert moved(config, found) == trained
    if not overrides:
        assert digest_of(found) == digest_of(asyncio.run(federate(config, tmp_path / "grpc", how="grpc")))
        assert found.state.versions == {"shared": 0, "task/sst2": 1, "task/qqp": 1}


def test_layers_as_scopes_give_the_same_values_with_fewer_bytes_and_then_all_is_trained(tmp_path: Path) -> None:
    settings = ("training.num_rounds=2", "training.frozen_rounds=1", "training.frozen_layers=2")
    one = deep_config(tmp_path / "a", *settings)
    many = deep_config(tmp_path / "b", *settings, "sharing.by_layer=true")
    whole, parts = (asyncio.run(federate(config, tmp_path / str(i))) for i, config in enumerate((one, many)))
    np.testing.assert_equal(by_name(parts), by_name(whole))
    assert parts.bytes_up < 0.8 * whole.bytes_up and moved(one, whole) == {"embeddings", "0", "1", "2", "heads"}


def test_clients_that_train_less_go_along(tmp_path: Path) -> None:
    settings = ("training.num_rounds=1", "training.frozen_rounds=1", "training.frozen_layers=2")
    config = deep_config(tmp_path, *settings, "sharing.by_layer=true")
    found = run_mixed(config, tmp_path / "state", {"b": "head", "c": "top_2", "d": "top_1"}, "grpc")
    assert moved(config, found) == {"2", "heads"}


def test_a_coordinator_that_dies_knows_what_is_frozen(tmp_path: Path) -> None:
    settings = ("training.num_rounds=2", "training.frozen_rounds=1")
    config = deep_config(tmp_path, *settings)
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, CLIENTS)
    expected, effects = asyncio.run(crash_and_recover(config, template, tmp_path / "whole", cast, None, False))
    commits = [n for n, e in enumerate(effects, 1) if e == "Commit"]
    for step in commits[-3:-1]:
        found, _ = asyncio.run(crash_and_recover(config, template, tmp_path / str(step), cast, step, False))
        assert found == expected


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for overrides, line in (
        (["training.frozen_layers=2"], "training.frozen_layers: not read without training.frozen_rounds; set that"),
        (
            ["training.frozen_layers=two"],
            "training.frozen_layers: 'two' is not all or a number of layers; write e.g. 2",
        ),
        (["training.frozen_layers=-1"], "training.frozen_layers: '-1' is not all or a number of layers"),
        (["training.frozen_rounds=-1"], "training.frozen_rounds: -1 is out of range"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(None, ["tasks.sst2=", *overrides])
        (problem,) = caught.value.problems
        assert problem.startswith(line)
    deep = deep_config(tmp_path, "training.frozen_rounds=1", "training.frozen_layers=4")
    numbers = array_config("training.frozen_rounds=1", "training.frozen_layers=0")
    texts = ("4, but the encoder has 3 layers of its own; lower it", "0 is for the embeddings alone, and this encoder")
    for number, (config, text) in enumerate(zip((deep, numbers), texts, strict=True)):
        RunFolder.create(tmp_path / f"run-{number}")
        with pytest.raises(ConfigError, match=f"training.frozen_layers: {text}"):
            prepare(config, tmp_path / f"run-{number}")
    settings = replace(SETTINGS, frozen="most")
    order = Order("o1", 1, 1, (ScopeVersion("shared", 1),), 60.0, Train(settings, seed=5))
    with pytest.raises(WireError, match="frozen: 'most' is not empty, all or a number"):
        POLL_REPLY.decode(POLL_REPLY.encode(PollReply(PollKind.ORDER, UpdateState.NONE, order=order)))


def test_an_encoder_that_stands_still_is_written_once_and_runs_go_on_from_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.storage.models.INLINE_BYTES", 0)

    def run(path: Path, rounds: int, resume: bool) -> str:
        changes = ("simulation.clients=3", "client.trains=head", "aggregation.optimizer=adam")
        config = array_config(*changes, f"training.num_rounds={rounds}", f"run.run_dir='{path}'")
        with model_made_here(), log_given_back():
            digest: str = asyncio.run(simulate(config, resume, None)).model_digest
        return digest

    path = tmp_path / "run"
    run(path, 3, False)
    held = {}
    for folder in ("models", "models/optimizer"):
        for file in sorted((path / folder).glob("[0-9]*.safetensors")):
            with safe_open(file, framework="np") as opened:
                names = list(opened.keys())
                held[f"{folder}/{file.stem}"] = {"heads" if "heads." in name else "encoder" for name in names}
    everything = {"heads", "encoder"}
    assert held == {
        **{"models/0": everything, "models/2": {"heads"}, "models/3": {"heads"}},
        **{"models/optimizer/1": everything, "models/optimizer/2": {"heads"}, "models/optimizer/3": {"heads"}},
    }
    assert "3 rounds; 2 versions" in examine(path)[1] and examine(path)[0] == []
    back_up(path, tmp_path / "copy")
    assert examine(tmp_path / "copy")[0] == [] and load_run(tmp_path / "copy").version == 3
    shutil.copytree(path, tmp_path / "damaged")
    whole = run(tmp_path / "whole", 5, False)
    assert run(path, 5, True) == run(tmp_path / "copy", 5, True) == whole
    for name in ("models/0.safetensors", "models/optimizer/1.safetensors"):
        (tmp_path / "damaged" / name).unlink()
        assert examine(tmp_path / "damaged")[0] == [f"{tmp_path / 'damaged'}/{name}: it is missing"]
        with pytest.raises(RunFolderError, match=f"no whole model is left .{name}: it is missing.; restore a backup"):
            run(tmp_path / "damaged", 5, True)
        shutil.copyfile(tmp_path / "whole" / "models" / "0.safetensors", tmp_path / "damaged/models/0.safetensors")
