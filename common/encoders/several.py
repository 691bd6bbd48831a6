"""Rows of several parts, such as an image and measurements, each with an encoder of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

from common.encoders.mlp import Dropout
from common.encoders.row import ArrayEncoder, shape_problems
from common.errors import ModelError
from common.methods.choice import Bounds, parameters_of

if TYPE_CHECKING:
    from common.inputs.kind import Encoder

MOST_PARTS = 16
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True)
class SeveralEncoder(ArrayEncoder):
    """An encoder for each part of a row; heads read a layer over the mean of their projections.

    Whoever has no rows of a part leaves its encoder out. A row may lack parts too: a learned vector stands in.
    """

    name = "several"
    kind = "parts"
    example = "parts: {...}"

    parts: Mapping[str, Any]
    """name of each part: its encoder and what that reads, e.g. {image: {conv2d: {shape: [1, 8, 8]}}}"""
    hidden: Annotated[int, Bounds(least=1, most=100_000)] = 64
    """width of the projections, and of the layer over their mean"""
    dropout: Dropout = 0.0
    """of the mean, and before the head"""

    @cached_property
    def part_encoders(self) -> Mapping[str, ArrayEncoder]:
        """See `ArrayEncoder`.

        Raises:
            ModelError: one is not described.
        """
        return {name: _part_encoder(f"parts.{name}", described) for name, described in self.parts.items()}

    @property
    def has_norm_statistics(self) -> bool:
        """See `ArrayEncoder`."""
        return any(part.has_norm_statistics for part in self.part_encoders.values())

    @property
    def row_shape(self) -> tuple[int, ...]:
        """All parts one after the other, flattened."""
        return (sum(prod(part.row_shape) for part in self.part_encoders.values()),)

    def allow(self) -> None:
        """See `ArrayEncoder`."""
        for part in self.part_encoders.values():
            part.allow()

    def describe(self) -> str:
        """See `ArrayEncoder`; each part has all of its parameters."""
        parts = {name: json.loads(part.describe()) for name, part in self.part_encoders.items()}
        nested = {name: {values.pop("model_type"): values} for name, values in parts.items()}
        return json.dumps({"model_type": self.name, **self.values(), "parts": nested}, sort_keys=True)

    def build(self) -> Encoder:
        """See `ArrayEncoder`."""
        from common.models.several import SeveralNetwork

        return SeveralNetwork(self)

    def problems(self) -> list[str]:
        """See `Row`."""
        if not 1 <= len(self.parts) <= MOST_PARTS:
            return [f"parts: {len(self.parts)} of them; describe 1 to {MOST_PARTS}"]
        wrong = next((name for name in self.parts if not _NAME.fullmatch(name)), None)
        if wrong is not None:
            return [f"parts: '{wrong:.40}' is no name; write up to 32 small letters, digits and _"]
        try:
            return shape_problems("parts", self.row_shape, "at least one part")
        except ModelError as error:
            return [error.message]


def _part_encoder(place: str, described: object) -> ArrayEncoder:
    from common.encoders.table import ENCODERS  # it has this row too

    known = [name for name in ENCODERS if name != SeveralEncoder.name]
    if not isinstance(described, Mapping) or len(described) != 1 or not {*described} <= {*known}:
        raise ModelError(f"{place}: not an encoder with its parameters; write one of {', '.join(known)}")
    [(name, values)] = described.items()
    row = ENCODERS[name]
    if not isinstance(values, Mapping):
        raise ModelError(f"{place}.{name}: '{values!s:.40}' is no section; write its parameters")
    defaults = {key: parameter.default for key, parameter in parameters_of(row).items()}
    missing = next((key for key, default in defaults.items() if default is ... and key not in values), None)
    if missing is not None:
        raise ModelError(f"{place}.{name}.{missing}: missing; add it")
    # Sorted, as descriptions are, so that both sides have one order of modules.
    given = json.loads(json.dumps({**{k: v for k, v in defaults.items() if v is not ...}, **values}, sort_keys=True))
    try:
        return row.read({"model_type": name, **given}).resolved()
    except ModelError as error:
        raise ModelError(f"{place}: {error.message}") from None
