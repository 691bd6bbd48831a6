"""What share of the steps came from which client."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from server.core.open_round import OpenRound
from server.core.state import ClientRecord, RunSettings
from server.core.weighing import Shares, step_shares
from server.reporting.values import LargestShare, ScopeShares


def influence_of(
    run: RunSettings, rounds: Iterable[OpenRound], totals: Mapping[int, Iterable[str]]
) -> list[tuple[int, Shares]]:
    """The clients' shares of the steps of every published round; `totals` has the scopes that it changed.

    The published attempt of a round is its last one.
    """
    published = {round_.number: round_ for round_ in rounds if round_.phase.publishes}
    return [(number, step_shares(run, published[number], scopes)) for number, scopes in sorted(totals.items())]


def without_withdrawn(
    clients: Iterable[ClientRecord], influence: Iterable[tuple[int, Shares]]
) -> tuple[frozenset[str], list[ClientRecord], list[tuple[int, Shares]]]:
    """The names of clients that are left out for good, and clients and shares of steps without them."""
    found = list(clients)
    out = frozenset(client.client_id for client in found if client.withdrawn)
    left = [client for client in found if client.client_id not in out]
    return out, left, [(number, _without(out, shares)) for number, shares in influence]


def _without(out: Collection[str], shares: Shares) -> Shares:
    left = {label: {name: share for name, share in found.items() if name not in out} for label, found in shares.items()}
    return {label: found for label, found in left.items() if found}


def largest_shares(shares: Shares) -> dict[str, ScopeShares]:
    """Per scope how many clients its step came from, and who moved it the most."""
    return {
        label: ScopeShares(len(found), LargestShare(client, round(found[client], 6)))
        for label, found in shares.items()
        for client in [max(sorted(found), key=found.__getitem__)]
    }


def mean_shares(client: str, influence: Sequence[tuple[int, Shares]]) -> dict[str, float]:
    """A client's mean share of every step, over the rounds in which it took part in it."""
    found: dict[str, list[float]] = {}
    for _, shares in influence:
        for label, parts in shares.items():
            if client in parts:
                found.setdefault(label, []).append(parts[client])
    return {label: round(sum(parts) / len(parts), 6) for label, parts in sorted(found.items())}
