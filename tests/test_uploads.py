import asyncio

import numpy as np
import pytest
import xxhash

from common.bodies import DENSE_FLOAT32
from common.errors import Reason, Refused
from common.orders import ScopePayload, UpdateHeader
from common.parameters.schema import ParameterSchema
from server.engine import uploads as module
from server.engine.uploads import Uploads

VALUES = np.arange(10, dtype=np.float32)
DATA = VALUES.tobytes()
HALF = ParameterSchema.of({"values": (5,)})
SCHEMAS = {"shared": HALF, "task/t": HALF}
DOUBLE = {scope: ParameterSchema.of({"values": (10,)}) for scope in SCHEMAS}


def header(order="train-1.1-a", data=DATA, offset=0, digest=None):
    size = len(data) // 8 * 4
    scopes = (ScopePayload("shared", 0, "s" * 64, size), ScopePayload("task/t", 0, "t" * 64, len(data) - size))
    return UpdateHeader(order, DENSE_FLOAT32, scopes, digest or xxhash.xxh3_128_hexdigest(data), (), 1.0, offset)


def stream(data=DATA, step=7, stop=None):
    """Gives `data` from an offset on; breaks like a lost connection at byte `stop`."""

    async def chunks(offset):
        for start in range(offset, len(data) if stop is None else stop, step):
            yield data[start : min(start + step, len(data) if stop is None else stop)]
        if stop is not None:
            raise ConnectionError("lost")

    return chunks


class Tap:
    """A stream that a test feeds by hand."""

    def __init__(self):
        self._queue = asyncio.Queue()
        self.opened_at = None

    def __call__(self, offset):
        self.opened_at = offset
        return self._chunks()

    async def _chunks(self):
        while (chunk := await self._queue.get()) is not None:
            yield chunk

    async def give(self, *chunks):
        for chunk in chunks:
            self._queue.put_nowait(chunk)
        await settle()


async def settle():
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def taken(uploads, order="train-1.1-a"):
    """The values of every scope of a staged update."""
    return {scope: [float(v) for _, block in delta.blocks() for v in block] for scope, delta in uploads.take(order)}


async def refused(awaitable):
    with pytest.raises(Refused) as refusal:
        await awaitable
    return refusal.value.reason


async def start(uploads, header, chunks):
    task = asyncio.create_task(uploads.receive(header, chunks))
    await settle()
    return task


@pytest.mark.parametrize("step", [1, 7, 40, 1000])
def test_a_whole_update_arrives_as_one_vector_per_scope(step):
    async def scenario():
        uploads = Uploads(SCHEMAS)
        assert bytes(await uploads.receive(header(), stream(step=step))) == DATA
        assert taken(uploads) == {"shared": [0, 1, 2, 3, 4], "task/t": [5, 6, 7, 8, 9]}
        assert uploads.dense_bytes("train-1.1-a") == len(DATA)
        uploads.discard("train-1.1-a")
        assert uploads.received("train-1.1-a") == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("offset", [23, 22, 20, 9, 1])  # bytes may still arrive after the client asked what stands
def test_an_interrupted_upload_goes_on_where_it_broke(offset):
    async def scenario():
        uploads = Uploads(SCHEMAS)
        with pytest.raises(ConnectionError):
            await uploads.receive(header(), stream(stop=23))
        assert uploads.received("train-1.1-a") == 23
        assert await refused(uploads.receive(header(offset=30), stream())) is Reason.CORRUPT
        assert bytes(await uploads.receive(header(offset=offset), stream())) == DATA

    asyncio.run(scenario())


def test_a_stream_that_ends_early_is_refused_and_what_arrived_stands():
    async def scenario():
        uploads = Uploads(SCHEMAS)
        assert await refused(uploads.receive(header(), stream(DATA[:30]))) is Reason.CORRUPT
        assert uploads.received("train-1.1-a") == 30
        assert bytes(await uploads.receive(header(offset=30), stream())) == DATA

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("data", "announced", "reason"),
    [
        (DATA + b"more", {}, Reason.TOO_LARGE),
        (DATA, {"digest": "0" * 32}, Reason.CORRUPT),
        (np.where(VALUES == 9, np.nan, VALUES).astype(np.float32).tobytes(), None, Reason.NOT_FINITE),
        (np.where(VALUES == 0, np.inf, VALUES).astype(np.float32).tobytes(), None, Reason.NOT_FINITE),
    ],
    ids=["too long", "wrong digest", "nan", "inf"],
)
def test_bytes_that_cannot_be_used_are_refused_and_forgotten(data, announced, reason):
    async def scenario():
        uploads = Uploads(SCHEMAS, 40)
        announcement = header(data=data) if announced is None else header(**announced)
        assert await refused(uploads.receive(announcement, stream(data))) is reason
        assert uploads.received("train-1.1-a") == 0
        assert bytes(await uploads.receive(header("train-1.1-b"), stream())) == DATA  # the budget is free again

    asyncio.run(scenario())


