"""Programs, ONNX files, words and sentences: what is exported computes what was trained, and says how it is used."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from cli.export import FORMATS as OFFERED
from common.encoders.conv1d import Conv1dEncoder
from common.encoders.conv2d import Conv2dEncoder
from common.encoders.gru import GRUEncoder
from common.encoders.mlp import MLPEncoder
from common.encoders.module import ModuleEncoder
from common.encoders.row import ArrayEncoder
from common.encoders.several import SeveralEncoder
from common.errors import ModelError
from common.export.card import CardFacts, CardScore
from common.export.folder import export_task
from common.export.table import FORMATS
from common.inputs.arrays import ArrayBatch
from common.inputs.row_scale import RowScale
from common.models.encoder import EncoderSource
from common.models.multitask import MultiTaskModel, initialise
from common.models.trained import TrainedTask
from common.models.vocabulary import fallback_tokenizer
from common.orders import ModelArchitecture
from common.parameters.plan import PLANS, SharingPlan
from common.targets import OWN_UNITS, TargetUnits
from common.tasks import TASK_KINDS, TaskDefinition
from server.runs.model import MTLServerModel
from tests.test_export import BERT, make, trained

ROBERTA = {**BERT, "model_type": "roberta", "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
WORDS = TaskDefinition("words", TASK_KINDS["masked_lm"], (), False, ("masked_accuracy",))
PRICE = TaskDefinition("price", TASK_KINDS["regression"], (), False, ("rmse",))
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.hidden_size = width
        self.norm, self.linear = nn.BatchNorm1d(5), nn.Linear(5, width)

    def forward(self, values):
        return torch.tanh(self.linear(self.norm(values)))
"""
ENCODERS: dict[str, Callable[[Path], ArrayEncoder]] = {
    "mlp": lambda _: MLPEncoder(5, (8,)),
    "conv2d": lambda _: Conv2dEncoder((1, 8, 6), (4,), norm="batch", hidden=5),
    "conv1d": lambda _: Conv1dEncoder((9, 2), (4,), norm="batch", hidden=5),
    "gru": lambda _: GRUEncoder((7, 2), hidden=5, layers=2),
    "module": lambda folder: module(folder),
    "several": lambda _: SeveralEncoder(
        {"pixels": {"conv2d": {"shape": [1, 4, 4]}}, "table": {"mlp": {"features": 3}}}
    ),
}


def module(folder: Path) -> ModuleEncoder:
    (folder / "net.py").write_text(NET)
    return ModuleEncoder(str(folder / "net.py"), "Net", (5,), args={"width": 4}).trusted()


def over_rows(folder: Path, name: str, scaled: bool = False) -> TrainedTask:
    """A model over rows of numbers, whose statistics of batch normalisation are those of no new module."""
    encoder = ENCODERS[name](folder)
    architecture = ModelArchitecture(encoder.describe(), "cross", 32, "", 0)
    model = MultiTaskModel(architecture, [PRICE])
    initialise(model, 3)
    generator = torch.Generator().manual_seed(1)
    for key, buffer in model.named_buffers():
        if "running" in key:
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    scale = None
    if scaled:
        rows = np.random.Generator(np.random.PCG64(2)).normal(100.0, 20.0, (30, *encoder.row_shape))
        scale = RowScale.by(rows.mean(axis=0, keepdims=True), rows.std(axis=0, keepdims=True))
    return TrainedTask(model, PRICE, "the model of round 3", TargetUnits(500.0, 64.0), scale=scale)


def by_hand(task: TrainedTask, values: Tensor) -> Tensor:
    """What predictions are, (rows, outputs)."""
    rows = values if task.scale is None else torch.from_numpy(task.scale.scaled(values.numpy()))
    with torch.inference_mode():
        return task.units.mean + task.units.scale * task.model.eval()("price", ArrayBatch(rows))


def test_every_format_is_offered() -> None:
    assert tuple(FORMATS) == OFFERED


@pytest.mark.parametrize(
    "name",  # the next test exports several parts
    [pytest.param(name, marks=pytest.mark.slow) if name == "several" else name for name in ENCODERS],
)
def test_a_program_computes_what_was_trained_for_any_number_of_rows(tmp_path: Path, name: str) -> None:
    task = over_rows(tmp_path, name, scaled=name in ("mlp", "module"))
    assert export_task(task, tmp_path / "out") == ["README.md", "model.pt2"]
    loaded = torch.export.load(tmp_path / "out" / "model.pt2").module()
    shape = ENCODERS[name](tmp_path).row_shape
    for rows in (1, 2, 33):
        values = torch.randn(rows, *shape) * 20 + 100
        torch.testing.assert_close(loaded(values), by_hand(task, values), rtol=1e-5, atol=1e-3)


