"""A client in a run: it asks for orders, carries them out, keeps the updates and hands them in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, replace
from typing import TypeVar, assert_never

from client.jobs.executor import Executor, Workspace
from client.jobs.hiding import BudgetSpent
from client.jobs.kept import keep, patiently, private_values
from client.jobs.summing import layouts_of, scopes_of, sums_of_order
from client.limits import Limits
from client.masking import NotMasked, SumMember
from client.pulse import Pulse
from client.state.store import RunStore
from client.training.loop import TrainingDiverged, TrainingStopped
from common.bodies import RING
from common.errors import (
    DataError,
    FedMTLError,
    Reason,
    Refused,
    RunFailedError,
    StateError,
    UnreachableError,
    WireError,
)
from common.log_fields import about
from common.orders import Answer, Order, PollKind, PollReply, Reply, Update, UpdateState, Welcome
from common.parameters.scope import Scope, is_candidate, is_private
from common.ports import CoordinatorPort, Payload, fits_inline, single
from common.secure.layout import CircleLayout
from common.stages import Stage

log = logging.getLogger("fedmtl.client")

T = TypeVar("T")

REJOIN = frozenset({Reason.UNKNOWN_CLIENT, Reason.OTHER_RUN})
UPLOAD_TRIES = 3
GIVEN_BACK = (FedMTLError, OSError, MemoryError, RuntimeError, TypeError, ValueError)
"""Of the machine, of torch, and of what a person's own module or procedure may raise; they end this client."""
RETURN_SECONDS = 1.0
"""How soon a client asks again after a coordinator said that it is stopping."""


@dataclass(frozen=True)
class PreparedRun:
    """What a client has of a run, whatever becomes of its sessions: where its jobs run, and what it kept."""

    layout: tuple[object, ...]
    """What the executor and the store depend on; see `layout_of`."""
    executor: Executor
    store: RunStore
    member: SumMember
    """Its part in masked sums."""


def layout_of(welcome: Welcome) -> tuple[object, ...]:
    """What a client's model and files depend on."""
    return welcome.session.run_id, welcome.schema_digests


