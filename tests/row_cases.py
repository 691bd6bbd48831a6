"""Rows of tables, by name."""

from __future__ import annotations

from common.methods.choice import parameters_of
from common.methods.conflict import CONFLICT_RULES, ConflictRule


def conflict_rule(name: str, radius: float = 0.4, rescale: bool = True) -> ConflictRule:
    """A conflict rule; `radius` is for the one that has it."""
    row = CONFLICT_RULES[name]
    more = {"radius": radius} if "radius" in parameters_of(row) else {}
    return row(rescale=rescale, **more)
