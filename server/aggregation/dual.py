"""Makes heads of their supports: W = B Sigma / lambda (MOCHA, Smith et al., NeurIPS 2017).

Row t of B is the support of head t, sum_i alpha_ti x_ti over all clients, divided by its rows. Heads are made anew of
all supports in each round, also after Sigma has changed, so that weights and dual variables always belong together:
that is what makes every certificate valid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.methods.covariance import correlations, coupling_bound
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope
from common.parameters.vector import Float64, Vector
from server.core.dual import blocks_of, covariance_of, member_names
from server.core.dual_facts import DualSettings, HeadRows, Relationship
from server.core.state import Related

HEADS = "heads"
"""What stands for a template in records of the relationship of heads."""


@dataclass(frozen=True)
class Remade:
    """The heads of a version, how they depend on each other, and what the journal keeps of that."""

    values: dict[str, Vector]
    relationship: Relationship
    record: Related


def remade(
    settings: DualSettings,
    schemas: Mapping[str, ParameterSchema],
    vectors: Mapping[str, Vector],
    heads: Mapping[str, HeadRows],
    version: int,
    before: str,
) -> Remade:
    """Make the heads of a version.

    Args:
        settings: of the method.
        schemas: of the heads.
        vectors: published values of heads, float64, and the supports as they are now; one that is missing is 0.
        heads: those of the problem, and their rows.
        version: the version to be made.
        before: what was remembered of the relationship, JSON.
    """
    names = list(heads)
    ids = member_names(names)
    zeros = np.zeros_like(vectors[names[0]])
    found = (Scope.parse(name).support for name in names)
    supports: Float64 = np.stack([vectors.get(name, zeros) for name in found]).astype(np.float64)
    supports /= np.array([head.rows for head in heads.values()], dtype=np.float64)[:, np.newaxis]
    sigma = _covariance(settings, names, supports, version, json.loads(before or "{}"))
    weights = sigma @ supports / settings.solver.strength
    scales = _scales(schemas[names[0]], settings.solver.bias)
    values = dict(zip(names, weights * scales, strict=True))
    moved = weights - np.stack([vectors[name] for name in names]) / scales
    relationship = Relationship(
        heads,
        dict(zip(names, sigma.diagonal().tolist(), strict=True)),
        coupling_bound(sigma, blocks_of(heads)),
        settings.stretch / settings.solver.strength * float((weights * supports).sum()),
        dict(zip(names, np.sqrt(settings.stretch * (moved**2).sum(axis=1)).tolist(), strict=True)),
    )
    lengths = np.sqrt(settings.stretch * (weights**2).sum(axis=1))  # heads begin at 0
    state = {"members": ids, "covariance": sigma.tolist(), "moved": lengths.tolist()}
    learned = settings.relation is not None and settings.relation.learns_after(version)
    note = _note(ids, sigma) if learned else ""
    record = Related(version, HEADS, {}, json.dumps(state, separators=(",", ":")), note)
    return Remade(values, relationship, record)


def _covariance(
    settings: DualSettings, names: list[str], supports: Float64, version: int, before: Mapping[str, object]
) -> Float64:
    """Sigma: learned anew of the weights if this is a round for it, else as it was, or as it is given."""
    known = before.get("members") == list(member_names(names))
    sigma = np.array(before["covariance"]) if known else covariance_of(settings, names)
    if settings.relation is None or not settings.relation.learns_after(version):
        return sigma
    weights = sigma @ supports / settings.solver.strength
    return covariance_of(settings, names, settings.stretch * weights @ weights.T)


def _scales(schema: ParameterSchema, bias: float) -> Float64:
    """What the weights of a problem are multiplied by in a head: those of the constant number by that number."""
    scales = np.ones(schema.size)
    for entry in schema.entries:
        if len(entry.shape) == 1:
            scales[entry.offset : entry.offset + entry.count] = bias or 1.0
    return scales


def _note(ids: tuple[str, ...], sigma: Float64) -> str:
    """The pair that is closest, for people."""
    if len(ids) < 2:
        return ""
    found = correlations(sigma) - 2.0 * np.eye(len(ids))
    one, other = divmod(int(found.argmax()), len(ids))
    return f"closest are {ids[one]} and {ids[other]}, correlation {found[one, other]:.3f}"
