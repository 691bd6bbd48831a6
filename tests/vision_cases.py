"""Small vision models of every kind, by configuration and in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from common.config import Config, load_config
from common.encoders.vision import VisionEncoder
from tests.test_array_encoders import TASKS

ATTENTION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 2]}
KINDS: dict[str, VisionEncoder] = {
    "vit": VisionEncoder(type_="vit", shape=(3, 8, 12), config={**ATTENTION, "intermediate_size": 32}),
    "dinov2": VisionEncoder(type_="dinov2", shape=(3, 8, 8), config={**ATTENTION, "mlp_ratio": 2}),
    "convnext": VisionEncoder(type_="convnext", shape=(3, 8, 12), config={**STAGES, "num_stages": 2, "patch_size": 2}),
    "resnet": VisionEncoder(
        type_="resnet", shape=(3, 16, 16), config={**STAGES, "embedding_size": 8, "layer_type": "basic"}
    ),
}
CLASSES = {"vit": "ViT", "dinov2": "Dinov2", "convnext": "ConvNext", "resnet": "ResNet"}
SIZES = ("training.num_rounds=2", "training.local_epochs=1", "training.learning_rate=1e-2", "training.batch_size=8")


def config_of(encoder: VisionEncoder, *more: str) -> Config:
    values = json.loads(encoder.describe())
    del values["model_type"], values["folder"]
    return load_config(None, ["model.server_model=vision", f"model.vision={json.dumps(values)}", TASKS, *SIZES, *more])


def saved(kind: str, folder: Path, **pixels: object) -> torch.nn.Module:
    """A model of transformers as a folder: its weights, config.json and preprocessor_config.json."""
    described = KINDS[kind].hugging_face_config
    torch.manual_seed(5)
    name = CLASSES[kind]
    net: torch.nn.Module = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**described))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    net.eval().save_pretrained(str(folder))  # type: ignore[operator]
    if pixels:
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return net


def hidden_of(kind: str, net: torch.nn.Module, pixels: Tensor) -> Tensor:
    """What transformers' own model makes of normalised pixels: the class token after the last norm, or its pooler's."""
    found = net(pixels)
    vectors: Tensor = found.last_hidden_state[:, 0] if kind in ("vit", "dinov2") else found.pooler_output.flatten(1)
    return vectors
