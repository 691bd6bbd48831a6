"""Every kind of inputs."""

from __future__ import annotations

import json

from common.encoders.table import ENCODERS
from common.errors import ModelError
from common.inputs.arrays import Images, Numbers, Parts, Sequences, encoder_described
from common.inputs.kind import InputKind
from common.inputs.texts import Texts

INPUT_KINDS: dict[str, InputKind] = {kind.name: kind for kind in (Texts(), Numbers(), Images(), Sequences(), Parts())}
"""By their names; the first one is that of encoders which no other kind lists."""


def input_of(encoder_type: str | None) -> InputKind:
    """The kind of inputs that an encoder of this type reads."""
    others = (kind for kind in INPUT_KINDS.values() if encoder_type in kind.encoder_types)
    return next(others, INPUT_KINDS["texts"])


def input_described(encoder_config: str) -> InputKind:
    """The kind of inputs that the encoder with this description reads.

    Raises:
        ModelError: it is no description.
    """
    try:
        values = json.loads(encoder_config)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"encoder configuration is not JSON: {str(error)[:200]}") from None
    model_type = values.get("model_type") if isinstance(values, dict) else None
    if model_type in ENCODERS:
        return INPUT_KINDS[encoder_described(encoder_config).inputs]
    return input_of(model_type)
