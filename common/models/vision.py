"""The encoder of `common.encoders.vision`: a vision model of transformers over pixels from 0 to 1."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from common.encoders.vision import VisionEncoder
from common.errors import ModelError, foreign_errors
from common.models.encoder import EncoderSource, Weights
from common.models.weights import read_state, weights_file

_EMBEDDINGS, _LAYERS, _NORM = ("embeddings", "embedder"), ("layers", "encoder.layer", "encoder.stages"), "layernorm"
"""What models of transformers call their parts."""
_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
WITH_CLASS_TOKEN = ("vit", "dinov2")
"""Kinds whose first token stands for the image; the others give a mean over places."""


class VisionNetwork(nn.Module):
    """`embeddings`, `layers.0`, `layers.1`, ... (layers of attention, or stages of convolutions) and `norm`, if any.

    They are parts of `net`, the model of transformers, which computes; these names are those of encoders of ours.
    """

    def __init__(self, description: VisionEncoder) -> None:
        super().__init__()
        net = _build(description)
        parts = dict(net.named_modules())
        self.embeddings = next(parts[name] for name in _EMBEDDINGS if name in parts)
        layers = next(parts[name] for name in _LAYERS if name in parts)
        self.layers = nn.ModuleList(layers.children())
        if _NORM in parts:
            self.norm = parts[_NORM]
        self.net = net
        self.has_class_token = description.type_ in WITH_CLASS_TOKEN
        width = net.config.hidden_size if self.has_class_token else net.config.hidden_sizes[-1]
        self.config = SimpleNamespace(
            hidden_size=width,
            hidden_dropout_prob=0.0,
            draws=any(getattr(net.config, rate, 0.0) for rate in _RATES),
            map_channels=width,
            area=description.shape[1:],
        )
        self.mean: Tensor
        self.std: Tensor
        for name, numbers in (("mean", description.mean), ("std", description.std)):
            self.register_buffer(name, torch.tensor(numbers)[:, None, None], persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Vectors (rows, hidden_size) for pixels from 0 to 1, (rows, channels, height, width).

        Those of ViT and DINOv2 are the first token's after the last norm, the others' the mean over the picture.
        """
        found = self._read(values)
        vectors: Tensor = found.last_hidden_state[:, 0] if self.has_class_token else found.pooler_output.flatten(1)
        return vectors

    def maps(self, values: Tensor) -> Tensor:
        """What the last layer says of each place, (rows, hidden_size, ...)."""
        found: Tensor = self._read(values).last_hidden_state
        if not self.has_class_token:
            return found
        patch = self.net.config.patch_size
        edges = (patch, patch) if isinstance(patch, int) else patch
        area = [size // edge for size, edge in zip(values.shape[2:], edges, strict=True)]
        return found[:, 1:].transpose(1, 2).unflatten(2, area)  # type: ignore[no-untyped-call, no-any-return]

    def _read(self, values: Tensor) -> Any:
        return self.net((values - self.mean) / self.std)

    def get_input_embeddings(self) -> None:
        """There is no table of embeddings."""


def config_of(description: VisionEncoder) -> PretrainedConfig:
    """Its configuration for transformers.

    Raises:
        ModelError: a value is impossible.
    """
    with foreign_errors(lambda error: _impossible(description, error)):
        found: PretrainedConfig = AutoConfig.for_model(description.type_, **description.hugging_face_config)
    return found


def find_weights(description: VisionEncoder, weights: Weights) -> EncoderSource:
    """The model with the weights of its folder, where they are wanted.

    Raises:
        ModelError: they are wanted and not there, or cannot be read; or the model cannot read such rows.
    """
    folder, described = Path(description.folder).expanduser(), description.describe()
    with foreign_errors(lambda error: _impossible(description, error)), torch.device("meta"):
        VisionNetwork(description)(torch.zeros(1, *description.shape))  # shapes alone: nothing is computed
    if description.folder and weights != "random" and not folder.is_dir():
        raise ModelError(f"model.vision.folder: {folder} is not there; correct it, or write model.weights: random")
    if description.folder and weights != "random" and weights_file(folder) is not None:
        state = read_state(folder, config_of(description), **_options(description))
        named = {f"net.{name}": value for name, value in state.items()}
        return EncoderSource(described, named, None, f"pretrained from folder {folder}")
    if weights == "pretrained":
        raise ModelError(
            f"model.weights: pretrained, but {folder} has no weights; give others, or write auto or random"
        )
    lack = f", {folder} has no weights" if description.folder and weights == "auto" else ""
    return EncoderSource(described, None, None, description.origin + lack)


def _options(description: VisionEncoder) -> dict[str, bool]:
    """Of its class: heads read the first token itself, so ViT's pooler would be idle."""
    return {"add_pooling_layer": False} if description.type_ == "vit" else {}


def _build(description: VisionEncoder) -> PreTrainedModel:
    config = config_of(description)
    with foreign_errors(lambda error: _impossible(description, error)):
        net: PreTrainedModel = AutoModel.from_config(config, **_options(description))  # type: ignore[no-untyped-call]
    return net


def _impossible(description: VisionEncoder, error: Exception) -> ModelError:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    shape = "x".join(map(str, description.shape))
    return ModelError(f"model.vision: no {description.type_} for images of {shape} ({line}); correct config or shape")
