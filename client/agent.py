"""The client daemon: poll, fetch, execute, hand in; come back after every break."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TypeVar, assert_never

import torch

from client.keeping import keep, private_values
from client.limits import Limits, fetch_tokenizer
from client.pulse import Pulse
from client.state.store import RunStore
from client.training.loop import TrainingDiverged, TrainingStopped
from client.worker import Worker
from common.errors import (
    DataError,
    FedMTLError,
    Reason,
    Refused,
    RunFailedError,
    StateError,
    UnreachableError,
)
from common.log_fields import about
from common.orders import (
    Answer,
    Evaluate,
    JoinRequest,
    Order,
    PollKind,
    PollReply,
    Reply,
    Session,
    Settlement,
    Train,
    Update,
    Welcome,
)
from common.ports import PIECE_BYTES, CoordinatorPort, Piece, fits_inline, single

log = logging.getLogger("fedmtl.client")

T = TypeVar("T")

_NOTHING = torch.empty(0)

REJOIN = frozenset({Reason.UNKNOWN_CLIENT, Reason.OTHER_RUN})
UPLOAD_TRIES = 3
RETURN_SECONDS = 1.0
"""How soon a client asks again after a coordinator said that it is stopping."""
GOODBYE_SECONDS = 5.0
STOP_SECONDS = 15.0
"""How long a client that was told to stop may take, goodbye included."""


class Agent:
    """Drives one worker against one coordinator until the run is over."""

    def __init__(self, port: CoordinatorPort, worker: Worker, state: Path, limits: Limits | None = None) -> None:
        self._port = port
        self._limits = limits or Limits()
        self._worker = worker
        self._state = state
        self._stop = asyncio.Event()
        self._pulse = Pulse(port)
        self._store: RunStore | None = None
        self._inline: Answer | None = None
        self._prepared: tuple[object, ...] = ()
        self._shown = ""
        self.orders_done = 0

    def stop(self) -> None:
        """Drain: give up the order under way, say goodbye and return from `run`."""
        self._pulse.unwanted.set()
        self._stop.set()

    async def run(self) -> None:
        """Take part until the coordinator says that the run is finished.

        Raises:
            RunFailedError: the federation stopped early.
            Refused: this client may not take part.
            UnreachableError: the coordinator stayed silent for too long.
        """
        sessions, told = asyncio.ensure_future(self._sessions()), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((sessions, told), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((sessions,), timeout=STOP_SECONDS)
            if sessions.done():
                sessions.result()
            else:
                log.warning("not done within %g s; this client stops without a goodbye", STOP_SECONDS)
        finally:
            told.cancel()
            sessions.cancel()

    async def _sessions(self) -> None:
        """One session after the other, since a coordinator that was restarted knows nobody."""
        while not self._stop.is_set():
            try:
                if await self._take_part():
                    return
            except Refused as refusal:
                if refusal.reason not in REJOIN:
                    raise
                log.warning("%s", refusal.message)

    async def _take_part(self) -> bool:
        """One session: join and work until the run ends (True) or this client is told to stop (False)."""
        worker = self._worker
        request = JoinRequest(
            worker.client_id,
            worker.tasks,
            tuple(sorted(worker.examples.items())),
            worker.capabilities,
            headers=worker.headers,
            validation=tuple(sorted(worker.validation.items())),
            targets=tuple(sorted(worker.targets.items())),
        )
        welcome = await _first(self._stop.wait(), self._port.join(request))
        if welcome is None:
            return False
        try:
            if _layout_of(welcome) != self._prepared:
                async with self._pulse.during(welcome, "", "preparing"):
                    await _first(self._stop.wait(), self._prepare(welcome))
                if self._stop.is_set():
                    await self._say_goodbye(welcome.session)
                    return False
            return await self._work_for(welcome)
        except (Refused, UnreachableError, RunFailedError):
            raise
        except FedMTLError:  # nobody shall wait for a client that cannot go on
            await self._say_goodbye(welcome.session)
            raise

    async def _work_for(self, welcome: Welcome) -> bool:
        """Poll and work until the run ends (True) or this client is told to stop (False)."""
        session = welcome.session
        joined = about(event="joined", run=session.run_id, client=session.client_id)
        log.info("joined run '%s' (%s) as '%s'", welcome.run_name, session.run_id, session.client_id, extra=joined)
        while True:
            reply = await self._until_stopped(session)
            if reply is None:
                await self._say_goodbye(session)
                return False
            self._settle(reply.settlement)
            match reply.kind:
                case PollKind.FINISHED:
                    assert self._store is not None
                    self._store.close()
                    log.info(
                        "run '%s' is finished; this client worked on %d orders", welcome.run_name, self.orders_done
                    )
                    return True
                case PollKind.FAILED:
                    raise RunFailedError(f"the federation stopped: {reply.waiting_for}")
                case PollKind.ORDER:
                    assert reply.order is not None
                    await self._work(session, welcome, reply.order)
                case PollKind.DRAINING:
                    self._say("the coordinator is stopping; this client waits for it to come back")
                    await _first(self._stop.wait(), asyncio.sleep(RETURN_SECONDS))
                case PollKind.WAIT:
                    self._say(f"waiting for {reply.waiting_for}")

    async def _prepare(self, welcome: Welcome) -> None:
        """Get ready for a run, or for what it has become: the model, the tokenizer, what this client kept."""
        session = welcome.session
        self._limits.judge_welcome(welcome)
        tokenizer = await fetch_tokenizer(self._port, session, welcome.architecture)
        synchronizer = await asyncio.to_thread(self._worker.prepare, welcome, tokenizer)
        self._store = self._open_store(self._state / session.run_id)
        # Before the first order, which it would hold up.
        await private_values(self._port, session, synchronizer, self._store)
        self._prepared = _layout_of(welcome)

    def _fits(self, answer: Answer) -> bool:
        """Whether a stored answer is whole and has the layout that the federation has now."""
        assert self._worker.synchronizer is not None
        schemas = self._worker.synchronizer.schemas
        match answer:
            case Reply():
                return True
            case Update(header):
                layouts = {scope.scope: scope.schema_digest for scope in header.scopes}
                return answer.whole and all(
                    name in schemas and schemas[name].digest == digest for name, digest in layouts.items()
                )
            case _:
                assert_never(answer)

    def _open_store(self, folder: Path) -> RunStore:
        return RunStore(folder)

    async def _until_stopped(self, session: Session) -> PollReply | None:
        """The next answer of the coordinator, or None as soon as this client is told to stop."""
        assert self._store is not None
        answer, self._inline = self._inline, None
        try:
            reply = await _first(self._stop.wait(), self._port.poll(session, self._store.unsettled, answer))
        except Refused as refusal:
            if answer is None:
                raise
            await self._refused(session, answer.order_id, refusal)
            return await self._until_stopped(session)
        if answer is not None and reply is not None:
            self._handed_in(answer)
        return reply

    def _settle(self, settlement: Settlement) -> None:
        assert self._store is not None
        if settlement is Settlement.SETTLED:
            self._store.settle()
        elif settlement is Settlement.VOID:
            log.warning("the last update does not count any more; going on with the next order")
            self._store.roll_back()

    async def _work(self, session: Session, welcome: Welcome, order: Order) -> None:
        """Carry out one order, or hand its stored update in again, while heartbeats go out."""
        assert self._store is not None
        self._shown = ""
        if not self._stop.is_set():
            self._pulse.unwanted.clear()
        try:
            async with self._pulse.during(welcome, order.order_id, "fetching"):
                pending = self._store.pending
                if pending is None or pending.order_id != order.order_id or not self._fits(pending):
                    pending = await self._execute(session, order)
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
                        await self._submit(session, pending)
                    case _:
                        assert_never(pending)
            self._handed_in(pending)
        except Refused as refusal:
            await self._refused(session, order.order_id, refusal)

    def _handed_in(self, answer: Answer) -> None:
        self.orders_done += 1
        told = about(event="handed_in", order=answer.order_id, bytes=answer.nbytes, seconds=answer.seconds)
        log.info("%s handed in (%.1f MB)", answer.order_id, answer.nbytes / 1e6, extra=told)

    async def _refused(self, session: Session, order_id: str, refusal: Refused) -> None:
        """Give an update up that does not count."""
        assert self._store is not None
        if refusal.reason in REJOIN or refusal.reason is Reason.SUPERSEDED:
            raise refusal
        told = about(event="update_refused", order=order_id, reason=refusal.message)
        log.warning("%s refused (%s): %s", order_id, refusal.reason.value, refusal.message, extra=told)
        self._store.roll_back()
        if refusal.reason is not Reason.TOO_LATE:
            await self._port.report_failure(session, order_id, f"refused: {refusal.reason.value}")

    async def _execute(self, session: Session, order: Order) -> Answer | None:
        """Fetch what is missing, work in a thread and keep the update. None: given up."""
        synchronizer = self._worker.synchronizer
        assert synchronizer is not None and self._store is not None
        try:
            self._limits.judge_order(order)
            synchronizer.require_held(order)
            inline = {item.scope: item.data for item in order.inline}
            for wanted in synchronizer.missing(order.needed):
                data = inline.get(wanted.scope)
                pieces = self._port.fetch(session, wanted, 0) if data is None else single(data)
                await synchronizer.receive(wanted, pieces)
            phase = _phase_of(order)
            self._pulse.enter(phase)
            told = about(event=phase, round=order.round, order=order.order_id, task=",".join(order.tasks))
            log.info("round %d: %s", order.round, phase, extra=told)
            private = await private_values(self._port, session, synchronizer, self._store)
            outcome = await asyncio.to_thread(self._worker.execute, order, private, self._pulse.progress)
            await keep(self._store, outcome, lambda: self._pulse.progress(self._pulse.fraction))
            return outcome.answer
        except TrainingStopped:
            log.info("%s given up", order.order_id)
        except (TrainingDiverged, DataError) as error:
            told = about(event="order_failed", order=order.order_id, round=order.round, reason=str(error))
            log.error("%s failed: %s", order.order_id, error, extra=told)
            await self._port.report_failure(session, order.order_id, f"{type(error).__name__}: {error}")
        except (Refused, UnreachableError):
            raise
        except Exception as error:
            await self._give_back(session, order.order_id, error)
            raise
        return None

    async def _give_back(self, session: Session, order_id: str, error: Exception) -> None:
        """Tell the coordinator that an order failed, before this client ends; no path and no defect's words leave."""
        kind = type(error).__name__
        if isinstance(error, StateError):
            reason = f"{kind}: {error.cause}"
        else:
            reason = f"{kind}: {error}" if isinstance(error, FedMTLError) else kind
        try:
            await self._port.report_failure(session, order_id, reason)
        except FedMTLError as unheard:
            log.warning("could not report that %s failed: %s", order_id, unheard)

    async def _submit(self, session: Session, update: Update) -> None:
        """Hand in an update; bytes that were damaged on the way are sent again."""
        for remaining in reversed(range(UPLOAD_TRIES)):
            try:
                await self._port.submit(session, update.header, _pieces_of(update.payload))
                return
            except Refused as refusal:
                if refusal.reason is not Reason.CORRUPT or not remaining:
                    raise
                log.warning("%s; sending again", refusal.message)

    async def _say_goodbye(self, session: Session) -> None:
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._port.leave(session)
        except (TimeoutError, FedMTLError) as error:
            log.warning("could not say goodbye: %s", error)
        log.info("left", extra=about(event="left", client=session.client_id))

    def _say(self, text: str) -> None:
        """Log a state once, not with every poll."""
        if text != self._shown:
            log.info("%s", text)
            self._shown = text


def _layout_of(welcome: Welcome) -> tuple[object, ...]:
    """What a client's model and files depend on."""
    return welcome.session.run_id, welcome.schema_digests


async def _first(stop: Awaitable[object], work: Coroutine[object, object, T]) -> T | None:
    """The result of `work`, or None if `stop` comes first; what is left is cancelled."""
    stopper, worker = asyncio.ensure_future(stop), asyncio.ensure_future(work)
    try:
        await asyncio.wait((stopper, worker), return_when=asyncio.FIRST_COMPLETED)
        return worker.result() if worker.done() else None
    finally:
        stopper.cancel()
        worker.cancel()


def _phase_of(order: Order) -> str:
    match order.body:
        case Train():
            return "training"
        case Evaluate():
            return "scoring"
        case _:
            assert_never(order.body)


def _pieces_of(payload: bytes | memoryview) -> Callable[[int], AsyncIterator[Piece]]:
    async def pieces(offset: int) -> AsyncIterator[Piece]:
        for start in range(offset, len(payload), PIECE_BYTES):
            yield payload[start : start + PIECE_BYTES]

    return pieces