def test_a_program_reads_rows_that_lack_a_part(tmp_path: Path) -> None:
    task = over_rows(tmp_path, "several")
    export_task(task, tmp_path / "out")
    values = torch.randn(3, 19)
    values[0, :16], values[2, 16:] = torch.nan, torch.nan
    found = torch.export.load(tmp_path / "out" / "model.pt2").module()(values)
    torch.testing.assert_close(found, by_hand(task, values), rtol=1e-5, atol=1e-3)
    assert "nan in place of a part that a row lacks" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ModelError, match="this client has no encoder of pixels"):
        export_task(replace(task, lacks=("pixels",)), tmp_path / "other")


def test_a_program_gives_a_class_for_every_pixel(tmp_path: Path) -> None:
    task = TaskDefinition("cover", TASK_KINDS["dense_classification"], ("road", "sky", "car"), False, ("iou",))
    architecture = ModelArchitecture(Conv2dEncoder((1, 8, 6), (4,), hidden=5).describe(), "cross", 32, "", 0)
    model = MultiTaskModel(architecture, [task])
    initialise(model, 3)
    export_task(TrainedTask(model, task, "the model of round 3"), tmp_path / "out")
    values = torch.rand(4, 1, 8, 6)
    found = torch.export.load(tmp_path / "out" / "model.pt2").module()(values)
    with torch.inference_mode():
        torch.testing.assert_close(found, model("cover", ArrayBatch(values)), rtol=0, atol=1e-5)
    assert found.shape == (4, 3, 8, 6)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "whose softmax over labels" in text and "bytes divided by 255" in text


def run_onnx(folder: Path, **given: Any) -> Tensor:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert {item.shape[0] for item in (*session.get_inputs(), *session.get_outputs())} == {"rows"}
    return torch.from_numpy(session.run(None, given)[0])


