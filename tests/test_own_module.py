"""A module of a person's own: loaded from each side's file, never sent, compared by its SHA-256."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.config import Config, load_config
from common.encoders import module
from common.encoders.module import ModuleEncoder
from common.errors import ConfigError, ModelError
from common.inputs import input_described
from simulation.population import population
from simulation.virtual_clients import run_virtual_clients
from tests.federations import digest_of, federate, make_model
from tests.test_array_encoders import CLIENTS, MIN, TASKS

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width, channels=(4,)):
        super().__init__()
        self.conv = nn.Conv2d(1, channels[0], 3, padding=1)
        self.norm = nn.BatchNorm2d(channels[0])
        self.out = nn.Linear(channels[0], width)

    def forward(self, images):
        return torch.tanh(self.out(self.norm(torch.relu(self.conv(images))).mean((2, 3))))


class Wrong(nn.Module):
    def forward(self, images):
        return images


class Broken(nn.Module):
    def __init__(self):
        raise RuntimeError("no such part")


text = "not a class"
"""


def config_of(folder: Path, *more: str, name: str = "Net", args: object = None) -> Config:
    file = folder / "net.py"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(NET)
    values = {"file": str(file), "class": name, "reads": "images", "shape": [1, 8, 6], "args": args or {"width": 5}}
    sizes = ("training.num_rounds=2", "training.local_epochs=1", "training.learning_rate=1e-2", "training.batch_size=8")
    return load_config(None, ["model.server_model=module", f"model.module={json.dumps(values)}", TASKS, *sizes, *more])


@pytest.mark.parametrize("plan", ["hard", "private_heads", "adaptive"])
def test_one_model_over_every_transport_and_in_a_simulation(tmp_path: Path, plan: str) -> None:
    config = config_of(tmp_path, MIN, f"sharing.plan={plan}", "sharing.norm_statistics=shared")
    found = {how: asyncio.run(federate(config, tmp_path / how, CLIENTS, how)) for how in ("direct", "grpc")}
    assert len({digest_of(run) for run in found.values()}) == 1
    names = {entry.name for schema in make_model(config).schemas.values() for entry in schema.entries}
    assert {"encoder.net.conv.weight", "encoder.net.norm.running_var", "heads.a0.linear.bias"} <= names
    digests = set()
    for workers in (1, 2):
        pool = config_of(tmp_path, f"simulation={{clients: 4, workers: {workers}}}", f"sharing.plan={plan}")
        run = run_virtual_clients(pool, make_model(pool), population(pool), tmp_path / str(workers))
        digests.add(digest_of(asyncio.run(run)[0]))
    assert len(digests) == 1


def test_the_module_is_the_one_in_the_file_with_its_arguments(tmp_path: Path) -> None:
    encoder = make_model(config_of(tmp_path, args={"width": 7, "channels": [3]})).model.encoder
    assert isinstance(encoder, nn.Module)
    assert encoder.config.hidden_size == 7
    assert encoder.net.conv.weight.shape == (3, 1, 3, 3)
    encoder.eval()
    images = torch.rand(2, 1, 8, 6)
    net = encoder.net
    expected = torch.tanh(net.out(net.norm(torch.relu(net.conv(images))).mean((2, 3))))
    assert torch.equal(encoder(images), expected)


def test_the_description_has_no_path_and_no_code(tmp_path: Path) -> None:
    described = make_model(config_of(tmp_path)).architecture.encoder_config
    assert "net.py" not in described and "import" not in described
    assert input_described(described).name == "images"


def test_a_side_with_another_file_does_not_run_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = make_model(config_of(tmp_path / "here")).architecture.encoder_config
    monkeypatch.setattr(module, "_TRUSTED", {})
    with pytest.raises(
        ModelError, match=r"SHA-256 [0-9a-f]{16}\.\.\., and the file here \(model.module.file\) is none"
    ):
        input_described(described).build_encoder(described)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "net.py").write_text(NET + "\n# another version\n")
    config_of(tmp_path / "there").model.allow_encoder()
    with pytest.raises(ModelError, match=r"is '.*there/net\.py' with [0-9a-f]{16}; name the same file"):
        input_described(described).build_encoder(described)


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("Net", {}, "TypeError: Net.__init__.. missing"),
        ("Net", {"width": 5, "depth": 1}, "TypeError: .*unexpected keyword argument 'depth'"),
        ("Missing", {}, "KeyError: 'Missing'"),
        ("text", {}, "TypeError: 'str' object is not callable"),
        ("Broken", {}, "RuntimeError: no such part"),
        ("Wrong", {}, r"ValueError: gives \(2, 1, 8, 6\) for a batch of \(2, 1, 8, 6\), not vectors \(2, hidden\)"),
    ],
)
def test_a_class_that_does_not_work_is_one_line(tmp_path: Path, name: str, args: dict[str, int], words: str) -> None:
    config = config_of(tmp_path, name=name)
    encoder = config.model.array_encoder
    assert isinstance(encoder, ModuleEncoder)
    described = json.dumps({**json.loads(encoder.describe()), "args": args})
    with pytest.raises(ModelError, match=words) as caught:
        input_described(described).build_encoder(described)
    assert "\n" not in caught.value.message


def test_files_that_are_not_there_or_others_are_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.module\.file: .* cannot be read: No such file or directory"):
        (tmp_path / "net.py").rename(tmp_path / "gone.py")
        config.model.allow_encoder()
    with pytest.raises(ConfigError, match=r"model\.module\.sha256: .* has [0-9a-f]{64}; use the file that is meant"):
        config_of(tmp_path, "model.module.sha256=abc").model.allow_encoder()
    with pytest.raises(ConfigError, match=r"model\.module: missing; describe the encoder"):
        load_config(None, ["model.server_model=module", TASKS])
    with pytest.raises(ConfigError, match=r"model\.module\.shape: 2 numbers; write channels, height and width"):
        config_of(tmp_path, "model.module.shape=[8, 6]")


def test_a_file_that_changed_since_is_not_run(tmp_path: Path) -> None:
    encoder = config_of(tmp_path).model.array_encoder
    assert isinstance(encoder, ModuleEncoder)
    (tmp_path / "net.py").write_text(NET + f"\n# {np.random.Generator(np.random.PCG64(0)).integers(1 << 60)}\n")
    described = encoder.describe()
    (tmp_path / "net.py").write_text(NET + "\n# changed\n")
    with pytest.raises(ModelError, match="the file has changed since this process began"):
        input_described(described).build_encoder(described)
