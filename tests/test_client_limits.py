"""What a coordinator may ask of a client, and what it must not bring it to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.agent import Agent
from client.limits import Limits
from common.bodies import NoisePromise, ProximalTerm, ScopeVersion
from common.clock import ManualClock
from common.config import load_config
from common.errors import ConfigError, FedMTLError, WireError
from common.methods.own_models import FineTunedModel
from common.methods.procedures import FedRep
from common.orders import Order, PollReply, Session, Welcome
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from tests.federations import array_config, make_client, make_model, small_config


class Crooked:
    """A coordinator whose answers are bent on the way."""

    def __init__(self, port: Coordinator) -> None:
        self._port = port
        self.welcome: Callable[[Welcome], Welcome] = lambda welcome: welcome
        self.order: Callable[[Order], Order] = lambda order: order
        self.tokenizer: Callable[[bytes], AsyncIterator[bytes]] | None = None
        self.calls: list[str] = []
        self.reasons: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self._port, name)

    async def join(self, request: Any) -> Welcome:
        return self.welcome(await self._port.join(request))

    async def poll(self, *call: Any) -> PollReply:
        reply = await self._port.poll(*call)
        return replace(reply, order=self.order(reply.order)) if reply.order is not None else reply

    async def fetch_tokenizer(self, session: Session, offset: int) -> AsyncIterator[Any]:
        data = b"".join([bytes(chunk) async for chunk in self._port.fetch_tokenizer(session, offset)])
        async for chunk in self.tokenizer(data) if self.tokenizer is not None else whole(data):
            yield chunk

    async def report_failure(self, session: Session, order_id: str, reason: str) -> None:
        self.reasons.append(reason)
        await self._port.report_failure(session, order_id, reason)


async def whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def endless(data: bytes) -> AsyncIterator[bytes]:
    while True:
        yield data[:1000]


async def short(data: bytes) -> AsyncIterator[bytes]:
    yield data[:-1]


async def other(data: bytes) -> AsyncIterator[bytes]:
    yield data.replace(b"a", b"b")


def ends(bend: Callable[[Crooked], None], state: Path, text: bool = False, limits: Limits | None = None) -> Any:
    """The error in which a client of a bent coordinator ends, and the coordinator."""
    if text:
        config, task = small_config(state, "federation.min_clients=1"), "sst2"
    else:
        config, task = array_config("federation.min_clients=1", tasks=("a0",)), "a0"
    coordinator = in_memory(config, make_model(config), ManualClock())
    port = Crooked(coordinator)
    bend(port)

    async def play() -> None:
        await coordinator.start()
        client = make_client(config, "a", [task], "1/1")
        if limits is not None:
            client = replace(client, computing=replace(client.computing, limits=limits))
        await Agent(port, client, state / "state").run()

    with pytest.raises(FedMTLError) as caught:
        asyncio.run(asyncio.wait_for(play(), 60))
    assert "\n" not in caught.value.message
    assert coordinator.state.clients["a"].left  # nobody waits for it
    return caught.value, port


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (endless, "more than the .* bytes that the coordinator announced"),
        (short, "are not the"),
        (other, "are not the .* with digest"),
    ],
)
def test_a_tokenizer_is_the_one_that_was_announced(stream: Any, said: str, tmp_path: Path) -> None:
    error, _ = ends(lambda port: setattr(port, "tokenizer", stream), tmp_path, text=True)
    assert isinstance(error, WireError) and error.message.startswith("tokenizer: ")
    assert not (tmp_path / "state").exists()


def described(**changes: Any) -> Callable[[Crooked], None]:
    def bend(port: Crooked) -> None:
        port.welcome = lambda welcome: replace(welcome, architecture=replace(welcome.architecture, **changes))

    return bend


def asked(**changes: Any) -> Callable[[Crooked], None]:
    def bend(port: Crooked) -> None:
        port.order = lambda order: replace(
            order, body=replace(order.body, settings=replace(order.body.settings, **changes))
        )

    return bend


def noised(promise: NoisePromise | None) -> Callable[[Crooked], None]:
    def bend(port: Crooked) -> None:
        port.order = lambda order: replace(order, body=replace(order.body, noise=promise))

    return bend


def until(seconds: float) -> Callable[[Crooked], None]:
    return lambda port: setattr(port, "order", lambda order: replace(order, seconds_left=seconds))


@pytest.mark.parametrize(
    ("bend", "limits", "said"),
    [
        (described(max_length=9000), None, "client.limits.tokens: the model of the coordinator has 9000 max_length"),
        (described(tokenizer_bytes=10**12), None, "client.limits.tokenizer_mb: .* 1e[+]06 megabytes of tokenizer"),
        (
            lambda port: None,
            Limits(parameters=50),
            "client.limits.parameters: .* has 66 parameters, .* allows 50",
        ),
        (asked(local_epochs=10**9), None, "client.limits.epochs: order train-1.1-a .* 1e[+]09 local_epochs, .* 1000"),
        (asked(local_epochs=3), Limits(epochs=2), "client.limits.epochs: .* has 3 local_epochs, .* allows 2"),
        (
            asked(procedure=FedRep(head_epochs=10**6)),
            None,
            "client.limits.epochs: .* head_epochs",
        ),
        (asked(own_model=FineTunedModel(10**6)), None, "client.limits.epochs: .* epochs of fine_tuned"),
        (asked(batch_size=10**6), None, "client.limits.batch_size: .* has 1e[+]06 batch_size"),
        (asked(eval_batch_size=10**6), None, "client.limits.batch_size: .* has 1e[+]06 eval_batch_size"),
        (noised(None), Limits(epsilon=8.0), "client.limits.epsilon: order train-1.1-a .* comes without noise"),
        (noised(NoisePromise(1.0, 8.5, 1e-5, 9)), Limits(epsilon=8.0), "has 8.5 epsilon, and this client allows 8"),
        (noised(NoisePromise(1.0, 2.0, 0.1, 9)), Limits(epsilon=8.0), "has 0.1 delta, and this client allows 0.001"),
        (noised(NoisePromise(1.0, 2.0, 0.1, 9)), Limits(least_noise=2.0), "has 1 noise multiplier, .* asks for 2"),
        (noised(NoisePromise(1.0, 2.0, 0.1, 9)), Limits(least_clients=10), "has 9 clients in a sum, .* asks for 10"),
        (until(1e8), None, "client.limits.hours: .* hours until its deadline, and this client allows 720"),
    ],
)
def test_more_than_a_client_allows_is_refused_before_anything_is_done(
    bend: Any, limits: Limits | None, said: str, tmp_path: Path
) -> None:
    error, port = ends(bend, tmp_path, limits=limits)
    assert isinstance(error, ConfigError)
    with pytest.raises(ConfigError, match=said):
        raise error
    assert "fetch" not in port.calls and not any((tmp_path / "state").rglob("update.bin"))
    assert [reason.split(":")[0] for reason in port.reasons] == (["ConfigError"] if "order" in error.message else [])


def test_an_order_for_scopes_that_are_not_shared_is_given_back(tmp_path: Path) -> None:
    def bend(port: Crooked) -> None:
        port.order = lambda order: replace(order, scopes=(*order.scopes, ScopeVersion("task/other", 0)))

    error, port = ends(bend, tmp_path)
    assert isinstance(error, WireError) and "scope 'task/other' is none that this client shares" in error.message
    assert port.reasons == [f"WireError: {error.message}"]


def test_an_anchor_of_a_scope_that_is_not_here_is_given_back(tmp_path: Path) -> None:
    def bend(port: Crooked) -> None:
        terms = (ProximalTerm("task/other", 0.1, 0),)
        port.order = lambda order: replace(order, body=replace(order.body, proximal_terms=terms))

    error, port = ends(bend, tmp_path)
    assert isinstance(error, WireError) and "'anchor/task/other' belongs to no scope of this client" in error.message
    assert port.reasons == [f"WireError: {error.message}"]


def test_the_section_and_its_reader_have_the_same_defaults() -> None:
    config = load_config(None, ["client.limits.epochs=7", "tasks={sst2: {}}"])
    assert Limits(**config.client.limits.model_dump()) == Limits(epochs=7)
