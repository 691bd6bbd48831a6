"""What a run still has of clients that asked to be left out for good: a file for each, `withdrawn/<client>.json`.

It follows from the journal, so it can be written again at any time. Nothing is taken out of models: unlearning is
another matter, and nobody promises it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from common.parameters.scope import Scope
from server.core.open_round import OpenRound, OrderState
from server.core.state import ClientRecord, FederationState
from server.runs.run_folder import RunFolder
from server.storage.journal import Journal

FOLDER = "withdrawn"


@dataclass(frozen=True)
class CountedUpdate:
    """An update that was added up."""

    version: int
    """The one that it is in, and so every later one."""
    scopes: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class Withdrawal:
    """What there is of one client."""

    client: str
    tasks: tuple[str, ...]
    counted: tuple[CountedUpdate, ...]
    came_to_nothing: tuple[str, ...]
    """Orders whose updates were taken and never published, since their rounds began anew."""
    own_copies: tuple[str, ...]
    """Scopes of this client alone in `models/` and the journal: members' copies."""
    dual_blocks: tuple[str, ...]
    """Heads of which the journal holds this client's part of a dual problem."""
    releases: int
    """Under noise of the coordinator: what the ledger charges to this client. A charge is never taken back."""
    journal: tuple[str, ...]
    """Tables of `journal.sqlite` with rows of this client: orders have scores and row counts."""
    deleted: tuple[str, ...]


def write_withdrawals(folder: RunFolder, journal: Journal, state: FederationState) -> None:
    """Write the files of all clients that asked for it; the rounds are those that the journal has as closed.

    Raises:
        RunFolderError: the disk does not take it.
    """
    clients = [client for client in state.clients.values() if client.withdrawn]
    if not clients:
        return
    (folder.path / FOLDER).mkdir(exist_ok=True)
    rounds, totals = journal.rounds(), journal.totals()
    for client in clients:
        folder.write_json(f"{FOLDER}/{client.client_id}.json", asdict(withdrawal_of(client, state, rounds, totals)))


def withdrawal_of(
    client: ClientRecord,
    state: FederationState,
    rounds: Iterable[OpenRound],
    totals: Mapping[int, Mapping[str, int]],
) -> Withdrawal:
    """What closed rounds and the state have of a client; `totals` are the weights of every published version."""
    name = client.client_id
    trained = [round_ for round_ in rounds if round_.phase.publishes]
    newest = {round_.number: round_.attempt for round_ in trained}  # the others began anew
    brought = [
        (round_, order)
        for round_ in trained
        for order in round_.orders.values()
        if order.client_id == name and order.state is OrderState.ACCEPTED
    ]
    is_in = {order.order_id: r.number in totals and r.attempt == newest[r.number] for r, order in brought}
    counted = (
        CountedUpdate(round_.number, tuple(scope.scope for scope in order.trained), order.nbytes)
        for round_, order in brought
        if is_in[order.order_id]
    )
    blocks = state.dual.blocks if state.dual is not None else {}
    return Withdrawal(
        name,
        client.tasks,
        tuple(counted),
        tuple(order.order_id for _, order in brought if not is_in[order.order_id]),
        tuple(sorted(scope for scope in state.versions if _is_of(scope, name))),
        tuple(sorted(scope for scope, held in blocks.items() if name in held)),
        state.ledger.spent.get(name, 0) if state.ledger is not None else 0,
        ("clients", "orders"),
        ("its rows in report.json and report.html",),
    )


def _is_of(scope: str, client: str) -> bool:
    place = Scope.parse(scope)
    return place.is_member and place.owner == client
