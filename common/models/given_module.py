"""From an instance of a person's own torch module to the encoder that it stands for in this process."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from common.encoders.given import GivenEncoder, hold
from common.errors import ModelError, foreign_errors
from common.models.own_module import named_layers, widths_of


def give(net: nn.Module, reads: Literal["numbers", "images", "sequences"], shape: tuple[int, ...]) -> GivenEncoder:
    """Let this process build models that are copies of `net`; `net` itself is never trained.

    Raises:
        ModelError: it cannot be copied, has no parameters in float32, or makes no vectors of rows of this shape.
    """
    name = type(net).__name__
    _require_float32(net, name)
    mend = "mend the module, or the shape of the rows"
    with foreign_errors(lambda e: ModelError(f"encoder: class '{name}': {type(e).__name__}: {_first_line(e)}; {mend}")):
        own = deepcopy(net).cpu().train()
        widths = widths_of(own, shape)
        named_layers(own)
    encoder = GivenEncoder(name, shape, _digest(own), reads)
    hold(encoder.sha256, own, widths)
    return encoder


def _require_float32(net: nn.Module, name: str) -> None:
    parameters = dict(net.named_parameters())
    if not parameters:
        raise ModelError(f"encoder: class '{name}' has no parameters; there is nothing to train together")
    for key, parameter in parameters.items():
        if isinstance(parameter, UninitializedParameter):
            raise ModelError(f"encoder: class '{name}': '{key}' has no shape yet; call the module on a batch first")
        if parameter.dtype != torch.float32:
            raise ModelError(f"encoder: class '{name}': '{key}' is {parameter.dtype}; make the module .float()")


def _digest(net: nn.Module) -> str:
    """SHA-256 of what a module is, without its values: code, parts with their settings, names and shapes."""
    found = hashlib.sha256(repr(net).encode())
    for name, part in net.named_modules():
        settings = {key: value for key, value in sorted(vars(part).items()) if _is_plain(value) and key != "training"}
        found.update(repr((name, type(part).__qualname__, settings)).encode())
    found.update(repr([(name, tuple(value.shape), value.dtype) for name, value in net.state_dict().items()]).encode())
    for kind in sorted({type(part) for part in net.modules()}, key=lambda kind: kind.__qualname__):
        if kind.__module__.split(".")[0] != "torch":
            found.update("".join(_sources(kind)).encode())
    return found.hexdigest()


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _sources(kind: type) -> Iterator[str]:
    """The file of a class where it has one of its own; else its functions, as far as their source is known."""
    try:
        file = inspect.getsourcefile(kind) if kind.__module__ != "__main__" else None
    except (TypeError, OSError):  # its module has no file
        file = None
    if file is not None and Path(file).is_file():
        yield Path(file).read_text(encoding="utf-8")
        return
    for part in vars(kind).values():
        if inspect.isfunction(part):
            try:
                yield inspect.getsource(part)
            except OSError:  # typed into an interpreter that keeps no lines
                continue


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
