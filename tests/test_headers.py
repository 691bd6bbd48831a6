"""What the numbers of a row are is part of the task: a client with other columns, or another order, may not join."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.app import load_data
from client.jobs.local_client import LocalClient, local_client
from common.capabilities import Capabilities
from common.clock import ManualClock
from common.config import Config
from common.errors import ConfigError, Reason, Refused, WireError
from common.inputs.header import Header
from common.orders import JoinRequest
from common.tasks import KNOWN_TASKS
from common.wire import messages
from common.wire.limits import CONTROL_BYTES, MAX_FEATURES, MAX_NAMES
from server.core.admission import check_join
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from server.storage.journal import Journal
from simulation.codec import CodecCoordinator
from tests.core_cases import RULES, Table
from tests.federations import array_config, make_model

SMALL = ("model.mlp.features=2", "federation.min_clients=3")
AGE_INCOME, INCOME_AGE = Header.of(("age", "income")), Header.of(("income", "age"))


def config(*more: str) -> Config:
    return array_config(*SMALL, *more, tasks=("a0",))


def coordinator(settings: Config, journal: Journal | None = None) -> Coordinator:
    return in_memory(settings, make_model(settings), ManualClock(), journal=journal)


def request(client: str, header: Header | None, settings: Config | None = None) -> JoinRequest:
    (task,) = (settings or config()).definitions()
    return JoinRequest(client, (task,), ((task.name, 10),), headers=((task.name, header),) if header else ())


async def refused(port: Coordinator | CodecCoordinator, asked: JoinRequest) -> str:
    with pytest.raises(Refused) as caught:
        await port.join(asked)
    assert caught.value.reason is Reason.TASK_MISMATCH
    assert "\n" not in caught.value.message
    return caught.value.message


def test_the_first_client_with_names_fixes_the_header() -> None:
    async def run() -> None:
        there = coordinator(config())
        await there.start()
        port = CodecCoordinator(there)
        await port.join(request("arrays", Header(2)))
        await port.join(request("a", AGE_INCOME))
        assert await refused(port, request("b", INCOME_AGE)) == (
            "task 'a0': its rows are [age, income] in this federation, and [income, age] at client 'b'; "
            "name them in one order for all, as tasks.a0.columns.features"
        )
        assert "[age, size] at client 'b'" in await refused(port, request("b", Header.of(("age", "size"))))
        assert (await refused(port, request("b", Header(3)))).endswith(
            "and 3 without names at client 'b'; the section of the encoder in model must be the same for all"
        )
        await port.join(request("b", AGE_INCOME))
        await port.join(request("more-arrays", Header(2)))
        assert set(there.state.clients) == {"arrays", "a", "b", "more-arrays"}

    asyncio.run(run())


def test_a_client_alone_may_correct_itself_until_somebody_trains() -> None:
    async def run() -> None:
        there = coordinator(config())
        await there.start()
        await there.join(request("a", INCOME_AGE))
        await there.join(request("a", AGE_INCOME))
        assert there.state.headers == {"a0": AGE_INCOME}
        await there.join(request("b", AGE_INCOME))
        assert "[income, age] at client 'a'" in await refused(there, request("a", INCOME_AGE))

    asyncio.run(run())


def test_of_two_that_join_in_one_moment_the_second_is_refused() -> None:
    async def run() -> None:
        there = coordinator(config())
        await there.start()
        joins = (there.join(request("a", AGE_INCOME)), there.join(request("b", INCOME_AGE)))
        first, second = await asyncio.gather(*joins, return_exceptions=True)
        assert isinstance(second, Refused) and "[income, age] at client 'b'" in second.message
        assert not isinstance(first, BaseException) and {*there.state.clients} == {"a"}
        await there.join(request("b", AGE_INCOME))

    asyncio.run(run())


def test_the_header_outlives_the_coordinator(tmp_path: Path) -> None:
    async def first() -> None:
        there = coordinator(config("federation.min_clients=1"), Journal(tmp_path / "journal.sqlite"))
        await there.start()
        await there.join(request("a", AGE_INCOME))
        assert there.state.open is not None  # round 1 is on its way

    def second() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        settings = config("federation.min_clients=1")
        rules = coordinator(settings).settings
        state = journal.restore(rules.schemas, 60.0)
        journal.close()
        assert state.headers == {"a0": AGE_INCOME}
        with pytest.raises(Refused, match=r"\[income, age\] at client 'b'"):
            check_join(rules, state, request("b", INCOME_AGE))
        check_join(rules, state, request("b", AGE_INCOME))

    asyncio.run(first())
    second()


def test_the_configuration_names_the_features_for_all() -> None:
    asked = config("tasks.a0.columns={features: [age, income]}")

    async def run() -> None:
        there = coordinator(asked)
        await there.start()
        assert "its rows are [age, income] in this federation" in await refused(there, request("a", INCOME_AGE))
        await there.join(request("a", AGE_INCOME))
        await there.join(request("arrays", Header(2)))
        assert there.state.headers == {}

    asyncio.run(run())
    for columns, said in (
        ("{features: [age]}", "tasks.a0.columns.features: names 1 features, model.mlp.features is 2; change one"),
        ("{features: [age, age]}", "tasks.a0.columns.features: 'age' is given twice; keep one"),
        ("{features: [age, y], label: y}", "tasks.a0.columns: 'y' is named for two things; keep one"),
    ):
        with pytest.raises(ConfigError) as caught:
            config(f"tasks.a0.columns={columns}")
        assert said in caught.value.problems
    assert config("tasks.a0.columns={label: y, features: [2020, 2021]}").headers() == {
        "a0": Header.of(("2020", "2021"))
    }


def test_texts_and_numbers_do_not_mix() -> None:
    table = Table(RULES)
    asked = JoinRequest("a", (KNOWN_TASKS["sst2"],), (("sst2", 1),), headers=(("sst2", Header(2)),))
    with pytest.raises(Refused, match="this federation reads texts, the client's rows are numbers"):
        check_join(table.settings, table.state, asked)


def test_sites_with_swapped_columns_are_refused_and_agree_once_they_are_named(tmp_path: Path) -> None:
    """Two sites whose files hold age and income in another order, the second with a column more."""
    rng = np.random.default_rng(0)
    rows = [(*np.round(pair, 3), int(pair[0] > pair[1])) for pair in rng.normal(size=(12, 2))]
    for site, names in (("a", ("age", "income", "y")), ("b", ("y", "income", "age"))):
        (tmp_path / site).mkdir()
        cells = [dict(zip(("age", "income", "y"), row, strict=True)) for row in rows]
        lines = [",".join(str(row[name]) for name in names) for row in cells]
        (tmp_path / site / "a0.csv").write_text("\n".join((",".join(names), *lines)) + "\n")

    def client(site: str, *more: str) -> tuple[LocalClient, np.ndarray]:
        settings = config(f"data.dir='{tmp_path / site}'", *more)
        data = load_data(settings, settings.definitions())
        return local_client(site, settings.definitions(), data, torch.device("cpu")), data["a0"].train.values

    async def run() -> None:
        there = coordinator(config())
        await there.start()
        port = CodecCoordinator(there)
        (a, ordered), (b, swapped) = client("a"), client("b")
        assert (a.request.headers, b.request.headers) == ((("a0", AGE_INCOME),), (("a0", INCOME_AGE),))
        assert swapped.tolist() == ordered[:, ::-1].tolist()
        await port.join(replace(request("a", None), headers=a.request.headers))
        await refused(port, replace(request("b", None), headers=b.request.headers))
        mended, same = client("b", "tasks.a0.columns={features: [age, income]}")
        assert same.tolist() == ordered.tolist()
        await port.join(replace(request("b", None), headers=mended.request.headers))

    asyncio.run(run())


# ---- on the wire ----


def test_long_headers_travel_as_a_digest_and_their_first_names() -> None:
    names = tuple(f"gene {number} of a very wide table" for number in range(100_000))
    many = tuple((f"t{number}", Header.of(names)) for number in range(50))
    (task,) = config().definitions()
    tasks = tuple(replace(task, name=name) for name, _ in many)
    sent = messages.JOIN_REQUEST.encode(JoinRequest("a", tasks, (), Capabilities(), many))
    assert len(sent) < CONTROL_BYTES // 4
    (header,) = {header for _, header in messages.JOIN_REQUEST.decode(sent).headers}
    assert (header.count, header.digest) == (100_000, Header.of(names).digest)
    assert header.names == names[: len(header.names)]
    assert 1 < len(header.names) <= MAX_NAMES
    assert header.fits(Header.of(names))
    turned = Header.of((*names[:20], names[21], names[20], *names[22:]))
    here, there = header.beside(turned)
    assert here.startswith("[..., gene 20 of a very wide table, gene 21")
    assert there.startswith("[..., gene 21 of a very wide table, gene 20")


def test_names_from_outside_are_plain_text() -> None:
    sent = messages.JOIN_REQUEST.encode(request("a", Header.of(("a\x1b[2J\nb", "x" * 5000))))
    ((_, header),) = messages.JOIN_REQUEST.decode(sent).headers
    assert header.names[0] == "a [2J b"
    assert len(header.names[1]) == 256
    assert header.fits(Header.of(("a\x1b[2J\nb", "x" * 5000)))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (Header(0), "count: 0 is not from 1"),
        (Header(MAX_FEATURES + 1), "count"),
        (Header(2, "zz"), "digest"),
        (Header(1, "ab" * 8, ("a", "b")), "names: 2 do not fit 1 features"),
        (Header(2, "", ("a",)), "names: 1 do not fit 2 features with digest ''"),
    ],
)
def test_an_impossible_header_is_refused(header: Header, said: str) -> None:
    with pytest.raises(WireError, match=said):
        messages.JOIN_REQUEST.decode(messages.JOIN_REQUEST.encode(request("a", header)))
    stranger = replace(request("a", None), headers=(("other", Header(2)),))
    with pytest.raises(WireError, match="headers: 'other' is not among the tasks"):
        messages.JOIN_REQUEST.decode(messages.JOIN_REQUEST.encode(stranger))
