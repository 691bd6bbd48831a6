"""What the log and `metrics.jsonl` tell to machines."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from common.log_fields import FIELDS, LONGEST_VALUE, about
from common.logs import set_up_logging
from common.orders import TaskResult
from common.statistics import TaskStatistics
from server.core.effects import RoundClosed
from server.core.open_round import OpenOrder, OpenRound, OrderState
from server.core.phases import TRAIN, RoundPhase
from server.reporting.progress import RunProgress
from tests.core_cases import TASKS
from tests.crashes import serve_here
from tests.federations import small_config
from tests.processes import log_given_back

OPERATIONS = (Path(__file__).parent.parent / "docs/use/operations.md").read_text(encoding="utf-8")
MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z"


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    with log_given_back():
        yield


def test_a_text_line_has_date_and_time_in_utc() -> None:
    stream = io.StringIO()
    set_up_logging("text", stream)
    record = logging.makeLogRecord({"name": "fedmtl", "levelname": "WARNING", "msg": "hello", "levelno": 30})
    record.created = datetime(2026, 3, 1, 23, 59, 58, tzinfo=UTC).timestamp()
    logging.getLogger().handlers[0].handle(record)
    assert stream.getvalue() == "2026-03-01T23:59:58Z W hello\n"


def test_a_json_line_has_the_fields_that_it_is_about() -> None:
    stream = io.StringIO()
    set_up_logging("json", stream)
    log = logging.getLogger("fedmtl.client")
    log.info("sent", extra=about(event="handed_in", client="a", task="x,y", bytes=12, seconds=0.5, round=3))
    log.info("long", extra=about(reason="r" * 10_000))
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert re.fullmatch(MOMENT, first.pop("time"))
    assert first == {
        "level": "info", "logger": "fedmtl.client", "message": "sent", "event": "handed_in", "client": "a",
        "task": "x,y", "bytes": 12, "seconds": 0.5, "round": 3,
    }  # fmt: skip
    assert len(second["reason"]) == LONGEST_VALUE


def test_the_page_about_operations_lists_the_fields() -> None:
    said = re.search(r"`time`, `level`, `logger`,\s`message`[^.]*?fields ((?:`\w+`[,\sand]*)+)", OPERATIONS)
    assert said is not None and tuple(re.findall(r"`(\w+)`", said[1])) == FIELDS


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run of two rounds that was finished and goes on to three, and what its log said."""
    folder, stream = tmp_path_factory.mktemp("resumed"), io.StringIO()
    config = small_config(folder, f"run.run_dir='{folder / 'run'}'", "server.port=0")
    with log_given_back():
        set_up_logging("json", stream)
        asyncio.run(serve_here(config, False, folder / "state"))
        longer = config.model_copy(update={"training": config.training.model_copy(update={"num_rounds": 3})})
        (folder / "run/metrics.jsonl").open("a").write('{"kind": "train", "rou')  # as a full disk leaves it
        asyncio.run(serve_here(longer, True, folder / "state"))
    return folder / "run", [json.loads(line) for line in stream.getvalue().splitlines()]


def test_rounds_clients_and_updates_are_told_with_fields(resumed: tuple[Path, list[dict[str, Any]]]) -> None:
    _, lines = resumed
    events = {line["event"] for line in lines if "event" in line}
    assert {"listening", "client_joined", "joined", "training", "handed_in", "round_closed", "run_finished"} <= events
    for line in lines:
        assert set(line) <= {"time", "level", "logger", "message", "error", *FIELDS}
    closed = [line for line in lines if line.get("event") == "round_closed"]
    assert [line["round"] for line in closed] == [1, 2, 3]
    assert all(line["bytes"] > 0 and line["seconds"] >= 0 and line["attempt"] == 1 for line in closed)
    joined = {(line["client"], line["task"]) for line in lines if line.get("event") == "client_joined"}
    assert ("d", "qqp,sst2") in joined


def test_metrics_have_a_time_and_tell_every_round_and_version_once(
    resumed: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, _ = resumed
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(re.fullmatch(MOMENT, line["time"]) for line in lines)
    assert [(line["kind"], line["round"]) for line in lines] == [
        ("train", 1), ("train", 2), ("evaluate", 2), ("train", 3), ("evaluate", 3),
    ]  # fmt: skip
    # The scoring after round 2 told of version 2; the clients' scores on arrival in round 3 are of it too.
    assert [line.get("version") for line in lines] == [0, 1, 2, None, 3]
    assert all(("scores" in line) == ("version" in line) for line in lines)
    assert all("round" not in row for line in lines for row in line.get("scores", {}).values())
    assert all(set(line["training_loss"]) == {"sst2", "qqp"} for line in lines if line["kind"] == "train")


def closed(number: int, attempt: int = 1, published: bool = True, phase: RoundPhase = TRAIN) -> RoundClosed:
    result = TaskResult("sst2", 4, 0.5, TaskStatistics(examples=2, loss_sum=1.0, right=1, labels=(1, 1, 1, 0, 1, 1)))
    order = OpenOrder("o", "a", (), (), OrderState.ACCEPTED, results=(result,))
    version = number - 1 if phase.publishes else number
    return RoundClosed(OpenRound(number, attempt, phase, version, 0.0, {"o": order}), {}, number if published else None)


def told(path: Path) -> list[tuple[int, int, int | None]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["round"], line["attempt"], line.get("version")) for line in lines]


def test_lines_that_the_journal_does_not_know_are_dropped_and_told_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = RunProgress(TASKS, 5, path, None)
    for number in (1, 2, 3):
        first.closed(closed(number))
    # The disk lost the commit of round 3.
    again = RunProgress(TASKS, 5, path, None, [closed(1).round, closed(2).round])
    assert told(path) == [(1, 1, 0), (2, 1, 1)]
    again.closed(closed(3))
    assert told(path) == [(1, 1, 0), (2, 1, 1), (3, 1, 2)]


def test_an_abandoned_attempt_leaves_the_scores_to_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    progress = RunProgress(TASKS, 5, path, None)
    progress.closed(closed(1, attempt=1, published=False))
    progress.closed(closed(1, attempt=2))
    assert told(path) == [(1, 1, None), (1, 2, 0)]


def test_a_disk_that_takes_half_a_line_keeps_none_of_it() -> None:
    progress = RunProgress(TASKS, 5, Path("/dev/full"), None)
    with pytest.raises(OSError, match="No space left"):
        progress.closed(closed(1))
