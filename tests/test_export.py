"""Exported folders give the same predictions without FedMTL."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from common.errors import ModelError
from common.export.folder import export_task
from common.inputs.texts import TextBatch
from common.models.encoder import EncoderSource
from common.models.packed_tokenizer import unpack_tokenizer
from common.models.pretrained import KNOWN_ARCHITECTURES
from common.models.trained import TrainedTask
from common.models.vocabulary import fallback_tokenizer
from common.parameters.plan import PLANS, SharingPlan
from common.targets import OWN_UNITS, TargetUnits
from common.tasks import KNOWN_TASKS, TASK_KINDS, TaskDefinition
from server.runs.model import MTLServerModel

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = json.loads(KNOWN_ARCHITECTURES["prajjwal1/bert-tiny"]) | SIZES
ALBERT = {"model_type": "albert", "vocab_size": 30_522, "embedding_size": 8, **SIZES}
DISTILBERT = {
    "model_type": "distilbert",
    "vocab_size": 30_522,
    "dim": 16,
    "hidden_dim": 32,
    "n_layers": 1,
    "n_heads": 2,
}
TOPICS = TaskDefinition("topics", TASK_KINDS["multilabel"], ("sport", "art", "law"), False, ("f1_micro",))
TASKS = (*(KNOWN_TASKS[name] for name in ("sst2", "qqp", "stsb")), TOPICS)
HUGGING_FACE_FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
SCRIPT_FILES = sorted([*HUGGING_FACE_FILES, "head.json", "head.safetensors", "predict.py"])
SENTENCE_FILES = sorted([*SCRIPT_FILES, "1_Pooling/config.json", "modules.json", "sentence_bert_config.json"])
TEXTS = ("A fine film with heart.", "Another text, somewhat longer than the first one!")


def make(config: dict[str, Any], pair_mode: str) -> MTLServerModel:
    tokenizer = fallback_tokenizer()
    if config["model_type"] == "distilbert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    source = EncoderSource(json.dumps(config), None, tokenizer, "random weights as configured")
    model = MTLServerModel.create(source, pair_mode, 32, TASKS, SharingPlan(PLANS["hard"]), 5)
    # Random values of the usual size would predict nearly nothing, whatever the text.
    for vector in model.vectors.values():
        vector.mul_(4)
    return model


def trained(model: MTLServerModel, task: str, units: TargetUnits = OWN_UNITS) -> TrainedTask:
    return TrainedTask(model.model, model.tasks[task], "the model of round 3", units, model.tokenizer_bytes)


def outputs(model: MTLServerModel, task: str) -> torch.Tensor:
    tokenizer = unpack_tokenizer(model.tokenizer_bytes)

    def batch(*texts: str) -> TextBatch:
        return TextBatch(**tokenizer(*texts, return_tensors="pt"))

    if not KNOWN_TASKS.get(task, TOPICS).pair:
        texts = batch(TEXTS[0])
    elif model.architecture.pair_mode == "cross":
        texts = batch(*TEXTS)
    else:
        first, second = batch(TEXTS[0]), batch(TEXTS[1])
        texts = TextBatch(first.input_ids, first.attention_mask, pair=second)
    with torch.inference_mode():
        result: torch.Tensor = model.model(task, texts)
    return result


def probabilities(task: str, logits: torch.Tensor) -> list[float]:
    if task == "stsb":
        return logits[0].tolist()
    return (logits.sigmoid() if task == "topics" else logits.softmax(-1))[0].tolist()


@pytest.mark.parametrize("config", [BERT, ALBERT], ids=["bert", "albert"])
@pytest.mark.parametrize("task", ["sst2", "qqp", "stsb", "topics"])
def test_hugging_face_loads_and_agrees(
    config: dict[str, Any], task: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make(config, "cross")
    out = tmp_path / "new" / "folder"
    assert export_task(trained(model, task), out) == HUGGING_FACE_FILES == sorted(path.name for path in out.iterdir())
    assert [path.name for path in out.parent.iterdir()] == ["folder"] and capfd.readouterr() == ("", "")
    loaded, report = AutoModelForSequenceClassification.from_pretrained(str(out), output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    pair = KNOWN_TASKS.get(task, TOPICS).pair
    with torch.inference_mode():
        logits = loaded.eval()(**tokenizer(*TEXTS[: 1 + pair], return_tensors="pt")).logits
    expected = outputs(model, task)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    classify = pipeline("text-classification", model=str(out), device="cpu")
    given = {"text": TEXTS[0], "text_pair": TEXTS[1]} if pair else TEXTS[0]
    scores = {item["label"]: item["score"] for item in classify(given, top_k=None, truncation=True)}
    labels = KNOWN_TASKS.get(task, TOPICS).labels or ("score",)
    assert scores == pytest.approx(dict(zip(labels, probabilities(task, expected), strict=True)), abs=1e-5)
    assert loaded.config.label2id == {label: index for index, label in enumerate(labels)}
    assert tokenizer.model_max_length == 32


@pytest.mark.parametrize(
    ("config", "pair_mode", "task"),
    [(BERT, "siamese", "stsb"), (BERT, "siamese", "qqp"), (DISTILBERT, "cross", "topics")],
    ids=["siamese regression", "siamese classes", "distilbert multilabel"],
)
def test_the_script_in_the_folder_agrees(config: dict[str, Any], pair_mode: str, task: str, tmp_path: Path) -> None:
    model = make(config, pair_mode)
    out = tmp_path / "out"
    assert export_task(trained(model, task), out) == (SENTENCE_FILES if pair_mode == "siamese" else SCRIPT_FILES)
    definition = KNOWN_TASKS.get(task, TOPICS)
    predict = runpy.run_path(str(out / "predict.py"))["predict"]
    labels = definition.labels or ("score",)
    expected = dict(zip(labels, probabilities(task, outputs(model, task)), strict=True))
    assert predict(*TEXTS[: 1 + definition.pair]) == pytest.approx(expected, abs=1e-5)
    _, report = AutoModel.from_pretrained(str(out), output_loading_info=True)
    assert not report["missing_keys"]
    assert set(load_file(str(out / "head.safetensors"))) == {"weight", "bias"}


@pytest.mark.parametrize("pair_mode", ["cross", "siamese"])
def test_a_score_comes_in_the_users_units(pair_mode: str, tmp_path: Path) -> None:
    model, units = make(BERT, pair_mode), TargetUnits(1000.0, 256.0)
    export_task(trained(model, "stsb", units), tmp_path / "out")
    if pair_mode == "siamese":
        found = runpy.run_path(str(tmp_path / "out" / "predict.py"))["predict"](*TEXTS)["score"]
    else:
        loaded = AutoModelForSequenceClassification.from_pretrained(str(tmp_path / "out")).eval()
        tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out"))
        with torch.inference_mode():
            found = loaded(**tokenizer(*TEXTS, return_tensors="pt")).logits.item()
    assert found == pytest.approx(1000.0 + 256.0 * outputs(model, "stsb").item(), abs=1e-3)


@pytest.mark.slow
def test_the_script_runs_by_itself(tmp_path: Path) -> None:
    model = make(BERT, "siamese")
    export_task(trained(model, "stsb"), tmp_path / "out")
    script = [sys.executable, "predict.py", *TEXTS]
    done = subprocess.run(script, cwd=tmp_path / "out", capture_output=True, text=True, check=True, timeout=100)
    assert json.loads(done.stdout) == pytest.approx({"score": outputs(model, "stsb").item()}, abs=1e-5)


def test_an_existing_folder_is_refused_unless_empty(tmp_path: Path) -> None:
    model = make(BERT, "cross")
    (tmp_path / "empty").mkdir()
    assert export_task(trained(model, "sst2"), tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    for name in ("empty", "file"):
        with pytest.raises(ModelError, match="choose another"):
            export_task(trained(model, "sst2"), tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.export.hugging_face._write_json", fail)
    with pytest.raises(ModelError, match="No space left"):
        export_task(trained(make(BERT, "cross"), "sst2"), tmp_path / "out")
    assert not list(tmp_path.iterdir())
