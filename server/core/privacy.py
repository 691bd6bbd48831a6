"""What a round with noise of the coordinator may move, whom it asks, and whom it is charged to. Counts, no numbers."""

from __future__ import annotations

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import sqrt

from common.bodies import NoisePromise
from common.log_fields import LogFields
from common.parameters import capacity
from common.parameters.scope import Scope
from common.privacy.clipping import Clip
from server.core.effects import Notice
from server.core.open_round import OpenRound, OrderState
from server.core.privacy_facts import Ledger, Noising, cell_of
from server.core.state import ClientRecord, FederationState, RunSettings


def cells_of(run: RunSettings, client: ClientRecord, frozen: str = "") -> dict[str, float]:
    """The cells that a client has a part in, and how much of each is one client's.

    What of the encoder is `frozen` for all has no cell.

    Where a scope is summed task by task, the update stands in each of the T sums of its tasks times 1/sqrt(T), so that
    all of them together are as long as the update.
    """
    untrained = capacity.untrained_scopes(client.capabilities.capacity, run.blocks, frozen)
    found: dict[str, float] = {}
    for scope in map(Scope.parse, run.scopes_of(client, client.tasks)):
        if scope.is_derived or scope.template in untrained:
            continue
        if run.by_task and not (scope.task or scope.is_member):
            found |= {cell_of(str(scope), task): 1 / sqrt(len(client.tasks)) for task in client.tasks}
        else:
            found[str(scope)] = 1.0
    return found


def least_of(run: RunSettings) -> int:
    """Cells of fewer clients stay as they are; sums may ask for more than noise."""
    return max(run.noise.min_clients if run.noise else 1, run.sums.least if run.sums else 1)


def opened(run: RunSettings, state: FederationState) -> Ledger | None:
    """The ledger with the cells that a round which opens now may move; None without noise."""
    ledger = state.ledger
    if run.noise is None or ledger is None:
        return None
    frozen = run.schedule.frozen_in(state.completed_rounds + 1)
    parts = _parts(run, [client for client in state.clients.values() if not client.left], ledger, frozen)
    many = {cell: shares for cell, shares in sorted(parts.items()) if len(shares) >= least_of(run)}
    cells = {cell: run.noise.fraction * sum(sorted(shares)) for cell, shares in many.items()}
    return replace(ledger, cells={**cells, **ledger.cells}, open=tuple(many))


def _parts(
    run: RunSettings, clients: Iterable[ClientRecord], ledger: Ledger, frozen: str = ""
) -> Mapping[str, Sequence[float]]:
    """Of every cell, the parts of the clients that may still be charged."""
    parts: dict[str, list[float]] = defaultdict(list)
    for client in clients:
        for cell, share in cells_of(run, client, frozen).items() if ledger.is_within(client.client_id) else ():
            parts[cell].append(share)
    return parts


def is_spent(run: RunSettings, state: FederationState) -> bool:
    """Whether nothing can be published any more, whoever comes back."""
    if run.noise is None or state.ledger is None or not state.ledger.releases:
        return False
    parts = _parts(run, state.clients.values(), state.ledger)
    return not any(len(shares) >= least_of(run) for shares in parts.values())


def spent_of(state: FederationState) -> str:
    """Why a run whose budget is spent ends, in words."""
    assert state.ledger is not None
    return f"the privacy budget is spent after {state.ledger.releases} releases"


def lacks_clients(run: RunSettings, state: FederationState) -> str:
    """Why no cell may be moved with the clients that are known; empty where one may."""
    ledger = opened(run, state)
    if ledger is None or ledger.open:
        return ""
    assert run.noise is not None
    key = "privacy" if run.noise.min_clients >= least_of(run) else "secure_aggregation"
    return f"no scope has {least_of(run)} clients within their budget ({key}.min_clients)"


def closed_scopes(run: RunSettings, state: FederationState, scopes: Iterable[str], tasks: Iterable[str]) -> set[str]:
    """The scopes of which nothing moves in the open round by an update on these tasks; none without noise."""
    if state.ledger is None:
        return set()
    cells, tasks = set(state.ledger.open), tuple(tasks)
    return {s for s in scopes if s not in cells and not any(cell_of(s, task) in cells for task in tasks)}


def untrained_scopes(
    run: RunSettings, state: FederationState, client: ClientRecord, tasks: tuple[str, ...], number: int
) -> frozenset[str]:
    """The scopes of an order in a round to train that its client receives and does not train."""
    untrained = run.untrained_scopes(client, tasks, number, state.fallback_tasks)
    return untrained | closed_scopes(run, state, run.scopes_of(client, tasks), tasks)


def open_rows(state: FederationState, rows: Mapping[str, Mapping[str, int]]) -> Mapping[str, Mapping[str, int]]:
    """The sums by task that an update enters, each with weight 1 if it is in an open cell."""
    if state.ledger is None:
        return rows
    cells = set(state.ledger.open)
    return {scope: {task: 1 for task in found if cell_of(scope, task) in cells} for scope, found in rows.items()}


