"""Who may join: those who are listed, with their tasks, until their day, and not more ids than the run takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.capabilities import Capabilities
from common.clock import ManualClock, today
from common.config import load_config, notes
from common.errors import ConfigError, Reason, Refused
from common.orders import JoinRequest
from common.tasks import KNOWN_TASKS
from server.core.client_list import EVERYBODY, ClientList, Member
from server.runs.assembly import in_memory
from tests.federations import make_model, small_config
from tests.grpc_cases import client, run, served
from tests.identity_cases import of_client, of_coordinator, provisioned

DAY = "2030-06-01"


def asked(name: str, *tasks: str) -> JoinRequest:
    held = tuple(KNOWN_TASKS[task] for task in tasks or ("sst2",))
    return JoinRequest(name, held, tuple((task.name, 10) for task in held), Capabilities(("dense-float32",)))


MEMBERS = {
    "a": Member(("sst2",)),
    "b": Member(),
    "watcher": Member(role="observer"),
    "last": Member(expires=DAY),
    "gone": Member(expires="2030-05-31"),
}


@pytest.mark.parametrize("request_", [asked("a"), asked("b", "sst2", "qqp"), asked("last")])
def test_the_listed_may_join(request_: JoinRequest) -> None:
    ClientList(MEMBERS).check(request_, DAY)
    EVERYBODY.check(request_, DAY)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (asked("z"), "client 'z' is not listed; ask"),
        (asked("a", "sst2", "qqp"), "client 'a' may not bring qqp; ask"),
        (asked("watcher"), "client 'watcher' is listed as observer, which trains no task; ask"),
        (asked("gone"), "client 'gone' might join until 2030-05-31; ask"),
    ],
)
def test_others_may_not(request_: JoinRequest, said: str) -> None:
    with pytest.raises(Refused, match=said) as caught:
        ClientList(MEMBERS).check(request_, DAY)
    assert caught.value.reason is Reason.NOT_ADMITTED


def configured(listed: Mapping[str, object], *overrides: str) -> list[str]:
    try:
        return notes(load_config(None, ["tasks={sst2: }", *overrides], given={"server.clients": listed}))
    except ConfigError as error:
        return list(error.problems)


def test_a_list_is_checked_as_it_is_read() -> None:
    assert configured({"a": {"tasks": ["mine"], "expires": "2030-6-1"}, "..": {}, "b": {"role": "boss"}}) == [
        "server.clients.a.expires: '2030-6-1' is no date; write e.g. 2030-12-31",
        "server.clients...: '..' is not a client id; use at most 64 characters: letters, digits, _ . and -, no dot at "
        "the beginning and no two dots in a row",
        "server.clients.b.role: 'boss' is not a choice; write client, observer or operator",
    ]
    assert configured({"a": {"tasks": ["mine"]}}) == [
        "server.clients.a.tasks: 'mine' is no task of this configuration; add it to tasks, or remove it"
    ]
    (note,) = configured({"a": {"expires": DAY}})
    assert "a client is whom it says" in note


def test_the_roster_over_real_connections(tmp_path: Path) -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    listed = {"a": {"tasks": ["sst2"]}, "late": {"expires": yesterday}, "now": {"expires": today()}}
    config = small_config(tmp_path)
    config = load_config(None, given={**config.model_dump(mode="json"), "server.clients": listed})
    pem = provisioned(tmp_path / "tls", "a", "late", "now", "stranger")

    async def tried() -> None:
        coordinator = in_memory(config, make_model(config), ManualClock())
        await coordinator.start()
        async with served(coordinator, tls=of_coordinator(pem)) as server:
            for name, tasks, said in (
                ("a", ("sst2",), ""),
                ("now", ("sst2",), ""),
                ("a", ("sst2", "qqp"), "may not bring qqp"),
                ("late", ("sst2",), f"might join until {yesterday}"),
                ("stranger", ("sst2",), "is not listed"),
            ):
                async with client(server.port_number, 0.3, of_client(pem, name)) as port:
                    try:
                        assert (await port.join(asked(name, *tasks))).session.client_id == name and not said
                    except Refused as refusal:
                        assert refusal.reason is Reason.NOT_ADMITTED and said and re.search(said, refusal.message)
            assert set(coordinator.state.clients) == {"a", "now"}

    run(tried())