def test_what_does_not_fit_the_budget_waits_its_turn():
    async def scenario():
        uploads, taps = Uploads(SCHEMAS, 2 * 40), {name: Tap() for name in "abcd"}
        tasks = {name: await start(uploads, header(name), tap) for name, tap in taps.items()}
        assert [tap.opened_at for tap in taps.values()] == [0, 0, None, None]
        for done, next_ in (("b", "c"), ("a", "d")):
            await taps[done].give(DATA, None)
            await tasks[done]
            assert taps[next_].opened_at is None  # staged until its update is folded
            uploads.discard(done)
            await settle()
            assert taps[next_].opened_at == 0
        for name in "cd":
            await taps[name].give(DATA, None)
            assert bytes(await tasks[name]) == DATA

    asyncio.run(scenario())


def test_an_update_larger_than_the_budget_is_taken_alone():
    async def scenario():
        uploads = Uploads(SCHEMAS, 10)
        assert bytes(await uploads.receive(header("a"), stream())) == DATA
        second = await start(uploads, header("b"), stream())
        assert not second.done()
        uploads.discard("a")
        assert bytes(await second) == DATA

    asyncio.run(scenario())


def test_interrupted_uploads_make_room_when_others_wait_and_only_as_many_as_needed():
    async def scenario():
        uploads = Uploads(SCHEMAS, 2 * 40)
        for name in "ab":
            with pytest.raises(ConnectionError):
                await uploads.receive(header(name), stream(stop=20))
        assert bytes(await uploads.receive(header("c"), stream())) == DATA
        assert (uploads.received("a"), uploads.received("b")) == (0, 20)
        large = 2 * DATA
        uploads._schemas = DOUBLE
        last = await start(uploads, header("d", large), stream(large))
        assert not last.done() and uploads.received("b") == 20  # room for it needs more than b's
        uploads.discard("c")
        assert bytes(await last) == large and uploads.received("b") == 0

    asyncio.run(scenario())


def test_an_interrupted_upload_makes_room_while_another_one_is_busy():
    async def scenario():
        uploads, busy = Uploads(SCHEMAS, 2 * 40), Tap()
        await start(uploads, header("a"), busy)
        with pytest.raises(ConnectionError):
            await uploads.receive(header("b"), stream(stop=20))
        assert bytes(await uploads.receive(header("c"), stream())) == DATA
        assert uploads.received("b") == 0

    asyncio.run(scenario())


def test_a_waiting_upload_gets_the_room_of_one_that_breaks():
    async def scenario():
        uploads, tap = Uploads(SCHEMAS, 40), Tap()
        broken = await start(uploads, header("a"), tap)
        waiting = await start(uploads, header("b"), stream())
        await tap.give(DATA[:8])
        broken.cancel()
        assert bytes(await waiting) == DATA
        assert broken.cancelled() and uploads.received("a") == 0

    asyncio.run(scenario())


def test_a_whole_update_is_not_evicted_while_it_is_checked_or_waits_to_be_folded():
    async def scenario():
        uploads = Uploads(SCHEMAS, 40)
        first = asyncio.create_task(uploads.receive(header("a"), stream()))
        second = asyncio.create_task(uploads.receive(header("b"), stream()))
        assert bytes(await first) == DATA
        await settle()
        assert not second.done() and taken(uploads, "a")["shared"] == [0, 1, 2, 3, 4]
        uploads.discard("a")
        assert bytes(await second) == DATA

    asyncio.run(scenario())


@pytest.mark.parametrize("woken", [False, True])
def test_a_waiting_upload_that_is_cancelled_passes_the_turn_on(woken):
    async def scenario():
        uploads = Uploads(SCHEMAS, 40)
        await uploads.receive(header("a"), stream())
        second = await start(uploads, header("b"), stream())
        third = await start(uploads, header("c"), stream())
        if woken:
            uploads.discard("a")  # wakes the second one, which is cancelled before it can run
        second.cancel()
        await settle()
        if not woken:
            uploads.discard("a")
        assert bytes(await third) == DATA and second.cancelled()

    asyncio.run(scenario())


def test_a_stalled_stream_is_given_up_and_can_be_continued(monkeypatch):
    async def scenario():
        uploads, tap = Uploads(SCHEMAS), Tap()
        monkeypatch.setattr(module, "STALL_SECONDS", 0.02)
        stalled = await start(uploads, header(), tap)
        await tap.give(DATA[:12])
        with pytest.raises(TimeoutError, match=r"too slow, 12 bytes in 0\.02 s; least is 16384"):
            await stalled
        assert bytes(await uploads.receive(header(offset=12), stream())) == DATA

    asyncio.run(scenario())


