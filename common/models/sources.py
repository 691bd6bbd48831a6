"""The encoder that a configuration asks for: text encoders are looked for, the perceptron is made from its sizes."""

from __future__ import annotations

from common.config.schema import ModelSection
from common.models.mlp import describe_mlp
from common.models.pretrained import EncoderSource, Weights, resolve_encoder


def find_encoder(section: ModelSection, weights: Weights | None = None) -> EncoderSource:
    """The encoder that `section` names.

    Args:
        section: checked configuration.
        weights: what to look for instead of `section.weights`.

    Raises:
        ModelError: nothing usable was found, in one line with the remedies.
    """
    if section.reads_text:
        return resolve_encoder(
            section.server_model, weights or section.weights, section.tokenizer, section.hub_timeout_seconds
        )
    sizes = section.mlp
    assert sizes.features is not None  # the configuration's rules see to it
    return EncoderSource(describe_mlp(sizes.features, sizes.hidden, sizes.dropout), None, None, "random weights: mlp")
