"""Who may join and which updates count. Pure questions: a refusal is an answer and leaves no trace."""

from __future__ import annotations

from common.errors import Reason, Refused
from common.inputs.header import Header
from common.orders import JoinRequest, Reply, Session, UpdateHeader
from common.parameters.capacity import capacity_problem
from server.core import circles
from server.core.bodies import PHASES
from server.core.open_round import OpenOrder, OrderState
from server.core.phases import ENDED
from server.core.scales import inputs_problem
from server.core.state import ClientRecord, FederationState, RunSettings
from server.core.units import targets_problem


def check_join(run: RunSettings, state: FederationState, request: JoinRequest) -> None:
    """Check that a client's tasks are this federation's.

    Raises:
        Refused: an unknown task, a definition that differs (labels, their order, type, metrics), other features or
            another order of them, a run that is over or full, tasks of several groups, a part of the model to train
            that is no whole number of scopes, or a client that is in quarantine or was to be left out for good.
    """
    before = state.clients.get(request.client_id)
    if before is not None and before.withdrawn:
        raise Refused(
            Reason.WITHDRAWN,
            f"client '{request.client_id}' asked to be left out of this run for good (--mode leave); to take part "
            "again it needs another --client_id",
        )
    if (closed := state.conduct.quarantined.get(request.client_id)) is not None:
        text = f"client '{request.client_id}' is in quarantine: {closed}; ask the coordinator's operator"
        raise Refused(Reason.QUARANTINED, text)
    if request.client_id not in state.clients and len(state.clients) >= run.max_clients:
        raise Refused(
            Reason.FULL,
            f"client '{request.client_id}': the run knows federation.max_clients: {run.max_clients} clients already; "
            "its operator may raise that and go on with --resume",
        )
    if not request.tasks:
        raise Refused(Reason.UNKNOWN_TASK, f"client '{request.client_id}' holds no task; name some with --tasks")
    for theirs in request.tasks:
        ours = run.definition(theirs.name)
        if ours is None:
            known = ", ".join(task.name for task in run.tasks)
            raise Refused(Reason.UNKNOWN_TASK, f"task '{theirs.name}' is unknown here; this federation has: {known}")
        different = ours.differences(theirs)
        if different:
            text = "; ".join(different)
            raise Refused(Reason.TASK_MISMATCH, f"task '{theirs.name}' differs (coordinator against client): {text}")
        _check_header(run, state, request, theirs.name)
    outside = run.membership.problem(run.schemas, [task.name for task in request.tasks])
    if outside is not None:
        raise Refused(Reason.UNKNOWN_TASK, f"client '{request.client_id}': {outside}")
    if problem := targets_problem(request):
        raise Refused(Reason.MALFORMED, f"client '{request.client_id}': {problem}")
    if problem := inputs_problem(run, request):
        raise Refused(Reason.TASK_MISMATCH, f"client '{request.client_id}': {problem}")
    problem = capacity_problem(request.capabilities.capacity, run.blocks)
    if problem is not None:
        raise Refused(Reason.SCHEMA_MISMATCH, f"client '{request.client_id}': {problem}")


def _check_header(run: RunSettings, state: FederationState, request: JoinRequest, task: str) -> None:
    theirs = dict(request.headers).get(task)
    if theirs is None:
        return
    asked = run.headers.get(task)
    if asked is None:
        raise Refused(
            Reason.TASK_MISMATCH, f"task '{task}': this federation reads texts, the client's rows are numbers"
        )
    others = {} if _alone(state, request.client_id, task) else state.headers
    for ours in (asked, others.get(task, asked)):
        if not ours.fits(theirs):
            here, there = ours.beside(theirs)
            what = f"its rows are {here} in this federation, and {there} at client '{request.client_id}'"
            remedy = f"name them in one order for all, as tasks.{task}.columns.features"
            if ours.columns or not (ours.digest and theirs.digest):
                remedy = "the section of the encoder in model must be the same for all"
            raise Refused(Reason.TASK_MISMATCH, f"task '{task}': {what}; {remedy}")


def _alone(state: FederationState, client_id: str, task: str) -> bool:
    """Whether nobody has trained yet, and nobody else holds the task: then a mistake may still be mended."""
    others = (client for name, client in state.clients.items() if name != client_id)
    return not (state.completed_rounds or state.open or any(task in client.tasks for client in others))


def new_headers(run: RunSettings, state: FederationState, request: JoinRequest) -> dict[str, Header]:
    """The headers with names that hold for everybody from this client's joining on."""
    return {
        task: header
        for task, header in request.headers
        if header.digest
        and not run.headers[task].digest
        and (task not in state.headers or _alone(state, request.client_id, task))
        and state.headers.get(task) != header
    }


def require_client(run: RunSettings, state: FederationState, session: Session) -> ClientRecord:
    """The client behind a session.

    Raises:
        Refused: another run, a client that never joined, or one whose place another process has taken.
    """
    if session.run_id != run.run_id:
        raise Refused(Reason.OTHER_RUN, f"this is run {run.run_id}, not {session.run_id}; join again")
    client = state.client_of(session)
    if client is not None:
        return client
    if session.client_id in state.clients and state.clients[session.client_id].token:
        raise Refused(
            Reason.SUPERSEDED,
            f"another process joined as '{session.client_id}'; give this one its own --client_id",
        )
    raise Refused(Reason.UNKNOWN_CLIENT, f"client '{session.client_id}' has not joined; join again")


def check_answer(
    run: RunSettings, state: FederationState, client_id: str, answer: UpdateHeader | Reply
) -> tuple[OpenOrder, bool]:
    """The order that is answered, and whether it was accepted before with the same bytes.

    Raises:
        Refused: a foreign, unknown or closed order, another digest than before, or an answer that does not fit.
    """
    order = _order(state, client_id, answer.order_id)
    if order.state is OrderState.ACCEPTED:
        if order.digest == answer.digest:
            return order, True
        raise Refused(
            Reason.DIFFERENT_UPDATE,
            f"order {order.order_id} was answered before with other bytes (digest {order.digest[:12]}, "
            f"now {answer.digest[:12]}); the first answer stands",
        )
    if order.state is not OrderState.ISSUED:
        raise Refused(Reason.TOO_LATE, f"order {order.order_id} is {order.state.value}: {order.note}")
    assert state.open is not None
    if order.order_id not in state.open.orders:
        raise Refused(Reason.TOO_LATE, f"order {order.order_id} is not open: its phase is over")
    PHASES[state.open.phase.name].check(run, state, order, answer)
    return order, False


def _order(state: FederationState, client_id: str, order_id: str) -> OpenOrder:
    order = circles.find(state.open, order_id) if state.open is not None else None
    if order is not None and order.client_id == client_id:
        return order
    if order is not None:
        raise Refused(Reason.UNKNOWN_ORDER, f"order {order_id} belongs to another client, not to '{client_id}'")
    if order_id == state.clients[client_id].committed:
        raise Refused(Reason.TOO_LATE, f"order {order_id} is committed; nothing is left to do for it")
    over = "the run is over" if state.phase in ENDED else "its round is closed or it was never issued"
    raise Refused(Reason.TOO_LATE, f"order {order_id} is not open: {over}; go on with the next order")
