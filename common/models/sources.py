"""The encoder that a configuration asks for: text encoders are looked for, the perceptron is made from its sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from common.config.schema import ModelSection
from common.models.mlp import describe_mlp

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Weights = Literal["auto", "pretrained", "random"]


@dataclass(frozen=True)
class EncoderSource:
    """An encoder as found.

    `config_json` is its Hugging Face configuration; `state` its float32 values by parameter name, or None for random
    ones; `tokenizer` is None for an encoder of numbers; `origin` says for logs and reports where all came from.
    """

    config_json: str
    state: dict[str, Tensor] | None
    tokenizer: PreTrainedTokenizerFast | None
    origin: str


def find_encoder(section: ModelSection, weights: Weights | None = None) -> EncoderSource:
    """The encoder that `section` names.

    Args:
        section: checked configuration.
        weights: what to look for instead of `section.weights`.

    Raises:
        ModelError: nothing usable was found, in one line with the remedies.
    """
    if section.reads_text:
        from common.models.pretrained import resolve_encoder  # brings transformers, which an mlp never needs

        return resolve_encoder(
            section.server_model, weights or section.weights, section.tokenizer, section.hub_timeout_seconds
        )
    sizes = section.mlp
    assert sizes.features is not None  # the configuration's rules see to it
    return EncoderSource(describe_mlp(sizes.features, sizes.hidden, sizes.dropout), None, None, "random weights: mlp")
