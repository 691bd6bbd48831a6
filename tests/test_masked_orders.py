"""Masked rounds as a client goes through them: what it hands in with which poll, and what it keeps meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from client.jobs.job import JobResult
from client.limits import Limits
from client.masking import SumMember
from client.participation import Participation, PreparedRun
from client.pulse import Pulse
from client.state.pins import Pins
from client.state.store import RunStore
from common.errors import Reason, Refused
from common.orders import (
    Answer,
    ModelArchitecture,
    Order,
    PollKind,
    PollReply,
    Reply,
    Session,
    Update,
    UpdateState,
    Welcome,
)
from common.parameters.schema import ParameterSchema
from common.stages import AnnouncedKeys, OpenedShares, SealedShares
from common.tasks import KNOWN_TASKS
from tests.sum_cases import FOUR, RUN, SCHEMAS, TERMS, Crowd, keys_order, plain

Heard = tuple[str, Answer | None]
Script = Generator[PollReply | Refused, Heard, None]
WELCOME = Welcome(
    Session(RUN, "ann", "token"),
    "a run",
    ModelArchitecture("", "cross", 0, "", 0),
    (KNOWN_TASKS["sst2"],),
    (),
    (),
    60.0,
    60.0,
)
OPEN, COMMITTED, DISCARDED = UpdateState.OPEN, UpdateState.COMMITTED, UpdateState.DISCARDED
SURVIVORS = ("ann", "bob", "dee")


class Scripted:
    """A coordinator that goes by a script: it hears of each poll and yields the answer."""

    def __init__(self, script: Script) -> None:
        self._script = script
        next(script)  # up to where it first hears of a poll
        self.failures: list[tuple[str, str]] = []

    async def poll(self, session: Session, pending: str, answer: Answer | None = None) -> PollReply:
        try:
            reply = self._script.send((pending, answer))
        except StopIteration:
            reply = PollReply(PollKind.FINISHED, UpdateState.NONE)
        if isinstance(reply, Refused):
            raise reply
        return reply

    async def report_failure(self, session: Session, order_id: str, reason: str) -> None:
        self.failures.append((order_id, reason))


class Works:
    """An executor whose updates are those of `plain`."""

    schemas: dict[str, ParameterSchema] = SCHEMAS

    def __init__(self) -> None:
        self.trained = 0

    @asynccontextmanager
    async def workspace(self) -> AsyncIterator[Any]:
        yield self

    def missing(self, scopes: object) -> list[Any]:
        return []

    async def run(self, order: Order, state: object, progress: object) -> JobResult:
        self.trained += 1
        return JobResult(plain(order, "ann")[0], {})


def order_reply(order: Order, state: UpdateState = UpdateState.NONE) -> PollReply:
    return PollReply(PollKind.ORDER, state, order=order)


def play(crowd: Crowd, script: Script) -> tuple[Scripted, Works, RunStore]:
    """Ann goes through a script; after a restart she goes through another one."""
    folder = crowd.folder / "ann" / RUN
    port, works, store = Scripted(script), Works(), RunStore(folder)
    member = SumMember(RUN, "ann", crowd.store("ann"), Pins(crowd.folder / "ann", "ann"))
    prepared = PreparedRun((), works, store, member)
    taking_part = Participation(port, WELCOME, prepared, Limits(sums=TERMS), Pulse(port), asyncio.Event())  # type: ignore[arg-type]
    assert asyncio.run(asyncio.wait_for(taking_part.work(), 30))
    return port, works, store


def content(heard: Heard) -> Any:
    assert isinstance(heard[1], Reply) and heard[1].results == () and heard[1].seconds == 0.0
    return heard[1].content


def begin(crowd: Crowd) -> Generator[PollReply | Refused, Heard, Update]:
    """Keys, shares and training; the others are played beside."""
    yield PollReply(PollKind.WAIT, UpdateState.NONE)
    heard = yield order_reply(keys_order("ann"))
    said = content(heard)
    assert isinstance(said, AnnouncedKeys) and heard[0] == ""
    crowd.names = FOUR[1:]
    crowd.keys().announced["ann"] = dict(said.circles)
    heard = yield order_reply(crowd.shares_order("ann"))
    dealt = content(heard)
    assert isinstance(dealt, SealedShares)
    crowd.shares()  # ann's among them: the same as those that came
    assert crowd.letters["ann"] == {circle: dict(found) for circle, found in dealt.letters}
    heard = yield order_reply(crowd.train_order("ann"))
    assert heard[0] == "train-7.1-ann" and isinstance(heard[1], Update)
    before, layouts = plain(crowd.train_order("ann"), "ann")
    crowd.updates["ann"] = before, heard[1], layouts
    crowd.trained(FOUR[1:])
    return heard[1]


def test_a_round_goes_through_all_stages_and_leaves_nothing(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path)

    def script() -> Script:
        yield from begin(crowd)
        heard = yield order_reply(crowd.unmask_order("ann", SURVIVORS), OPEN)
        assert heard[0] == "train-7.1-ann" and isinstance(content(heard), OpenedShares)
        assert len(crowd.open(SURVIVORS)) == 2
        heard = yield PollReply(PollKind.WAIT, COMMITTED)
        assert heard == ("", None)
        assert [path.name for path in sorted((tmp_path / "ann" / RUN).iterdir())] == [".update.bin.spare", "secure.bin"]

    port, works, store = play(crowd, script())
    assert port.failures == [] and works.trained == 1 and (store.pending, store.uncommitted) == (None, "")
    assert [path.name for path in (tmp_path / "ann" / RUN).iterdir()] == ["secure.bin"]
    assert crowd.store("ann").session is None


def test_a_refused_or_failed_stage_leaves_the_update_where_it_is(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path)

    def script() -> Script:
        masked = yield from begin(crowd)
        yield order_reply(crowd.unmask_order("ann", SURVIVORS), OPEN)
        heard = yield Refused(Reason.TOO_LATE, "the stage is closed")
        assert heard == ("train-7.1-ann", None)
        heard = yield order_reply(crowd.unmask_order("ann", FOUR), OPEN)  # another list: refused
        assert heard == ("train-7.1-ann", None)
        heard = yield order_reply(crowd.train_order("ann"), OPEN)  # the coordinator lost it: the same bytes
        assert heard[1] == Update(masked.header, bytes(masked.payload))
        heard = yield order_reply(crowd.unmask_order("ann", SURVIVORS), OPEN)
        assert isinstance(content(heard), OpenedShares)

    port, works, store = play(crowd, script())
    assert [order for order, _ in port.failures] == ["unmask-7.1-ann"]
    assert port.failures[0][1].startswith("NotMasked: run|7.1|0: a second, different list of survivors")
    assert works.trained == 1 and store.uncommitted == "train-7.1-ann"


def test_after_a_restart_the_same_bytes_are_handed_in(tmp_path: Path) -> None:
    crowd, bytes_ = Crowd(tmp_path), []

    def first() -> Script:
        masked = yield from begin(crowd)
        bytes_.append(bytes(masked.payload))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(crowd, first())

    def second() -> Script:
        yield PollReply(PollKind.WAIT, OPEN)
        heard = yield order_reply(crowd.train_order("ann"), OPEN)
        assert isinstance(heard[1], Update) and bytes(heard[1].payload) == bytes_[0]
        heard = yield order_reply(crowd.unmask_order("ann", SURVIVORS), OPEN)
        assert isinstance(content(heard), OpenedShares)

    port, works, _ = play(crowd, second())
    assert port.failures == [] and works.trained == 0


@pytest.mark.parametrize("lost", ["removed", "damaged"])
def test_a_client_whose_update_is_lost_is_out_of_the_round_and_in_the_next(lost: str, tmp_path: Path) -> None:
    crowd = Crowd(tmp_path)

    def first() -> Script:
        yield from begin(crowd)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(crowd, first())
    path = tmp_path / "ann" / RUN / "update.bin"
    if lost == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"?")

    def second() -> Script:
        yield PollReply(PollKind.WAIT, OPEN)
        heard = yield order_reply(crowd.train_order("ann"), OPEN)
        assert heard[1] is None
        heard = yield order_reply(keys_order("ann", 8), DISCARDED if lost == "damaged" else UpdateState.NONE)
        assert isinstance(content(heard), AnnouncedKeys)

    port, works, _ = play(crowd, second())
    assert [order for order, _ in port.failures] == ["train-7.1-ann"] and works.trained == 0
    assert "masked once already" in port.failures[0][1]


def test_a_late_update_is_void(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path)

    def script() -> Script:
        yield from begin(crowd)
        heard = yield Refused(Reason.TOO_LATE, "the round is closed")
        assert heard == ("", None) and crowd.store("ann").session is None
        heard = yield order_reply(keys_order("ann"))  # of the same attempt
        assert heard[1] is None

    port, _, store = play(crowd, script())
    assert [order for order, _ in port.failures] == ["keys-7.1-ann"] and store.uncommitted == ""


def test_work_on_sums_tells_no_progress() -> None:
    pulse = Pulse(Scripted(iter_of(PollReply(PollKind.WAIT, OPEN))))  # type: ignore[arg-type]
    for tells, heard in ((True, 0.5), (False, 0.0), (True, 0.5)):
        pulse.enter("training", tells)
        pulse.progress(0.5)
        assert pulse.fraction == heard


def iter_of(reply: PollReply) -> Script:
    yield reply
