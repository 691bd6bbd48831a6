"""The wheel, built and installed: the command, its configuration and its types come along."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path

import pytest

from cli.modes import MODES
from common.config import load_config, render
from fedmtl import __version__
from tests.test_architecture import MAIN, PACKAGES, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CONFIGURATION = "federated_config.yaml"
PROJECT = ("pyproject.toml", "README.md", "LICENSE", MAIN, CONFIGURATION)
"""What a wheel is built from, besides the packages."""

SMALL = (
    "model.server_model=mlp",
    "model.mlp={features: 4, hidden: [8]}",
    "training={num_rounds: 1, local_epochs: 1}",
    "tasks={a: {type: classification, labels: 2, train_samples: 32, val_samples: 16}}",
)


def ran(folder: Path, *command: str | Path) -> str:
    """What a command says that must end well; it finds nothing of this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Installation:
    """An environment of its own into which the wheel was installed."""

    wheel: Path
    python: Path
    command: Path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build writes beside what it reads
    source.mkdir()
    for name in PROJECT:
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, symlinks=True, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    ran(source, *pip, "wheel", ".", *alone, "--no-build-isolation", "--wheel-dir", str(folder))
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "environment", symlinks=True)
    binaries = folder / "environment" / "bin"
    ours = {"base": str(folder / "environment"), "platbase": str(folder / "environment")}
    site = Path(sysconfig.get_path("purelib", "venv", ours))
    (site / "tested.pth").write_text(sysconfig.get_path("purelib") + "\n")  # what the wheel requires is there
    ran(folder, *pip, "--python", str(binaries / "python"), "install", *alone, str(wheel))
    return Installation(wheel, binaries / "python", binaries / "fedmtl")


def test_the_wheel_holds_the_configuration_the_types_and_what_describes_it(installed: Installation) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = wheel.namelist()
        assert wheel.read(f"fedmtl/{CONFIGURATION}") == (ROOT / CONFIGURATION).read_bytes()
        description = wheel.read(f"fedmtl-{__version__}.dist-info/METADATA").decode()
    assert {f"{package}/py.typed" for package in PACKAGES} <= {*names}
    info = f"fedmtl-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {*PACKAGES, MAIN, info}
    metadata = message_from_string(description)
    assert (metadata["Name"], metadata["Version"]) == ("fedmtl", __version__)
    assert "Typing :: Typed" in metadata.get_all("Classifier", []) and metadata["Keywords"]
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_installed_command_works_in_an_empty_folder(installed: Installation, tmp_path: Path) -> None:
    where = ran(tmp_path, installed.python, "-c", "import fedmtl, common; print(fedmtl.__file__, common.__file__)")
    assert all(str(installed.python.parent.parent) in place for place in where.split()), where
    text = ran(tmp_path, installed.command, "--help")
    assert text.startswith("usage: fedmtl MODE [options]") and all(f"{mode}:" in text for mode in MODES)
    shipped = render(load_config(ROOT / CONFIGURATION))
    for command in ([installed.python, "-m", "fedmtl", "check"], [installed.command, "--mode", "check"]):
        checked = ran(tmp_path, *command)
        assert checked.startswith(shipped)
        more = checked.removeprefix(shipped).splitlines()
        assert all(line.startswith("#") for line in more), "what is said of it are comments, so that it can be piped"
    assert [*tmp_path.iterdir()] == []


def test_the_installed_command_trains(installed: Installation, tmp_path: Path) -> None:
    small = [f"--set={change}" for change in SMALL]
    ran(tmp_path, installed.command, "simulate", *small, "--clients", "2", "--run_dir", "simulated")
    ran(tmp_path, installed.command, "verify", "--run_dir", "simulated")
    ran(tmp_path, installed.command, "demo", *small, "--run_dir", "demo")  # it starts its clients by itself
    for run in ("simulated", "demo"):
        report = json.loads((tmp_path / run / "report.json").read_text(encoding="utf-8"))
        assert report["status"] == "finished"
    assert {path.name for path in tmp_path.iterdir()} == {"simulated", "demo"}
