"""The package `fedmtl`: what importing it costs, and what happens where somebody's own package has a name of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedmtl.rooms import ROOMS

ROOT = Path(__file__).parent.parent


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """An interpreter in `folder` that finds the packages of this checkout after those of its own folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_importing_the_package_loads_no_torch_and_takes_less_than_half_a_second(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import sys, time\n"
        "before = time.process_time()\n"
        "import fedmtl\n"
        "assert time.process_time() - before < 0.5\n"
        "assert {'simulate', '__version__'} <= {*dir(fedmtl)} and not hasattr(fedmtl, 'simulated_annealing')\n"
        "assert not {'torch', 'numpy', 'grpc', 'pydantic', 'common'} & set(sys.modules)\n"
    )
    done = python(tmp_path, "script.py")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_a_package_that_hides_ours_is_named_in_one_line(room: str, tmp_path: Path) -> None:
    (tmp_path / room).mkdir()
    (tmp_path / room / "__init__.py").touch()
    done = python(tmp_path, "-m", "fedmtl", "check")
    assert (done.returncode, done.stdout) == (1, "")
    hides = f"error: {tmp_path / room} hides the package '{room}' of FedMTL in {ROOT}; "
    assert done.stderr == hides + "rename it, or run from a folder without it\n"


def test_a_script_that_hides_ours_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text("from fedmtl import simulate\n")
    done = python(tmp_path, "client.py")
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and said.startswith(f"ImportError: {tmp_path / 'client.py'} hides the package 'client'")
    done = python(tmp_path, "-m", "fedmtl", "check")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert f"{tmp_path / 'client.py'} hides the package 'client'" in done.stderr


def test_a_folder_that_hides_nothing_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "notes.txt").touch()
    (tmp_path / "server.txt").touch()
    done = python(tmp_path, "-m", "fedmtl", "check")
    assert done.returncode == 0 and "num_rounds: 10" in done.stdout, done.stderr
    assert python(tmp_path, str(ROOT / "federated_main.py"), "--mode", "check").stdout == done.stdout
    for words in (["--help"], ["simulate", "--help"], ["--mode", "simulate", "--help"]):
        done = python(tmp_path, "-m", "fedmtl", *words)
        assert done.stdout.startswith(f"usage: fedmtl {'simulate' if len(words) > 1 else 'MODE'} [options]")