@pytest.mark.parametrize("name", ["mlp", *(pytest.param(n, marks=pytest.mark.slow) for n in ENCODERS if n != "mlp")])
def test_onnxruntime_computes_what_was_trained(tmp_path: Path, name: str) -> None:
    task = over_rows(tmp_path, name, scaled=name in ("mlp", "module"))
    assert export_task(task, tmp_path / "out", "onnx") == ["README.md", "model.onnx"]
    values = torch.randn(5, *ENCODERS[name](tmp_path).row_shape) * 20 + 100
    found = run_onnx(tmp_path / "out", values=values.numpy())
    torch.testing.assert_close(found, by_hand(task, values), rtol=1e-5, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch", "onnx"])
@pytest.mark.parametrize(("pair_mode", "name"), [("cross", "sst2"), ("cross", "qqp"), ("siamese", "stsb")])
def test_texts_of_any_number_and_length(tmp_path: Path, form: str, pair_mode: str, name: str) -> None:
    model = make(BERT, pair_mode)
    export_task(trained(model, name), tmp_path / "out", form)
    snippet_runs(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    texts = [["A fine film.", "Dull, and far too long for what it has to say!"], ["An awful film.", "Well."]]
    pair = model.tasks[name].pair
    if pair_mode == "siamese":
        first, second = (tokenizer(half, padding=True, return_tensors="pt") for half in texts)
        given = {"input_ids": first["input_ids"], "attention_mask": first["attention_mask"]}
        given |= {"pair_input_ids": second["input_ids"], "pair_attention_mask": second["attention_mask"]}
    else:
        given = {**tokenizer(*texts[: 1 + pair], padding=True, return_tensors="pt")}
        given = {key: given[key] for key in ("input_ids", "attention_mask", "token_type_ids")}
    if form == "onnx":
        found = run_onnx(tmp_path / "out", **{key: value.numpy() for key, value in given.items()})
    else:
        found = torch.export.load(tmp_path / "out" / "model.pt2").module()(*given.values())
    export_task(trained(model, name), tmp_path / "script")
    for row in range(2):
        words = [half[row] for half in texts[: 1 + pair]]
        torch.testing.assert_close(found[row], one_by_one(tmp_path / "script", words), rtol=0, atol=1e-5)


def one_by_one(folder: Path, words: list[str]) -> Tensor:
    """What the folder for transformers says of one text or pair without padding, (outputs,)."""
    if (folder / "predict.py").exists():
        script = runpy.run_path(str(folder / "predict.py"))
        return script["outputs"](*map(script["encode"], words))[0]
    from transformers import AutoModelForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    loaded = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    with torch.inference_mode():
        return loaded(**tokenizer(*words, return_tensors="pt")).logits[0]


# ---- words and sentences ----


def words_model(config: dict[str, Any]) -> TrainedTask:
    tokenizer = fallback_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    source = EncoderSource(json.dumps(config), None, tokenizer, "random weights")
    model = MTLServerModel.create(source, "cross", 16, [WORDS], SharingPlan(PLANS["hard"]), 5)
    return TrainedTask(model.model, WORDS, "the model of round 3", OWN_UNITS, model.tokenizer_bytes)


def test_transformers_fills_masks_as_the_trained_head_does(tmp_path: Path) -> None:
    task = words_model(ROBERTA)
    names = export_task(task, tmp_path / "out")
    assert "predict.py" not in names
    loaded = AutoModelForMaskedLM.from_pretrained(str(tmp_path / "out")).eval()
    assert type(loaded).__name__ == "RobertaForMaskedLM"
    head, encoder = task.model.head("words"), task.model.encoder.eval()
    ids = torch.tensor([[5, 9, 300, 4], [7, 8, 12, 77]])
    with torch.inference_mode():
        hidden = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        expected = head(hidden, encoder.get_input_embeddings().weight)
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected, rtol=0, atol=1e-5)


def test_an_encoder_with_another_epsilon_gets_a_script_for_its_words(tmp_path: Path) -> None:
    task = words_model(BERT | {"layer_norm_eps": 1e-12})
    assert "predict.py" in export_task(task, tmp_path / "out")
    predict = runpy.run_path(str(tmp_path / "out" / "predict.py"))["predict"]
    (found,) = predict("a [MASK] film")
    assert len(found) == 5 and sum(found.values()) < 1.0
    snippet_runs(tmp_path / "out")


def test_the_layout_of_sentence_transformers_gives_the_mean_vectors(tmp_path: Path) -> None:
    model = make(BERT, "siamese")
    export_task(trained(model, "stsb"), tmp_path / "out")
    kinds = [(m["path"], m["type"]) for m in json.loads((tmp_path / "out" / "modules.json").read_text())]
    package = "sentence_transformers.models."
    assert kinds == [("", f"{package}Transformer"), ("1_Pooling", f"{package}Pooling")]
    pooling = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())
    assert [key for key, chosen in pooling.items() if chosen is True] == ["pooling_mode_mean_tokens"]
    assert pooling["word_embedding_dimension"] == 16
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    texts = tokenizer(["A film.", "A much longer text about it."], padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = AutoModel.from_pretrained(str(tmp_path / "out")).eval()(**texts).last_hidden_state
        mask = texts["attention_mask"].unsqueeze(-1)
        mean = (found * mask).sum(1) / mask.sum(1)
        ids = {name: texts[name] for name in ("input_ids", "attention_mask")}
        form = model.model.head("stsb").form
        batch = model.model.inputs.batch_of(form, (*ids.values(), *ids.values()))
        torch.testing.assert_close(batch.pair_vectors(model.model.encoder)[0], mean, rtol=0, atol=1e-5)


# ---- what is refused, and the card ----


def test_a_difference_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = over_rows(tmp_path, "mlp")

    def slightly_wrong(trained: TrainedTask, folder: Path) -> Any:
        module = torch.export.load(folder / "model.pt2").module()
        return lambda tensors: module(*tensors) + 0.01

    monkeypatch.setitem(FORMATS, "torch", replace(FORMATS["torch"], load=slightly_wrong))
    with pytest.raises(
        ModelError, match=r"--format torch: what was written computes something else .*by up to 1.0e-02"
    ):
        export_task(task, tmp_path / "out", "torch")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_format_that_cannot_hold_a_model_is_refused_with_those_that_can(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--format hugging_face: it is no model of transformers; use torch or onnx"):
        export_task(over_rows(tmp_path, "mlp"), tmp_path / "out", "hugging_face")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.export.onnx_file.PACKAGES", ("no_such_package",))
    with pytest.raises(ModelError, match=r"needs the package 'no_such_package'; run pip install 'fedmtl\[onnx\]'"):
        export_task(over_rows(tmp_path, "mlp"), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def snippet_runs(folder: Path) -> None:
    """Run the Python of a model card, in its folder."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.delitem(sys.modules, "predict", raising=False)
        exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("name", ["sst2", "stsb"])
def test_the_snippet_of_a_card_runs(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    export_task(trained(make(BERT, "siamese"), name), tmp_path / "out")
    snippet_runs(tmp_path / "out")
    assert "score" in capsys.readouterr().out


def test_a_card_tells_what_was_trained_and_shows_text_from_outside_as_it_is(tmp_path: Path) -> None:
    task = over_rows(tmp_path, "mlp", scaled=True)
    odd = replace(task, origin="a [link](http://x) | <b>\u202e")
    facts = CardFacts([("seed", "42"), ("clients", "ward-1: 40")], [CardScore("rmse", 1.5, 3, "20 rows")])
    export_task(odd, tmp_path / "out", facts=facts)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| rmse | 1.5000 | 3 | 20 rows |" in text and "| seed | 42 |" in text
    assert "\\[link\\]\\(http://x\\) \\| \\<b\\>" in text and "\u202e" not in text
    assert "Rows are given without any scaling" in text
    snippet_runs(tmp_path / "out")
