"""Damage at rest: a flipped bit is noticed or harmless, and no run is lost while a model is whole."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config import Config
from common.errors import RunFolderError
from federated_main import main
from server.core.effects import Record
from server.reporting.values import to_json
from server.runs.backup import back_up
from server.runs.recovery import examine
from server.runs.run_folder import RunFolder
from server.runs.saved import load_run
from server.storage.journal import Journal
from simulation.app import simulate
from tests.federations import array_config
from tests.processes import log_given_back

ROUNDS, DIED_AFTER = 4, 2
COUNTED = ("journal.sqlite", "journal.sqlite-wal", "journal.log", "models/2.safetensors", "models/1.safetensors",
           "models/optimizer/2.safetensors", "models/private.safetensors", "model.json", "config.yaml")  # fmt: skip


def config_in(path: Path, *changes: str) -> Config:
    return array_config(
        *("simulation.clients=3", f"training.num_rounds={ROUNDS}", f"run.run_dir='{path}'"),
        *("aggregation.optimizer=adam", "federation.server_learning_rate=1e-2", *changes),
    )


def run(path: Path, resume: Any) -> dict[str, Any]:
    return to_json(asyncio.run(simulate(config_in(path), resume, None)))


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    with log_given_back():
        yield


@pytest.fixture(scope="module", params=["models in the journal", "models in files"])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A run folder as a process leaves it that is killed in round 3 of 4, and the digest of the whole run."""
    place, patch = tmp_path_factory.mktemp("run"), pytest.MonkeyPatch()
    if request.param == "models in files":
        patch.setattr("server.storage.models.INLINE_BYTES", 0)
    commit = Journal.commit

    def watched(journal: Journal, records: Any) -> None:
        kept: list[Record] = list(records)
        commit(journal, kept)
        if journal.completed() == DIED_AFTER and not (place / "image").exists():
            assert journal._flusher is not None
            journal._flusher._thread.submit(lambda: None).result()
            shutil.copytree(place / "whole", place / "image")
            back_up(place / "whole", place / "live")  # the coordinator has the run open, and goes on after this

    with pytest.MonkeyPatch.context() as watching:
        watching.setattr(Journal, "commit", watched)
        digest = run(place / "whole", False)["model_digest"]
    yield place / "image", digest
    patch.undo()


def damaged(image: Path, place: Path) -> Path:
    shutil.copytree(image, place)
    return place


def test_the_image_is_whole_and_goes_on(killed: tuple[Path, str], tmp_path: Path) -> None:
    image, digest = killed
    path = damaged(image, tmp_path / "run")
    assert {name for name in COUNTED if not (path / name).exists()} == set()
    assert examine(path)[0] == []
    assert run(path, True)["model_digest"] == digest
    assert examine(path)[0] == []


