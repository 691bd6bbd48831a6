"""A torch module that Python code gave: it stays in its process, and models are copies of it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from common.encoders.row import ArrayEncoder, row_problems
from common.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from common.inputs.kind import Encoder
    from common.models.own_module import Widths

_GIVEN: dict[str, tuple[nn.Module, Widths]] = {}
"""By `GivenEncoder.sha256`."""


@dataclass(frozen=True)
class GivenEncoder(ArrayEncoder):
    """An instance of any torch module from a batch of rows to vectors (rows, hidden); initial values are its own.

    The description says what it is, but only a process whose Python code gave such an instance can build it.
    """

    name = "given"
    own_code = True

    class_: str
    """its class, for people"""
    shape: tuple[int, ...]
    """of a row: [features], [channels, height, width] or [length, channels]"""
    sha256: str
    """of its code, its parts and the names and shapes of its parameters"""
    reads: Literal["numbers", "images", "sequences"] = "numbers"
    """what rows are: numbers | images | sequences"""

    @property
    def origin(self) -> str:
        """See `ArrayEncoder`."""
        return f"values of the given {self.class_}"

    def build(self) -> Encoder:
        """See `ArrayEncoder`; values are those of the instance.

        Raises:
            ModelError: nobody gave this process such an instance.
        """
        held = _GIVEN.get(self.sha256)
        if held is None:
            raise ModelError(
                f"the encoder is an instance of class '{self.class_[:80]}' ({self.sha256[:16]}) that Python code gave, "
                "and this process has none with the same code and shapes; give one: fedmtl.load(run_dir, encoder=...), "
                "fedmtl.join(..., encoder=...), or for daemons use model.module"
            )
        from common.models.own_module import OwnModule

        net, widths = held
        return OwnModule(deepcopy(net), self.shape, widths)

    def problems(self) -> list[str]:
        """See `Row`."""
        return row_problems(self.reads, self.shape)


def held_modules() -> Mapping[str, tuple[nn.Module, Widths]]:
    """What this process may copy, for processes that work for it."""
    return dict(_GIVEN)


def hold(sha256: str, net: nn.Module, widths: Widths) -> None:
    """Let this process build models that are copies of an instance, in place of an earlier one with the same digest."""
    _GIVEN[sha256] = net, widths
