"""Which answers fit the orders that they answer. Pure questions, as in `admission`."""

from __future__ import annotations

from typing import TypeVar

from common.errors import Reason, Refused
from common.orders import Reply, TaskResult, UpdateHeader
from common.statistics import LARGEST
from common.tasks import TaskDefinition
from server.core.open_round import OpenOrder
from server.core.stage_checks import check_summed
from server.core.state import ClientRecord, FederationState, RunSettings

A = TypeVar("A", UpdateHeader, Reply)


def check_update(run: RunSettings, state: FederationState, order: OpenOrder, answer: UpdateHeader | Reply) -> None:
    """Check what answers an order to train.

    Raises:
        Refused: it is no update, or its codec, scopes or results are not the order's.
    """
    if run.sums is not None:
        check_summed(run, state, order, answer)
        return
    header = answer_as(UpdateHeader, order, answer)
    if header.codec != order.codec:
        raise Refused(
            Reason.MALFORMED,
            f"order {order.order_id} asks for encoding {order.codec}, the update has '{header.codec}'",
        )
    _check_scopes(run, order, header)
    check_results(run, state, order, answer)


def check_solution(run: RunSettings, state: FederationState, order: OpenOrder, answer: UpdateHeader | Reply) -> None:
    """Check what answers an order to solve.

    Raises:
        Refused: as `check_update`, or it does not say what a certificate is made of.
    """
    check_update(run, state, order, answer)
    _check_sums(state.clients[order.client_id], order, answer)


def check_scores(run: RunSettings, state: FederationState, order: OpenOrder, answer: UpdateHeader | Reply) -> None:
    """Check what answers an order to evaluate.

    Raises:
        Refused: it is no reply, or its results are not the order's.
    """
    if run.sums is not None:
        check_summed(run, state, order, answer)
        return
    answer_as(Reply, order, answer)
    check_results(run, state, order, answer)
    if run.dual is not None:
        _check_sums(state.clients[order.client_id], order, answer)


def _check_sums(client: ClientRecord, order: OpenOrder, answer: UpdateHeader | Reply) -> None:
    """Check that what certificates are made of is there for each task that the client has rows to train on."""
    for result in answer.results:
        if not client.examples.get(result.task, 0):
            continue
        found = result.dual
        numbers = () if found is None else (found.loss, found.value, found.lengths, found.squares)
        if not numbers or not all(abs(number) <= LARGEST for number in numbers):
            raise Refused(Reason.MALFORMED, f"order {order.order_id}: sums of task '{result.task}' are {found}")


def answer_as(kind: type[A], order: OpenOrder, answer: UpdateHeader | Reply) -> A:
    """The answer, if it is of this kind.

    Raises:
        Refused: it is of the other kind.
    """
    if not isinstance(answer, kind):
        came = type(answer).__name__
        raise Refused(Reason.MALFORMED, f"order {order.order_id} is answered by {kind.__name__}, not by {came}")
    return answer


def _check_scopes(run: RunSettings, order: OpenOrder, header: UpdateHeader) -> None:
    expected = {scope.scope: scope.version for scope in order.trained}
    given = {scope.scope: scope for scope in header.scopes}
    names = sorted(scope.scope for scope in header.scopes)
    if names != sorted(expected):
        raise Refused(
            Reason.SCHEMA_MISMATCH,
            f"order {order.order_id} is about scopes {sorted(expected)}, the update holds {names}",
        )
    for name, scope in given.items():
        digest, _ = run.schemas[name]
        least, most = run.payload_range(order.codec, name)
        if scope.schema_digest != digest:
            raise Refused(
                Reason.SCHEMA_MISMATCH,
                f"scope '{name}': layout {scope.schema_digest[:12]} is not the federation's {digest[:12]}",
            )
        if not least <= scope.nbytes <= most:
            reason = Reason.TOO_LARGE if scope.nbytes > most else Reason.MALFORMED
            wanted = f"{least} to {most}" if least < most else str(most)
            raise Refused(reason, f"scope '{name}': {scope.nbytes} bytes, expected {wanted}")
        if scope.base_version != expected[name]:
            raise Refused(
                Reason.SCHEMA_MISMATCH,
                f"scope '{name}': delta from version {scope.base_version}, the order's is {expected[name]}",
            )


def check_results(run: RunSettings, state: FederationState, order: OpenOrder, answer: UpdateHeader | Reply) -> None:
    """Check that results are of the order's tasks and can be true.

    Raises:
        Refused: they are not.
    """
    tasks = sorted(result.task for result in answer.results)
    if tasks != sorted(order.tasks):
        raise Refused(
            Reason.MALFORMED,
            f"order {order.order_id} is about tasks {sorted(order.tasks)}, results are of {tasks}",
        )
    for result in answer.results:
        definition = run.definition(result.task)
        assert definition is not None
        _check_counts(run, state.clients[order.client_id], order, definition, result)
        scores = [found for found in (result.validation, result.personal) if found is not None]
        if result.examples < 0 or not all(map(definition.fits, scores)):
            raise Refused(Reason.MALFORMED, f"order {order.order_id}: statistics of task '{result.task}' do not fit it")
        if result.task in state.fallback_tasks and result.examples:
            text = f"task '{result.task}' has fallen back, so its {result.examples} examples cannot count"
            raise Refused(Reason.MALFORMED, f"order {order.order_id}: {text}")
        if result.train_loss is not None and not abs(result.train_loss) <= LARGEST:
            raise Refused(
                Reason.MALFORMED, f"order {order.order_id}: loss of task '{result.task}' is {result.train_loss}"
            )


def _check_counts(
    run: RunSettings, client: ClientRecord, order: OpenOrder, task: TaskDefinition, result: TaskResult
) -> None:
    """Check that an update counts no more rows than its client said it had when it joined."""
    joined = f"that client '{client.client_id}' joined with"
    if result.examples > client.examples.get(task.name, 0):
        most = client.examples.get(task.name, 0)
        text = f"{result.examples} examples of task '{task.name}' are more than the {most} {joined}"
        raise Refused(Reason.MALFORMED, f"order {order.order_id}: {text}")
    rows = client.validation.get(task.name, 0)
    most = task.type.most_scored(rows, run.parts_of(task.name))
    scored = max((found.examples for found in (result.validation, result.personal) if found is not None), default=0)
    if scored > most:
        text = f"scores of task '{task.name}' are of {scored} examples, more than the {rows} validation rows {joined}"
        raise Refused(Reason.MALFORMED, f"order {order.order_id}: {text}")