class Participation:
    """One session of a client, from its welcome on.

    Args:
        port: the coordinator.
        welcome: what it said of the run.
        prepared: what the client has of the run.
        limits: what an order may ask for at most.
        pulse: heartbeats.
        stop: set when the client is told to stop.
    """

    def __init__(
        self,
        port: CoordinatorPort,
        welcome: Welcome,
        prepared: PreparedRun,
        limits: Limits,
        pulse: Pulse,
        stop: asyncio.Event,
    ) -> None:
        self._port = port
        self._welcome = welcome
        self._session = welcome.session
        self._executor = prepared.executor
        self._store = prepared.store
        self._member = prepared.member
        self._limits = limits
        self._pulse = pulse
        self._stop = stop
        self._inline: Answer | None = None
        self._shown = ""
        self.handed_in = 0

    async def work(self) -> bool:
        """Poll and work until the run ends (True) or this client is told to stop (False)."""
        run, who = self._session.run_id, self._session.client_id
        joined = about(event="joined", run=run, client=who)
        log.info("joined run '%s' (%s) as '%s'", self._welcome.run_name, run, who, extra=joined)
        while True:
            reply = await self._until_stopped()
            if reply is None:
                return False
            self._take_note(reply.update_state)
            match reply.kind:
                case PollKind.FINISHED:
                    self._member.end()
                    self._store.close()
                    return True
                case PollKind.FAILED:
                    raise RunFailedError(f"the federation stopped: {reply.waiting_for}")
                case PollKind.ORDER if reply.order is not None:
                    await self._work(reply.order)
                case PollKind.DRAINING:
                    self._say("the coordinator is stopping; this client waits for it to come back")
                    await first_of(self._stop.wait(), asyncio.sleep(RETURN_SECONDS))
                case PollKind.WAIT:
                    self._say(f"waiting for {reply.waiting_for}")

    async def _until_stopped(self) -> PollReply | None:
        """The next answer of the coordinator, or None as soon as this client is told to stop."""
        answer, self._inline = self._inline, None
        try:
            reply = await first_of(self._stop.wait(), self._port.poll(self._session, self._store.uncommitted, answer))
        except Refused as refusal:
            if answer is None:
                raise
            await self._refused(answer.order_id, refusal)
            return await self._until_stopped()
        if answer is not None and reply is not None:
            self._note_handed_in(answer)
        return reply

    def _take_note(self, update_state: UpdateState) -> None:
        if update_state is UpdateState.COMMITTED:
            self._store.commit()
            self._member.end()
        elif update_state is UpdateState.DISCARDED:
            log.warning("the last update does not count any more; going on with the next order")
            self._roll_back()

    def _roll_back(self) -> None:
        self._store.roll_back()
        self._member.end()

    async def _work(self, order: Order) -> None:
        """Carry out one order, or hand its stored update in again, while heartbeats go out."""
        self._shown = ""
        if not self._stop.is_set():
            self._pulse.unwanted.clear()
        try:
            if isinstance(order.body, Stage):
                async with self._pulse.during(self._welcome, order.order_id, order.body.activity):
                    self._inline = await self._attempt(order, self._answered(order))
                return
            async with (
                self._executor.workspace() as workspace,
                self._pulse.during(self._welcome, order.order_id, "fetching"),
            ):
                pending = self._store.pending
                stored = pending is not None and pending.order_id == order.order_id and self._fits(pending, order)
                work = self._again(order, pending) if stored else self._execute(workspace, order)
                pending = await self._attempt(order, work)
                if pending is None:
                    return
                match pending:
                    case Reply():
                        self._inline = pending
                        return
                    case Update(header, payload) if fits_inline(pending):
                        self._inline = Update(header, bytes(payload))
                        return
                    case Update():
                        self._pulse.enter("handing in")
                        await self._submit(pending)
                    case _:
                        assert_never(pending)
            self._note_handed_in(pending)
        except Refused as refusal:
            await self._refused(order.order_id, refusal)

    def _fits(self, answer: Answer, order: Order) -> bool:
        """Whether a stored answer is whole and has the layout that the federation has now."""
        match answer:
            case Reply():
                return True
            case Update(header) if header.codec == RING:
                return answer.whole and header.scopes == scopes_of(order, self._layouts(order))
            case Update(header):
                schemas = self._executor.schemas
                found = ((schemas.get(Scope.parse(s.scope).base), s.schema_digest) for s in header.scopes)
                return answer.whole and all(mine is not None and mine.digest == said for mine, said in found)
            case _:
                assert_never(answer)

    def _layouts(self, order: Order) -> tuple[CircleLayout, ...]:
        """How the answer to an order lies, where it enters sums."""
        sums = sums_of_order(order)
        return () if sums is None else layouts_of(order, sums, self._executor.schemas, self._welcome.tasks)

    def _note_handed_in(self, answer: Answer) -> None:
        if answer.order_id != self._store.uncommitted:  # a stage, which is no work
            return
        self.handed_in += 1
        fields = about(event="handed_in", order=answer.order_id, bytes=answer.nbytes, seconds=answer.seconds)
        log.info("%s handed in (%.1f MB)", answer.order_id, answer.nbytes / 1e6, extra=fields)

    async def _refused(self, order_id: str, refusal: Refused) -> None:
        """Give an update up that does not count."""
        if refusal.reason in REJOIN or refusal.reason is Reason.SUPERSEDED:
            raise refusal
        fields = about(event="update_refused", order=order_id, reason=refusal.message)
        log.warning("%s refused (%s): %s", order_id, refusal.reason.value, refusal.message, extra=fields)
        if order_id == self._store.uncommitted:
            self._roll_back()
        if refusal.reason is not Reason.TOO_LATE:
            await self._port.report_failure(self._session, order_id, f"refused: {refusal.reason.value}")

    async def _attempt(self, order: Order, work: Awaitable[T]) -> T | None:
        """What becomes of an order's work. None: given up, or reported as failed."""
        try:
            return await work
        except TrainingStopped:
            log.info("%s given up", order.order_id)
        except (TrainingDiverged, DataError, BudgetSpent, NotMasked) as error:
            fields = about(event="order_failed", order=order.order_id, round=order.round, reason=str(error))
            log.error("%s failed: %s", order.order_id, error, extra=fields)
            await self._port.report_failure(self._session, order.order_id, f"{type(error).__name__}: {error}")
        except (Refused, UnreachableError):
            raise
        except GIVEN_BACK as error:
            await self._give_back(order.order_id, error)
            raise
        return None

    async def _answered(self, order: Order) -> Answer:
        """The answer to a stage of a masked round, which needs no model."""
        self._limits.check_order(order)
        return await patiently(lambda: self._member.answer(order), self._go_on)

    async def _execute(self, workspace: Workspace, order: Order) -> Answer:
        """Fetch what is missing, do the work and keep the update."""
        session, pulse, sums = self._session, self._pulse, sums_of_order(order)
        self._limits.check_order(order)
        self._require_held(order)
        self._check_candidates(order)
        layouts = self._layouts(order)
        covering = None if sums is None else self._member.begin(order, sums)
        inline = {item.scope: item.data for item in order.inline}
        for wanted in workspace.missing(order.needed):
            data = inline.get(wanted.scope)
            await workspace.receive(wanted, self._port.fetch(session, wanted, 0) if data is None else single(data))
        activity = order.body.activity
        pulse.enter(activity, tells=sums is None)
        fields = about(event=activity, round=order.round, order=order.order_id, task=",".join(order.tasks))
        log.info("round %d: %s", order.round, activity, extra=fields)
        state = await private_values(self._port, session, self._executor.schemas, self._store)
        result = await workspace.run(order, state, pulse.progress)
        if covering is not None:
            update = result.answer
            assert isinstance(update, Update)
            result = replace(result, answer=await asyncio.to_thread(self._member.mask, covering, update, layouts))
        await keep(self._store, result, self._go_on)
        if covering is not None:  # before the first byte leaves: killed until here, it could still mask anew
            await patiently(lambda: self._member.mark(covering), self._go_on)
        return result.answer

    async def _again(self, order: Order, stored: Answer | None) -> Answer | None:
        """The stored answer to an order; if it enters sums, its masks count as used before it leaves."""
        sums = sums_of_order(order)
        if sums is not None and not self._member.has_masked(order, sums):
            covering = self._member.begin(order, sums)
            if covering is not None:
                await patiently(lambda: self._member.mark(covering), self._go_on)
        return stored

    def _go_on(self) -> None:
        self._pulse.progress(self._pulse.fraction)

    def _require_held(self, order: Order) -> None:
        """Check that an order speaks of scopes that this client shares, and of anchors of those that it has.

        Raises:
            WireError: it names a private scope, or one that is not here.
        """
        schemas = self._executor.schemas
        shared = {scope for scope in schemas if not is_private(scope)}
        foreign = [wanted.scope for wanted in order.scopes if Scope.parse(wanted.scope).base not in shared]
        if foreign:
            raise WireError(f"order {order.order_id}: scope '{foreign[0]}' is none that this client shares")
        if strange := [wanted.scope for wanted in order.needed if Scope.parse(wanted.scope).base not in schemas]:
            raise WireError(f"order {order.order_id}: '{strange[0]}' belongs to no scope of this client")

    def _check_candidates(self, order: Order) -> None:
        """Check that what an order asks to compare fits beside the model; raises `ConfigError`."""
        schemas = self._executor.schemas
        beside = [schemas[Scope.parse(w.scope).base].size for w in order.needed if is_candidate(w.scope)]
        if beside:
            self._limits.check_candidates(sum(beside) + sum(schema.size for schema in schemas.values()))

    async def _give_back(self, order_id: str, error: Exception) -> None:
        """Tell the coordinator that an order failed, before this client ends; no path and no defect's words leave."""
        kind = type(error).__name__
        if isinstance(error, StateError):
            reason = f"{kind}: {error.cause}"
        else:
            reason = f"{kind}: {error}" if isinstance(error, FedMTLError) else kind
        try:
            await self._port.report_failure(self._session, order_id, reason)
        except FedMTLError as unheard:
            log.warning("could not report that %s failed: %s", order_id, unheard)

    async def _submit(self, update: Update) -> None:
        """Hand in an update; bytes that were damaged on the way are sent again."""
        for remaining in reversed(range(UPLOAD_TRIES)):
            try:
                await self._port.submit(self._session, update.header, Payload(memoryview(update.payload)))
                return
            except Refused as refusal:
                if refusal.reason is not Reason.CORRUPT or not remaining:
                    raise
                log.warning("%s; sending again", refusal.message)

    def _say(self, text: str) -> None:
        """Log a state once, not with every poll."""
        if text != self._shown:
            log.info("%s", text)
            self._shown = text


async def first_of(stop: Awaitable[object], work: Coroutine[object, object, T]) -> T | None:
    """The result of `work`, or None if `stop` comes first; what is left is cancelled."""
    stopper, worker = asyncio.ensure_future(stop), asyncio.ensure_future(work)
    try:
        await asyncio.wait((stopper, worker), return_when=asyncio.FIRST_COMPLETED)
        return worker.result() if worker.done() else None
    finally:
        stopper.cancel()
        worker.cancel()
