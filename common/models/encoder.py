"""Encoders as they are found, and text encoders, which are built from their configurations alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from common.errors import ModelError, foreign_errors
from common.models.description import DECODERS, KINDS, clean_config, read_object

if TYPE_CHECKING:  # they take seconds to import, and knowing of encoders needs none of it
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

Weights = Literal["auto", "pretrained", "random"]

# These count positions from the padding id + 1 on, so that many entries of their table are never used.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "roberta-prelayernorm"})


@dataclass(frozen=True)
class EncoderSource:
    """An encoder as found."""

    config_json: str
    """Its description; of a text encoder, its Hugging Face configuration."""
    state: dict[str, Tensor] | None
    """Its float32 values by parameter name, or None for random ones."""
    tokenizer: PreTrainedTokenizerFast | None
    """None where nothing is tokenised."""
    origin: str
    """Where all came from, for logs and reports."""


def load_config(config_json: str) -> PretrainedConfig:
    """The configuration object of a text encoder.

    Raises:
        ModelError: the kind of model is unknown, or a value is impossible.
    """
    from transformers import AutoConfig

    values = json.loads(clean_config(config_json))
    model_type = values.pop("model_type")
    with foreign_errors(lambda e: ModelError(f"encoder configuration of type '{model_type}': {_first_line(e)}")):
        config: PretrainedConfig = AutoConfig.for_model(model_type, **values)
    if reads_causally(config):
        config.use_cache = False  # texts are read once, and keys of earlier tokens would only take memory
    return config


def build_encoder(config_json: str) -> PreTrainedModel:
    """An encoder with random float32 weights from torch's global generator, with a pooler if its kind has one.

    Never reads a file or the network.

    Raises:
        ModelError: the configuration does not describe an encoder.
    """
    config = load_config(config_json)
    from transformers import AutoModel

    with foreign_errors(lambda e: ModelError(f"encoder of type '{config.model_type}': {_first_line(e)}")):
        encoder: PreTrainedModel = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    for parameter in encoder.parameters():
        parameter.data = parameter.data.float()
    return encoder


def shallower(config_json: str, layers: int) -> str:
    """The configuration of an encoder that has the first `layers` of another's layers.

    Raises:
        ModelError: it has fewer, or is no encoder whose depth is one number.
    """
    kind = read_object(config_json).get("model_type")
    if kind not in KINDS:
        remedy = "leave it out, or write client.trains: top_<n>"
        raise ModelError(f"client.layers: an encoder of type '{kind!s:.80}' is built whole; {remedy}")
    config = load_config(config_json)
    depth = getattr(config, "num_hidden_layers", None)
    if not isinstance(depth, int) or layers > depth:
        raise ModelError(f"client.layers: an encoder of type '{config.model_type}' cannot have {layers} layers here")
    config.num_hidden_layers = layers
    values = json.loads(clean_config(config.to_json_string(use_diff=False)))
    by_layer = {key: value for key, value in values.items() if isinstance(value, list) and len(value) == depth}
    return json.dumps(values | {key: value[:layers] for key, value in by_layer.items()}, sort_keys=True)


def reads_causally(config: Any) -> bool:
    """Whether an encoder with this configuration is a decoder, whose vectors tell nothing of later tokens."""
    return getattr(config, "model_type", None) in DECODERS


def longest_input(config: PretrainedConfig) -> int | None:
    """The most tokens that the encoder can read at once, or None where there is no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    unused = (config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_POSITIONS else 0
    return positions - unused


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
