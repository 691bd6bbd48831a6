"""Test rows are read by `--mode evaluate --split test` alone."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.data.array_examples import ArrayExamples
from client.data.request import DataRequest
from client.data.sources import load
from common.encoders.conv2d import Conv2dEncoder
from common.errors import DataError
from common.tasks import KNOWN_TASKS, TASK_KINDS, TaskDefinition
from federated_main import main
from tests.processes import log_given_back

SCAN = TaskDefinition("scan", TASK_KINDS["classification"], ("no", "yes"), False, ("accuracy",))
OPENED: list[str] = []
"""Every file that Python opened, since `watched` asked for it."""


def _noted(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and OPENED:
        OPENED.append(str(arguments[0]))


sys.addaudithook(_noted)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    OPENED.append("begin")
    yield OPENED
    OPENED.clear()


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    with log_given_back():
        yield


def write_rows(path: Path, seed: int, count: int, patients: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.Generator(np.random.PCG64(seed)).normal(size=(count, 2))
    cells = [f"{a},{b},{'yes' if a > 0 else 'no'}" + f",{n // 3}" * patients for n, (a, b) in enumerate(x)]
    path.write_text("\n".join(["u,v,label" + ",patient" * patients, *cells]) + "\n")


SETTINGS = {
    "model.server_model": "mlp",
    "model.mlp": "{features: 2, hidden: [4]}",
    "tasks": "{cough: {type: classification, labels: [no, yes], metrics: [accuracy]}}",
    "training": "{num_rounds: 2, local_epochs: 2, learning_rate: 0.05}",
}


def command(mode: str, folder: Path, *more: str) -> int:
    given = [f"--set={key}={value}" for key, value in SETTINGS.items()] if mode != "evaluate" else []
    return main(["--mode", mode, "--run_dir", str(folder / "run"), *given, *more])


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()[1:]


def test_a_test_file_is_opened_by_evaluate_with_its_split_alone(tmp_path, capsys, watched):
    data = tmp_path / "data" / "cough"
    write_rows(data / "train.csv", 1, 60)
    write_rows(data / "validation.csv", 2, 20)
    (data / "test.csv").write_bytes(b"\xff no table")
    del watched[1:]
    assert command("simulate", tmp_path, "--data_dir", str(tmp_path / "data"), "--clients", "2") == 0
    capsys.readouterr()
    assert command("evaluate", tmp_path) == 0
    (line,) = shown(capsys)
    assert "; 20 validation rows, " in line
    assert any(name.endswith("train.csv") for name in watched) and any("validation.csv" in name for name in watched)
    assert not any("test.csv" in name for name in watched)
    assert command("evaluate", tmp_path, "--split", "test") == 3
    assert "test.csv" in capsys.readouterr().err and any("test.csv" in name for name in watched)
    write_rows(data / "test.csv", 3, 30)
    assert command("evaluate", tmp_path, "--split", "test") == 0
    (line,) = shown(capsys)
    assert "; 30 test rows, " in line
    (data / "test.csv").rename(data / "validation.csv")
    assert command("evaluate", tmp_path) == 0
    assert shown(capsys)[0].split(";")[0] == line.split(";")[0]
    assert command("evaluate", tmp_path, "--split", "test") == 3
    assert "cough has no test file; name it test with .npz or .csv" in capsys.readouterr().err


def test_the_test_share_of_every_site_is_scored_when_training_is_over(tmp_path, capsys):
    sites = "{" + ", ".join(f"{site}: '{tmp_path / site}'" for site in ("north", "south")) + "}"
    for seed, site in enumerate(("north", "south")):
        write_rows(tmp_path / site / "cough" / "train.csv", seed, 90, patients=True)
    split = "data.split={validation: 0.2, test: 0.2, by: patient}"
    assert command("simulate", tmp_path, f"--set=simulation.sites={sites}", f"--set={split}") == 0
    capsys.readouterr()
    assert command("evaluate", tmp_path, "--split", "test") == 0
    lines = shown(capsys)
    counts = [int(re.search(r"; (\d+) (test rows|in all, of 2 sites)", line)[1]) for line in lines]
    assert [line.split(":")[0] for line in lines] == ["cough at north", "cough at south", "cough"]
    assert counts[0] + counts[1] == counts[2] and all(count % 3 == 0 for count in counts)
    right = [round(float(re.search(r"accuracy ([\d.]+)", line)[1]) * n) for line, n in zip(lines, counts, strict=True)]
    assert right[0] + right[1] == right[2]


def test_arrays_of_the_test_split_stay_unread(tmp_path):
    pixels, answers = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 2
    arrays = {f"{name}_{what}": a for name in ("train", "val") for what, a in (("images", pixels), ("labels", answers))}
    arrays |= {"test_images": np.array([{}] * 6, dtype=object), "test_labels": answers}
    np.savez(tmp_path / "scan.npz", **arrays)
    asked = {"inputs": "images", "encoder": Conv2dEncoder((1, 4, 4), (2,))}
    assert len(load(DataRequest(SCAN, "files", tmp_path, **asked)).validation) == 6
    with pytest.raises(DataError, match=r"scan.npz is not a readable .npz file of plain arrays"):
        load(DataRequest(SCAN, "files", tmp_path, scored="test", **asked))
    np.savez(tmp_path / "scan.npz", **{**arrays, "test_images": pixels[:4] + 9, "test_labels": answers[:4]})
    found = load(DataRequest(SCAN, "files", tmp_path, scored="test", val_samples=0, **asked)).validation
    assert isinstance(found, ArrayExamples) and found.values.shape == (4, 1, 4, 4) and (found.values == 9).all()


def test_a_source_without_test_rows_says_so():
    for source in ("builtin", "glue"):
        with pytest.raises(DataError, match=f"data.source: {source} has no test rows of sst2; name files: data.dir"):
            load(DataRequest(KNOWN_TASKS["sst2"], source, scored="test"))
