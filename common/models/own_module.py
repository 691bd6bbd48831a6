"""A torch module from a person's own file as an encoder."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ModelError, foreign_errors


@dataclass(frozen=True)
class Widths:
    """How wide is what a module makes of rows."""

    hidden: int
    """Of vectors: its attribute `hidden_size`, or what it gives."""
    map_channels: int | None
    """Of what its method `maps` makes of images, (rows, channels, height, width), if it has one."""


class OwnModule(nn.Module):
    """The module as `net`, over rows of a shape; its maps are for heads with an output per pixel.

    Parts that the module names as its layers are `layers.0`, `layers.1`, ..., as in encoders of ours, so that plans by
    layer find them.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, ...], widths: Widths) -> None:
        super().__init__()
        if layers := named_layers(net):
            self.layers = nn.ModuleList(layers)  # first: a parameter's name is the first one that leads to it
        self.net = net
        self.config = SimpleNamespace(hidden_size=widths.hidden, hidden_dropout_prob=0.0, draws=True)
        if widths.map_channels is not None:
            self.config.map_channels, self.config.area = widths.map_channels, shape[1:]

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
        return OwnModule(net, shape, widths_of(net, shape))


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


def widths_of(net: nn.Module, shape: tuple[int, ...]) -> Widths:
    """How wide is what it makes of rows of this shape, from two rows of zeros where it does not say so itself.

    Raises:
        ValueError: it makes no vectors of rows; or whatever it raises itself.
    """
    said, maps = getattr(net, "hidden_size", None), getattr(net, "maps", None)
    hidden = said if isinstance(said, int) else _width(net, net, shape, "vectors", "hidden")
    return Widths(hidden, _width(net, maps, shape, "maps", "channels", "height", "width") if callable(maps) else None)


def named_layers(net: nn.Module) -> list[nn.Module]:
    """The parts that its attribute `layers`, a list of their names, says are its layers; none without such a list.

    Raises:
        ValueError: a name is of no part with parameters of its own.
    """
    names = getattr(net, "layers", None)
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        return []
    parts, known = dict(net.named_modules()), set[nn.Parameter]()
    for name in names:
        if not name or name not in parts:
            there = ", ".join(child for child, _ in net.named_children())
            raise ValueError(f"layers names '{name}', which is no part of it; its parts are {there or 'none'}")
        own = set(parts[name].parameters())
        if not own or own & known:
            lack = "shares parameters with a layer below" if own else "has no parameters"
            raise ValueError(f"layers names '{name}', which {lack}; name parts with parameters of their own")
        known |= own
    return [parts[name] for name in names]


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