def promise_to(run: RunSettings, state: FederationState, client_id: str) -> NoisePromise | None:
    """What holds for a client whose update counts in the open round; None without noise."""
    ledger = state.ledger
    if run.noise is None or ledger is None:
        return None
    after = replace(ledger, spent={client_id: ledger.spent.get(client_id, 0) + 1})
    epsilon = after.epsilon_of(client_id)
    return NoisePromise(ledger.mechanism.noise_multiplier, epsilon, ledger.delta, least_of(run))


def clip_of(run: RunSettings, state: FederationState) -> Clip | None:
    """What an update of the open round may be at most; None without noise."""
    if run.noise is None or state.ledger is None:
        return None
    return Clip(state.ledger.clip, run.noise.head_scale)


def asked(run: RunSettings, state: FederationState, present: Sequence[ClientRecord]) -> list[ClientRecord]:
    """The clients that a round may ask to train: those that may be charged, and have a part in an open cell."""
    ledger = state.ledger
    if run.noise is None or ledger is None:
        return list(present)
    cells = set(ledger.open)
    return [c for c in present if ledger.is_within(c.client_id) and not cells.isdisjoint(cells_of(run, c))]


def comes_up(coin: bytes, number: int, client_id: str, chance: float) -> bool:
    """A client's coin of a round: the same for all attempts, and nothing to anybody without the key."""
    drawn = hmac.new(coin, f"{number}|{client_id}".encode(), hashlib.sha256).digest()
    return int.from_bytes(drawn[:8]) < chance * 2**64


def released(
    run: RunSettings, state: FederationState, totals: Mapping[str, int], rows: Mapping[str, Mapping[str, int]]
) -> tuple[Mapping[str, int], Mapping[str, Mapping[str, int]]]:
    """What changes when a round closes: as it is without noise, and only what is in open cells.

    Where coins decide who is asked all of these change, whoever answered: with a sum of nothing there is the noise.
    """
    if run.noise is None or state.ledger is None:
        return totals, rows
    cells = set(state.ledger.open)
    if not run.noise.is_sampled:
        return totals, {s: {task: 1 for task in r if cell_of(s, task) in cells} for s, r in rows.items()}
    scopes = [str(scope) for client in state.clients.values() for scope in run.scopes_of(client, client.tasks)]
    names = [task.name for task in run.tasks]
    found = {s: {task: 1 for task in names if cell_of(s, task) in cells} for s in sorted(set(scopes))}
    rows = {scope: tasks for scope, tasks in found.items() if tasks}
    return {scope: max(totals.get(scope, 0), 1) for scope in found if scope in cells or scope in rows}, rows


def noising(
    run: RunSettings, state: FederationState, totals: Mapping[str, int], rows: Mapping[str, Mapping[str, int]]
) -> Noising | None:
    """The noise of the scopes that change; None without."""
    ledger = state.ledger
    if run.noise is None or ledger is None:
        return None
    names = [cell_of(scope, task) for scope, total in totals.items() if total for task in rows.get(scope, ("",))]
    clients = sum(not cells.isdisjoint(ledger.open) for cells in map(set, _cells_of_known(run, state)))
    cells = {cell: ledger.cells[cell] for cell in names}
    return Noising(ledger.mechanism.noise_multiplier, ledger.clip, cells, run.noise.fraction * clients)


def _cells_of_known(run: RunSettings, state: FederationState) -> Iterable[Mapping[str, float]]:
    ledger = state.ledger
    assert ledger is not None
    clients = (client for client in state.clients.values() if not client.left)
    return (cells_of(run, client) for client in clients if ledger.is_within(client.client_id))


def notices_of(before: Ledger | None, now: Ledger | None) -> list[Notice]:
    """A line on what a release has cost."""
    if before is None or now is None or now.releases == before.releases:
        return []
    epsilon = now.epsilon()
    text = f"privacy: epsilon is at most {epsilon:.3g} (delta {now.delta:g}) after {now.releases} releases"
    return [Notice(text, about=LogFields(event="released", epsilon=round(epsilon, 6)))]


def is_rolled_back(state: FederationState, pending_order: str) -> bool:
    """Whether a client's order comes after more releases than the ledger knows: charges were lost with a newer one."""
    ledger = state.ledger
    if ledger is None or not pending_order:
        return False
    number = pending_order.split("-", 2)[1].partition(".")[0] if pending_order.count("-") > 1 else ""
    return number.isdigit() and int(number) > ledger.releases + 1


def charged(run: RunSettings, state: FederationState, round_: OpenRound, clip: float | None) -> Ledger | None:
    """The ledger after a release: with it, what was published and what it costs are one commit.

    Those are charged whose updates count and, where coins decide who is asked, all others who might have been.
    """
    ledger = state.ledger
    if run.noise is None or ledger is None:
        return None
    names = {order.client_id for order in round_.orders.values() if order.state is OrderState.ACCEPTED}
    if run.noise.is_sampled:
        known = [client for client in state.clients.values() if not client.left]
        names |= {client.client_id for client in asked(run, state, known)}
    spent = {**ledger.spent, **{name: ledger.spent.get(name, 0) + 1 for name in sorted(names)}}
    return replace(ledger, clip=clip or ledger.clip, releases=ledger.releases + 1, spent=spent, open=())
