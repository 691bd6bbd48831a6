"""Mode predict: what a run's model says of rows, in every format, and what it refuses."""

from __future__ import annotations

import asyncio
import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import federated_main
from client.data.formats import read_table
from client.data.writing import WRITERS, write_columns
from common.config import Config
from common.errors import DataError
from common.tasks import TASK_KINDS, TaskDefinition
from server.runs.saved import load_run
from simulation.app import simulate
from tests.federations import array_config, small_config

CLASSES = "{type: classification, labels: [no, yes]}"
TASKS = "tasks={a0: " + CLASSES + ", tags: {type: multilabel, labels: [x, y]}, price: {type: regression}}"
ROWS = np.random.Generator(np.random.PCG64(3)).standard_normal((40, 3))


def write_rows(folder: Path) -> None:
    target = ROWS @ [1.0, -2.0, 0.5]
    labels = {
        "a0": ["yes" if t > 0 else "no" for t in target],
        "tags": ["|".join(n for n, v in zip("xy", row, strict=False) if v > 0) for row in ROWS],
        "price": (1000 + 100 * target).tolist(),
    }
    folder.mkdir()
    for task, cells in labels.items():
        columns = {
            "age": ROWS[:, 0].tolist(),
            "size": ROWS[:, 1].tolist(),
            "rooms": ROWS[:, 2].tolist(),
            "label": cells,
        }
        write_columns(folder / f"{task}.csv", columns)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    folder = tmp_path_factory.mktemp("prediction")
    write_rows(folder / "data")
    config = array_config(
        *(TASKS, f"data.dir='{folder / 'data'}'", "model.mlp={features: 3, hidden: [8]}", "simulation.clients=3"),
        *("training={num_rounds: 3, local_epochs: 5, learning_rate: 0.02}", f"run.run_dir='{folder / 'run'}'"),
    )
    asyncio.run(simulate(config, False, None))
    return config, folder


def predict(folder: Path, task: str, given: Path, target: Path, *more: str) -> int:
    words = ["--mode", "predict", "--run_dir", str(folder / "run"), "--task", task]
    return federated_main.main([*words, "--input", str(given), "--output", str(target), *more])


