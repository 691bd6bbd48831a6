"""What share of the steps came from which client."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from server.core.open_round import OpenRound
from server.core.state import RunSettings
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


def without_clients(out: Collection[str], shares: Shares) -> Shares:
    """Shares of steps without those of some clients."""
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
