"""Who may watch a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from common.orders import FederationStatus
from server.core.dual_facts import Certificate
from server.core.effects import RoundClosed, TaskCosines


class Observer(Protocol):
    """Watches a run, for people. Called between events, never during one."""

    def notice(self, text: str, warning: bool) -> None:
        """Something happened."""
        ...

    def changed(self, waiting: bool, describe: Callable[[], FederationStatus]) -> None:
        """The picture changed; `waiting` means that no round is open. Describing many clients takes a while."""
        ...

    def withdrew(self) -> None:
        """A client is left out for good, which is durable; nothing is written to the journal during this call."""
        ...

    def closed(
        self, record: RoundClosed, cosines: Sequence[TaskCosines] = (), certificate: Certificate | None = None
    ) -> None:
        """A round closed and is durable.

        `cosines` tell how its tasks agreed, where they have sums of their own; `certificate` is of the version that
        its clients measured, in runs that solve a dual.
        """
        ...
