"""The candidates of a relation that there are before its members have trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.methods.relation import Couple, Relation
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope
from common.parameters.vector import Vector
from common.seeds import derive_seed


def first_candidates(
    relation: Couple | None, vectors: Mapping[str, Vector], schemas: Mapping[str, ParameterSchema], seed: int
) -> dict[str, Vector]:
    """Those that a published version has not yet, of every template of members.

    Args:
        relation: whose candidates.
        vectors: the version; candidates are drawn from its templates.
        schemas: of the templates.
        seed: of the run.
    """
    wanted = relation.first_candidates() if isinstance(relation, Relation) else {}
    templates = [scope for scope in map(Scope.parse, vectors) if scope.is_member and scope.is_template]
    names = [(scope.candidate(name), str(scope), away) for scope in templates for name, away in wanted.items()]
    return {
        name: drawn(vectors[template], schemas[template], away, derive_seed(seed, name))
        for name, template, away in names
        if name not in vectors
    }


def drawn(vector: Vector, schema: ParameterSchema, away: float, seed: int) -> Vector:
    """Tensor by tensor m + sqrt(1 - away^2) (w - m) + away s z, m and s its mean and deviation, z normal.

    Mean and deviation are kept, so that `away` 1 is a new start of the same scale; a tensor of one value stays.
    """
    values = vector.astype(np.float64)
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal(len(vector))
    for entry in schema.entries if away else ():
        part = slice(entry.offset, entry.offset + entry.count)
        mean, deviation = values[part].mean(), values[part].std()
        values[part] = mean + np.sqrt(1.0 - away**2) * (values[part] - mean) + away * deviation * normal[part]
    return values.astype(vector.dtype)
