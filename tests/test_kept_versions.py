"""Versions that stay on disk because they scored best, and what reads them."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import federated_main
import fedmtl
from cli.options import Parser
from common.config import Config
from common.errors import ModelError, RunFolderError
from common.parameters.schema import ParameterSchema
from common.parameters.vector import Vector
from server.reporting.values import Report
from server.runs.backup import back_up
from server.runs.kept import kept_versions
from server.runs.recovery import examine
from server.runs.run_folder import RunFolder
from server.runs.saved import load_run
from server.storage.journal import Journal
from server.storage.models import JournalledModels, MemoryModels, ModelFiles, ModelStore
from simulation.app import simulate
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.federations import array_config, small_config

LAYOUT = {"shared": ParameterSchema.of({"encoder.w": (3,)}), "task/sst2": ParameterSchema.of({"heads.sst2.w": (2,)})}
ROUNDS = 7


def values(version: int) -> dict[str, Vector]:
    """Of a version: the encoder changes in version 0 and 3 alone, the head always."""
    encoder = 0 if version < 3 else 3
    return {"shared": np.full(3, encoder, np.float32), "task/sst2": np.full(2, version, np.float32)}


def changed(version: int) -> set[str]:
    return {"task/sst2", "shared"} if version in (0, 3) else {"task/sst2"}


@pytest.mark.parametrize("inline", [True, False], ids=["in the journal", "in files"])
@pytest.mark.parametrize("restarted", [True, False])
def test_a_kept_version_stays_with_all_files_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: bool, restarted: bool
) -> None:
    monkeypatch.setattr("server.storage.models.INLINE_BYTES", 1000 if inline else 0)
    journal = Journal(tmp_path / "journal.sqlite")
    store = JournalledModels(ModelFiles(tmp_path, LAYOUT), journal)
    for version in range(7):
        if restarted and version:
            store = JournalledModels(ModelFiles(tmp_path, LAYOUT), journal)
            store.read(version - 1)
        store.write(version, values(version), changed(version), kept={1} if 1 < version < 6 else {4})
        journal.commit(())
        if version == 5:
            check(store, there=[1, 4, 5])
    check(store, there=[4, 5, 6])
    assert journal.models() == ({4, 5, 6} if inline else set())
    journal.close()
    if not inline:  # the encoder of version 4 lies in the file of version 3
        assert {path.stem for path in (tmp_path / "models").glob("*.safetensors")} == {"3", "4", "5", "6"}


def test_versions_in_memory_are_kept_alike() -> None:
    store = MemoryModels()
    for version in range(6):
        store.write(version, values(version), changed(version), kept={1})
    check(store, there=[1, 4, 5])
    for gone in (0, 2, 3):
        with pytest.raises(RunFolderError, match=f"version {gone} is not in memory"):
            store.read(gone)


def check(store: ModelStore, there: list[int]) -> None:
    for version in there:
        found = store.read(version)
        assert all(np.array_equal(found[scope], vector) for scope, vector in values(version).items())


def config_in(folder: Path, *more: str) -> Config:
    """Steps so long that scores jump about."""
    steps = f"training={{num_rounds: {ROUNDS}, local_epochs: 1, learning_rate: 0.5}}"
    kept = "model.keep={best: tasks, every: 5}"
    return array_config("simulation.clients=2", steps, kept, f"run.run_dir='{folder}'", *more)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("kept") / "run"
    with pytest.MonkeyPatch.context() as patched:  # versions lie in files
        patched.setattr("server.storage.models.INLINE_BYTES", 0)
        return folder, asyncio.run(simulate(config_in(folder), False, None))


def scores_of(report: Report, task: str) -> list[float]:
    found = [entry.scores[next(iter(report.tasks[task].metrics))] for entry in report.tasks[task].history]
    return [value for value in found if value is not None]


def argmax(numbers: list[float]) -> int:
    return max(range(len(numbers)), key=numbers.__getitem__)


def test_a_run_keeps_and_reports_what_its_history_says(run: tuple[Path, Report]) -> None:
    folder, report = run
    scores = {task: scores_of(report, task) for task in report.tasks}
    means = [sum(each) / len(each) for each in zip(*scores.values(), strict=True)]
    assert len(means) == ROUNDS + 1
    best = {"mean": argmax(means)} | {f"{task}/auc_mean": argmax(each) for task, each in scores.items()}
    assert {name: found.version for name, found in report.best.items()} == best
    assert load_run(folder, "best").version == best["mean"] < ROUNDS - 1, "choose steps that overshoot"
    assert load_run(folder, "best").best_by == "mean"
    for task in scores:
        assert load_run(folder, f"best:{task}").version == best[f"{task}/auc_mean"]
    assert load_run(folder, "last").version == load_run(folder).version == ROUNDS
    assert load_run(folder, "5").version == 5 and load_run(folder, "").version == best["mean"]
    there = {*best.values(), 5, ROUNDS - 1, ROUNDS}
    journal = Journal.read(folder / "journal.sqlite")
    assert {*kept_versions(RunFolder.open(folder), journal), ROUNDS - 1, ROUNDS} == there
    gone = next(version for version in range(ROUNDS) if version not in there)
    with pytest.raises(ModelError, match=rf"--version: {gone} is not kept; there are .*{ROUNDS - 1}, {ROUNDS} "):
        load_run(folder, str(gone))
    for wrong in ("newest", "best:c2", "-1"):
        with pytest.raises(ModelError, match=r"is none of best, last, a round's number, best:a0, best:b1"):
            load_run(folder, wrong)


def test_a_mode_says_which_version_it_reads(run: tuple[Path, Report], capsys: pytest.CaptureFixture[str]) -> None:
    folder, report = run
    assert federated_main.main(["--mode", "evaluate", "--run_dir", str(folder), "--version", "best:a0"]) == 0
    shown, told = capsys.readouterr()
    best = report.best["a0/auc_mean"]
    assert f"model of round {best.version}, the best by a0/auc_mean," in shown
    assert f"version {best.version}, the best by a0/auc_mean; the newest is {ROUNDS}" in told


def test_verify_and_backup_know_kept_versions(run: tuple[Path, Report], tmp_path: Path) -> None:
    folder, report = run
    findings, whole = examine(folder)
    kept = {found.version for found in report.best.values()} | {5, ROUNDS - 1, ROUNDS}
    assert findings == [] and f"; {len(kept)} versions" in whole
    back_up(folder, tmp_path / "copy")
    assert examine(tmp_path / "copy") == (findings, whole)
    best = report.best["mean"].version
    assert np.array_equal(
        load_run(tmp_path / "copy", "best").vectors["shared"], load_run(folder, "best").vectors["shared"]
    )
    file = tmp_path / "copy" / "models" / f"{best}.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert any(f"models/{best}.safetensors" in line and "digest" in line for line in examine(tmp_path / "copy")[0])
    with pytest.raises(ModelError, match=rf"--version: {best}, the best by mean, is not kept"):
        load_run(tmp_path / "copy", "best")


def test_without_scores_there_is_no_best_version(tmp_path: Path) -> None:
    silent = "{type: classification, labels: [no, yes], train_samples: 20, val_samples: 0}"
    config = config_in(tmp_path / "run", f"tasks={{a0: {silent}}}", "training.num_rounds=1")
    report = asyncio.run(simulate(config, False, None))
    assert report.best == {} and load_run(tmp_path / "run", "").version == 1
    with pytest.raises(ModelError, match=r"no version has scores of mean yet; write last, which is 1"):
        load_run(tmp_path / "run", "best")


def test_modes_that_read_a_run_take_a_version() -> None:
    from cli.modes import MODES

    for mode in ("evaluate", "predict", "export"):
        parser = Parser()
        MODES[mode].options(parser)
        assert parser.get_default("version") == ""


def test_python_gets_the_best_model_unless_it_asks_for_another() -> None:
    x = np.random.Generator(np.random.PCG64(1)).normal(size=(60, 3))
    y = np.where(x[:, 0] > 0, "yes", "no")
    settings = {"training.num_rounds": 6, "training.learning_rate": 1.0, "training.local_epochs": 1}
    run = fedmtl.simulate({"a": fedmtl.classification(["no", "yes"])}, {"s": {"a": (x, y)}}, {"mlp": {}}, settings)
    best = run.report.best["mean"].version
    assert best < 5, "choose steps that overshoot"
    given, last = run.predict("a", x), run.predict("a", x, version="last")
    assert given == run.predict("a", x, version=best) == run.predict("a", x, "best:a") and given != last
    weights = [next(run.model("a", version).parameters()) for version in (None, "best", "last", 6)]
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[2], weights[3])
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(fedmtl.FedMTLError, match=rf"--version: 77 is not kept; there are {best}, 5, 6"):
        run.model("a", 77)


def test_patience_ends_a_run_and_more_of_it_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    report = asyncio.run(simulate(config_in(folder, "training.patience=1"), False, None))
    best = report.best["mean"].version
    ended = report.rounds_completed
    assert report.status == "finished" and ended < ROUNDS and best < ended
    assert report.reason == f"best by mean is version {best}; versions since then, all no better: {ended - best}"
    again = asyncio.run(simulate(config_in(folder, "training.patience=1"), True, None))
    assert again.rounds_completed == ended and again.model_digest == report.model_digest
    longer = asyncio.run(simulate(config_in(folder, "training.patience=0"), True, None))
    assert longer.rounds_completed == ROUNDS and longer.reason == ""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("inline", [True, False], ids=["in the journal", "in files"])
def test_a_coordinator_that_dies_after_any_effect_keeps_the_same_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    monkeypatch.setattr("server.storage.models.INLINE_BYTES", 1 << 30 if inline else 0)
    settings = "training={num_rounds: 4, local_epochs: 1, learning_rate: 0.1, batch_size: 8, patience: 1}"
    config = small_config(tmp_path / "small", settings, "model.keep.best=mean")
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config)

    def attempt(dies_after: int | None) -> tuple[Any, list[str]]:
        place = tmp_path / str(dies_after)
        digest, effects = asyncio.run(crash_and_recover(config, template, place, cast, dies_after, inline))
        found = digest, kept_in(place / "run")
        shutil.rmtree(place)
        return found, effects

    expected, effects = attempt(None)
    for step in range(1, len(effects) + 1):
        assert attempt(step)[0] == expected, f"died after effect {step}, {effects[step - 1]}"


def kept_in(path: Path) -> tuple[dict[int, float], int, str]:
    """The versions that stay, with a sum of each; the best one, and why the run ended.

    Files of versions that lie in the journal are second copies, made when there is time.
    """
    journal = Journal.read(path / "journal.sqlite")
    there = journal.models() or {
        int(file.stem) for file in (path / "models").glob("*.safetensors") if file.stem != "private"
    }
    sums = {v: float(np.sum(load_run(path, str(v)).vectors["shared"], dtype=np.float64)) for v in sorted(there)}
    return sums, load_run(path, "best").version, journal.facts().reason
