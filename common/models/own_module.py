"""A torch module from a person's own file as an encoder."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ModelError, foreign_errors


class OwnModule(nn.Module):
    """The module as `net`; vectors are what it makes of a batch.

    An attribute `hidden_size` of the module says how wide they are; without it, it is run on two rows of zeros. What
    its method `maps` makes of images, (rows, channels, height, width), is for heads with an output per pixel.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net = net
        width = getattr(net, "hidden_size", None)
        hidden = width if isinstance(width, int) else _width(net, net, shape, "vectors", "hidden")
        self.config = SimpleNamespace(hidden_size=hidden, hidden_dropout_prob=0.0, draws=True)
        if callable(maps := getattr(net, "maps", None)):
            self.config.map_channels = _width(net, maps, shape, "maps", "channels", "height", "width")
            self.config.area = shape[1:]

    def forward(self, values: Tensor) -> Tensor:
        """Vectors (rows, hidden_size) for a batch (rows, *shape)."""
        found: Tensor = self.net(values)
        return found

    def maps(self, values: Tensor) -> Tensor:
        """Maps (rows, channels, height, width) for a batch of images, if the module has them."""
        found: Tensor = self.net.maps(values)  # type: ignore[operator]
        return found

    def get_input_embeddings(self) -> None:
        """There is no table of embeddings."""


def load_module(path: Path, sha256: str, name: str, args: Mapping[str, Any], shape: tuple[int, ...]) -> OwnModule:
    """The encoder that class `name` of a file makes, with values from torch's global generator.

    Raises:
        ModelError: the file has changed or fails, or the class is none, fails, or gives no vectors.
    """
    where = f"model.module: class '{name}' of {path}"
    with foreign_errors(lambda error: ModelError(f"{where}: {type(error).__name__}: {_first_line(error)}; mend it")):
        net = _namespace(path, sha256)[name](**args)
        if not isinstance(net, nn.Module):
            raise TypeError("not a torch.nn.Module")
        return OwnModule(net, shape)


def _namespace(path: Path, sha256: str) -> dict[str, Any]:
    """What the file defines; it runs once per process."""
    known = f"fedmtl_module_{sha256}"
    if known not in sys.modules:
        source = path.read_bytes()
        if hashlib.sha256(source).hexdigest() != sha256:
            raise ValueError("the file has changed since this process began")
        module = ModuleType(known)
        module.__file__ = str(path)
        exec(compile(source, path, "exec"), module.__dict__)
        sys.modules[known] = module
    return sys.modules[known].__dict__


@torch.no_grad()
def _width(
    net: nn.Module, function: Callable[[Tensor], object], shape: tuple[int, ...], wanted: str, *sizes: str
) -> int:
    """How wide is what a function of the module gives, whose second dimension this is."""
    training = net.training
    net.eval()
    found = function(torch.zeros(2, *shape))
    net.train(training)
    if not isinstance(found, Tensor) or found.ndim != 1 + len(sizes) or len(found) != 2:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        batch = f"a batch of (2, {', '.join(map(str, shape))})"
        raise ValueError(f"gives {got} for {batch}, not {wanted} (2, {', '.join(sizes)})")
    return found.shape[1]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
