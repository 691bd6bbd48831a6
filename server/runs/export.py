"""One task of a trained model as a Hugging Face folder that needs no FedMTL."""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from common.errors import ModelError
from common.models.encoder import reads_causally
from common.targets import OWN_UNITS, TargetUnits
from common.tasks import TaskDefinition
from server.runs.model import SHARED_PREFIX, MTLServerModel

CLASSIFIERS: dict[str, str] = {"bert": "BertForSequenceClassification", "albert": "AlbertForSequenceClassification"}
"""Encoders whose own classification model is ours: pooled output, dropout, one linear layer `classifier`."""

PREDICT = '''"""Score texts with the model in this folder: python predict.py TEXT [SECOND TEXT]."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

FOLDER = Path(__file__).resolve().parent
HEAD = json.loads((FOLDER / "head.json").read_text(encoding="utf-8"))
LINEAR = load_file(str(FOLDER / "head.safetensors"))
TOKENIZER = AutoTokenizer.from_pretrained(str(FOLDER))
ENCODER = AutoModel.from_pretrained(str(FOLDER)).eval()


def encode(*texts):
    inputs = TOKENIZER(*texts, truncation=True, max_length=HEAD["max_length"], return_tensors="pt")
    return inputs["attention_mask"].unsqueeze(-1), ENCODER(**inputs)


def sentence_vector(*texts):
    _, outputs = encode(*texts)
    pooled = getattr(outputs, "pooler_output", None)
    return outputs.last_hidden_state[:, HEAD["token"]] if pooled is None else pooled


def mean_vector(text):
    mask, outputs = encode(text)
    return (outputs.last_hidden_state * mask).sum(1) / mask.sum(1)


@torch.inference_mode()
def predict(*texts):
    if HEAD["kind"] == "siamese":
        u, v = map(mean_vector, texts)
        cosine = torch.nn.functional.cosine_similarity(u, v).unsqueeze(-1)
        features = torch.cat([u, v, (u - v).abs(), u * v, cosine], dim=-1)
    else:
        features = sentence_vector(*texts)
    outputs = torch.nn.functional.linear(features, LINEAR["weight"], LINEAR["bias"])[0]
    labels = HEAD["labels"]
    return ANSWER


if __name__ == "__main__":
    if len(sys.argv) != (3 if HEAD["pair"] else 2):
        sys.exit(__doc__)
    print(json.dumps(predict(*sys.argv[1:])))
'''


def export_task(model: MTLServerModel, task: str, out: Path, units: TargetUnits = OWN_UNITS) -> list[str]:
    """Write the encoder and a task's head to a new folder.

    Where Hugging Face has the same classification model, `AutoModelForSequenceClassification` loads the folder.
    Otherwise `AutoModel` loads the encoder, and `predict.py` shows how the head in `head.safetensors` goes on top.
    The `units` in which the head works become part of its linear layer, so that it says what the data say.

    Returns:
        The names of the files written, sorted.

    Raises:
        ModelError: the task is unknown, `out` exists and is not an empty folder, or it cannot be written.
    """
    model.get_task_head_parameters(task)
    kind = model.tasks[task].type
    if not kind.answer:
        raise ModelError(f"--task: '{task}' is a {kind} and answers nothing; its encoder comes with another task")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"--out: {out} exists and is not an empty folder; choose another")
    # Written aside and renamed, so that `out` never holds half a model.
    aside = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    if reason := model.model.inputs.no_export:
        raise ModelError(f"--mode export: {reason}")
    try:
        aside.mkdir(parents=True)
        _write_files(model, model.tasks[task], aside, units)
        names = sorted(path.name for path in aside.iterdir())
        if out.exists():
            out.rmdir()
        aside.rename(out)
    except OSError as error:
        raise ModelError(f"--out: cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return names


def _write_files(model: MTLServerModel, task: TaskDefinition, folder: Path, units: TargetUnits) -> None:
    config: dict[str, Any] = json.loads(model.architecture.encoder_config)
    encoder = {name.removeprefix(SHARED_PREFIX): value for name, value in model.get_shared_parameters().items()}
    prefix = f"heads.{task.name}.linear."
    parameters = model.get_task_head_parameters(task.name)
    head = {name.removeprefix(prefix): _in_users_units(name, value, units) for name, value in parameters.items()}
    _write_tokenizer(model, folder)
    form, kind = model.model.head(task.name).form, config["model_type"]
    if kind in CLASSIFIERS and form == "text":
        tensors = {f"{kind}.{name}": value for name, value in encoder.items()}
        _save(tensors | {f"classifier.{name}": value for name, value in head.items()}, folder / "model.safetensors")
        _write_json(config | _classifier_config(kind, task), folder / "config.json")
        _write_text(_readme(task, _CLASSIFIER_USE.format(call=_pipeline_call(task))), folder / "README.md")
        return
    _save(encoder, folder / "model.safetensors")
    _write_json(config, folder / "config.json")
    _save(head, folder / "head.safetensors")
    description = {
        "task": task.name,
        "type": str(task.type),
        "labels": list(task.labels),
        "pair": task.pair,
        "kind": form,
        "token": -1 if reads_causally(model.model.encoder.config) else 0,
        "max_length": model.architecture.max_length,
    }
    _write_json(description, folder / "head.json")
    _write_text(PREDICT.replace("ANSWER", task.type.answer), folder / "predict.py")
    _write_text(_readme(task, _PREDICT_USE.format(call=_shell_call(task))), folder / "README.md")


def _in_users_units(name: str, value: Tensor, units: TargetUnits) -> Tensor:
    """A parameter of the last layer, such that its outputs are `units.mean + units.scale` times those of before."""
    scaled = units.scale * value.double()
    return (scaled + units.mean if name.endswith(".bias") else scaled).float()


def _classifier_config(kind: str, task: TaskDefinition) -> dict[str, Any]:
    names = task.labels or ("score",)
    return {
        "architectures": [CLASSIFIERS[kind]],
        "problem_type": task.type.problem_type,
        "num_labels": len(names),
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _write_tokenizer(model: MTLServerModel, folder: Path) -> None:
    files: dict[str, dict[str, Any]] = json.loads(model.tokenizer_bytes)
    files["tokenizer_config.json"]["model_max_length"] = model.architecture.max_length
    for name in ("tokenizer.json", "tokenizer_config.json"):
        _write_json(files[name], folder / name)


_CLASSIFIER_USE = """```python
from transformers import pipeline

classify = pipeline("text-classification", model=".")
print(classify({call}, truncation=True))
```

`AutoModelForSequenceClassification.from_pretrained` loads it, too.
"""

_PREDICT_USE = """```
python predict.py {call}
```

`AutoModel.from_pretrained` loads the encoder; the head is one linear layer (`head.safetensors`, described by
`head.json`). `predict.py` shows how it is put on top and needs nothing but torch and transformers.
"""


def _readme(task: TaskDefinition, use: str) -> str:
    labels = f" Labels, in order of their indices: {', '.join(task.labels)}." if task.labels else ""
    reads = "two texts" if task.pair else "one text"
    return f"# {task.name}\n\nA {task.type} model over {reads}, trained by FedMTL.{labels}\n\n{use}"


def _pipeline_call(task: TaskDefinition) -> str:
    return '{"text": "A first text.", "text_pair": "A second text."}' if task.pair else '"A text."'


def _shell_call(task: TaskDefinition) -> str:
    return '"A first text." "A second text."' if task.pair else '"A text."'


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, str(path), metadata={"format": "pt"})


def _write_json(value: dict[str, Any], path: Path) -> None:
    _write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", path)


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
