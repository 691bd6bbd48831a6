"""A folder to start from: rows that are read, and commands that run as they are written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cli.init import CONFIG, ROWS, SITES
from cli.templates import TEMPLATES
from client.app import data_request
from client.data.sources import load
from common.config import load_config
from federated_main import main
from tests.processes import log_given_back


def begun(template: str, folder: Path) -> int:
    with log_given_back():
        return main(["init", "--template", template, str(folder)])


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_rows_of_every_site_are_read(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert begun(template, tmp_path / "start") == 0
    monkeypatch.chdir(tmp_path / "start")
    config = load_config(Path(CONFIG), role="simulate")
    assert {*config.simulation.sites} == {*SITES}
    for site in SITES:
        given = config.model_copy(
            update={"data": config.data.model_copy(update={"source": "files", "dir": f"sites/{site}"})}
        )
        for task in config.definitions():
            data = load(data_request(given, task))
            assert len(data.train) + len(data.validation) >= ROWS and len(data.validation) >= ROWS // 4


def test_a_folder_with_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert begun("table", tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert "holds files already; name a new folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_commands_of_the_folder_run(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert begun(template, tmp_path / "start") == 0
    monkeypatch.chdir(tmp_path / "start")
    text = Path("README.md").read_text()
    typed = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    typed += re.findall(r"`(fedmtl check .*?)`", text)
    small = {"simulate": ["--set", "training.num_rounds=1"], "compare": ["--set", "training.num_rounds=1"]}
    ran = []
    for command, mode, *words in map(shlex.split, typed):
        assert command == "fedmtl"
        if mode in ("server", "client"):  # the sites test and the pages run these; here their words are read
            continue
        seeds = ["--seeds", "1", "--run_dir", "compared"] if mode == "compare" else []
        with log_given_back():
            assert main([mode, *words, *seeds, *small.get(mode, [])]) == 0
        ran.append(mode)
    assert ran == ["simulate", "report", "compare", "check"] and Path("run/report.html").is_file()
