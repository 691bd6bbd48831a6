"""Maps of labels in files and from Python: what is read, what is refused, and what a model says of new images."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedmtl
from client.app import load_data
from client.data.array_examples import ArrayExamples
from client.data.array_loader import read_rows
from client.data.summary import summary
from common.config import load_config
from common.encoders.conv2d import Conv2dEncoder
from common.errors import ConfigError, DataError, FedMTLError, ModelError
from common.tasks import TaskDefinition
from common.tasks.dense import UNLABELLED
from federated_main import main
from server.runs.saved import load_run
from simulation.app import simulate
from tests.dense_cases import DEPTHS, HEIGHT, SEGMENTS, WIDTH, dense_config, images
from tests.federations import make_model

ENCODER = Conv2dEncoder((2, HEIGHT, WIDTH), (4,))
X, CLASSES, DEPTH = images(1, 8)


def changed(values: Any, cell: Any) -> Any:
    """The same with another value in one pixel of row 3."""
    found = values.astype(float)
    found[2, 4, 5] = cell
    return found


def test_maps_are_read_in_order_and_kept_small(tmp_path: Path) -> None:
    for task, y in ((SEGMENTS, CLASSES), (DEPTHS, DEPTH)):
        np.savez(tmp_path / f"{task.name}.npz", x=X, y=y)
        data = read_rows(tmp_path, task, ENCODER, seed=1)
        assert isinstance(data.train, ArrayExamples) and (len(data.train), len(data.validation)) == (6, 2)
        assert data.train.labels.dtype == (np.uint8 if task.labels else np.float32)
        for rows in (data.train, data.validation):
            for values, labels in zip(rows.values, rows.labels, strict=True):
                (number,) = [n for n, x in enumerate(X) if np.array_equal(x, values)]
                np.testing.assert_array_equal(labels, y[number].astype(labels.dtype))
        batch = data.train.batch(np.arange(3))
        assert batch.labels is not None and batch.labels.shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("task", "y", "line"),
    [
        (
            SEGMENTS,
            CLASSES[:, 0, 0],
            "column 'y', task parts: a dense_classification has a label per pixel; give an ar",
        ),
        (SEGMENTS, CLASSES[:, 0], r"y is int64 \(8, 8\); give numbers, one per pixel: \(rows, height, width\)"),
        (SEGMENTS, CLASSES.astype(str), "y is <U21 "),
        (SEGMENTS, changed(CLASSES, 3), "row 3: 3.0 is no label of a pixel; write 0 to 2, or 255 where nothing is kn"),
        (SEGMENTS, changed(CLASSES, -1), "row 3: -1.0 is no label of a pixel"),
        (SEGMENTS, changed(CLASSES, 0.5), "row 3: 0.5 is no label of a pixel"),
        (SEGMENTS, changed(CLASSES, np.nan), "row 3: nan is no label of a pixel"),
        (SEGMENTS, np.full_like(CLASSES, UNLABELLED), "row 1: no pixel has a label; label some or remove the row"),
        (SEGMENTS, CLASSES[:, :6], r"y has maps of 6x8, images are 12x8 \(height x width\); give a label for each"),
        (DEPTHS, changed(DEPTH, np.inf), r"row 3: inf is no label of a pixel; write numbers up to 1e\+30, or nan"),
        (DEPTHS, changed(DEPTH, 1e31), r"row 3: 1e\+31 is no label of a pixel"),
        (DEPTHS, np.full_like(DEPTH, np.nan), "row 1: no pixel has a label"),
        (DEPTHS, DEPTH[:, 0, 0], "a dense_regression has a label per pixel"),
    ],
)
def test_maps_that_are_none_are_one_line(tmp_path: Path, task: TaskDefinition, y: Any, line: str) -> None:
    np.savez(tmp_path / f"{task.name}.npz", x=X, y=y)
    with pytest.raises(DataError, match=line) as caught:
        read_rows(tmp_path, task, ENCODER, seed=1)
    assert "\n" not in caught.value.message


def test_maps_are_no_labels_of_other_tasks(tmp_path: Path) -> None:
    for kind in ("classification", "multilabel"):
        np.savez(tmp_path / "a0.npz", x=X, y=CLASSES)
        task = load_config(
            None, ["model={server_model: mlp, mlp: {features: 4}}", "tasks={a0: {type: " + kind + ", labels: 2}}"]
        ).definitions()[0]
        with pytest.raises(DataError, match=r"y (has shape|must be zeros and ones)"):
            read_rows(tmp_path, task, ENCODER, seed=1)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (["model={server_model: mlp, mlp: {features: 4}}"], "a dense_classification reads images, server_model mlp re"),
        (["data={source: builtin, dir: null}"], "data.source: builtin has no maps for task 'parts', a dense_classific"),
        (["tasks.parts.labels=[one]"], "tasks.parts.labels: a classification needs at least 2"),
        (["tasks.parts.labels=256"], "tasks.parts.labels: 256 classes of pixels, 255 are the most; merge some"),
        (
            ["tasks.parts.metrics=[accuracy]"],
            "'accuracy' is not a metric of this dense_classification; choose from iou",
        ),
        (["tasks.depth.labels=[a, b]"], "tasks.depth.labels: a dense_regression has none; remove them"),
        (["tasks.depth.class_weights=balanced"], "tasks.depth.class_weights: a dense_regression has no classes"),
    ],
)
def test_contradictions_are_refused_at_load(tmp_path: Path, changes: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dense_config(tmp_path, *changes)
    assert any(line in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "NoMaps",
            r"tasks.parts.type: a dense_classification needs a map of the image, and this encoder keeps none; us",
        ),
        (
            "WrongMaps",
            r"gives \(2, 2\) for a batch of \(2, 2, 12, 8\), not maps \(2, channels, height, width\); mend it",
        ),
    ],
)
def test_an_encoder_without_a_map_is_one_line(tmp_path: Path, name: str, line: str) -> None:
    with pytest.raises(ModelError, match=line) as caught:
        make_model(dense_config(tmp_path, encoder=name))
    assert "\n" not in caught.value.message


def test_a_client_sees_how_its_pixels_are_spread(tmp_path: Path) -> None:
    config = dense_config(tmp_path)
    found = load_data(config, config.definitions())
    parts, depth = (summary(task, found[task.name]) for task in config.definitions()[:2])
    assert "  training labelled pixels: floor " in parts[-2] and "; without label: 9.9% of all" in parts[-2]
    assert "  training labelled pixels: from 98" in depth[-2] and "mean 101" in depth[-2]


# ---- answers ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    run = (f"run.run_dir='{folder / 'run'}'", "simulation.clients=3")
    asyncio.run(simulate(dense_config(folder, *run), False, None))
    np.savez(folder / "new.npz", x=X)
    return folder


def predict(folder: Path, task: str, target: Path) -> int:
    words = ["--mode", "predict", "--run_dir", str(folder / "run"), "--task", task]
    return main([*words, "--input", str(folder / "new.npz"), "--output", str(target)])


def test_maps_of_new_images_are_those_of_the_model(trained: Path, tmp_path: Path) -> None:
    run = load_run(trained / "run")
    run.model.model.eval()
    for task, name in (("parts", "label"), ("depth", "score")):
        assert predict(trained, task, tmp_path / f"{task}.npz") == 0
        (found,) = dict(np.load(tmp_path / f"{task}.npz")).values()
        run.load_task(task)
        head = run.model.model.head(task)
        with torch.inference_mode():
            maps = run.model.model.encoder.maps(torch.from_numpy(X).float() / 255)  # type: ignore[attr-defined]
            outputs = head(maps).double().numpy()
        wanted = outputs.argmax(axis=1) if task == "parts" else run.units_of(task).targets(outputs[:, 0])
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        assert found.shape == (8, HEIGHT, WIDTH) and found.dtype == (np.uint8 if name == "label" else np.float32)


def test_tables_hold_no_maps(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(trained, "parts", tmp_path / "maps.csv") != 0
    line = "a dense_classification answers with maps, which only .npz files hold; write one"
    assert line in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_maps_from_python(tmp_path: Path) -> None:
    x, classes, depth = images(5, 24)
    tasks = {
        "parts": fedmtl.dense_classification(["floor", "box", "lamp"], class_weights="balanced"),
        "depth": fedmtl.dense_regression(),
    }
    sites = {"north": {"parts": (x, classes), "depth": (x, depth)}, "south": {"depth": (x, depth, X, DEPTH)}}
    settings = {"training.num_rounds": 2, "training.local_epochs": 1}
    run = fedmtl.simulate(tasks, sites, {"conv2d": {"filters": [4]}}, settings, tmp_path / "run")
    said, depths = run.predict("parts", X), run.predict("depth", X)
    assert np.shape(said) == np.shape(depths) == (8, HEIGHT, WIDTH)
    outputs = run.model("parts")(torch.from_numpy(X))
    assert outputs.shape == (8, 3, HEIGHT, WIDTH) and np.array_equal(outputs.argmax(dim=1).numpy(), said)
    np.testing.assert_allclose(run.model("depth")(torch.from_numpy(X))[:, 0].detach().numpy(), depths, rtol=1e-5)
    weights = run.report.tasks["parts"].class_weights
    assert weights is not None and weights["lamp"] > weights["box"]
    with pytest.raises(FedMTLError, match="a dense_classification has a label per pixel"):
        fedmtl.simulate(tasks, {**sites, "north": {"parts": (x, classes[:, 0, 0])}}, {"conv2d": {"filters": [4]}})
    assert json.loads((tmp_path / "run" / "report.json").read_text())["tasks"]["depth"]["units"]["mean"] > 900
