"""An aggregation rule that is a function of a person's own Python code; it stays in its process."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from common.errors import ConfigError, ModelError, foreign_errors
from common.methods.robust import Array, NamedUpdates, RobustRule

Rule = Callable[[NamedUpdates, Mapping[str, int]], Mapping[str, Array]]
"""From the clients' changes by name, and their weights, to the step by name; called once per scope and round."""

_GIVEN: dict[str, Rule] = {}
"""By `OwnRule.sha256`."""


@dataclass(frozen=True)
class OwnRule(RobustRule):
    """A function over named updates, which Python code gives."""

    name = "function"
    named = True
    function: str = ""
    """its name, for people"""
    sha256: str = ""
    """of its source"""

    def combine(self, updates: NamedUpdates, weights: Mapping[str, int]) -> Mapping[str, Array]:
        """See `RobustRule`; what the function gives is checked.

        Raises:
            ModelError: it fails, or gives other names, other shapes or values that are not finite.
        """
        where = f"aggregation.robust: {self.function}"
        with foreign_errors(lambda error: ModelError(f"{where} raised {type(error).__name__}: {error}; mend it")):
            steps = _GIVEN[self.sha256](updates, weights)
            found = {name: np.asarray(step, dtype=np.float64) for name, step in steps.items()}
        wanted = {name: change.shape for name, change in next(iter(updates.values())).items()}
        for name in sorted(wanted.keys() ^ found.keys()):
            raise ModelError(f"{where} gives {'nothing for' if name in wanted else 'too much:'} '{name}'; mend it")
        for name, shape in wanted.items():
            if found[name].shape != shape:
                raise ModelError(f"{where} gives '{name}' of shape {found[name].shape}, not {shape}; mend it")
            if not np.isfinite(found[name]).all():
                raise ModelError(f"{where} gives '{name}' with a value that is not finite; mend it")
        return found

    def require_usable(self) -> None:
        """See `RobustRule`."""
        if self.sha256 not in _GIVEN:
            raise ConfigError(
                f"aggregation.robust: Python code gave the function '{self.function}' ({self.sha256[:16]}), and this "
                'process has none with this source; give it in settings={"aggregation.robust": ...}'
            )


def own_rule(rule: Rule) -> OwnRule:
    """The row of a function, which this process may apply from now on."""
    named = getattr(rule, "__qualname__", type(rule).__qualname__)
    try:
        source = inspect.getsource(rule if inspect.isroutine(rule) else type(rule))
    except (OSError, TypeError):  # typed into an interpreter that keeps no lines
        code = getattr(rule, "__code__", None)
        source = named if code is None else f"{code.co_code.hex()}{code.co_consts!r}"
    row = OwnRule(named, hashlib.sha256(source.encode()).hexdigest())
    _GIVEN[row.sha256] = rule
    return row
