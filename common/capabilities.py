"""What a client can do and holds, as it says when it joins."""

from __future__ import annotations

from dataclasses import dataclass

ALL = "all"


@dataclass(frozen=True)
class Capacity:
    """How much of the model a client holds and trains; the default is all of it."""

    trains: str = ALL
    """How much of what it holds it trains: `all`, `head` or `top_<n>`."""
    layers: int | None = None
    """How many layers its encoder has, the lowest ones; None for all."""
    lacks: tuple[str, ...] = ()
    """The parts of rows that it has no data of, where rows have several; it leaves their encoders out."""


WHOLE = Capacity()


@dataclass(frozen=True)
class Capabilities:
    """Of one client; the default is a client with the whole model that sends updates as they are."""

    codecs: tuple[str, ...] = ()
    """Codecs of updates that it offers; without any, orders ask for plain float32."""
    data: str = ""
    """The kind of source that its rows come from."""
    capacity: Capacity = WHOLE