def test_drips_do_not_hold_the_room_that_others_wait_for(monkeypatch):
    async def drip(offset):
        for start in range(offset, len(DATA)):
            yield DATA[start : start + 1]
            await asyncio.sleep(0.005)

    async def scenario():
        monkeypatch.setattr(module, "STALL_SECONDS", 0.05)
        uploads = Uploads(SCHEMAS, 2 * len(DATA))
        drips = [await start(uploads, header(f"drip-{number}"), drip) for number in range(2)]
        for name in ("a", "b"):
            assert bytes(await uploads.receive(header(name), stream())) == DATA
        ended = await asyncio.gather(*drips, return_exceptions=True)
        assert all(isinstance(error, TimeoutError) and "too slow" in str(error) for error in ended)

    asyncio.run(scenario())


def test_a_second_stream_of_an_order_takes_over_from_where_the_first_got_to():
    async def scenario():
        uploads, first, second = Uploads(SCHEMAS, 40), Tap(), Tap()
        old = await start(uploads, header(), first)
        await first.give(DATA[:12])
        new = await start(uploads, header(offset=12), second)
        await first.give(b"\xff" * 4)
        assert await refused(old) is Reason.CORRUPT
        await second.give(DATA[12:], None)
        assert bytes(await new) == DATA

    asyncio.run(scenario())


def test_a_second_stream_from_the_start_never_mixes_with_the_first():
    async def scenario():
        uploads, first, second = Uploads(SCHEMAS, 40), Tap(), Tap()
        old = await start(uploads, header(), first)
        await first.give(DATA[:12])
        new = await start(uploads, header(), second)
        await second.give(DATA[:8])
        await first.give(DATA[12:], None)
        assert await refused(old) is Reason.CORRUPT
        await second.give(DATA[8:], None)
        assert bytes(await new) == DATA
        uploads.discard("train-1.1-a")
        assert bytes(await uploads.receive(header("b"), stream())) == DATA  # the budget was counted once

    asyncio.run(scenario())


def test_two_waiting_streams_of_an_order_take_the_budget_once():
    async def scenario():
        uploads = Uploads(SCHEMAS, 40)
        await uploads.receive(header("a"), stream())
        twins = [await start(uploads, header("b"), stream()) for _ in range(2)]
        uploads.discard("a")
        results = await asyncio.gather(*twins, return_exceptions=True)
        assert any(not isinstance(result, Refused) and bytes(result) == DATA for result in results)
        assert all(isinstance(result, Refused | np.ndarray) for result in results)
        uploads.discard("b")
        assert bytes(await uploads.receive(header("c"), stream())) == DATA

    asyncio.run(scenario())


def test_a_complete_update_is_not_replaced_before_the_core_has_judged_it():
    async def scenario():
        uploads, other = Uploads(SCHEMAS), (VALUES + 1).tobytes()
        await uploads.receive(header(), stream())
        assert await refused(uploads.receive(header(data=other), stream(other))) is Reason.CORRUPT
        again = Tap()
        assert bytes(await uploads.receive(header(), again)) == DATA and again.opened_at is None
        assert taken(uploads)["shared"] == [0, 1, 2, 3, 4]

    asyncio.run(scenario())


def test_an_upload_whose_round_closes_is_refused():
    async def scenario():
        uploads, tap = Uploads(SCHEMAS, 40), Tap()
        late = await start(uploads, header("a"), tap)
        await tap.give(DATA[:8])
        uploads.discard_all_but(frozenset({"b"}))
        await tap.give(DATA[8:], None)
        assert await refused(late) is Reason.CORRUPT
        assert bytes(await uploads.receive(header("b"), stream())) == DATA

    asyncio.run(scenario())


def test_a_later_update_takes_over_the_memory_of_an_earlier_one(monkeypatch):
    monkeypatch.setattr(module, "INLINE_BYTES", 0)

    async def run():
        uploads = Uploads(SCHEMAS, budget_bytes=len(DATA))
        first = await uploads.receive(header(), stream())
        uploads.discard("train-1.1-a")
        other = np.arange(10, 20, dtype=np.float32).tobytes()
        second = await uploads.receive(header("train-2.1-a", other), stream(other))
        assert np.shares_memory(first, second) and bytes(second) == other
        uploads.discard("train-2.1-a")
        double = DATA * 2  # does not fit the budget beside the kept memory: that is given back
        third = await Uploads(DOUBLE, budget_bytes=2 * len(DATA)).receive(header("train-3.1-a", double), stream(double))
        assert bytes(third) == double

    asyncio.run(run())
