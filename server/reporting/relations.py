"""How tasks or members of a run relate to each other, as one matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.methods.covariance import correlations, ordered
from common.parameters.vector import Float64
from common.probing import ProbeLosses
from server.core.effects import TaskCosines
from server.core.open_round import OpenRound
from server.core.phases import PROBE
from server.core.state import Related
from server.reporting.values import ProbeCosts, RelationReport


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
        if len(state.get("members", ())) > 1 and "covariance" in state:
            return Relations(f"learned correlations in {record.template}, after round {record.round}", *_alike(state))
        if len(state.get("holders", ())) > 1 and "agreement" in state:
            kind = f"running mean of cosines between members' steps in {record.template}, after round {record.round}"
            return _ordered(kind, state["holders"], np.array(state["agreement"], dtype=np.float64))
    if not cosines:
        return None
    newest = cosines[-1]
    same = [found for found in cosines if (found.scope, found.tasks) == (newest.scope, newest.tasks)]
    mean: Float64 = np.array([found.values for found in same], dtype=np.float64).mean(axis=0)
    return _ordered(f"mean cosine between tasks' steps in {newest.scope}, over {len(same)} rounds", newest.tasks, mean)


def relation_reports(related: Sequence[Related]) -> list[RelationReport]:
    """What a relation did, record by record; the last one of a template says what was learned so far."""
    last = {record.template: i for i, record in enumerate(related)}
    found = []
    for i, record in enumerate(related):
        state = json.loads(record.state or "{}")
        entry = RelationReport(record.round, record.template, record.note, state.get("groups"), state.get("fused"))
        if last[record.template] == i and "covariance" in state:
            names, matrix = _alike(state)
            moved = dict(zip(state["members"], state["moved"], strict=True)) if "moved" in state else None
            entry = replace(entry, names=names, correlations=matrix, moved=moved)
        found.append(entry)
    return found


def probe_costs(rounds: Sequence[OpenRound]) -> ProbeCosts | None:
    """What candidates cost; None where nobody compared any."""
    probes = [round_ for round_ in rounds if round_.phase is PROBE]
    answers = [(order, order.content) for round_ in probes for order in round_.orders.values()]
    found = [(order, content) for order, content in answers if isinstance(content, ProbeLosses)]
    if not found:
        return None
    candidates = sum(max((len(task.losses) for task in content.tasks), default=0) for _, content in found)
    nbytes, seconds = sum(order.nbytes for order, _ in found), sum(order.seconds for order, _ in found)
    return ProbeCosts(len(probes), len(found), candidates, nbytes, round(seconds, 3))


def _alike(state: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    """Members and their correlations, in an order in which clusters stand together."""
    sigma = np.array(state["covariance"], dtype=np.float64)
    order, alike = ordered(sigma), correlations(sigma)
    rows = tuple(tuple(round(float(alike[i, j]), 6) for j in order) for i in order)
    return tuple(state["members"][i] for i in order), rows


def _ordered(kind: str, names: Sequence[str], matrix: Float64) -> Relations:
    """The same with the names in the order of the matrix's main direction: what agrees stands together."""
    _, vectors = np.linalg.eigh((matrix + matrix.T) / 2 - np.mean(matrix))
    main = vectors[:, -1] * (1.0 if vectors[0, -1] >= 0 else -1.0)
    order = np.argsort(-main, kind="stable")
    rows = tuple(tuple(round(float(matrix[i, j]), 6) for j in order) for i in order)
    return Relations(kind, tuple(names[i] for i in order), rows)
