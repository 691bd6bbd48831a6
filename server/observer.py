"""Who may watch a run."""

from __future__ import annotations

from typing import Protocol

from common.orders import FederationStatus
from server.core.effects import RoundClosed


class Observer(Protocol):
    """Watches a run, for people. Called between events, never during one."""

    def notice(self, text: str, warning: bool) -> None:
        """Something happened."""
        ...

    def changed(self, status: FederationStatus) -> None:
        """The picture changed."""
        ...

    def closed(self, record: RoundClosed) -> None:
        """A round closed and is durable."""
        ...
