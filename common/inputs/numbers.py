"""Rows of numbers, such as sensors, tables or flattened images, read by the perceptron in `common.models.mlp`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.inputs.header import Header
from common.inputs.kind import Batch, Encoder, InputKind, moved
from common.models.encoder import EncoderSource, Weights
from common.tasks import KNOWN_TASKS

if TYPE_CHECKING:  # see `common.inputs.kind`
    import torch
    from torch import Tensor

    from common.config.schema import Config, ModelSection

_REMEDY = "only texts have this; leave the key out, or name a text encoder as model.server_model"
_TEXT_KEYS = ("tokenizer", "pair_mode", "max_length")


@dataclass(frozen=True)
class NumberBatch(Batch):
    """Rows of numbers."""

    features: Tensor
    """float32 (rows, features)."""
    labels: Tensor | None = None

    def to(self, device: torch.device) -> NumberBatch:
        """See `Batch`."""
        if device.type == "cpu":
            return self
        return NumberBatch(moved(self.features, device), None if self.labels is None else moved(self.labels, device))

    def vectors(self, encoder: Encoder) -> Tensor:
        """What the encoder makes of each row."""
        vectors: Tensor = encoder(self.features)
        return vectors


def _sizes(config: Config) -> list[str]:
    if config.model.mlp.features is None:
        return ["model.mlp.features: missing; write how many numbers a row has, e.g. 9"]
    return []


def _text_settings(config: Config) -> list[str]:
    """Settings of tokenizers and pretrained weights."""
    model = config.model
    found = [
        f"model.{key}: {getattr(model, key)} is not for server_model mlp; {_REMEDY}"
        for key in _TEXT_KEYS
        if getattr(model, key) != type(model).model_fields[key].default
    ]
    if model.weights == "pretrained":
        found.append("model.weights: pretrained, but an mlp always starts from random weights; write auto or random")
    return found


def _codec(config: Config) -> list[str]:
    """There are no word embeddings of which rows could be left out."""
    encoding = config.federation.update_encoding
    if not encoding.startswith("rows"):
        return []
    dense = encoding.replace("rows", "dense")
    return [
        f"federation.update_encoding: {encoding} leaves out rows of word embeddings, an mlp has none; write {dense}"
    ]


def _tasks(config: Config) -> list[str]:
    found = [
        f"tasks.{name}: known as a task over texts, an mlp reads numbers; name a task of your own differently"
        for name in config.tasks
        if name in KNOWN_TASKS
    ]
    named = {name: section.columns for name, section in config.tasks.items() if section.columns is not None}
    found += [
        f"tasks.{name}.columns.text: an mlp reads numbers, not texts; name label and features, or remove it"
        for name, columns in named.items()
        if columns.text is not None or columns.text_pair is not None
    ]
    found += [
        f"tasks.{name}.columns.features: names {len(columns.features)} features, model.mlp.features is "
        f"{config.model.mlp.features}; change one"
        for name, columns in named.items()
        if columns.features is not None and len(columns.features) != config.model.mlp.features
    ]
    return found


def _source(config: Config) -> list[str]:
    if config.data.source != "glue":
        return []
    return ["data.source: glue has texts, an mlp reads numbers; write builtin (synthetic rows), or files with dir"]


class Numbers(InputKind):
    """The same number of them in every row of every task."""

    name = "numbers"
    encoder_types = frozenset({"mlp"})
    checks = (
        (("model",), _sizes),
        (("model",), _text_settings),
        (("model", "federation"), _codec),
        (("model",), _tasks),
        (("model", "data"), _source),
    )
    no_export = "an mlp is no Hugging Face model; the run folder's models/*.safetensors hold it"
    joins_with = ("number of features, and the names of their columns in order where they have names",)
    stays = "features"

    def headers(self, config: Config) -> dict[str, Header]:
        """The named features of each task, or how many there are."""
        count = config.model.mlp.features
        if count is None:
            return {}
        named = {name: section.columns.features if section.columns else None for name, section in config.tasks.items()}
        return {name: Header.of(features) if features else Header(count) for name, features in named.items()}

    def find_encoder(self, section: ModelSection, weights: Weights | None = None) -> EncoderSource:
        """A perceptron, described by its sizes."""
        from common.models.mlp import describe_mlp

        sizes = section.mlp
        assert sizes.features is not None  # `checks` see to it
        described = describe_mlp(sizes.features, sizes.hidden, sizes.dropout)
        return EncoderSource(described, None, None, "random weights: mlp")

    def build_encoder(self, encoder_config: str) -> Encoder:
        """A perceptron."""
        from common.models.mlp import MLPEncoder, read_mlp

        return MLPEncoder(read_mlp(encoder_config))

    def draws(self, encoder: Encoder) -> bool:
        """A perceptron without dropout draws nothing."""
        return bool(encoder.config.hidden_dropout_prob)
