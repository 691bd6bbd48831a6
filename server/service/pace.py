"""How often something may happen for each caller, with a little memory for each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from common.errors import UnreachableError
from common.wire import methods

JOINS_AT_ONCE = 1000
"""From one address: a whole federation may stand behind an address translator and start at the same moment."""
JOINS_PER_SECOND = 50.0
"""From one address, after those."""
CALLS_AT_ONCE, CALLS_PER_SECOND = 2000, 500.0
"""Of one connection; an honest client makes some per round."""
LISTS_AT_ONCE, LISTS_PER_SECOND = 100, 10.0
"""From one address: a status lists clients, which is much work for whoever is not even known."""
CALLERS = 4096
"""Addresses that are remembered; those that did nothing for longest are forgotten."""


def address_of(peer: str) -> str:
    """The address in what gRPC calls a peer, `ipv4:127.0.0.1:4711`, without the port."""
    return peer.rpartition(":")[0] or peer


class Pace:
    """Lets each caller do something `at_once` times, and from then on `per_second` times per second of `clock`."""

    def __init__(self, at_once: int, per_second: float, clock: Callable[[], float]) -> None:
        self._at_once, self._per_second, self._clock = at_once, per_second, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, what: str) -> None:
        """Count one.

        Raises:
            UnreachableError: too many; the same later is fine.
        """
        now = self._clock()
        left, then = self._left.pop(caller, (float(self._at_once), now))
        left = min(left + (now - then) * self._per_second, self._at_once)
        allowed = left >= 1.0
        self._left[caller] = (left - 1.0 if allowed else left, now)
        if len(self._left) > CALLERS:
            self._left.popitem(last=False)
        if not allowed:
            raise UnreachableError(f"too many {what} from {caller}; it tries again by itself")


class Paces:
    """Those of a service: of all calls by their connection, and of some by their address."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._calls = Pace(CALLS_AT_ONCE, CALLS_PER_SECOND, clock)
        self._of_address = {
            methods.JOIN.path: (Pace(JOINS_AT_ONCE, JOINS_PER_SECOND, clock), "joins"),
            methods.STATUS.path: (Pace(LISTS_AT_ONCE, LISTS_PER_SECOND, clock), "calls for the status"),
        }

    def take(self, path: str, peer: str) -> None:
        """Count a call to a remote procedure.

        Raises:
            UnreachableError: too many; the same later is fine.
        """
        self._calls.take(peer, "calls")
        if path in self._of_address:
            pace, what = self._of_address[path]
            pace.take(address_of(peer), what)
