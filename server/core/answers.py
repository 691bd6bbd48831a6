"""What a poll, a heartbeat or an operator hears: questions to the state that change nothing."""

from __future__ import annotations

from heapq import nsmallest

from common.orders import ClientStatus, FederationStatus, Order, PollKind, PollReply, UpdateState
from server.core import circles
from server.core.account import named
from server.core.bodies import body_of
from server.core.open_round import OpenOrder, OrderState
from server.core.opening import waits_for
from server.core.phases import Phase
from server.core.state import ClientRecord, FederationState, RunSettings


def answer_poll(run: RunSettings, state: FederationState, client: ClientRecord, pending: str, now: float) -> PollReply:
    """The answer to a poll at this moment; kind WAIT means that the poll may stay parked.

    What a parked poll waits for is left out: many are parked, few are ever answered that way.
    """
    update_state = update_state_of(state, client, pending)
    if state.phase is Phase.FINISHED:
        return PollReply(PollKind.FINISHED, update_state)
    if state.phase is Phase.FAILED:
        return PollReply(PollKind.FAILED, update_state, state.reason)
    order = state.open.order_of(client.client_id) if state.open is not None else None
    if order is not None and order.state is OrderState.ISSUED:
        return PollReply(PollKind.ORDER, update_state, order=_order_of(run, state, order, now))
    kind = PollKind.DRAINING if state.draining else PollKind.WAIT
    closed = client.client_id in state.conduct.quarantined
    return PollReply(kind, update_state, "the operator: this client is in quarantine" if closed else "")


def update_state_of(state: FederationState, client: ClientRecord, pending: str) -> UpdateState:
    """What became of the update that answered the order `pending`."""
    if not pending:
        return UpdateState.NONE
    if pending == client.committed:
        return UpdateState.COMMITTED
    order = circles.find(state.open, pending) if state.open is not None else None
    if order is not None and order.client_id == client.client_id and order.state in _OPEN_STATES:
        return UpdateState.OPEN
    return UpdateState.DISCARDED


_OPEN_STATES = frozenset({OrderState.ISSUED, OrderState.ACCEPTED})


def is_wanted(state: FederationState, client: ClientRecord, order_id: str) -> bool:
    """Whether work on an order still makes sense."""
    order = state.open.orders.get(order_id) if state.open is not None else None
    return order is not None and order.client_id == client.client_id and order.state is OrderState.ISSUED


SHOWN = 20
"""Clients that a watcher is told of by name: strangers may join by the thousand, and each join changes the picture."""

PAGE_CHARS = 1 << 18
"""About so many characters of clients fit on a page; a message holds four times as much."""


def describe(
    run: RunSettings, state: FederationState, run_name: str, after: str = "", most: int | None = None
) -> FederationStatus:
    """The whole picture for an operator; of the clients, by client id, a page that begins after the id `after`.

    A page has at most `most` clients, where that is given.
    """
    open_ = state.open
    later = [name for name, client in state.clients.items() if name > after and not client.withdrawn]
    names = sorted(later) if most is None else nsmallest(most, later)
    clients: list[ClientStatus] = []
    is_secret = run.noise is not None and run.noise.is_sampled  # what a client does tells whether it was asked
    size = 0
    for client in map(state.clients.__getitem__, names):
        size += len(client.client_id) + sum(len(task) + 4 for task in client.tasks) + len(client.activity[:1000]) + 16
        if clients and size > PAGE_CHARS:
            break
        activity = "" if is_secret else client.activity
        if client.client_id in state.conduct.quarantined:
            activity = "in quarantine"
        clients.append(ClientStatus(client.client_id, client.tasks, client.present, activity))
    phase = f"{state.phase.value}, stopping" if state.draining else state.phase.value
    if state.dual is not None and state.dual.certificate is not None:
        phase += f", gap {state.dual.certificate.gap:.3g} of version {state.dual.certificate.version}"
    if state.ledger is not None:
        phase += f", epsilon {state.ledger.epsilon():.3g} (delta {state.ledger.delta:g})"
    if run.sums is not None:
        stage = f", {open_.phase.name}" if open_ is not None and open_.phase.is_stage else ""
        phase += f"{stage}, in sums over at least {run.sums.least} clients"
    if (long := state.norms.outliers) and not is_secret:
        phase += f", much longer updates in round {state.norms.round}: {named(long)}"
    number = open_.number if open_ is not None else state.completed_rounds
    return FederationStatus(
        run_name, run.run_id, phase, number, run.num_rounds, waits_for(run, state),
        tuple(clients), sum(not client.withdrawn for client in state.clients.values()), len(clients) < len(later),
    )  # fmt: skip


def _order_of(run: RunSettings, state: FederationState, order: OpenOrder, now: float) -> Order:
    assert state.open is not None
    return Order(
        order_id=order.order_id,
        round=state.open.number,
        version=state.open.version,
        scopes=order.scopes,
        seconds_left=max(state.open.deadline - now, 0.0),
        body=body_of(run, state, state.open, order),
        tasks=order.tasks,
        units=tuple((task, state.units[task]) for task in order.tasks if task in state.units),
        scales=tuple((task, state.scales[task]) for task in order.tasks if task in state.scales),
    )
