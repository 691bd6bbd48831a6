"""Sums in messages: which cells they have, who is in them, and how an answer enters them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import nextafter

from common.errors import WireError
from common.privacy.clipping import Clip
from common.secure.terms import MOST_WEIGHT, Circle, SumCell, SumOrder, SumPart, SumTerms
from common.wire import checks, limits
from common.wire.gen import federation_pb2 as pb

Named = tuple[tuple[str, bytes], ...]
"""Bytes by client id."""

_BELOW_ONE = nextafter(1.0, 0.0)


def pack_terms(value: SumTerms) -> pb.SumTerms:
    """Value to message."""
    return pb.SumTerms(**vars(value))


def unpack_terms(message: pb.SumTerms) -> SumTerms:
    """Message to value."""
    if not checks.amount(message.largest_change, "largest_change"):
        raise WireError("largest_change: it is 0")
    return SumTerms(
        checks.count(message.min_clients, "min_clients", least=1),
        message.masks,
        message.largest_change,
        checks.count(message.largest_weight, "largest_weight", least=1, most=MOST_WEIGHT),
        checks.amount(message.corrupt, "corrupt", _BELOW_ONE),
        checks.amount(message.dropouts, "dropouts", _BELOW_ONE),
        message.pinned,
    )


def pack_circle(value: Circle) -> pb.Circle:
    """Value to message."""
    cells = [pb.SumCell(scope=cell.scope, task=cell.task) for cell in value.cells]
    return pb.Circle(name=value.name, cells=cells, tasks=value.tasks, members=value.members, bits=value.bits)


def unpack_circles(messages: Sequence[pb.Circle]) -> tuple[Circle, ...]:
    """Messages to values, which have no name, cell or task in common."""
    found = tuple(map(_unpack_circle, checks.items(messages, "circles", limits.MAX_CIRCLES)))
    checks.distinct((circle.name for circle in found), "circles")
    checks.distinct((cell for circle in found for cell in circle.cells), "cells")
    checks.distinct((task for circle in found for task in circle.tasks), "tasks")
    return found


def _unpack_circle(message: pb.Circle) -> Circle:
    cells = checks.items(message.cells, "cells", limits.MAX_CELLS)
    tasks = checks.items(message.tasks, "tasks", limits.MAX_TASKS)
    if not cells and not tasks:
        raise WireError(f"circles: {message.name[:80]!r} has no sum")
    return Circle(
        checks.circle_name(message.name),
        tuple(
            SumCell(checks.scope_name(cell.scope), checks.task_name(cell.task) if cell.task else "") for cell in cells
        ),
        tuple(checks.task_name(task, "tasks") for task in tasks),
        checks.count(message.members, "members", least=1, most=limits.MAX_CLIENTS),
        checks.count(message.bits, "bits", most=limits.MAX_BITS),
    )


def pack_sum_order(value: SumOrder | None) -> pb.SumOrder | None:
    """Value to message."""
    if value is None:
        return None
    return pb.SumOrder(
        terms=pack_terms(value.terms),
        attempt=value.attempt,
        parts=[
            pb.SumPart(circle=pack_circle(part.circle), sharers=part.sharers, letters=pack_named(part.letters))
            for part in value.parts
        ],
        factors=[pb.TaskCount(task=task, count=count) for task, count in value.factors],
        caps=[pb.TaskCount(task=task, count=count) for task, count in value.caps],
        one_each=value.one_each,
        clip=None if value.clip is None else pb.Clip(**vars(value.clip)),
    )


def unpack_sum_order(message: pb.SumOrder, scopes: Collection[str], tasks: Collection[str]) -> SumOrder:
    """Message to value.

    Args:
        message: of an order.
        scopes: what its cells may be of.
        tasks: the order's.
    """
    checks.require(message, "terms")
    circles = unpack_circles([part.circle for part in message.parts])
    order = SumOrder(
        unpack_terms(message.terms),
        checks.count(message.attempt, "attempt"),
        tuple(
            SumPart(circle, client_ids(part.sharers, "sharers"), unpack_letters(part.letters))
            for circle, part in zip(circles, message.parts, strict=True)
        ),
        _unpack_counts(message.factors, "factors"),
        _unpack_counts(message.caps, "caps"),
        message.one_each,
        _unpack_clip(message.clip) if message.HasField("clip") else None,
    )
    checks.count(order.largest_weight, "factors", least=1, most=MOST_WEIGHT)
    known_scopes, known = frozenset(scopes), frozenset(tasks)
    for cell in (cell for circle in circles for cell in circle.cells):
        if cell.scope not in known_scopes or (cell.task and cell.task not in known):
            raise WireError(f"cells: {cell.name[:80]!r} is not the order's")
    named = [task for circle in circles for task in circle.tasks]
    for task in (*named, *(task for task, _ in (*order.factors, *order.caps))):
        if task not in known:
            raise WireError(f"sums: task {task[:80]!r} is not the order's")
    return order


def _unpack_clip(message: pb.Clip) -> Clip:
    if not (checks.amount(message.length, "length") and checks.amount(message.head_scale, "head_scale")):
        raise WireError("clip: a number is 0")
    return Clip(message.length, message.head_scale)


def _unpack_counts(messages: Sequence[pb.TaskCount], field: str) -> tuple[tuple[str, int], ...]:
    checks.distinct((found.task for found in checks.items(messages, field, limits.MAX_TASKS)), field)
    return tuple((checks.task_name(found.task), checks.count(found.count, field)) for found in messages)


def client_ids(values: Sequence[str], field: str) -> tuple[str, ...]:
    """Ids of clients, each once."""
    found = checks.items(values, field, limits.MAX_CLIENTS)
    return checks.distinct((checks.client_id(value, field) for value in found), field)


def pack_named(values: Named) -> list[pb.MemberBytes]:
    """Values to messages."""
    return [pb.MemberBytes(member=member, data=data) for member, data in values]


def unpack_named(messages: Sequence[pb.MemberBytes], field: str, size: int) -> Named:
    """Messages to values of so many bytes each."""
    members = client_ids([found.member for found in messages], field)
    return tuple(
        (member, checks.exactly(found.data, field, size)) for member, found in zip(members, messages, strict=True)
    )


def unpack_letters(messages: Sequence[pb.MemberBytes]) -> Named:
    """Messages to values; what letters say only their readers see."""
    members = client_ids([found.member for found in messages], "letters")
    for found in messages:
        checks.count(len(found.data), "bytes of letters", least=1, most=limits.LETTER_BYTES)
    return tuple(zip(members, (found.data for found in messages), strict=True))
