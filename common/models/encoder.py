"""The shared encoder, built from its configuration alone, and the vectors read off it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from common.errors import ModelError, foreign_errors
from common.models.batch import Batch, FeatureBatch, TextBatch
from common.models.description import clean_config
from common.models.mlp import MLPEncoder, read_mlp

if TYPE_CHECKING:  # it takes seconds to import, and an mlp needs none of it
    from transformers import PretrainedConfig, PreTrainedModel

Encoder: TypeAlias = "PreTrainedModel | MLPEncoder"

# One call of the encoder for both texts of a pair saves 5 to 15 % in small batches; in large ones (tokens, padding
# included) two calls use the processor's caches better.
LARGEST_STACK = 4096
MOST_PADDING = 1.1

# These count positions from the padding id + 1 on, so that many entries of their table are never used.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "roberta-prelayernorm"})


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
    return config


def build_encoder(config_json: str) -> Encoder:
    """An encoder with random float32 weights from torch's global generator, with a pooler if its kind has one.

    Never reads a file or the network.

    Raises:
        ModelError: the configuration does not describe an encoder.
    """
    sizes = read_mlp(config_json)
    if sizes is not None:
        return MLPEncoder(sizes)
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
    config = load_config(config_json)
    depth = getattr(config, "num_hidden_layers", None)
    if not isinstance(depth, int) or layers > depth:
        raise ModelError(f"client.layers: an encoder of type '{config.model_type}' cannot have {layers} layers here")
    config.num_hidden_layers = layers
    values = json.loads(clean_config(config.to_json_string(use_diff=False)))
    by_layer = {key: value for key, value in values.items() if isinstance(value, list) and len(value) == depth}
    return json.dumps(values | {key: value[:layers] for key, value in by_layer.items()}, sort_keys=True)


def longest_input(config: PretrainedConfig) -> int | None:
    """The most tokens that the encoder can read at once, or None where there is no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    unused = (config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_POSITIONS else 0
    return positions - unused


def sentence_vectors(encoder: Encoder, batch: Batch) -> Tensor:
    """One vector per row, (rows, hidden): the pooled output, or the first token's where there is no pooler."""
    if isinstance(encoder, MLPEncoder):
        assert isinstance(batch, FeatureBatch)
        vectors: Tensor = encoder(batch.features)
        return vectors
    assert isinstance(batch, TextBatch)
    hidden, pooled = _encode(encoder, batch)
    return hidden[:, 0] if pooled is None else pooled


def token_vectors(encoder: Encoder, batch: Batch) -> Tensor:
    """The last layer at every token, padding included, (rows, length, hidden)."""
    assert not isinstance(encoder, MLPEncoder) and isinstance(batch, TextBatch)
    return _encode(encoder, batch)[0]


def mean_vectors(encoder: PreTrainedModel, batch: TextBatch) -> Tensor:
    """The mean of the last layer over each row's tokens, padding left out, (rows, hidden)."""
    hidden = _encode(encoder, batch)[0].float()
    mask = batch.attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def mean_vectors_of_pair(encoder: Encoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """The vectors of both texts, (rows, hidden) each, in whichever number of encoder calls is faster."""
    assert not isinstance(encoder, MLPEncoder)
    if isinstance(batch, FeatureBatch) or batch.pair is None:
        raise ValueError("a siamese head reads pairs of texts, but the batch has no second texts")
    first, second = batch, batch.pair
    rows, separate = len(first.input_ids), first.input_ids.numel() + second.input_ids.numel()
    together = 2 * rows * max(first.input_ids.shape[1], second.input_ids.shape[1])
    if together > min(MOST_PADDING * separate, LARGEST_STACK):
        return mean_vectors(encoder, first), mean_vectors(encoder, second)
    both = mean_vectors(encoder, _stack(first, second, encoder.config.pad_token_id or 0))
    return both[:rows], both[rows:]


def _stack(first: TextBatch, second: TextBatch, padding_id: int) -> TextBatch:
    """Both batches as one of twice the rows."""
    length = max(first.input_ids.shape[1], second.input_ids.shape[1])

    def joined(name: str, value: int) -> Tensor:
        parts = [getattr(first, name), getattr(second, name)]
        return torch.cat([functional.pad(part, (0, length - part.shape[1]), value=value) for part in parts])

    return TextBatch(joined("input_ids", padding_id), joined("attention_mask", 0))


def hidden_words(encoder: Encoder, batch: Batch) -> Tensor:
    """The vectors of the tokens at a masked batch's positions, (words, hidden)."""
    if isinstance(batch, FeatureBatch) or batch.positions is None:
        raise ValueError("a masked task reads batches that say which words are hidden")
    return token_vectors(encoder, batch).flatten(0, 1).index_select(0, batch.positions)


def _encode(encoder: PreTrainedModel, batch: TextBatch) -> tuple[Tensor, Tensor | None]:
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.token_type_ids is not None and has_token_types(encoder.config):
        inputs["token_type_ids"] = batch.token_type_ids
    outputs = encoder(**inputs)
    return outputs.last_hidden_state, getattr(outputs, "pooler_output", None)


def has_token_types(config: PretrainedConfig) -> bool:
    """Whether the encoder tells the two texts of a pair apart by token types."""
    return (getattr(config, "type_vocab_size", 0) or 0) > 1


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
