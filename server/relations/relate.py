"""Applies a relation to the vectors of a template's members, block by block."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from common.methods.relation import Couple, Coupling, Float64, Members, Relation
from common.methods.step_scale import MEAN, StepScale, lengthening
from common.parameters.schema import ParameterSchema
from common.parameters.scope import ByTemplate, Scope, copies_of, is_candidate
from common.parameters.vector import Vector
from server.core.probe_facts import NOT_PROBED, Probed
from server.core.state import Related

BLOCK_ELEMENTS = 1 << 21
"""Elements of all rows together that are worked on at a time."""


@dataclass(frozen=True)
class _Rows:
    """Vectors of one template: the members' new values, what they started the round from, and what is kept besides."""

    values: Sequence[Vector]
    before: Sequence[Vector]
    kept: Sequence[Vector]
    """The duals, the candidates, then the first values where the relation sees moves."""

    def blocks(self) -> Iterator[tuple[int, Float64, Float64]]:
        """Start, values with what is kept below (rows, n), and steps (members, n), in float64."""
        size = len(self.values[0])
        width = max(1, BLOCK_ELEMENTS // (2 * len(self.values) + len(self.kept)))
        for start in range(0, size, width):
            stop = start + width
            rows = np.stack([row[start:stop] for row in (*self.values, *self.kept)]).astype(np.float64)
            before = np.stack([row[start:stop] for row in self.before]).astype(np.float64)
            yield start, rows, rows[: len(before)] - before


@dataclass(frozen=True)
class Context:
    """What holds for a template in a round, besides its vectors."""

    schema: ParameterSchema | None = None
    """The layout of the template; None: all is one layer."""
    height: float = 0.0
    """Of the template's block, see `Members`."""
    passed: float = 1.0
    """The share of the run's rounds that are over."""
    scale: StepScale = MEAN
    """How long the mean step is of members that the relation makes one."""
    probed: Probed = NOT_PROBED
    """What was said of candidates, and who trained from one."""


def related_templates(names: Iterable[str]) -> list[str]:
    """The templates of members among scopes that changed."""
    return sorted({scope.template for scope in map(Scope.parse, names) if scope.is_member})


def relate(
    relation: Couple,
    template: str,
    vectors: Mapping[str, Vector],
    fresh: Mapping[str, Vector],
    examples: Mapping[str, int],
    version: int,
    state: str,
    context: Context = Context(),
) -> tuple[dict[str, Vector], Related]:
    """Let a relation act on the members of a template.

    Args:
        relation: what couples them.
        template: whose members.
        vectors: the published values of all scopes, anchors and duals included.
        fresh: the values after the round's steps, of scopes that changed, of the types of `vectors`.
        examples: that a scope's step was made of.
        version: of the values to be made.
        state: what the relation said to remember, JSON.
        context: what else holds in this round.

    Returns:
        New values of the members, of the template (what newcomers begin with: the mean, unless the relation says
        other), of anchors, duals and candidates; and the record of it. The template's own anchor is its first values,
        kept for a relation that sees moves.
    """
    vectors = ByTemplate(vectors)
    scopes = copies_of(template, {*vectors, *fresh, *examples})
    ids = tuple(Scope.parse(scope).owner for scope in scopes)
    derived = (scope for scope in map(Scope.parse, vectors) if scope.template == template)
    names = {ends: str(scope) for scope in derived if (ends := scope.ends) is not None}
    offered = [scope for scope in map(Scope.parse, vectors) if is_candidate(str(scope)) and scope.template == template]
    first = {}
    if isinstance(relation, Relation) and relation.sees_moves:
        name = Scope.parse(template).anchor
        first[name] = vectors[name if name in vectors else template]
    rows = _Rows(
        [fresh.get(scope, vectors[scope]) for scope in scopes],
        [vectors[context.probed.starts.get(scope, scope)] for scope in scopes],
        [vectors[name] for name in (*names.values(), *map(str, offered))] + [*first.values()],
    )
    products, steps = _inner_products(rows)
    counts = np.array([examples.get(scope, 0) for scope in scopes], dtype=np.float64)
    size = len(rows.values[0])
    members = Members(
        *(ids, counts, products, steps, size, tuple(names)),
        candidates=tuple(scope.owner for scope in offered),
        scores=context.probed.scores.get(template, {}),
        state=json.loads(state or "{}"),
        passed=context.passed,
        height=context.height,
    )
    for origin in first.values():
        moves, lengths = _moves(rows.values, origin, context.schema)
        members = replace(members, moves=moves, lengths=lengths)
    coupling = relation(members)
    longer = None if context.scale == MEAN else partial(_lengthened, steps, context.scale)
    return first | _combined(rows, coupling, scopes, template, longer), _record(coupling, version, template, scopes)


def _record(coupling: Coupling, version: int, template: str, scopes: Sequence[str]) -> Related:
    mus = {} if coupling.anchor is None else dict(zip(scopes, coupling.mu.tolist(), strict=True))
    return Related(version, template, mus, json.dumps(coupling.state, separators=(",", ":")), coupling.note)


def _lengthened(steps: Float64, scale: StepScale, row: Float64) -> Float64:
    """What of the members' steps is added to a combination of their values, (members,); a lone step is no mean."""
    shares = row[: len(steps)]
    return (lengthening(scale, shares, steps) - 1.0 if np.count_nonzero(shares) > 1 else 0.0) * shares


def _inner_products(rows: _Rows) -> tuple[Float64, Float64]:
    """Of values less their mean, with what is kept, and of steps."""
    members, count = len(rows.values), len(rows.values) + len(rows.kept)
    products, steps = np.zeros((count, count)), np.zeros((members, members))
    for _, block, step in rows.blocks():
        block[:members] -= block[:members].mean(axis=0)
        products += block @ block.T
        steps += step @ step.T
    return products, steps


def _moves(values: Sequence[Vector], origin: Vector, schema: ParameterSchema | None) -> tuple[Float64, Float64]:
    """Inner products of the moves from the first values, layer by layer divided by their mean square; and lengths.

    A layer is what one module holds, its weight and its bias for instance.
    """
    layers = defaultdict(list)
    for entry in schema.entries if schema is not None else ():
        layers[entry.name.rpartition(".")[0]].append((entry.offset, entry.offset + entry.count))
    products, squares = np.zeros((len(values), len(values))), np.zeros(len(values))
    width = max(1, BLOCK_ELEMENTS // (2 * len(values)))
    for parts in layers.values() or [[(0, len(origin))]]:
        layer = np.zeros_like(products)
        for start, stop in ((i, min(i + width, end)) for begin, end in parts for i in range(begin, end, width)):
            block = np.stack([row[start:stop] for row in values]).astype(np.float64) - origin[start:stop]
            layer += block @ block.T
        squares += np.diag(layer)
        mean = np.trace(layer) / len(values)
        products += layer / mean if mean > 0.0 else layer
    return products, np.sqrt(squares)


def _combined(
    rows: _Rows, coupling: Coupling, scopes: Sequence[str], template: str, longer: Callable[[Float64], Float64] | None
) -> dict[str, Vector]:
    count = len(scopes)
    outputs: dict[str, Float64] = {}
    if coupling.start is not None:
        outputs |= dict(zip(scopes, coupling.start, strict=True))
    outputs |= {Scope.parse(template).candidate(name): row for name, row in coupling.candidates.items()}
    further = np.stack([longer(row) for row in outputs.values()]) if longer is not None and outputs else None
    if coupling.anchor is not None:
        outputs |= {Scope.parse(scope).anchor: row for scope, row in zip(scopes, coupling.anchor, strict=True)}
    places = {scope.owner: scope for scope in map(Scope.parse, scopes)}
    outputs |= {places[member].dual(other): row for (member, other), row in coupling.duals.items()}
    newcomer = np.zeros(count + len(rows.kept))
    newcomer[:count] = 1.0 / count
    outputs[template] = newcomer if coupling.newcomer is None else coupling.newcomer
    made = {name: np.empty_like(rows.values[0]) for name in outputs}
    coefficients = np.stack(list(outputs.values()))
    for start, block, steps in rows.blocks():
        combined = coefficients @ block
        if further is not None:  # starts and candidates come first
            combined[: len(further)] += further @ steps
        for name, values in zip(made, combined, strict=True):
            made[name][start : start + block.shape[1]] = values
    return made
