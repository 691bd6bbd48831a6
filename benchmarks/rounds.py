"""Zero training: what a round costs when nothing is learned.

The coordinator and the clients are the real programs, each in a process of its own, with the shipped defaults; the
clients add a constant to every parameter instead of training, and score nothing. Three tasks
(sst2, qqp, stsb) take turns over the clients. Two rounds at the start do not count.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.coordinator_process import CLOSED, CoordinatorProcess, client_daemon
from benchmarks.disk import durable_commit, durable_write
from benchmarks.encoders import SIZES, model_settings, parameter_bytes
from benchmarks.machine import Others
from benchmarks.processes import Program, python
from benchmarks.sheet import Sheet
from benchmarks.spread import Spread

TASKS = ("sst2", "qqp", "stsb")
WARM_UP = 2
ROUNDS = {"1kb": 200, "bert-tiny": 20, "bert-mini": 15, "bert-base": 5}
LIMIT_SECONDS = 900.0

COLUMNS = {
    "model_mb": "model MB",
    "clients": "clients",
    "agents": "agents",
    "tls": "TLS",
    "round_ms": "ms per round",
    "coordinator_cpu_ms": "coordinator CPU ms",
    "coordinator_cpu_ms_per_client": "per client",
    "clients_cpu_ms": "clients CPU ms",
    "coordinator_peak_mb": "coordinator peak MB",
    "client_peak_mb": "client peak MB",
    "mb_down": "MB down",
    "mb_up": "MB up",
    "commit_ms": "one durable commit ms",
    "write_ms": "17.5 MB write + fsync ms",
    "others": "used by others",
}


@dataclass(frozen=True)
class Case:
    """One federation to time."""

    size: str
    clients: int
    rounds: int
    agents: str = "real"
    tls: bool = False
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timing:
    """What one federation took; `seconds` are those of single rounds after the warm-up."""

    model_bytes: int
    seconds: tuple[float, ...]
    coordinator_cpu: float
    clients_cpu: float
    coordinator_peak: int
    client_peaks: tuple[int, ...]
    down: float
    up: float
    others: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--clients", default="3,10", help="numbers of clients (default: %(default)s)")
    parser.add_argument("--size", default="bert-tiny", help=f"any of {', '.join(SIZES)} (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help="rounds that count (default: 200 of 1 KB, 20 of 17.5 MB, 5 of 438)")
    parser.add_argument("--tls", action="store_true", help="also with TLS, in turns with plain text")
    parser.add_argument("--agents", choices=("real", "light"), default="real", help="light: without torch")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key")
    parser.add_argument("--folder", type=Path, help="where the run folders lie for a while (default: a temporary one)")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """Time every size with every number of clients."""
    sheet.columns(COLUMNS)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for size in options.size.split(","):
            for count in map(int, options.clients.split(",")):
                for tls in (False, True) if options.tls else (False,):
                    rounds = options.rounds or ROUNDS[size]
                    case = Case(size, count, rounds, options.agents, tls, tuple(options.set))
                    sheet.row(**row_of(case, time_rounds(case, Path(name)), Path(name)))


def row_of(case: Case, timing: Timing, folder: Path) -> dict[str, float | int | str | bool | Spread | None]:
    """The row of a table, with the disk's own speed measured right after."""
    rounds = len(timing.seconds)
    coordinator_ms = timing.coordinator_cpu * 1e3 / rounds
    return {
        "size": case.size,
        "clients": case.clients,
        "agents": case.agents,
        "tls": "yes" if case.tls else "no",
        "model_mb": timing.model_bytes / 1e6,
        "round_ms": Spread.of(timing.seconds).scaled(1e3),
        "coordinator_cpu_ms": coordinator_ms,
        "coordinator_cpu_ms_per_client": coordinator_ms / case.clients,
        "clients_cpu_ms": timing.clients_cpu * 1e3 / rounds,
        "coordinator_peak_mb": timing.coordinator_peak / 1e6,
        "client_peak_mb": max(timing.client_peaks) / 1e6,
        "mb_down": timing.down / 1e6,
        "mb_up": timing.up / 1e6,
        "commit_ms": durable_commit(folder).scaled(1e3),
        "write_ms": durable_write(folder, 17_500_000).scaled(1e3),
        "others": f"{timing.others:.0%}",
    }


def time_rounds(case: Case, parent: Path) -> Timing:
    """Run one federation in processes of its own and time its rounds."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
        shared = [
            *model_settings(folder, case.size),
            *(f"tasks.{task}.{key}" for task in TASKS[: case.clients] for key in ("train_samples=8", "val_samples=0")),
            f"training.num_rounds={WARM_UP + case.rounds}",
            f"federation.min_clients={case.clients}",
            "client.compact_vocabulary=false",  # the constant then reaches every parameter
            *(tls_settings(folder) if case.tls else ()),
            *case.settings,
        ]
        coordinator = stack.enter_context(CoordinatorProcess(folder / "run", shared))
        coordinator.reset_peak()
        clients = start_clients(case, coordinator, stack)
        coordinator.wait_for_rounds(WARM_UP, LIMIT_SECONDS)
        others = Others()
        before = [program.cpu_seconds() for program in (coordinator, *clients)]
        coordinator.wait_for_rounds(WARM_UP + case.rounds, LIMIT_SECONDS)
        used = [p.cpu_seconds() - cpu for p, cpu in zip((coordinator, *clients), before, strict=True)]
        share = others.since_start(sum(used))
        peak, client_peaks = coordinator.peak_bytes(), tuple(client.peak_bytes() for client in clients)
        report = coordinator.report()
        for client in clients:
            client.wait(60.0)
        times = [at for at, _ in coordinator.matches(CLOSED)][WARM_UP - 1 : WARM_UP + case.rounds]
        model = parameter_bytes(folder / "run")
        tokenizer = (folder / "run" / "tokenizer.pack").stat().st_size * case.clients
        tokenizer = tokenizer if case.agents == "real" else 0
        return Timing(
            model,
            tuple(later - earlier for earlier, later in pairwise(times)),
            used[0],
            sum(used[1:]),
            peak,
            client_peaks,
            (report["bytes_down"] - tokenizer) / (WARM_UP + case.rounds + 1),  # the scoring order fetches, too
            bytes_up(folder / "run" / "journal.sqlite") / (WARM_UP + case.rounds),
            share,
        )


def bytes_up(journal: Path) -> int:
    """Bytes of all payloads that clients handed in."""
    database = sqlite3.connect(journal)
    (total,) = database.execute("SELECT SUM(nbytes) FROM orders").fetchone()
    database.close()
    return int(total)


def start_clients(case: Case, coordinator: CoordinatorProcess, stack: ExitStack) -> Sequence[Program]:
    """The clients' processes; light agents share one."""
    if case.agents == "light":
        command = python("benchmarks.light_agents", str(coordinator.port), str(case.clients), ",".join(TASKS))
        return [stack.enter_context(Program(command))]
    return [
        stack.enter_context(client_daemon(coordinator, f"still-{i}", TASKS[i % len(TASKS)], [], still=True))
        for i in range(case.clients)
    ]


def tls_settings(folder: Path) -> list[str]:
    """Certificates made for this run, and the keys that point at them."""
    import trustme  # of the development environment; plain runs do without it

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.private_key_pem.write_to_path(str(folder / "server.key"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
    return [
        f"server.tls.certificate='{folder / 'server.pem'}'",
        f"server.tls.key='{folder / 'server.key'}'",
        f"client.tls.ca='{folder / 'ca.pem'}'",
    ]
