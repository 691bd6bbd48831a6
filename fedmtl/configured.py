"""From what Python code says to a checked configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from torch import nn

from common.config import Config, Role, load_config
from common.encoders.table import ENCODERS
from common.errors import ConfigError
from common.methods.choice import parameters_of
from common.methods.own_rule import own_rule
from common.models.given_module import give

Tasks: TypeAlias = Mapping[str, Mapping[str, object]]
EncoderChoice: TypeAlias = "str | Mapping[str, Mapping[str, object]] | nn.Module"
"""Name or folder of a model of transformers; one of ours with its parameters; `fedmtl.module(...)`; a torch module."""
Settings: TypeAlias = Mapping[str, object]

ROBUST = "aggregation.robust"
Reads: TypeAlias = Literal["numbers", "images", "sequences"]
READS: Mapping[int, Reads] = {1: "numbers", 2: "sequences", 3: "images"}
"""What rows of so many dimensions are taken for."""


def configuration(
    tasks: Tasks, encoder: EncoderChoice, shape: tuple[int, ...], settings: Settings, role: Role
) -> Config:
    """The configuration of a run whose rows Python code gives; `settings` have the last word.

    Raises:
        ConfigError: one line per problem.
        ModelError: the given module cannot be the encoder of such rows.
    """
    settings = with_rows_of_functions(settings)
    given: dict[str, object] = {"tasks": {name: dict(keys) for name, keys in tasks.items()}, "data.source": "given"}
    config = load_config(None, role=role, given={**given, **encoder_keys(encoder, shape), **settings})
    config.model.allow_encoder()
    return config


def with_rows_of_functions(settings: Settings) -> dict[str, object]:
    """The same settings, in which a function that is an aggregation rule became a row of the robust rules."""
    return {key: own_rule(value) if key == ROBUST and callable(value) else value for key, value in settings.items()}


def encoder_keys(encoder: EncoderChoice, shape: tuple[int, ...]) -> dict[str, object]:
    """The keys of the configuration that name an encoder of rows of this shape."""
    if isinstance(encoder, str):
        return {"model.server_model": encoder}
    if isinstance(encoder, nn.Module):
        if len(shape) not in READS:
            raise ConfigError(f"encoder: a module reads rows of 1 to 3 dimensions; these have {len(shape)}: {shape}")
        row = give(encoder, READS[len(shape)], shape)
        return {"model.server_model": row.name, f"model.{row.name}": row.values()}
    if not isinstance(encoder, Mapping) or len(encoder) != 1 or not {*encoder} <= {*ENCODERS}:
        said = sorted(encoder) if isinstance(encoder, Mapping) else f"of class {type(encoder).__name__}"
        own = "or give an instance of your own torch module"
        raise ConfigError(f"encoder: {said}; write one of {', '.join(ENCODERS)} with its parameters, {own}")
    [(name, parameters)] = encoder.items()
    return {"model.server_model": name, f"model.{name}": _fitted(name, parameters, shape)}


def _fitted(name: str, parameters: Mapping[str, object], shape: tuple[int, ...]) -> dict[str, object]:
    """An encoder's parameters, with the shape of rows where they do not say it."""
    known = parameters_of(ENCODERS[name])
    if "parts" in known or "columns" in known:
        return dict(parameters)
    if "features" in known:
        return {"features": int(np.prod(shape)), **parameters}
    read = {"reads": READS.get(len(shape), "numbers")} if name == "module" else {}
    return {"shape": [*shape], **read, **parameters}
