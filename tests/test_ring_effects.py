"""Effects on sums in the ring, carried out: from staged answers to the values of a version."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xxhash

from common.bodies import RING
from common.errors import Reason, Refused
from common.orders import ScopePayload, UpdateHeader
from common.parameters.schema import ParameterSchema
from common.ports import single
from common.secure.layout import COUNTS
from common.secure.ring import Cell, counts
from server.aggregation.strategy import AggregationStrategy
from server.core.effects import (
    AddToSums,
    ClearSums,
    Combine,
    Commit,
    Effect,
    InstallVersion,
    OpenSums,
    PhaseClosed,
    RoundClosed,
    StoreSums,
)
from server.core.events import Combined, Outcome, SumsOpened
from server.core.open_round import OpenRound
from server.core.phases import TRAIN
from server.core.state import FederationState
from server.engine.effect_handler import EffectHandler
from server.engine.uploads import Uploads
from server.storage.journal import Journal
from server.storage.models import JournalledModels, MemoryModels, ModelFiles, ModelStore
from tests.ring_cases import ALL, BITS, LAYOUTS, MEMBERS, circles_of, expected, numbers, payload, plainly
from tests.secure_cases import FIVE

SCHEMAS = {"shared": ParameterSchema.of({"w": (51,)}), "task/b": ParameterSchema.of({"v": (7,)})}
STATE = FederationState(dict.fromkeys(SCHEMAS, 0))
NAME = "train-1.1"


def order_of(member: str) -> str:
    return f"train-1.1-{member}"


def header_of(member: str, data: bytes) -> UpdateHeader:
    scopes = tuple(ScopePayload(each.circle.scope, 0, each.digest, each.nbytes) for each in circles_of(member))
    return UpdateHeader(order_of(member), RING, scopes, xxhash.xxh3_128_hexdigest(data), (), 1.0)


def bytes_of(member: str) -> bytes:
    return payload([numbers(member, layout) for layout in circles_of(member)]).tobytes()


class Engine:
    """An effect handler with stores in a folder, or in memory; its second life knows what the first one stored."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self.journal = folder, Journal(":memory:")
        self._models: ModelStore = MemoryModels()
        if folder is not None:
            self._models = JournalledModels(ModelFiles(folder, SCHEMAS), self.journal)
        self._models.write(0, {scope: np.zeros(schema.size, np.float32) for scope, schema in SCHEMAS.items()}, SCHEMAS)
        self.journal.commit(())
        self.start()

    def start(self) -> None:
        self.handler = EffectHandler(self.journal, self._models, 0, SCHEMAS, AggregationStrategy())

    def do(self, *effects: Effect) -> list[Outcome]:
        async def scenario() -> list[Outcome]:
            outcomes = [await self.handler.carry_out(effect, STATE, 1.0) for effect in effects]
            return [outcome for outcome in outcomes if outcome is not None]

        return asyncio.run(scenario())

    def receive(self, member: str) -> int:
        """Stage a member's answer; its size."""
        data = bytes_of(member)
        return len(asyncio.run(self.handler.uploads.receive(header_of(member, data), lambda _: single(data))))

    def add(self, members: Sequence[str] = FIVE) -> None:
        for member in members:
            self.receive(member)
            self.do(AddToSums(order_of(member), tuple(circles_of(member))))
            assert self.handler.uploads.received(order_of(member)) == 0  # its bytes are gone

    def opened(self, asked: OpenSums) -> SumsOpened:
        (outcome,) = self.do(asked)
        assert isinstance(outcome, SumsOpened)
        return outcome

    def stored(self) -> list[str]:
        return [] if self._folder is None else [path.name for path in self._folder.glob("sums/*")]


@pytest.fixture(params=["files", "memory"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    return Engine(tmp_path if request.param == "files" else None)


def said(circle: str) -> tuple[float, ...]:
    found: Cell = expected(LAYOUTS[circle], MEMBERS[circle])[COUNTS]
    return tuple(counts(found.view(np.uint64)).tolist())


def ended(published: int | None = 1) -> Commit:
    return Commit((RoundClosed(OpenRound(1, 1, TRAIN, 0, 0.0, {}), {}, published),))


def test_answers_become_a_version(engine: Engine) -> None:
    engine.add()
    assert engine.opened(plainly("0")) == SumsOpened(1.0, {"0": said("0")}, {})
    (combined,) = engine.do(Combine(1, {"shared": 250}))
    assert isinstance(combined, Combined)
    engine.do(InstallVersion(1))
    mean = expected(ALL, FIVE)["shared"].view(np.int32) * 2.0**-BITS / 250
    assert engine.handler.vectors["shared"].tobytes() == mean.astype(np.float32).tobytes()


def test_stored_sums_outlive_the_process_and_go_with_their_round(engine: Engine) -> None:
    engine.add()
    engine.do(StoreSums(NAME))
    assert engine.opened(plainly()).given_up.keys() == {"0", "1"}  # memory has them no more
    engine.do(
        Commit(
            (
                PhaseClosed(
                    OpenRound(1, 1, TRAIN, 0, 0.0, {}),
                ),
            )
        )
    )
    engine.start()
    for _ in range(2):
        assert engine.opened(plainly("0", stored=NAME)) == SumsOpened(1.0, {"0": said("0")}, {})
        engine.do(ClearSums())
    engine.do(ended())
    assert not engine.stored()
    assert engine.opened(plainly("0", stored=NAME)).given_up.keys() == {"0"}


def test_damaged_sums_are_given_up_and_the_run_goes_on(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.add()
    engine.do(StoreSums(NAME))
    (name,) = engine.stored()
    path = tmp_path / "sums" / name
    path.write_bytes(path.read_bytes()[:-1])
    found = engine.opened(plainly(stored=NAME))
    assert not found.counts and all("damaged" in why for why in found.given_up.values())


def test_sums_of_a_round_that_ends_early_are_forgotten(engine: Engine) -> None:
    engine.add()
    engine.do(ended(None))
    engine.add(FIVE[:1])
    found = engine.opened(plainly("0"))
    assert found.counts["0"] != said("0") and len(found.counts["0"]) == ALL.counts


def test_only_small_answers_are_added_without_a_thread(engine: Engine) -> None:
    nbytes = engine.receive("bob")
    assert engine.handler.is_quick(AddToSums(order_of("bob"), tuple(circles_of("bob"))))
    assert engine.handler.uploads.dense_bytes(order_of("bob")) == nbytes
    assert not engine.handler.is_quick(StoreSums(NAME)) and not engine.handler.is_quick(plainly())


def test_any_bytes_are_integers_but_damage_on_the_way_is_noticed() -> None:
    async def scenario() -> None:
        uploads = Uploads(SCHEMAS)
        data = b"\xff" * len(bytes_of("bob"))  # as floats they are no numbers
        header = header_of("bob", data)
        assert bytes(await uploads.receive(header, lambda _: single(data))) == data
        assert bytes(uploads.payload(header.order_id)) == data and uploads.take(header.order_id) == []
        uploads.discard(header.order_id)
        with pytest.raises(Refused) as refusal:
            await uploads.receive(header_of("bob", data[:-1] + b"\x00"), lambda _: single(data))
        assert refusal.value.reason is Reason.CORRUPT

    asyncio.run(scenario())
