"""Models of a few hundred parameters: slices ride in orders, updates in polls, versions in the journal."""

import asyncio
import functools
import json
from typing import ClassVar

import pytest

from common.config import load_config
from common.errors import Reason, Refused
from common.orders import PollKind, Update, UpdateState
from common.ports import INLINE_BYTES
from simulation.codec import CodecCoordinator
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.federations import digest_of, federate

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(autouse=True)
def one_tokenizer(monkeypatch):
    import client.jobs.executor

    monkeypatch.setattr("client.jobs.executor.unpack_tokenizer", functools.cache(client.jobs.executor.unpack_tokenizer))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    shape = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "bert", "vocab_size": len(WORDS), "max_position_embeddings": 16, **shape})
    )
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    sizes = [
        f"tasks.{task}.{key}={n}" for task in ("sst2", "qqp") for key, n in (("train_samples", 16), ("val_samples", 4))
    ]
    settings = ["model.max_length=16", "training.num_rounds=2", "training.local_epochs=1", "federation.min_clients=4"]
    return load_config(None, [f"model.server_model='{folder}'", "model.weights=random", *settings, *sizes])


@pytest.fixture(scope="module")
def digest(config, tmp_path_factory):
    return digest_of(asyncio.run(federate(config, tmp_path_factory.mktemp("reference"))))


class Counting(CodecCoordinator):
    """Counts the calls that a small model can do without."""

    calls: ClassVar[list[str]] = []

    def fetch(self, session, scope, offset):
        self.calls.append("fetch")
        return super().fetch(session, scope, offset)

    async def submit(self, session, header, chunks):
        self.calls.append("submit")
        return await super().submit(session, header, chunks)


@pytest.mark.parametrize("how", ["codec", "grpc"])
def test_what_rides_along_changes_no_bit(config, digest, tmp_path, monkeypatch, how):
    monkeypatch.setattr("tests.federations.CodecCoordinator", Counting)
    Counting.calls = []
    assert digest_of(asyncio.run(federate(config, tmp_path / "riding", how=how))) == digest
    assert Counting.calls == []
    monkeypatch.setattr("common.ports.INLINE_BYTES", 0)
    monkeypatch.setattr("server.engine.broadcast.INLINE_BYTES", 0)
    Counting.calls = []
    assert digest_of(asyncio.run(federate(config, tmp_path / "streamed", how=how))) == digest
    assert how == "grpc" or {"fetch", "submit"} <= set(Counting.calls)


@pytest.mark.slow
@pytest.mark.parametrize("clients_die", [False, True])
def test_a_coordinator_that_dies_after_any_effect_comes_to_the_same_small_model(config, digest, tmp_path, clients_die):
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config)

    def attempt(dies_after):
        place = tmp_path / str(dies_after)
        return asyncio.run(crash_and_recover(config, template, place, cast, dies_after, clients_die))

    found, effects = attempt(None)
    assert found == digest and effects.count("StoreVersion") == 2
    for step in range(1, len(effects) + 1):
        assert attempt(step)[0] == digest, f"died after effect {step}, {effects[step - 1]}"


def test_an_update_whose_answer_was_lost_may_come_again_even_when_it_is_settled(config, tmp_path):
    lost = []

    class Forgetful(CodecCoordinator):
        """Every poll that carries an update is answered twice; only the second answer reaches the client."""

        async def poll(self, session, pending_order, update=None):
            reply = await super().poll(session, pending_order, update)
            if not isinstance(update, Update):
                return reply
            lost.append(reply)
            again = await super().poll(session, pending_order, update)
            assert again.update_state in (UpdateState.COMMITTED, UpdateState.OPEN)
            return again

    async def run():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.federations.CodecCoordinator", Forgetful)
            return await federate(config, tmp_path / "again", how="codec")

    coordinator = asyncio.run(run())
    assert any(reply.update_state is UpdateState.COMMITTED and reply.kind is PollKind.ORDER for reply in lost)
    assert coordinator.state.completed_rounds == 2
    for member in coordinator.journal.clients():
        assert (member.tally.completed, member.tally.refused) == (3, 0)


def test_an_update_that_rides_and_is_refused_is_given_up_and_the_client_goes_on(config, tmp_path):
    spoiled = []

    class Spoiling(CodecCoordinator):
        """The first riding update of client a is damaged on its way."""

        async def poll(self, session, pending_order, update=None):
            if isinstance(update, Update) and session.client_id == "a" and not spoiled:
                spoiled.append(update)
                damaged = bytes(len(update.payload) - 4) + b"\x00\x00\xc0\x7f"
                update = Update(update.header, damaged)
                with pytest.raises(Refused) as refusal:
                    await super().poll(session, pending_order, update)
                assert refusal.value.reason is Reason.CORRUPT
                raise refusal.value
            return await super().poll(session, pending_order, update)

    async def run():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.federations.CodecCoordinator", Spoiling)
            return await federate(config, tmp_path / "spoiled", how="codec")

    coordinator = asyncio.run(run())
    assert spoiled and spoiled[0].header.nbytes <= INLINE_BYTES
    tallies = {member.client_id: member.tally for member in coordinator.journal.clients()}
    assert coordinator.state.completed_rounds == 2
    assert (tallies["a"].failed, tallies["a"].completed) == (1, 2)
    assert (tallies["b"].failed, tallies["b"].completed) == (0, 3)
