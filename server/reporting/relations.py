"""How tasks or members of a run relate to each other, as one matrix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.parameters.vector import Float64
from server.core.effects import TaskCosines
from server.core.state import Related


@dataclass(frozen=True)
class Relations:
    """Row and column i belong to `names[i]`; neighbours are alike."""

    kind: str
    """What the numbers are."""
    names: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]

    def said(self, value: float, digits: int) -> str:
        """One of its numbers, with a sign where some are below 0."""
        return f"{value:{'+' if min(map(min, self.matrix)) < 0 else ''}.{digits}f}"


def relations_of(cosines: Sequence[TaskCosines], related: Sequence[Related]) -> Relations | None:
    """What the run's relation remembers of its members, else how far the steps of its tasks agreed; None: neither.

    Of several scopes it is the first one that has such numbers.
    """
    for record in reversed(related):
        state = json.loads(record.state or "{}")
        if len(state.get("holders", ())) > 1 and "agreement" in state:
            kind = f"running mean of cosines between members' steps in {record.template}, after round {record.round}"
            return _ordered(kind, state["holders"], np.array(state["agreement"], dtype=np.float64))
    if not cosines:
        return None
    newest = cosines[-1]
    same = [found for found in cosines if (found.scope, found.tasks) == (newest.scope, newest.tasks)]
    mean: Float64 = np.array([found.values for found in same], dtype=np.float64).mean(axis=0)
    return _ordered(f"mean cosine between tasks' steps in {newest.scope}, over {len(same)} rounds", newest.tasks, mean)


def _ordered(kind: str, names: Sequence[str], matrix: Float64) -> Relations:
    """The same with the names in the order of the matrix's main direction: what agrees stands together."""
    _, vectors = np.linalg.eigh((matrix + matrix.T) / 2 - np.mean(matrix))
    main = vectors[:, -1] * (1.0 if vectors[0, -1] >= 0 else -1.0)
    order = np.argsort(-main, kind="stable")
    rows = tuple(tuple(round(float(matrix[i, j]), 6) for j in order) for i in order)
    return Relations(kind, tuple(names[i] for i in order), rows)
