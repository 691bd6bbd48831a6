"""Exports of tasks over tokens: what transformers, programs and ONNX files compute is what was trained."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from common.export.folder import export_task
from common.export.hugging_face import NATIVE
from common.inputs.texts import TextBatch
from common.models.encoder import EncoderSource
from common.models.trained import TrainedTask
from common.models.vocabulary import fallback_tokenizer
from common.parameters.plan import PLANS, SharingPlan
from common.targets import OWN_UNITS
from common.tasks import TASK_KINDS, TaskDefinition
from server.runs.model import MTLServerModel
from tests.test_export import HUGGING_FACE_FILES
from tests.test_export_formats import run_onnx, snippet_runs
from tests.training_cases import CONFIGS

TAGS = TaskDefinition("ner", TASK_KINDS["tokens"], ("O", "B-PER", "I-PER"), False, ("f1",))
NEXT = TaskDefinition("lm", TASK_KINDS["next_word"], (), False, ("accuracy",))
WHOLE = {"vocab_size": 30_522, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
CAUSAL = {
    "gpt2": ("GPT2LMHeadModel", CONFIGS["gpt2"]),
    "llama": ("LlamaForCausalLM", CONFIGS["llama"]),
    "qwen2": ("Qwen2ForCausalLM", CONFIGS["llama"] | {"model_type": "qwen2", "num_key_value_heads": 1}),
}
IDS = torch.tensor([[5, 9, 300, 4], [7, 8, 0, 0]])
MASK = (IDS > 0).long()


def trained(task: TaskDefinition, config: dict[str, Any]) -> TrainedTask:
    """A model whose head is not as it started."""
    tokenizer = fallback_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    source = EncoderSource(json.dumps(config), None, tokenizer, "random weights")
    model = MTLServerModel.create(source, "cross", 16, [task], SharingPlan(PLANS["hard"]), 5)
    generator = torch.Generator().manual_seed(1)
    for value in model.model.head(task.name).parameters():
        value.data.copy_(value.detach() + 0.5 * torch.randn(value.shape, generator=generator))
    return TrainedTask(model.model, task, "the model of round 3", OWN_UNITS, model.tokenizer_bytes)


def said(task: TrainedTask) -> Tensor:
    """What the model says of every token, (rows, length, outputs)."""
    batch = TextBatch(IDS, MASK, positions=torch.arange(IDS.numel()))
    with torch.inference_mode():
        return task.model.eval()(task.task.name, batch).unflatten(0, tuple(IDS.shape))


@pytest.mark.parametrize("kind", ["gpt2", *(pytest.param(k, marks=pytest.mark.slow) for k in ("llama", "qwen2"))])
def test_a_causal_model_of_transformers_says_the_next_words(kind: str, tmp_path: Path) -> None:
    name, config = CAUSAL[kind]
    task = trained(NEXT, config | WHOLE)
    assert export_task(task, tmp_path / "out") == HUGGING_FACE_FILES
    loaded = AutoModelForCausalLM.from_pretrained(str(tmp_path / "out")).eval()
    assert type(loaded).__name__ == name
    assert loaded.lm_head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()
    with torch.inference_mode():
        found = loaded(input_ids=IDS, attention_mask=MASK).logits
    torch.testing.assert_close(found, said(task), rtol=0, atol=1e-5)
    snippet_runs(tmp_path / "out")


SMALL = CONFIGS["bert"] | {"vocab_size": 30_522}
TAGGERS = {
    "albert": CONFIGS["albert"],
    "bert": SMALL,
    "camembert": SMALL | {"pad_token_id": 1},
    "deberta-v2": SMALL | {"type_vocab_size": 0},
    "distilbert": CONFIGS["distilbert"],
    "electra": SMALL | {"embedding_size": 8},
    "gpt2": CONFIGS["gpt2"],
    "llama": CONFIGS["llama"],
    "mpnet": CONFIGS["mpnet"],
    "qwen2": CAUSAL["qwen2"][1],
    "roberta": CONFIGS["roberta"],
    "xlm-roberta": CONFIGS["roberta"],
}


def test_every_class_that_labels_words_is_compared() -> None:
    assert {*TAGGERS} == {*NATIVE["tags"]}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in ("bert", "llama") else pytest.mark.slow) for k in TAGGERS]
)
def test_a_token_classifier_of_transformers_says_the_labels(kind: str, tmp_path: Path) -> None:
    task = trained(TAGS, TAGGERS[kind] | {"model_type": kind, "vocab_size": 30_522})
    assert export_task(task, tmp_path / "out") == HUGGING_FACE_FILES
    loaded = AutoModelForTokenClassification.from_pretrained(str(tmp_path / "out")).eval()
    assert type(loaded).__name__ == NATIVE["tags"][kind].name
    assert loaded.config.id2label == {0: "O", 1: "B-PER", 2: "I-PER"}
    with torch.inference_mode():
        found = loaded(input_ids=IDS, attention_mask=MASK).logits
    torch.testing.assert_close(found, said(task), rtol=0, atol=1e-5)
    snippet_runs(tmp_path / "out")


def test_an_encoder_without_such_a_class_gets_a_script(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = {"model_type": "ernie", **{key: value for key, value in SMALL.items() if key != "model_type"}}
    task = trained(TAGS, config)
    assert "predict.py" in export_task(task, tmp_path / "out") and capfd.readouterr() == ("", "")
    text = "Unquestionably Ada went  there " + "again " * 14
    found = runpy.run_path(str(tmp_path / "out" / "predict.py"))["predict"](text)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    ids, firsts = [tokenizer.cls_token_id], []
    for word in text.split():
        firsts.append(len(ids))
        ids += tokenizer(word, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*ids[:15], tokenizer.sep_token_id]])
    with torch.inference_mode():
        batch = TextBatch(ids, torch.ones_like(ids), positions=torch.arange(16))
        labels = [TAGS.labels[place] for place in task.model("ner", batch).argmax(1)]
    expected = [labels[first] if first < 15 else None for first in firsts]
    assert [label for _, label in found] == expected and None in expected
    assert [word for word, _ in found] == text.split()
    snippet_runs(tmp_path / "out")


@pytest.mark.slow
def test_an_onnx_file_says_the_labels(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    task = trained(TAGS, SMALL | {"type_vocab_size": 1})
    export_task(task, tmp_path / "out", "onnx")
    found = run_onnx(tmp_path / "out", input_ids=IDS.numpy(), attention_mask=MASK.numpy())
    torch.testing.assert_close(found, said(task), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_program_says_the_labels(tmp_path: Path) -> None:
    task = trained(TAGS, SMALL | {"type_vocab_size": 1})
    export_task(task, tmp_path / "out", "torch")
    found = torch.export.load(tmp_path / "out" / "model.pt2").module()(IDS, MASK)
    torch.testing.assert_close(found, said(task), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_programs_say_the_next_words(kind: str, form: str, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    task = trained(NEXT, CAUSAL[kind][1] | WHOLE)
    export_task(task, tmp_path / "out", form)
    if form == "onnx":
        found = run_onnx(tmp_path / "out", input_ids=IDS.numpy(), attention_mask=MASK.numpy())
    else:
        found = torch.export.load(tmp_path / "out" / "model.pt2").module()(IDS, MASK)
    torch.testing.assert_close(found, said(task), rtol=0, atol=1e-5)
