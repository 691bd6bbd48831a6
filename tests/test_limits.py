"""One set of limits: what a configuration takes can be sent, and what it refuses is told in the user's words."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from common.clock import ManualClock
from common.config import load_config
from common.errors import ConfigError, Refused
from common.orders import JoinRequest, TaskResult, UpdateHeader
from common.statistics import COUNTS, TaskStatistics
from common.tasks import TASK_KINDS, TaskDefinition
from common.wire.limits import DEFINITION_BYTES, LABEL_CHARS, MAX_LABELS, MAX_TASKS, definition_bytes
from common.wire.messages import JOIN_REQUEST, PENDING_ANSWER
from server.core.answers import PAGE_CHARS, describe
from server.core.state import ClientRecord, FederationState
from server.runs.assembly import in_memory
from simulation.codec import CodecCoordinator
from tests.core_cases import rules
from tests.federations import array_config, make_model


def classes(name: str, *labels: str) -> TaskDefinition:
    return TaskDefinition(name, TASK_KINDS["classification"], labels, False, ("accuracy",))


def config_of(tasks: dict[str, Any], *more: str) -> Any:
    return load_config(None, ["model.server_model=mlp", "model.mlp={features: 4}", f"tasks={json.dumps(tasks)}", *more])


def task(labels: Any) -> dict[str, Any]:
    return {"type": "classification", "labels": labels}


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"t" * 65: task(2)}, r"tasks\.t+: 't{30}\.\.\.' has 65 characters, more than 64; shorten it"),
        ({"a": task(["x" * 257, "b"])}, r"tasks\.a\.labels\.0: 'x{30}\.\.\.' has 257 characters, more than 256"),
        ({"a": task(["x\ty", "b"])}, r"tasks\.a\.labels\.0: 'x\\ty' holds control characters"),
        ({"a": task(["\u202ex", "b"])}, r"tasks\.a\.labels\.0: .* show nothing"),
        ({"a": task(MAX_LABELS + 1)}, f"tasks.a.labels: {MAX_LABELS + 1} is not a number of labels; write 1 to"),
        ({"a": task(9000), "b": task(9000)}, "tasks: 18000 labels of all tasks are more than 16384"),
        ({"a": task([f"{i:0256}" for i in range(2100)])}, r"tasks: the names of all tasks and labels take \d+ bytes"),
        ({f"a{i}": task(2) for i in range(MAX_TASKS + 1)}, "tasks: 1025 are more than 1024"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_load(tasks: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(tasks)


def test_names_elsewhere_have_limits_too() -> None:
    tree: Any = ["a"]
    for level in range(9):
        tree = {f"level{level}": tree}
    for override, said in (
        (f"run.name={'r' * 129}", "run.name: .* has 129 characters, more than 128"),
        (f"sharing={json.dumps({'plan': 'groups', 'groups': tree})}", "9 levels deep, more than 8"),
        (f"sharing={json.dumps({'plan': 'rules', 'rules': [{'*' * 600: 'shared'}]})}", "600 characters, more than 512"),
        (f"model.mlp={json.dumps({'features': 4, 'hidden': [2] * 1001})}", r"model\.mlp\.hidden"),
    ):
        with pytest.raises(ConfigError, match=said):
            config_of({"a": task(2)}, override)


ROWS = (1 << 29) - 1
LARGEST = (
    tuple(classes(f"{i:064}", "a", "b") for i in range(MAX_TASKS)),
    (classes("a", *(f"{i:025}" for i in range(MAX_LABELS))),),
    tuple(classes(f"t{i}", *(f"{i}-{n}" for n in range(MAX_LABELS // 64))) for i in range(64)),
    (classes("a", *(f"{i:0{LABEL_CHARS}}" for i in range(2000))),),
)


@pytest.mark.parametrize("tasks", LARGEST, ids=("many tasks", "many labels", "both", "long labels"))
def test_the_most_that_a_configuration_takes_fits_into_the_messages(tasks: tuple[TaskDefinition, ...]) -> None:
    assert sum(definition_bytes(task.name, task.labels) for task in tasks) <= DEFINITION_BYTES
    config_of({task.name: {"type": "classification", "labels": list(task.labels)} for task in tasks})
    request = JoinRequest("x" * 64, tasks, tuple((task.name, ROWS) for task in tasks))
    assert JOIN_REQUEST.decode(JOIN_REQUEST.encode(request)) == request
    counts = [TaskStatistics(ROWS, 1.5, ROWS, (ROWS,) * (COUNTS * len(task.labels))) for task in tasks]
    results = tuple(TaskResult(t.name, ROWS, 0.5, c, c) for t, c in zip(tasks, counts, strict=True))
    header = UpdateHeader("train-1.1-x", "dense-float32", (), "0" * 32, results, 1.0)
    assert PENDING_ANSWER.decode(PENDING_ANSWER.encode(header)) == header


def test_a_client_joins_with_five_thousand_labels() -> None:
    overrides = [f"tasks.a0.labels={json.dumps([f'a label of some length, {i:04}' for i in range(5000)])}"]
    config = array_config(*overrides, "tasks.a0.metrics=[accuracy]", tasks=("a0",))

    async def join() -> None:
        coordinator = in_memory(config, make_model(config), ManualClock())
        await coordinator.start()
        wire = CodecCoordinator(coordinator)
        welcome = await wire.join(JoinRequest("x", config.definitions(), (("a0", 10),)))
        assert welcome.tasks == config.definitions()
        assert len(welcome.tasks[0].labels) == 5000
        swapped = list(config.definitions()[0].labels)
        swapped[4321], swapped[4322] = swapped[4322], swapped[4321]
        other = replace(config.definitions()[0], labels=tuple(swapped))
        with pytest.raises(Refused, match="5000 names, number 4322 a label of some length, 4321") as refused:
            await wire.join(JoinRequest("y", (other,), (("a0", 10),)))
        assert len(refused.value.message) < 300

    asyncio.run(join())


def test_members_are_told_in_pages() -> None:
    tasks = tuple(f"task-number-{i}" for i in range(20))
    clients = {f"client-{i:05}": ClientRecord(f"client-{i:05}", tasks, {}, (), "t", 0.0) for i in range(4000)}
    state = FederationState(versions={}, clients=clients)
    status = describe(rules(), state, "run")
    pages = [status]
    while pages[-1].more:
        pages.append(describe(rules(), state, "run", pages[-1].clients[-1].client_id))
    assert len(pages) > 3
    assert [client.client_id for page in pages for client in page.clients] == sorted(clients)
    assert {page.client_count for page in pages} == {4000}
    assert all(sum(len("".join(m.tasks)) for m in page.clients) <= PAGE_CHARS for page in pages)
    lonely = replace(state, clients={"x": replace(clients["client-00000"], client_id="x", tasks=("t" * 64,) * 9000)})
    assert len(describe(rules(), lonely, "run").clients) == 1


def test_a_page_follows_the_one_before_on_the_wire() -> None:
    config = array_config(tasks=("a0",))

    async def ask() -> None:
        coordinator = in_memory(config, make_model(config), ManualClock())
        await coordinator.start()
        wire = CodecCoordinator(coordinator)
        for name in ("b", "a", "c"):
            await wire.join(JoinRequest(name, config.definitions(), (("a0", 10),)))
        assert [member.client_id for member in (await wire.status()).clients] == ["a", "b", "c"]
        rest = await wire.status("a")
        assert ([member.client_id for member in rest.clients], rest.client_count, rest.more) == (["b", "c"], 3, False)

    asyncio.run(ask())