def outputs(folder: Path, task: str) -> NDArray[np.float64]:
    """What the head says, computed by hand from the run's parameters."""
    run = load_run(folder / "run")
    run.load_task(task)
    values = {name: p.detach().numpy().astype(np.float64) for name, p in run.model.model.named_parameters()}
    hidden = np.maximum(ROWS @ values["encoder.layers.0.weight"].T + values["encoder.layers.0.bias"], 0)
    found = hidden @ values[f"heads.{task}.linear.weight"].T + values[f"heads.{task}.linear.bias"]
    return run.units_of(task).targets(found)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_labels_and_probabilities_are_those_of_the_parameters(trained, tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    _, folder = trained
    given = tmp_path / f"rows{suffix}"
    order = [2, 0, 1]  # columns are found by name
    names = ["age", "size", "rooms"]
    write_columns(given, {"id": list(range(40)), **{names[k]: ROWS[:, k].tolist() for k in order}})
    target = tmp_path / f"answers{suffix}"
    assert predict(folder, "a0", given, target, "--set", "tasks.a0.columns.features=[age, size, rooms]") == 0
    found = read_table(target).columns
    assert list(found) == ["id", "rooms", "age", "size", "predicted_label", "predicted_p_no", "predicted_p_yes"]
    expected = np.exp(outputs(folder, "a0"))
    expected /= expected.sum(axis=1, keepdims=True)
    said = np.array([found["predicted_p_no"], found["predicted_p_yes"]], dtype=np.float64).T
    np.testing.assert_allclose(said, expected, rtol=0, atol=1e-5)
    assert found["predicted_label"] == [("no", "yes")[k] for k in expected.argmax(axis=1)]
    assert [int(cell) for cell in found["id"]] == list(range(40))
    truth = ["yes" if score > 0 else "no" for score in ROWS @ [1, -2, 0.5]]
    right = np.mean([said == true for said, true in zip(found["predicted_label"], truth, strict=True)])
    assert right > 0.8


def test_scores_are_in_the_units_of_the_targets_and_many_labels_may_apply(trained, tmp_path: Path) -> None:
    _, folder = trained
    for task in ("price", "tags"):
        assert predict(folder, task, folder / "data" / f"{task}.csv", tmp_path / f"{task}.npz") == 0
    with np.load(tmp_path / "price.npz") as found:
        np.testing.assert_allclose(found["predicted_score"], outputs(folder, "price")[:, 0], rtol=1e-4)
        assert 500 < found["predicted_score"].mean() < 1500
    with np.load(tmp_path / "tags.npz") as found:
        shares = 1 / (1 + np.exp(-outputs(folder, "tags")))
        np.testing.assert_allclose(found["predicted_p_x"], shares[:, 0], atol=1e-5)
        expected = ["|".join(n for n, s in zip("xy", row, strict=True) if s > 0.5) for row in shares]
        assert found["predicted_labels"].tolist() == expected


def test_arrays_have_no_names_and_give_answers_alone(trained, tmp_path: Path) -> None:
    _config, folder = trained
    np.savez(tmp_path / "rows.npz", x=ROWS, names=np.array(["age", "size", "rooms"]))
    assert predict(folder, "a0", tmp_path / "rows.npz", tmp_path / "answers.csv") == 0
    with (tmp_path / "answers.csv").open() as file:
        assert next(csv.reader(file)) == ["predicted_label", "predicted_p_no", "predicted_p_yes"]


def test_texts_are_answered_with_their_columns(tmp_path: Path) -> None:
    config = small_config(
        tmp_path, f"run.run_dir='{tmp_path / 'run'}'", "simulation.clients=2", "federation.min_clients=1"
    )
    asyncio.run(simulate(config, False, None))
    (tmp_path / "reviews.jsonl").write_text(
        '{"sentence": "a fine film", "by": "me"}\n{"sentence": "dull\\tand long", "by": null}\n'
    )
    assert predict(tmp_path, "sst2", tmp_path / "reviews.jsonl", tmp_path / "answers.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [(row["sentence"], row["by"]) for row in rows] == [("a fine film", "me"), ("dull\tand long", None)]
    for row in rows:
        assert row["predicted_label"] in ("negative", "positive")
        assert row["predicted_p_negative"] + row["predicted_p_positive"] == pytest.approx(1.0)
    assert predict(tmp_path, "sst2", tmp_path / "reviews.jsonl", tmp_path / "answers.tsv") == 3
    assert not (tmp_path / "answers.tsv").exists() and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("task", "given", "target", "code", "line"),
    [
        ("a0", "nowhere.csv", "answers.csv", 3, "--input: .*nowhere.csv does not exist; give a file of rows"),
        ("a0", "rows.txt", "answers.csv", 3, "--input: .*rows.txt is of no known format; use one of .npz, .tsv"),
        ("a0", "a0.csv", "answers.txt", 3, "--output: .*answers.txt is of no known format; use one of .csv"),
        ("a0", "a0.csv", "a0.csv", 3, "--output: .*a0.csv exists; name a new file"),
        ("none", "a0.csv", "answers.csv", 4, "--task: 'none' is not in this run; it has a0, tags, price"),
        ("a0", "short.csv", "answers.csv", 3, "column missing, needed rooms; present are age, size"),
        ("a0", "bad.csv", "answers.csv", 3, "bad.csv, row 2, column 'rooms': 'many' is not a number"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
    given: str,
    target: str,
    code: int,
    line: str,
) -> None:
    _, folder = trained
    (tmp_path / "rows.txt").write_text("no")
    (tmp_path / "short.csv").write_text("age,size\n1,2\n")
    (tmp_path / "bad.csv").write_text("age,size,rooms\n1,2,3\n1,2,many\n")
    (tmp_path / "a0.csv").write_bytes((folder / "data" / "a0.csv").read_bytes())
    before = sorted(tmp_path.iterdir())
    assert predict(folder, task, tmp_path / given, tmp_path / target) == code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(line, said), said
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_is_exported_with_a_card_of_what_its_report_says(
    trained: tuple[Config, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = trained
    words = ["--mode", "export", "--run_dir", str(folder / "run"), "--task", "a0", "--out", str(tmp_path / "out")]
    assert federated_main.main(words) == 0
    assert capsys.readouterr().out.splitlines() == ["a0: the model of round 3", "README.md", "model.pt2"]
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    said = program(torch.tensor(ROWS, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(said, outputs(folder, "a0"), rtol=0, atol=1e-5)
    text = (tmp_path / "out" / "README.md").read_text().replace("\\", "")
    report = json.loads((folder / "run" / "report.json").read_text())
    for metric, value in report["tasks"]["a0"]["metrics"].items():
        assert f"| {metric} | {value:.4f} | 3 |" in text
    counts = [(name, client["examples"]) for name, client in report["clients"].items() if "a0" in client["examples"]]
    assert counts and all(f"{name}: {examples['a0']}" in text for name, examples in counts)
    assert "| seed | 42 |" in text and "| sharing plan | hard |" in text and "without noise" in text
    assert "epochs per round" in text and "| certificate |" not in text


@pytest.mark.parametrize("suffix", sorted(set(WRITERS) - {".npz"}))
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    columns = {"text": ['a "quoted", one', "ä ß"], "n": [1, 2]}
    write_columns(tmp_path / f"t{suffix}", columns)
    found = read_table(tmp_path / f"t{suffix}").columns
    assert found["text"] == columns["text"] and [int(str(n)) for n in found["n"]] == [1, 2]


def test_a_column_of_several_types_is_no_array(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has cells of several types"):
        write_columns(tmp_path / "t.npz", {"by": ["me", None]})


def test_probabilities_of_extreme_outputs_are_finite() -> None:
    two = TaskDefinition("t", TASK_KINDS["classification"], ("a", "b"), False, ("accuracy",))
    found = TASK_KINDS["classification"].answers(two, np.array([[1e4, -1e4]]))
    assert (found["label"], found["p_a"], found["p_b"]) == (["a"], [1.0], [0.0])
    many = TASK_KINDS["multilabel"].answers(two, np.array([[-1e4, 1e4]]))
    assert (many["labels"], many["p_a"], many["p_b"]) == (["b"], [0.0], [1.0])


def test_a_model_of_standardised_rows_does_not_answer_raw_ones(trained, tmp_path: Path) -> None:
    _, folder = trained
    given = folder / "data" / "a0.csv"
    assert predict(folder, "a0", given, tmp_path / "answers.csv", "--set", "data.statistics=site") == 4
    assert not (tmp_path / "answers.csv").exists()


def test_a_model_of_rows_that_each_site_scaled_is_not_exported_without_a_scale(
    trained: tuple[Config, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--mode", "export", "--run_dir", str(trained[1] / "run"), "--task", "a0", "--out", str(tmp_path / "out")]
    assert federated_main.main([*words, "--set", "data.statistics=site"]) == 4
    line = "data.statistics: site: each site knows the scale of its own rows, so only clients can answer; name one"
    assert line in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "out").exists()
