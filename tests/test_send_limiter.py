"""The send limiter: few at a time, and nobody waits for slow ones for long."""

import asyncio

import pytest

from server.service import send_limiter as module
from server.service.send_limiter import SendLimiter


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 20))


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


class Worker:
    """Holds a turn until it is told to go on."""

    def __init__(self, limiter, caller=""):
        self.inside = False
        self.go_on = asyncio.Event()
        self.task = asyncio.create_task(self._work(limiter, caller or str(id(self))))

    async def _work(self, limiter, caller):
        async with limiter.place(caller):
            self.inside = True
            await self.go_on.wait()


def test_quick_work_takes_turns(monkeypatch):
    monkeypatch.setattr(module, "AT_A_TIME", 2)
    monkeypatch.setattr(module, "PLACE_SECONDS", 3600)

    async def scenario():
        workers = [Worker(limiter := SendLimiter())] + [Worker(limiter) for _ in range(4)]
        for done in range(5):
            await settle()
            assert [w.inside for w in workers] == [place < done + 2 for place in range(5)]
            workers[done].go_on.set()
        await asyncio.gather(*(w.task for w in workers))

    run(scenario())


def test_slow_work_gives_its_place_away_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(module, "AT_A_TIME", 1)
    monkeypatch.setattr(module, "PLACE_SECONDS", 0.0)
    monkeypatch.setattr(module, "AT_MOST", 3)

    async def scenario():
        workers = [Worker(limiter := SendLimiter())] + [Worker(limiter) for _ in range(4)]
        while sum(w.inside for w in workers) < 3:
            await asyncio.sleep(0)
        await settle()
        assert sum(w.inside for w in workers) == 3
        for worker in workers:
            worker.go_on.set()
        await asyncio.gather(*(w.task for w in workers))
        last = Worker(limiter)  # every place was given back exactly once
        last.go_on.set()
        await last.task
        assert limiter._quick._value == 1 and limiter._all._value == 3

    run(scenario())


@pytest.mark.parametrize("late", [False, True])
def test_work_that_fails_gives_its_place_back(monkeypatch, late):
    monkeypatch.setattr(module, "AT_A_TIME", 1)
    monkeypatch.setattr(module, "PLACE_SECONDS", 0.0 if late else 3600)

    async def scenario():
        limiter = SendLimiter()
        for _ in range(3):
            with pytest.raises(ValueError):
                async with limiter.place("a"):
                    if late:
                        await asyncio.sleep(0.001)
                    raise ValueError
        await settle()
        assert limiter._quick._value == 1

    run(scenario())


def test_one_caller_has_a_few_places_alone():
    async def scenario():
        limiter = SendLimiter()
        many = [Worker(limiter, "greedy") for _ in range(100)]
        await settle()
        assert sum(w.inside for w in many) == module.OF_ONE_CALLER
        other = Worker(limiter, "honest")
        other.go_on.set()
        await other.task
        for worker in many:
            worker.go_on.set()
        await asyncio.gather(*(w.task for w in many))
        assert not limiter._callers and not limiter._calls and not limiter._held

    run(scenario())


def test_a_place_that_others_wait_for_is_taken_from_who_stands_still_longest(monkeypatch):
    monkeypatch.setattr(module, "PLACE_SECONDS", 0.0)
    monkeypatch.setattr(module, "AT_MOST", 2)
    monkeypatch.setattr(module, "CONTESTED_SECONDS", 0.0)

    async def scenario():
        limiter = SendLimiter()
        oldest, second = Worker(limiter), Worker(limiter)
        await settle()
        assert oldest.inside and second.inside
        waiting = Worker(limiter)
        with pytest.raises(TimeoutError):
            await oldest.task
        waiting.go_on.set()
        await waiting.task
        assert not second.task.done()
        second.go_on.set()
        await second.task

    run(scenario())
