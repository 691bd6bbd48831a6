"""Signals that come early, late and twice, and outputs that end: real processes, and what is left of them."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from client.agent import Agent
from client.app import load_data, local_definitions
from client.jobs.executor import ThreadExecutor
from client.jobs.local_client import LocalClient, local_client
from common.clock import ManualClock
from common.config import Config, render
from common.orders import Welcome
from server.runs.assembly import in_memory
from tests.federations import array_config, make_model, small_config
from tests.processes import DEADLINE_SECONDS, PROGRAM, Programs

pytestmark = pytest.mark.slow

ROOT = PROGRAM.parent


def written(config: Config, folder: Path) -> str:
    path = folder / "config.yaml"
    path.write_text(render(config))
    return str(path)


def children(pid: int) -> set[int]:
    """The processes that `pid` started, and those that they started."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found |= {child, *children(child)}
    return found


def works(pid: int) -> bool:
    """Whether a process is there; one that only waits for somebody to read its exit code is not."""
    try:
        return not re.search(r"^State:\s+[ZX]", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return False


def eventually(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < limit
        threading.Event().wait(0.02)


@pytest.mark.parametrize(
    ("mode", "number"),
    [("server", signal.SIGTERM), ("server", signal.SIGINT), ("server", signal.SIGKILL), ("demo", signal.SIGTERM)],
)
def test_a_signal_while_the_model_is_made_leaves_no_process(mode: str, number: signal.Signals, tmp_path: Path) -> None:
    path = written(array_config(), tmp_path)
    with Programs(tmp_path) as programs:
        program = programs.start("--mode", mode, "--config", path, "--run_dir", "run")
        eventually(lambda: len(children(program.pid)) >= 2)  # the one that makes the model, and its tracker
        started = children(program.pid)
        program.send(number)
        code = program.exit_code()
        eventually(lambda: not any(map(works, started)))
        if number is not signal.SIGKILL:
            assert code == 130 and program.output.splitlines()[-1] == "interrupted", program.output
            assert "Traceback" not in program.output and "leaked" not in program.output


def test_a_demo_that_is_stopped_while_its_clients_start_leaves_none_of_them(tmp_path: Path) -> None:
    path = written(array_config(), tmp_path)
    with Programs(tmp_path) as programs:
        demo = programs.start("--mode", "demo", "--config", path, "--run_dir", "run")
        demo.wait_for("listens on")
        eventually(lambda: len(children(demo.pid)) >= 4)
        started = children(demo.pid)
        demo.terminate()
        assert demo.exit_code() == 0, demo.output
        eventually(lambda: not any(map(works, started)))
        assert json.loads((tmp_path / "run/report.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize("mode", ["client", "simulate", "compare"])
def test_a_signal_in_the_first_seconds_ends_every_mode(mode: str, tmp_path: Path) -> None:
    options = ["--tasks", "a0"] if mode == "client" else ["--run_dir", "run"]
    with Programs(tmp_path) as programs:
        program = programs.start("--mode", mode, "--config", written(array_config(), tmp_path), *options)
        eventually(lambda: handles(program.pid, signal.SIGTERM))
        program.terminate()
        assert program.exit_code() == 130 and program.output == "interrupted\n"


def handles(pid: int, number: signal.Signals) -> bool:
    caught = re.search(r"^SigCgt:\s+([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def script(text: str) -> subprocess.Popen[str]:
    """A program of a few lines that uses this project's way with signals."""
    head = "import asyncio, threading, time\nfrom common.stopping import asking, at_the_end, end_within, noticed\n"
    command = [sys.executable, "-u", "-c", head + text]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def test_a_main_thread_that_is_busy_does_not_hold_up_the_end() -> None:
    with script(
        "with noticed(), at_the_end(lambda: print('last words')):\n  print('ready')\n  time.sleep(10**6)"
    ) as process:
        assert lines(process, 1) == ["ready"]
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 130
        assert lines(process, 2) == ["last words", "interrupted"]


ORDERLY = """
async def go():
    stop = asyncio.Event()
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    with asking({ask}) as request:
        print("ready")
        await stop.wait()
    print("in good order")
    if request.noticed:
        end_within(0.1, 0)
with noticed():
    asyncio.run(go())
"""


def test_who_was_asked_ends_in_good_order_although_a_thread_never_ends() -> None:
    with script(ORDERLY.format(ask="stop.set")) as process:
        assert lines(process, 1) == ["ready"]
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
        assert lines(process, 1) == ["in good order"]


def test_the_second_signal_ends_the_process() -> None:
    with script(ORDERLY.format(ask="lambda: print('asked')")) as process:
        assert lines(process, 1) == ["ready"]
        process.terminate()
        assert lines(process, 1) == ["asked"]
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 130
        assert lines(process, 1) == ["interrupted"]


class Builder:
    """Opens an executor whose model takes until it is told to be ready."""

    def __init__(self) -> None:
        self.begun, self.ready = threading.Event(), threading.Event()

    def open(self, client: LocalClient, welcome: Welcome, tokenizer: bytes, folder: Path) -> ThreadExecutor:
        self.begun.set()
        self.ready.wait()
        return ThreadExecutor(client, welcome, tokenizer, folder)


def test_a_client_that_builds_or_tokenises_leaves_when_told_to(tmp_path: Path) -> None:
    config = small_config(tmp_path)

    async def play() -> bool:
        coordinator = in_memory(config, make_model(config), ManualClock())
        await coordinator.start()
        tasks = local_definitions(config, ["sst2"])
        client = local_client("a", tasks, load_data(config, tasks), torch.device("cpu"))
        builder = Builder()
        agent = Agent(coordinator, client, tmp_path / "state", builder.open)
        running = asyncio.ensure_future(agent.run())
        try:
            await asyncio.to_thread(builder.begun.wait)
            agent.stop()
            await asyncio.wait_for(running, 60)
        finally:
            builder.ready.set()  # `asyncio.run` waits for threads
        return coordinator.state.clients["a"].left

    assert asyncio.run(play())


def on_a_terminal(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """A process whose terminal goes as soon as it has said something."""
    ours, theirs = os.openpty()

    def own_it() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own_it)
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    return process


def test_a_run_goes_on_whatever_becomes_of_its_outputs(tmp_path: Path) -> None:
    config = written(array_config("training.num_rounds=3"), tmp_path)

    def command(name: str) -> list[str]:
        return [sys.executable, str(PROGRAM), "--mode", "simulate", "--config", config, "--clients", "2",
                "--run_dir", name]  # fmt: skip

    reading, writing = os.pipe()
    os.close(reading)  # as `head` does in the end
    with (tmp_path / "pipe.log").open("wb") as log, Path("/dev/full").open("wb") as full:
        processes = {
            "pipe": subprocess.Popen(command("pipe"), cwd=tmp_path, stdout=writing, stderr=log),
            "full": subprocess.Popen(command("full"), cwd=tmp_path, stdout=full, stderr=full),
            "closed": subprocess.Popen(
                ["sh", "-c", f"exec {shlex.join(command('closed'))} <&- >&- 2>&-"], cwd=tmp_path
            ),
            "terminal": on_a_terminal(command("terminal"), tmp_path),
        }
    os.close(writing)
    for name, process in processes.items():
        assert process.wait(4 * DEADLINE_SECONDS) == 0, name
        report = json.loads((tmp_path / name / "report.json").read_text())
        assert (report["status"], report["rounds_completed"]) == ("finished", 3)
        assert len((tmp_path / name / "metrics.jsonl").read_text().splitlines()) == 4
    said = (tmp_path / "pipe.log").read_text()
    assert len(re.findall(r"W standard output cannot be written \(Broken pipe\)", said)) == 1
    assert "Traceback" not in said and "Exception ignored" not in said