@pytest.mark.parametrize("name", COUNTED)
def test_flipped_bits_are_noticed_or_harmless_and_the_run_ends_with_the_same_bits(
    killed: tuple[Path, str], tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Four random bits, one at a time; of a file without any slack each must be noticed."""
    image, digest = killed
    draw = random.Random(name)
    for turn in range(4):
        path = damaged(image, tmp_path / str(turn))
        data = bytearray((path / name).read_bytes())
        place = draw.randrange(len(data))
        data[place] ^= 1 << draw.randrange(8)
        (path / name).write_bytes(data)
        findings, _ = examine(path)
        if not name.startswith("journal.sqlite"):
            # The version before is only looked at once the last one is damaged, and is looked at here.
            assert findings, f"{name}: a flip at byte {place} was not noticed"
        caplog.clear()
        assert run(path, True)["model_digest"] == digest, f"{name}, byte {place}: {findings}"
        told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and str(path) in r.getMessage()]
        assert told or not findings or name == "models/1.safetensors", findings


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("how", ["emptied", "cut", "gone"])
def test_a_file_that_is_cut_or_gone_loses_no_run(killed: tuple[Path, str], tmp_path: Path, name: str, how: str) -> None:
    image, digest = killed
    path = damaged(image, tmp_path / "run")
    data = (path / name).read_bytes()
    match how:
        case "emptied":
            (path / name).write_bytes(b"")
        case "cut":
            (path / name).write_bytes(data[: len(data) // 2])
        case "gone":
            (path / name).unlink()
    assert run(path, True)["model_digest"] == digest
    assert examine(path)[0] == []


def test_the_journals_file_alone_is_at_most_one_round_old(killed: tuple[Path, str], tmp_path: Path) -> None:
    image, digest = killed
    path = damaged(image, tmp_path / "run")
    for name in ("journal.sqlite-wal", "journal.sqlite-shm", "journal.log"):
        (path / name).unlink(missing_ok=True)
    journal = Journal.read(path / "journal.sqlite")
    assert journal.completed() >= DIED_AFTER - 1
    journal.close()
    assert run(path, True)["model_digest"] == digest


def test_with_both_copies_of_the_journal_gone_trained_models_are_not_replaced(
    killed: tuple[Path, str], tmp_path: Path
) -> None:
    image, _ = killed
    for number, data in enumerate([None, b""]):
        path = damaged(image, tmp_path / str(number))
        for name in ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "journal.log"):
            (path / name).unlink(missing_ok=True)
            if data is not None:
                (path / name).write_bytes(data)
        model = (path / "models" / "2.safetensors").read_bytes()
        for resume in (True, "auto"):
            with pytest.raises(RunFolderError, match=r"holds models/2\.safetensors but no journal") as caught:
                run(path, resume)
            assert "\n" not in str(caught.value)
        with pytest.raises(RunFolderError, match="run_dir"):
            run(path, False)
        assert (path / "models" / "2.safetensors").read_bytes() == model


def test_when_no_version_is_whole_it_says_so_and_changes_nothing(killed: tuple[Path, str], tmp_path: Path) -> None:
    image, _ = killed
    path = damaged(image, tmp_path / "run")
    for name in ("models/2.safetensors", "models/1.safetensors"):
        (path / name).write_bytes(b"")
    for name in ("models/optimizer/2.safetensors", "models/optimizer/1.safetensors"):
        (path / name).write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"no whole model is left \(models/.*restore a backup") as caught:
        run(path, True)
    assert "\n" not in str(caught.value)


def test_reading_falls_back_too_and_writes_nothing(
    killed: tuple[Path, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image, _ = killed
    path = damaged(image, tmp_path / "run")
    (path / "models" / "optimizer" / "2.safetensors").write_bytes(b"")
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.suffix != ".sqlite-shm"}
    assert load_run(path).version == DIED_AFTER - 1
    assert "the run stands at version 1 again" in caplog.text
    assert {p: p.read_bytes() for p in before} == before


def test_a_backup_goes_on_to_the_same_bits_and_needs_nothing_of_the_original(
    killed: tuple[Path, str], tmp_path: Path
) -> None:
    image, digest = killed
    says = back_up(image, tmp_path / "copies" / "copy")
    assert f"as of round {DIED_AFTER}" in says
    assert examine(tmp_path / "copies" / "copy")[0] == []
    assert [p.name for p in (tmp_path / "copies").iterdir()] == ["copy"]
    assert run(tmp_path / "copies" / "copy", True)["model_digest"] == digest
    with pytest.raises(RunFolderError, match=r"--out: .* is not empty"):
        back_up(image, tmp_path / "copies" / "copy")
    with pytest.raises(RunFolderError, match="holds no run"):
        back_up(tmp_path / "nowhere", tmp_path / "other")


def test_a_backup_that_was_taken_while_the_run_went_on_goes_on_too(
    killed: tuple[Path, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image, digest = killed
    path = damaged(image.parent / "live", tmp_path / "run")
    assert examine(path)[0] == []
    assert run(path, True)["model_digest"] == digest
    assert str(path) not in " ".join(r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)


def test_verify_prints_a_line_for_each_finding(
    killed: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, _ = killed
    path = damaged(image, tmp_path / "run")
    assert main(["--mode", "verify", "--run_dir", str(path)]) == 0
    assert f"{path}: whole (2 rounds; 2 versions" in capsys.readouterr().out
    (path / "model.json").write_bytes(b"{}")
    (path / "journal.log").unlink()
    assert main(["--mode", "verify", "--run_dir", str(path)]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith(f"error: {path}/") for line in lines)
    assert main(["--mode", "verify", "--run_dir", str(tmp_path)]) == 5


def test_resume_auto_starts_goes_on_and_finds_it_done(tmp_path: Path) -> None:
    first = run(tmp_path / "run", "auto")
    again = run(tmp_path / "run", "auto")
    assert first["status"] == again["status"] == "finished"
    assert (first["model_digest"], first["run_id"]) == (again["model_digest"], again["run_id"])
    with pytest.raises(RunFolderError, match="holds no run"):
        run(tmp_path / "other", True)
    assert RunFolder.exists(tmp_path / "run") and not RunFolder.exists(tmp_path / "other")
