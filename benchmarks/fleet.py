"""Many clients at once: light agents without torch that speak the whole protocol, many to a process.

Every agent has a connection of its own. `--agents` times rounds; `--parked` lets agents join and wait for work that
never comes, and reads how much memory the coordinator needs for them.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from benchmarks.coordinator_process import CLOSED, CoordinatorProcess
from benchmarks.encoders import SIZES, model_settings
from benchmarks.machine import Others
from benchmarks.processes import Program, python
from benchmarks.sheet import Sheet
from benchmarks.spread import Spread

TASKS = ("sst2", "qqp", "stsb")
WARM_UP = 2
LIMIT_SECONDS = 600.0
SETTLE_SECONDS = 3.0

ROUNDS = {
    "agents": "agents",
    "processes": "processes",
    "connections": "connections",
    "size": "size",
    "round_s": "s per round",
    "coordinator_cpu_s": "coordinator CPU s",
    "agents_cpu_s": "agents CPU s",
    "coordinator_peak_mb": "coordinator peak MB",
    "above_first_mb": "above the first row",
    "others": "used by others",
}
PARKED = {
    "agents": "parked polls",
    "processes": "processes",
    "connections": "connections",
    "before_mb": "coordinator MB before",
    "after_mb": "with them",
    "growth_mb": "growth MB",
    "join_s": "s until all had joined",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--agents", default="3,50", help="numbers of agents; empty for none (default: %(default)s)")
    parser.add_argument("--parked", default="", help="numbers of agents that only wait, such as 2000")
    parser.add_argument("--size", choices=SIZES, default="bert-tiny", help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=2, help="of the agents (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=8, help="rounds that count (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """One table of rounds, one of parked polls."""
    allow_many_files()
    with tempfile.TemporaryDirectory() as name:
        if options.agents:
            sheet.columns(ROUNDS)
        for count in map(int, filter(None, options.agents.split(","))):
            time_rounds(count, options, Path(name) / f"rounds-{count}", sheet)
        if options.parked:
            sheet.columns(PARKED)
        for count in map(int, filter(None, options.parked.split(","))):
            park(count, options, Path(name) / f"parked-{count}", sheet)


def allow_many_files() -> None:
    """Every connection is an open file, here and in the programs that are started."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def settings_for(options: argparse.Namespace, folder: Path, least: int) -> list[str]:
    """The shipped defaults with the size of this measurement."""
    return [
        *model_settings(folder, options.size),
        *(f"tasks.{task}.train_samples=100" for task in TASKS[:least]),
        f"training.num_rounds={WARM_UP + options.rounds}",
        f"federation.min_clients={least}",
        *options.set,
    ]


def start_agents(port: int, count: int, processes: int, stack: ExitStack) -> list[Program]:
    """The agents, spread over processes."""
    started, first = [], 0
    for number in range(min(processes, count)):
        share = (count - first) // (min(processes, count) - number)
        words = (str(port), str(share), ",".join(TASKS), str(first))
        started.append(stack.enter_context(Program(python("benchmarks.light_agents", *words))))
        first += share
    return started


def time_rounds(count: int, options: argparse.Namespace, folder: Path, sheet: Sheet) -> None:
    """Rounds with `count` agents."""
    folder.mkdir()
    with ExitStack() as stack:
        settings = settings_for(options, folder, count)
        coordinator = stack.enter_context(CoordinatorProcess(folder / "run", settings))
        coordinator.reset_peak()
        agents = start_agents(coordinator.port, count, options.processes, stack)
        coordinator.wait_for_rounds(WARM_UP, LIMIT_SECONDS)
        others, before = Others(), [program.cpu_seconds() for program in (coordinator, *agents)]
        connected = connections(coordinator.port)
        coordinator.wait_for_rounds(WARM_UP + options.rounds, LIMIT_SECONDS)
        used = [p.cpu_seconds() - cpu for p, cpu in zip((coordinator, *agents), before, strict=True)]
        share, peak = others.since_start(sum(used)), coordinator.peak_bytes() / 1e6
        coordinator.wait_until_finished()
        times = [at for at, _ in coordinator.matches(CLOSED)][WARM_UP - 1 : WARM_UP + options.rounds]
    first = sheet.rows[0]["coordinator_peak_mb"] if sheet.rows else peak
    assert isinstance(first, float)
    sheet.row(
        agents=count,
        processes=len(agents),
        connections=connected,
        size=options.size,
        round_s=Spread.of([later - earlier for earlier, later in pairwise(times)]),
        coordinator_cpu_s=used[0] / options.rounds,
        agents_cpu_s=sum(used[1:]) / options.rounds,
        coordinator_peak_mb=peak,
        above_first_mb=peak - first,
        others=f"{share:.0%}",
    )


def park(count: int, options: argparse.Namespace, folder: Path, sheet: Sheet) -> None:
    """Memory of the coordinator while `count` polls wait for a client that never comes."""
    folder.mkdir()
    with ExitStack() as stack:
        settings = settings_for(options, folder, count + 1)
        coordinator = stack.enter_context(CoordinatorProcess(folder / "run", settings))
        before, began = coordinator.resident_bytes() / 1e6, time.monotonic()
        agents = start_agents(coordinator.port, count, options.processes, stack)
        for program in agents:
            program.wait_for(r"all \d+ agents joined", 1, LIMIT_SECONDS)
        joined = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        after = coordinator.resident_bytes() / 1e6
        sheet.row(
            agents=count,
            processes=len(agents),
            connections=connections(coordinator.port),
            before_mb=before,
            after_mb=after,
            growth_mb=after - before,
            join_s=joined,
        )


def connections(port: int) -> int:
    """Established TCP connections to a port of this machine."""
    ending, established = f":{port:04X}", "01"
    tables = "".join(Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
    lines = [line.split() for line in tables.splitlines() if ending in line]
    return sum(words[1].endswith(ending) and words[3] == established for words in lines)
