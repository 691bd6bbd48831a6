"""How a user reads an export: the part of its model card that is code."""

from __future__ import annotations

import json

from common.export.graph import inputs_of
from common.export.hugging_face import native_model
from common.inputs.texts import PAIRS
from common.models.trained import TrainedTask

FIRST, SECOND = "A first text.", "A second text."
CALLS = {
    "text-classification": ("classify", "{given}, truncation=True"),
    "fill-mask": ("fill", '"A " + fill.tokenizer.mask_token + "."'),
    "token-classification": ("label", '{given}, aggregation_strategy="first"'),
    "text-generation": ("write", '"A first", max_new_tokens=5'),
}
"""What a pipeline is called and given, by its name in transformers."""


def hugging_face(trained: TrainedTask) -> str:
    """Of a folder for transformers."""
    task, native = trained.task, native_model(trained)
    texts = (FIRST, SECOND) if task.pair else (FIRST,)
    if native is None:
        given = ", ".join(json.dumps(text) for text in (texts if task.type.answer else ("A [MASK].",)))
        found = [
            _code(f"from predict import predict\n\nprint(predict({given}))"),
            "`AutoModel.from_pretrained` reads the encoder; the head lies in `head.safetensors`. `predict.py` puts it "
            "on top and needs nothing but torch and transformers. In a shell: `python predict.py TEXT`, of a pair "
            "with a second text.",
        ]
        if trained.model.head(task.name).form == PAIRS:
            found.append("`SentenceTransformer` of sentence-transformers reads the encoder, with the mean over tokens.")
        return "\n\n".join(found)
    given = json.dumps(dict(zip(("text", "text_pair"), texts, strict=True)) if task.pair else FIRST)
    name, call = CALLS[native.pipeline]
    lines = f'{name} = pipeline("{native.pipeline}", model=".")\nprint({name}({call.format(given=given)}))'
    return _code(f"from transformers import pipeline\n\n{lines}") + (
        f"\n\n`{native.name}.from_pretrained` reads the folder, too."
    )


def program(trained: TrainedTask) -> str:
    """Of a program of torch.export."""
    lines = [
        "import torch",
        *_tokenizer_import(trained),
        'model = torch.export.load("model.pt2").module()',
        *_example(trained, "pt"),
        f"print(model({', '.join(item.name for item in inputs_of(trained))}))",
    ]
    return _code("\n".join(lines)) + "\n\n" + _inputs(trained)


def onnx(trained: TrainedTask) -> str:
    """Of an ONNX file."""
    given = ", ".join(f'"{item.name}": {item.name}' for item in inputs_of(trained))
    lines = [
        "import numpy",
        "import onnxruntime",
        *_tokenizer_import(trained),
        'session = onnxruntime.InferenceSession("model.onnx")',
        *_example(trained, "np"),
        f"print(session.run(None, {{{given}}})[0])",
    ]
    return _code("\n".join(lines)) + "\n\n" + _inputs(trained)


def _inputs(trained: TrainedTask) -> str:
    described = []
    for item in inputs_of(trained):
        kind, shape = "int64" if item.whole else "float32", ", ".join(map(str, item.axes))
        said = f", {item.says}" if item.says else ""
        described.append(f"`{item.name}` {kind} ({shape}){said}")
    return f"Inputs: {', '.join(described)}. Dimensions with a name may have any size."


def _tokenizer_import(trained: TrainedTask) -> list[str]:
    return ["from transformers import AutoTokenizer", ""] if trained.tokenizer else [""]


def _example(trained: TrainedTask, tensors: str) -> list[str]:
    """Lines that make an example of every input."""
    inputs = inputs_of(trained)
    if not trained.tokenizer:
        made = {"pt": "torch.zeros({shape})", "np": 'numpy.zeros({shape}, dtype="float32")'}[tensors]
        return [
            f"{item.name} = {made.format(shape=tuple(2 if isinstance(axis, str) else axis for axis in item.axes))}"
            for item in inputs
        ]
    lines, pairs = (
        ['tokenizer = AutoTokenizer.from_pretrained(".")'],
        trained.model.head(trained.task.name).form == PAIRS,
    )
    given = [[FIRST], [SECOND]] if trained.task.pair else [[FIRST]]
    calls = [[text] for text in given] if pairs else [given]
    for prefix, texts in zip(("", "pair_"), calls, strict=False):
        spoken = ", ".join(map(json.dumps, texts))
        lines.append(f'{prefix}texts = tokenizer({spoken}, truncation=True, return_tensors="{tensors}")')
        names = [item.name for item in inputs if item.name.startswith("pair_") == bool(prefix)]
        lines += [f'{name} = {prefix}texts["{name.removeprefix(prefix)}"]' for name in names]
    return lines


def _code(text: str) -> str:
    return f"```python\n{text}\n```"
