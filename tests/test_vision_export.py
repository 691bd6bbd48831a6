"""A task over a vision model as a folder for transformers, a program and an ONNX file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from common.encoders.vision import VisionEncoder
from common.errors import ModelError
from common.export.card import CardFacts, card
from common.export.folder import export_task
from common.export.use import program
from common.inputs.arrays import ArrayBatch
from common.inputs.row_scale import RowScale
from common.models.multitask import MultiTaskModel, initialise
from common.models.trained import TrainedTask
from common.orders import ModelArchitecture
from common.targets import OWN_UNITS, TargetUnits
from common.tasks import TASK_KINDS, TaskDefinition
from tests.test_export_formats import run_onnx, snippet_runs
from tests.vision_cases import KINDS

COUGH = TaskDefinition("cough", TASK_KINDS["classification"], ("no", "yes", "perhaps"), False, ("accuracy",))
AGE = TaskDefinition("age", TASK_KINDS["regression"], (), False, ("rmse",))
MAP = TaskDefinition("map", TASK_KINDS["dense_regression"], (), False, ("rmse",))


def trained(kind: str, task: TaskDefinition, units: TargetUnits = OWN_UNITS) -> TrainedTask:
    """A model whose values are those of no new one."""
    encoder = replace(KINDS[kind], mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 0.125))
    model = MultiTaskModel(ModelArchitecture(encoder.describe(), "cross", 32, "", 0), [task])
    initialise(model, 3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return TrainedTask(model, task, "the model of round 3", units)


def said(task: TrainedTask, values: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return task.units.mean + task.units.scale * task.model.eval()(task.task.name, ArrayBatch(values))


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_own_class_computes_what_was_trained_of_image_files(tmp_path: Path, kind: str) -> None:
    image = pytest.importorskip("PIL.Image")
    task = trained(kind, COUGH)
    names = export_task(task, tmp_path / "out")
    assert names == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    loaded = AutoModelForImageClassification.from_pretrained(str(tmp_path / "out")).eval()
    assert type(loaded).__name__.endswith("ForImageClassification")
    assert loaded.config.id2label == {0: "no", 1: "yes", 2: "perhaps"}
    height, width = KINDS[kind].shape[1:]
    pixels = np.random.Generator(np.random.PCG64(1)).integers(256, size=(2, height, width, 3), dtype=np.uint8)
    given = AutoImageProcessor.from_pretrained(str(tmp_path / "out"))([*map(image.fromarray, pixels)])
    found = loaded(pixel_values=torch.from_numpy(np.stack(given["pixel_values"]))).logits
    expected = said(task, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-4
    snippet_runs(tmp_path / "out")


def test_a_regression_is_exported_in_the_units_of_the_data_and_is_an_encoder_again(tmp_path: Path) -> None:
    task = trained("resnet", AGE, TargetUnits(500.0, 64.0))
    export_task(task, tmp_path / "out")
    loaded = AutoModelForImageClassification.from_pretrained(str(tmp_path / "out")).eval()
    values = torch.rand(2, *KINDS["resnet"].shape)
    mean, std = torch.tensor([0.2, 0.4, 0.6])[:, None, None], torch.tensor([0.5, 0.25, 0.125])[:, None, None]
    with torch.inference_mode():
        found = loaded(pixel_values=(values - mean) / std).logits
    torch.testing.assert_close(found, said(task, values), rtol=1e-5, atol=1e-3)
    again = VisionEncoder(str(tmp_path / "out")).resolved()
    assert json.loads(again.describe())["mean"] == [0.2, 0.4, 0.6] and again.shape == (3, 16, 16)
    state = again.found("auto").state
    assert state is not None
    for name, value in task.model.encoder.net.state_dict().items():  # type: ignore[attr-defined]
        torch.testing.assert_close(state[f"net.{name}"], value.float())


@pytest.mark.parametrize("kind", ["vit", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "vit")])
def test_a_program_computes_the_same_for_any_number_of_rows(tmp_path: Path, kind: str) -> None:
    task = trained(kind, COUGH)
    export_task(task, tmp_path / "out", "torch")
    loaded = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for rows in (1, 5):
        values = torch.rand(rows, *KINDS[kind].shape)
        torch.testing.assert_close(loaded(values), said(task, values), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_computes_the_same(tmp_path: Path, kind: str) -> None:
    task = trained(kind, COUGH)
    export_task(task, tmp_path / "out", "onnx")
    values = torch.rand(5, *KINDS[kind].shape)
    torch.testing.assert_close(run_onnx(tmp_path / "out", values=values.numpy()), said(task, values), atol=1e-5, rtol=0)


def test_a_card_says_that_bytes_are_divided_also_where_the_model_scales_rows() -> None:
    scale = RowScale.by(np.zeros((1, 3, 1, 1)), np.full((1, 3, 1, 1), 2.0))
    for task in (trained("vit", COUGH), replace(trained("vit", COUGH), scale=scale)):
        assert "pixels from 0 to 1, which are bytes divided by 255" in card(task, CardFacts(), program(task))


def test_what_transformers_cannot_hold_is_refused_with_what_can(tmp_path: Path) -> None:
    line = "--format hugging_face: transformers has no class with this head; use torch or onnx"
    with pytest.raises(ModelError, match=line):
        export_task(trained("vit", MAP), tmp_path / "out", "hugging_face")
    scale = RowScale.by(np.zeros((1, 3, 1, 1)), np.full((1, 3, 1, 1), 2.0))
    with pytest.raises(ModelError, match="transformers does not know the scale of its rows; use torch or onnx"):
        export_task(replace(trained("vit", COUGH), scale=scale), tmp_path / "out", "hugging_face")
