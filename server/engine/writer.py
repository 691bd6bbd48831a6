"""The one writer around the deterministic core: an event at a time, and its effects before the next one."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from common.errors import Refused, RunFolderError
from common.log_fields import about
from server.core.answers import SHOWN, describe
from server.core.dual_facts import Certificate
from server.core.effects import (
    AddToSums,
    ClientChanged,
    Combine,
    Commit,
    Effect,
    Fold,
    Notice,
    RoundClosed,
    TaskCosines,
    Wake,
)
from server.core.events import Answered, Event
from server.core.phases import ENDED, Phase
from server.core.state import FederationState, RunSettings
from server.core.step import step
from server.engine.effect_handler import EffectHandler
from server.engine.observer import Observer
from server.engine.repeats import Repeats

log = logging.getLogger("fedmtl.server")


def _of_the_run_folder(error: OSError) -> RunFolderError:
    return RunFolderError(f"the run folder does not work ({error}); mend that, then go on with --resume")


@dataclass(frozen=True)
class _Decided:
    """What an event led to: the state that becomes visible once the effects are carried out."""

    event: Event
    state: FederationState
    effects: list[Effect]


class Writer:
    """Holds the state; `apply` is the only way to change it, and the effect handler's only caller."""

    def __init__(
        self,
        settings: RunSettings,
        state: FederationState,
        handler: EffectHandler,
        run_name: str,
        observer: Observer | None,
    ) -> None:
        self.settings = settings
        self.state = state
        """After the last event."""
        self.handler = handler
        self.wake = asyncio.Event()
        """Set when parked polls have to look again; each time it is another one."""
        self._run_name = run_name
        self._observer = observer
        self._busy = False
        self._turns: deque[asyncio.Future[None]] = deque()
        self._writing: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._broken: BaseException | None = None
        self._repeats = Repeats()

    async def ended(self) -> None:
        """Return when the run is over, or when draining and no round is open.

        Raises:
            Exception: an effect could not be carried out, such as a full disk.
        """
        await self._ended.wait()
        self.require_whole()

    def require_whole(self) -> None:
        """Raise what broke; calls that its kind of error answers with *unavailable* are made again after a restart."""
        if self._broken is not None:
            raise self._broken

    async def apply(self, event: Event) -> None:
        """Apply one event and carry out its effects before the next one.

        For an update this returns when it is folded; where that closes its round, the rest goes on meanwhile.

        Raises:
            Refused: the event was an answer that does not count; nothing changed.
        """
        loop, decided, turn = asyncio.get_running_loop(), None, None
        if self._busy:
            turn = loop.create_future()
            self._turns.append(turn)
        else:
            decided = self._decide(event)
            if self._done_at_once(decided):
                return
            self._busy = True
        # A caller may be cancelled at any moment (its connection broke); the writer must not be.
        folded = loop.create_future()
        task = asyncio.create_task(self._write(event, decided, turn, folded))
        self._writing.add(task)
        task.add_done_callback(self._written)
        await asyncio.wait((task, folded), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # asked for here, since nobody may wait any more; `ended` raises what broke

    def _decide(self, event: Event) -> _Decided:
        self.require_whole()
        try:
            return _Decided(event, *step(self.settings, self.state, event))
        except Refused:
            if isinstance(event, Answered):
                self.handler.uploads.discard(event.answer.order_id)
            raise

    def _done_at_once(self, decided: _Decided) -> bool:
        """Carry out what was decided without a task of its own, if all of it is quick."""
        if not all(self.handler.is_quick(effect) and not isinstance(effect, Combine) for effect in decided.effects):
            return False
        with self._or_broken():
            for effect in decided.effects:
                self.handler.carry_out_at_once(effect, decided.state, decided.event.now)
        self._publish(decided.state, decided.effects, decided.event.now)
        return True

    async def _write(
        self, event: Event, decided: _Decided | None, turn: asyncio.Future[None] | None, folded: asyncio.Future[None]
    ) -> None:
        if turn is not None:
            await turn
        try:
            decided = decided or self._decide(event)
            state, effects = decided.state, decided.effects
            with self._or_broken():
                for effect in effects:  # grows: what was combined is the next event
                    outcome = await self.handler.carry_out(effect, state, event.now)
                    if outcome is not None:
                        state, more = step(self.settings, state, outcome)
                        effects += more
                    if isinstance(effect, Fold | AddToSums):
                        folded.set_result(None)
            self._publish(state, effects, event.now)
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """Let the next event that waits be written."""
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():  # else its task was cancelled, as the loop ends
                turn.set_result(None)
                return
        self._busy = False

    @contextmanager
    def _or_broken(self) -> Iterator[None]:
        """After an effect that failed, state and disk may differ: nothing but a restart from the journal is safe."""
        try:
            yield
        except BaseException as error:
            self._broken = _of_the_run_folder(error) if isinstance(error, OSError) else error
            self._ended.set()
            self.wake.set()
            raise self._broken from None

    def _publish(self, state: FederationState, effects: list[Effect], now: float) -> None:
        """Show what was decided: only now, since it is durable and the new version is in place."""
        before, self.state = self.state, state
        if any(isinstance(effect, Wake) for effect in effects):
            self.wake.set()
            self.wake = asyncio.Event()
        try:
            self._show(state, before, effects, now)
        except OSError as error:  # a full disk or a closed terminal: showing is decoration
            log.warning("the run goes on, but cannot be shown: %s", error)
        if state.phase in ENDED or (state.draining and state.open is None):
            self._ended.set()

    def _show(self, state: FederationState, before: FederationState, effects: list[Effect], now: float) -> None:
        for text, fields in self._repeats.ended(now):
            log.warning("%s", text, extra=about(**fields))
        for effect in effects:
            self._tell(effect, now)
        if self._observer is not None and (effects or state.clients.keys() != before.clients.keys()):
            waiting = state.phase is Phase.WAITING
            self._observer.changed(waiting, lambda: describe(self.settings, state, self._run_name, most=SHOWN))

    def _tell(self, effect: Effect, now: float) -> None:
        match effect:
            case Notice(text, warning, fields) if self._repeats.tells(fields, now):
                log.log(logging.WARNING if warning else logging.INFO, "%s", text, extra=about(**fields))
                if self._observer is not None:
                    self._observer.notice(text, warning)
            case Commit(records) if self._observer is not None:
                cosines = tuple(record for record in records if isinstance(record, TaskCosines))
                certificate = next((record for record in records if isinstance(record, Certificate)), None)
                for record in records:
                    if isinstance(record, ClientChanged) and record.client.withdrawn:
                        self._observer.withdrew()
                    if isinstance(record, RoundClosed):
                        self._observer.closed(record, cosines, certificate)
