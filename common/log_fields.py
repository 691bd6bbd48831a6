"""The fields of a log line, for machines: one list of names for the whole project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, Unpack

LONGEST_VALUE = 256
"""Characters of a text in a field; what is longer is cut."""


class LogFields(TypedDict, total=False):
    """What a line may say besides its words.

    `event` names what happened, `bytes` and `seconds` are what it took; several tasks are joined by commas.
    """

    event: str
    run: str
    round: int
    attempt: int
    client: str
    task: str
    order: str
    rows: int
    bytes: int
    seconds: float
    port: int
    reason: str
    epsilon: float


FIELDS = tuple(LogFields.__annotations__)


def about(**fields: Unpack[LogFields]) -> Mapping[str, LogFields]:
    """The `extra` of a log call: `log.info("...", extra=about(event="joined", client="a"))`."""
    return {"about": fields}
