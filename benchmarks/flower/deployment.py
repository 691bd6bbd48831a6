"""Flower as it is deployed: a SuperLink, a SuperNode per client and `flwr run`, all on this machine."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.processes import Program, ProgramFailed, TreePeaks

HERE = Path(__file__).resolve().parent
POLL = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
HOST = "127.0.0.1"


@dataclass(frozen=True)
class FlowerRun:
    """What a run took. `seconds` are those of its rounds in order, the first one included."""

    seconds: tuple[float, ...]
    total_seconds: float
    server_cpu: float
    clients_cpu: float
    server_peak: int
    client_peak: int


def add_environment_options(parser: argparse.ArgumentParser) -> None:
    """Where the environment of the peers lies and what it is made from."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedmtl-benchmarks"
    parser.add_argument("--envs", type=Path, default=cache, help="folder of the environments (default: %(default)s)")
    parser.add_argument("--torch_index", metavar="URL", help="extra package index with CPU builds of torch")


def environment(folder: Path, index: str | None) -> Path:
    """The `bin` folder of an environment with Flower; made on the first call, and again when its pins change."""
    home, pins = folder / "flower", (HERE / "requirements.txt").read_text()
    stamp = home / "fedmtl-pins.txt"
    if not stamp.is_file() or stamp.read_text() != pins:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        install = [str(home / "bin" / "python"), "-m", "pip", "install", "-q"]
        install += ["--extra-index-url", index] if index else []
        torch = next(line for line in pins.splitlines() if line.startswith("torch=="))
        # By itself first, so that pip takes the build that the index offers.
        subprocess.run([*install, torch], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*install, "-r", str(HERE / "requirements.txt")], check=True, stdout=subprocess.DEVNULL)
        stamp.write_text(pins)
    return home / "bin"


def run_flower(
    bin_folder: Path,
    folder: Path,
    clients: int,
    rounds: int,
    state: Path,
    job: Path | None = None,
    task_poll: str | None = None,
    limit_seconds: float = 600.0,
) -> FlowerRun:
    """Run an app to its last round, then end everything that was started for it.

    Raises:
        ProgramFailed: it did not get so far in time.
    """
    folder.mkdir(parents=True)
    ports, marks = free_ports(clients + 1), folder / "marks.jsonl"
    variables = variables_for(bin_folder, folder, ports[0]) | ({POLL: task_poll} if task_poll else {})
    began, deadline = time.time(), time.monotonic() + limit_seconds
    with ExitStack() as stack:

        def start(*words: str) -> Program:
            command = [str(bin_folder / words[0]), *words[1:]]
            return stack.enter_context(Program(command, variables, folder, both_outputs=True))

        link = start(
            "flower-superlink", "--insecure", "--port", str(ports[0]), "--disable-runtime-dependency-installation"
        )
        await_port(ports[0], deadline)
        nodes = [
            start(
                *("flower-supernode", "--insecure", "--superlink", f"{HOST}:{ports[0]}", "--port", str(port)),
                *("--node-config", f"partition-id={number}"),
            )
            for number, port in enumerate(ports[1:])
        ]
        config = f'rounds={rounds} clients={clients} state="{state}" job="{job or ""}" marks="{marks}"'
        submit = start("flwr", "run", str(HERE / "app"), "here", "--run-config", config)
        everybody = {"server": link} | {f"client-{number}": node for number, node in enumerate(nodes)}
        with TreePeaks(everybody) as memory:
            try:
                times, cpu = watch(marks, rounds, everybody, deadline)
            except ProgramFailed as error:
                raise ProgramFailed(f"{error}:\n{submit.output[-1500:]}\n{link.output[-3000:]}") from None
    used = {name: cpu[-1][name] - cpu[0][name] for name in everybody}
    return FlowerRun(
        tuple(later - earlier for earlier, later in pairwise(times)),
        times[-1] - began,
        used["server"] / rounds,
        sum(seconds for name, seconds in used.items() if name != "server") / rounds,
        memory.peaks["server"],
        max(peak for name, peak in memory.peaks.items() if name != "server"),
    )


def variables_for(bin_folder: Path, folder: Path, port: int) -> dict[str, str]:
    """A home of its own for Flower, and the environment variables that point there."""
    home = folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{HOST}:{port}"\ninsecure = true\n'
    )
    return {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }


def watch(
    marks: Path, rounds: int, programs: Mapping[str, Program], deadline: float
) -> tuple[list[float], list[dict[str, float]]]:
    """When each round ended, the start being round 0, and what every program had used by then.

    Raises:
        ProgramFailed: the last round did not end in time.
    """
    times: list[float] = []
    cpu: list[dict[str, float]] = []
    while len(times) <= rounds:
        if time.monotonic() > deadline:
            raise ProgramFailed(f"Flower closed {len(times)} of {rounds} rounds in time")
        time.sleep(0.05)
        found = marks.read_text().splitlines() if marks.exists() else []
        if len(found) > len(times):
            times = [json.loads(line)["at"] for line in found]
            cpu.append({name: program.cpu_seconds() for name, program in programs.items()})
    return times, cpu


def await_port(port: int, deadline: float) -> None:
    """Wait until somebody listens."""
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        if time.monotonic() > deadline:
            raise ProgramFailed("Flower's SuperLink does not listen")
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses at the moment."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind((HOST, 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports
