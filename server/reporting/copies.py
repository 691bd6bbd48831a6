"""How far apart the copies are that members have of one part of the model, whatever relation couples them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.parameters.scope import Scope, copies_of
from common.parameters.vector import Float64, Vector
from server.reporting.relations import Relations

MOST_MEMBERS = 200
"""More are not compared."""


def distances(vectors: Mapping[str, Vector], version: int) -> Relations | None:
    """Euclidean distances between members' copies in a version; None: there are no members.

    Of several templates it is the one with the most parameters. Members stand in an order in which neighbours are near.
    """
    templates = sorted({scope.template for scope in map(Scope.parse, vectors) if scope.is_member})
    found = {template: copies_of(template, vectors)[:MOST_MEMBERS] for template in templates}
    coupled = [template for template, copies in found.items() if len(copies) > 1]
    if not coupled:
        return None
    template = max(coupled, key=lambda each: len(vectors[found[each][0]]))
    copies = np.stack([vectors[copy].astype(np.float64) for copy in found[template]])
    apart: Float64 = np.linalg.norm(copies[:, None] - copies[None], axis=2)
    order = _chain(apart)
    names = tuple(Scope.parse(found[template][place]).owner for place in order)
    rows = tuple(tuple(round(float(apart[i, j]), 6) for j in order) for i in order)
    return Relations(f"distances between members' copies of {template}, version {version}", names, rows)


def _chain(apart: Float64) -> list[int]:
    """Places in an order that goes on with the nearest one that is left."""
    order, left = [0], {*range(1, len(apart))}
    while left:
        order.append(min(left, key=lambda place: (apart[order[-1], place], place)))
        left.remove(order[-1])
    return order
