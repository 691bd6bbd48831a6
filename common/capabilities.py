"""What a client can do and holds, as it says when it joins."""

from __future__ import annotations

from dataclasses import dataclass

ALL = "all"


@dataclass(frozen=True)
class Capabilities:
    """Of one client; the default is a client with the whole model that sends updates as they are."""

    codecs: tuple[str, ...] = ()
    """Codecs of updates that it offers; without any, orders ask for plain float32."""
    data: str = ""
    """The kind of source that its rows come from."""
    trains: str = ALL
    """How much of the model it trains: `all`, `head` or `top_<n>`."""
    layers: int | None = None
    """How many layers its encoder has, the lowest ones; None for all."""
