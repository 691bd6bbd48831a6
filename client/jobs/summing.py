"""An answer that enters sums: integers in place of an update and of results, one part for each circle of the order."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from client.jobs.synchronizer import PayloadMemory
from client.training.loop import TrainingDiverged
from common.bodies import RING, Evaluate, Train
from common.errors import WireError
from common.orders import Order, ScopePayload, TaskResult, Update, UpdateHeader
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope
from common.parameters.vector import Vector, square_of
from common.privacy.clipping import shared_out
from common.secure.counts import numbers_of
from common.secure.layout import COUNT_BYTES, COUNTS, VALUE_BYTES, CircleLayout, layout_of
from common.secure.ring import BLOCK, Cell, Counts, quantise, quantise_counts, shortening
from common.secure.terms import Circle, SumOrder
from common.targets import OWN_UNITS
from common.tasks import TaskDefinition

log = logging.getLogger("fedmtl.client")


def sums_of_order(order: Order) -> SumOrder | None:
    """How the answer to an order enters sums, or None where it does not."""
    return order.body.sums if isinstance(order.body, Train | Evaluate) else None


def layouts_of(
    order: Order, sums: SumOrder, schemas: Mapping[str, ParameterSchema], tasks: Sequence[TaskDefinition]
) -> tuple[CircleLayout, ...]:
    """How the parts of an answer lie, one for each circle of the order.

    Args:
        order: asks for the answer.
        sums: how it enters sums.
        schemas: of the scopes that this client holds.
        tasks: the federation's.

    Raises:
        WireError: a cell is of no scope of the order, a circle of no task of it, or one of them comes twice.
    """
    definitions = {task.name: task for task in tasks if task.name in order.tasks or not order.tasks}
    scopes = {
        wanted.scope: (schema.digest, schema.size)
        for wanted in order.scopes
        if (schema := schemas.get(Scope.parse(wanted.scope).base)) is not None
    }
    for circle in (part.circle for part in sums.parts):
        if foreign := [cell.name for cell in circle.cells if cell.scope not in scopes]:
            raise WireError(f"order {order.order_id}: cell '{foreign[0]}' is of no scope of the order")
        if unknown := [task for task in circle.tasks if task not in definitions]:
            raise WireError(f"order {order.order_id}: circle {circle.name} counts task '{unknown[0]}', which is none")
        if len(set(circle.cells)) != len(circle.cells) or len(set(circle.tasks)) != len(circle.tasks):
            raise WireError(f"order {order.order_id}: a cell or task comes twice in circle {circle.name}")
    return tuple(layout_of(part.circle, scopes, definitions) for part in sums.parts)


def scopes_of(order: Order, layouts: Sequence[CircleLayout]) -> tuple[ScopePayload, ...]:
    """What the header of the answer says of its parts."""
    return tuple(ScopePayload(each.circle.scope, order.version, each.digest, each.nbytes) for each in layouts)


def cells_in(payload: NDArray[np.uint8], layouts: Sequence[CircleLayout]) -> list[dict[str, Cell]]:
    """The cells of each circle by name, as views of a payload: counts, uint64, before vectors, uint32; (n,) each.

    Args:
        payload: uint8, (n,): all parts, one after the other.
        layouts: Of the parts.

    Raises:
        ValueError: the payload has another length.
    """
    if len(payload) != sum(each.nbytes for each in layouts):
        raise ValueError(f"{len(payload)} bytes are not those of {len(layouts)} circles")
    found, at = [], 0
    for layout in layouts:
        names = [COUNTS, *(cell.name for cell in layout.circle.cells)]
        sizes = [COUNT_BYTES * layout.counts, *(VALUE_BYTES * size for size in layout.sizes)]
        cells: dict[str, Cell] = {}
        for name, size in zip(names, sizes, strict=True):
            cells[name] = payload[at : at + size].view("<u8" if name == COUNTS else "<u4")
            at += size
        found.append(cells)
    return found


def weights_in(sums: SumOrder, circle: Circle, results: Sequence[TaskResult]) -> list[int]:
    """What an update weighs in each cell of a circle."""
    examples = {result.task: result.examples for result in results}
    return [sums.weight(cell, examples) for cell in circle.cells]


def trained_cells(sums: SumOrder, results: Sequence[TaskResult]) -> Mapping[str, int]:
    """The scopes in whose sums an update weighs anything, and in how many: of these alone the change is asked for."""
    return Counter(
        cell.scope
        for part in sums.parts
        for cell, weight in zip(part.circle.cells, weights_in(sums, part.circle, results), strict=True)
        if weight
    )


def summed(
    order: Order,
    layouts: Sequence[CircleLayout],
    results: Sequence[TaskResult],
    deltas: Mapping[str, Vector],
    tasks: Sequence[TaskDefinition],
    memory: PayloadMemory,
) -> Update:
    """The answer to an order: all that it says is in sums, so its header has neither results nor seconds.

    Args:
        order: to train or to score, with `sums`.
        layouts: From `layouts_of`.
        results: Of the order's tasks.
        deltas: The changes of `trained_cells`, float32, (n,) each.
        tasks: Of the results.
        memory: For the payload; it is void when the next one is made there.

    Raises:
        TrainingDiverged: a change is not a finite number.
        WireError: the numbers do not fit as the order says.
    """
    sums = sums_of_order(order)
    assert sums is not None
    factor, copies = _factor(order, sums, deltas), trained_cells(sums, results)
    most, is_clipped = sums.largest_change, sums.clip is not None
    payload = memory.of(sum(each.nbytes for each in layouts))
    for layout, cells in zip(layouts, cells_in(payload, layouts), strict=True):
        circle = layout.circle
        weights = weights_in(sums, circle, results)
        try:
            cells[COUNTS][:] = _counts(order, circle, weights, results, tasks)
            for cell, weight in zip(circle.cells, weights, strict=True):
                into = cells[cell.name]
                if weight:
                    part = shared_out(factor, copies[cell.scope]) if is_clipped else factor
                    into[:] = quantise(deltas[cell.scope], weight, circle.bits, most, part, towards_zero=is_clipped)
                else:
                    into.fill(0)
        except ValueError as error:
            raise WireError(f"order {order.order_id}, circle {circle.name}: {error}") from None
    digest = xxhash.xxh3_128_hexdigest(payload.data)
    return Update(UpdateHeader(order.order_id, RING, scopes_of(order, layouts), digest, (), 0.0), payload.data)


def _factor(order: Order, sums: SumOrder, deltas: Mapping[str, Vector]) -> float:
    """What makes the whole update fit."""
    most = sums.terms.largest_change
    try:
        factor = shortening(deltas.values(), most)
    except ValueError:
        raise TrainingDiverged("the update is not of finite numbers; lower training.learning_rate") from None
    if sums.clip is not None:
        norm = sums.clip.norm(_squares(deltas))
        if norm > sums.clip.length:
            text = "order %s: the update has a length of %.3g and is shortened to %g (privacy.clip)"
            log.info(text, order.order_id, norm, sums.clip.length)
        if (clipped := sums.clip.factor(norm)) <= factor:
            return clipped
    if factor < 1.0:
        text = (
            "order %s: the update is shortened to %.3g of its length, since a parameter changed by %.3g, above "
            "secure_aggregation.largest_change (%g); if that happens often, raise it on both sides"
        )
        log.info(text, order.order_id, factor, most / factor, most)
    return factor


def _squares(deltas: Mapping[str, Vector]) -> Iterator[tuple[str, float]]:
    """The sums of squares of all blocks."""
    for scope, delta in deltas.items():
        for at in range(0, len(delta), BLOCK):
            yield scope, square_of(delta[at : at + BLOCK])


def _counts(
    order: Order, circle: Circle, weights: Sequence[int], results: Sequence[TaskResult], tasks: Sequence[TaskDefinition]
) -> Counts:
    """The weight in each cell, then the statistics of each task: uint64, (n,)."""
    said = {result.task: result for result in results}
    definitions = {task.name: task for task in tasks}
    units, numbers = dict(order.units), [float(weight) for weight in weights]
    for task in circle.tasks:
        numbers += numbers_of(definitions[task], said[task], units.get(task, OWN_UNITS))
    return quantise_counts(numbers, circle.members)
