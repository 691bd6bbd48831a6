"""A trained task over a vision model as a folder for Hugging Face's transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.encoders.vision import PREPROCESSOR, VisionEncoder
from common.errors import ModelError
from common.export.format import Outputs
from common.inputs.arrays import encoder_described
from common.models.trained import TrainedTask
from common.models.weights import quiet

NATIVE: Mapping[str, tuple[str, str]] = {
    "vit": ("ViTForImageClassification", "classifier."),
    "dinov2": ("Dinov2ForImageClassification", "classifier."),
    "convnext": ("ConvNextForImageClassification", "classifier."),
    "resnet": ("ResNetForImageClassification", "classifier.1."),
}
"""The class of transformers that computes what our encoder and head do, and what its head is called, by kind."""
WITH_PATCH_MEAN = "dinov2"
"""Its class puts the mean over patches behind the class token, which our head does not read: it gets zeros for that."""


def is_over_vision(trained: TrainedTask) -> bool:
    """Whether the encoder is a vision model of transformers."""
    return bool(json.loads(trained.model.architecture.encoder_config)["model_type"] == VisionEncoder.name)


def refusal(trained: TrainedTask) -> str:
    """Why a model over images is none for transformers, or nothing."""
    if trained.model.head(trained.task.name).form != "text":
        return "transformers has no class with this head"
    return "" if trained.row_scale is None else "transformers does not know the scale of its rows"


def write_folder(trained: TrainedTask, folder: Path) -> None:
    """Write the class of transformers that computes the same, and how it wants its pixels."""
    described = _described(trained)
    kind, head = described.type_, trained.model.head(trained.task.name)
    native, classifier = _native(trained)
    net: Any = trained.model.encoder
    values = {f"{native.base_model_prefix}.{name}": value for name, value in net.net.state_dict().items()}
    values |= {classifier + name.removeprefix("linear."): v for name, v in _in_users_units(trained, head).items()}
    if kind == WITH_PATCH_MEAN:
        weight = values[f"{classifier}weight"]
        values[f"{classifier}weight"] = torch.cat([weight, torch.zeros_like(weight)], dim=1)
    native.load_state_dict(values)
    with quiet():
        native.save_pretrained(str(folder))
    height, width = described.shape[1:]
    pixels = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(described.mean),
        "image_std": list(described.std),
    }
    (folder / PREPROCESSOR).write_text(json.dumps(pixels, indent=2) + "\n", encoding="utf-8")


def load_folder(trained: TrainedTask, folder: Path) -> Outputs:
    """What transformers makes of a folder.

    Raises:
        ModelError: transformers misses a parameter, or finds one too many.
    """
    import transformers

    name, _ = NATIVE[_described(trained).type_]
    with quiet():
        loaded, report = getattr(transformers, name).from_pretrained(str(folder), output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[key]:
            raise ModelError(f"--format hugging_face: {name} has {key.replace('_', ' ')}: {sorted(report[key])}")
    pixels = json.loads((folder / PREPROCESSOR).read_text(encoding="utf-8"))
    mean, std = (torch.tensor(pixels[key])[:, None, None] for key in ("image_mean", "image_std"))

    def outputs(tensors: Sequence[Tensor]) -> Tensor:
        (values,) = tensors
        found: Tensor = loaded.eval()(pixel_values=(values - mean) / std).logits
        return found

    return outputs


def use(trained: TrainedTask) -> str:
    """How a user reads it: Markdown."""
    described = _described(trained)
    name, _ = NATIVE[described.type_]
    shape = ", ".join(map(str, described.shape))
    lines = [
        "import torch",
        f"from transformers import {name}",
        "",
        f'model = {name}.from_pretrained(".").eval()',
        f"pixels = torch.zeros(1, {shape})  # from 0 to 1: bytes divided by 255",
        f"mean = torch.tensor({list(described.mean)})[:, None, None]",
        f"std = torch.tensor({list(described.std)})[:, None, None]",
        "print(model(pixel_values=(pixels - mean) / std).logits)",
    ]
    listed = "\n".join(lines)
    files = '`pipeline("image-classification", model=".")` reads files of images, and resizes them.'
    return f"```python\n{listed}\n```\n\n{files}"


def _described(trained: TrainedTask) -> VisionEncoder:
    found = encoder_described(trained.model.architecture.encoder_config)
    assert isinstance(found, VisionEncoder)
    return found


def _native(trained: TrainedTask) -> tuple[Any, str]:
    """An instance of the class of transformers, with random values, and what its head is called."""
    import transformers

    described, task = _described(trained), trained.task
    name, classifier = NATIVE[described.type_]
    names = task.labels or ("score",)
    config = transformers.AutoConfig.for_model(
        described.type_,
        **described.hugging_face_config,
        problem_type=task.type.problem_type,
        id2label=dict(enumerate(names)),
        label2id={label: place for place, label in enumerate(names)},
    )
    return getattr(transformers, name)(config), classifier


def _in_users_units(trained: TrainedTask, head: nn.Module) -> dict[str, Tensor]:
    """Parameters of the head, such that its outputs are in the units of the data."""
    scaled = {name: trained.units.scale * value.detach().double() for name, value in head.state_dict().items()}
    return {
        name: (value + trained.units.mean if name.endswith(".bias") else value).float()
        for name, value in scaled.items()
    }
