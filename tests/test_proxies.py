"""Proxies that the environment asks for: loopback never uses one, and messages name it."""

from __future__ import annotations

import asyncio

import pytest

from client.transport.target import Proxy, Target
from common.errors import UnreachableError
from tests.grpc_cases import HOST, JOIN, Memory, client, free_port, run, served

REMOTE = "coordinator.example"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


class ConnectProxy:
    """A proxy that knows one host, and answers others with 403."""

    def __init__(self, number: int) -> None:
        self._target = number
        self.asked: list[str] = []

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(request.split()[1])
        if not self.asked[-1].startswith(REMOTE):
            writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 14):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_loopback_is_direct_whatever_the_environment_says(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setenv(variable, f"http://{HOST}:{free_port()}")
        async with served(Memory()) as server, client(server.port_number, patience=5.0) as coordinator:
            assert (await coordinator.join(JOIN)).run_name == "Probe"

    run(test())


def test_another_host_is_reached_through_the_proxy_and_no_proxy_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with served(Memory()) as server:
            proxy = ConnectProxy(server.port_number)
            async with proxy as number:
                monkeypatch.setenv("http_proxy", f"http://user:secret@{HOST}:{number}")
                async with client(50051, 5.0, host=REMOTE) as coordinator:
                    assert (await coordinator.join(JOIN)).run_name == "Probe"
                assert set(proxy.asked) == {f"{REMOTE}:50051"}
                async with client(50051, 0.5, host="other.invalid") as coordinator:
                    with pytest.raises(UnreachableError, match="the proxy does not connect to it; check the proxy"):
                        await coordinator.join(JOIN)
                monkeypatch.setenv("no_proxy", "elsewhere.org, .invalid")
                async with client(50051, 0.5, host="yet.another.invalid") as coordinator:
                    with pytest.raises(UnreachableError, match=r"at yet.another.invalid:50051 not reachable"):
                        await coordinator.join(JOIN)
                assert set(proxy.asked) == {f"{REMOTE}:50051", "other.invalid:50051"}

    run(test())


def test_a_dead_proxy_is_named_with_its_variable_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        number = free_port()
        monkeypatch.setenv("https_proxy", f"http://user:secret@{HOST}:{number}/")
        said = (
            rf"coordinator at {REMOTE}:50051, through the proxy {HOST}:{number} \(https_proxy\), not reachable for "
            rf"0.3 s: nothing listens there; check the proxy \(unset https_proxy or add {REMOTE} to no_proxy"
        )
        async with client(50051, 0.3, host=REMOTE) as coordinator:
            with pytest.raises(UnreachableError, match=said) as caught:
                await coordinator.join(JOIN)
            assert "secret" not in caught.value.message

    run(test())


@pytest.mark.parametrize(
    ("host", "environment", "proxy"),
    [
        ("127.0.0.9", {"http_proxy": "http://p:1"}, None),
        ("::1", {"http_proxy": "http://p:1"}, None),
        ("localhost", {"http_proxy": "http://p:1"}, None),
        ("h.org", {}, None),
        ("h.org", {"http_proxy": ""}, None),
        ("h.org", {"HTTP_PROXY": "http://p:1"}, None),  # gRPC does not read it
        ("h.org", {"http_proxy": "socks5://p:1"}, None),  # nor such a one
        ("h.org", {"http_proxy": "http://p:x"}, None),
        ("h.org", {"http_proxy": "http://p:1"}, Proxy("p:1", "http_proxy")),
        ("h.org", {"http_proxy": "http://a:1", "grpc_proxy": "http://b"}, Proxy("b:80", "grpc_proxy")),
        ("h.org", {"http_proxy": "http://p:1", "no_proxy": "*"}, None),
        ("h.org", {"http_proxy": "http://p:1", "no_proxy": "H.ORG"}, None),
        ("a.h.org", {"http_proxy": "http://p:1", "no_proxy": "x,.h.org"}, None),
        ("ah.org", {"http_proxy": "http://p:1", "no_proxy": "h.org,,"}, Proxy("p:1", "http_proxy")),
        ("10.1.2.3", {"http_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, None),
        ("10.1.2.3", {"http_proxy": "http://p:1", "no_proxy": "10.1.2.4"}, Proxy("p:1", "http_proxy")),
    ],
)
def test_which_proxy_applies(host: str, environment: dict[str, str], proxy: Proxy | None) -> None:
    assert Target.of(host, 1, environment).proxy == proxy
