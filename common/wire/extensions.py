"""Bodies of orders, and what answers them, that no `oneof` of protos/ names: named bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common import stages
from common.bodies import Body, Probe
from common.errors import WireError
from common.orders import ReplyContent
from common.probing import ProbeLosses
from common.wire import stage_parts
from common.wire.codec import Codec
from common.wire.probe_parts import PROBE, PROBE_LOSSES


@dataclass(frozen=True)
class Extension:
    """How a body travels, and the content of the replies to it."""

    body: type[Body]
    content: type[ReplyContent]
    body_codec: Codec[Any]
    content_codec: Codec[Any]


EXTENSIONS: Mapping[str, Extension] = {
    "probe": Extension(Probe, ProbeLosses, PROBE, PROBE_LOSSES),
    "keys": Extension(stages.Keys, stages.AnnouncedKeys, stage_parts.KEYS, stage_parts.ANNOUNCED_KEYS),
    "shares": Extension(stages.Shares, stages.SealedShares, stage_parts.SHARES, stage_parts.SEALED_SHARES),
    "confirm": Extension(stages.Confirm, stages.SignedSurvivors, stage_parts.CONFIRM, stage_parts.SIGNED_SURVIVORS),
    "unmask": Extension(stages.Unmask, stages.OpenedShares, stage_parts.UNMASK, stage_parts.OPENED_SHARES),
}
"""By the name under which they travel and stand in the journal."""


def name_of(value: Body | ReplyContent) -> str:
    """The name of the row that a value belongs to.

    Raises:
        WireError: it has none.
    """
    for name, row in EXTENSIONS.items():
        if type(value) in (row.body, row.content):
            return name
    raise WireError(f"{type(value).__name__}: has no row among the extensions")


def encode_content(value: ReplyContent) -> tuple[str, bytes]:
    """A reply's content as a name and bytes."""
    name = name_of(value)
    return name, EXTENSIONS[name].content_codec.encode(value)


def decode_content(name: str, data: bytes) -> ReplyContent:
    """What `encode_content` made bytes of.

    Raises:
        WireError: this version does not know the name, or the bytes are no such content.
    """
    found: ReplyContent = extension(name).content_codec.decode(data)
    return found


def extension(name: str) -> Extension:
    """The row of a name that was received.

    Raises:
        WireError: this version does not know it.
    """
    if name not in EXTENSIONS:
        raise WireError(f"extension: {name[:80]!r} is none that this version knows")
    return EXTENSIONS[name]
