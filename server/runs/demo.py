"""The demo: this process is the coordinator, and it starts one process per client."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from common.config import Config
from common.errors import RunFailedError
from common.plain_text import plain
from common.stopping import at_the_end
from server.reporting.values import Report
from server.runs.app import serve

STOP_SECONDS = 10.0


class Clients:
    """The client processes of one demo, each with its own log file."""

    def __init__(self, program: Path, folder: Path, arguments: list[list[str]]) -> None:
        self._program = program
        self._folder = folder
        self._arguments = arguments
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, port: int) -> None:
        """Start them all against the coordinator on this machine's `port`."""
        logs = self._folder / "logs"
        logs.mkdir(exist_ok=True)
        for arguments in self._arguments:
            name = arguments[arguments.index("--client_id") + 1]
            command = [sys.executable, str(self._program), "--mode", "client", *arguments]
            command += ["--server", f"127.0.0.1:{port}", "--state_dir", str(self._folder / "clients")]
            with (logs / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            self._processes.append((name, process))

    def failed(self) -> Iterator[str]:
        """Clients that ended with an error, with the last line they wrote."""
        for name, process in self._processes:
            if process.poll():
                lines = (self._folder / "logs" / f"{name}.log").read_text(errors="replace").splitlines()
                yield f"{name} (exit code {process.returncode}): {lines[-1] if lines else 'no output'}"

    def tell(self) -> None:
        """Ask those that still run to end."""
        for _, process in self._processes:
            if process.poll() is None:
                process.terminate()

    def stop(self) -> None:
        """End those that still run."""
        self.tell()
        for _, process in self._processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run_demo(config: Config, clients_per_task: int, options: list[str], program: Path, console: Console) -> None:
    """Run a whole federation on this machine and show its scores.

    Args:
        config: the resolved configuration, with its run folder.
        clients_per_task: client processes per task; each gets its own part of the rows.
        options: further command-line options for every client.
        program: `federated_main.py`.
        console: where progress is shown.

    Raises:
        RunFailedError: a client could not start, or the federation stopped early.
    """
    arguments = [
        ["--client_id", f"{task}_{part}", "--tasks", task, "--partition", f"{part}/{clients_per_task}", *options]
        for task in config.tasks
        for part in range(1, clients_per_task + 1)
    ]
    clients = Clients(program, config.run.folder, arguments)
    with at_the_end(clients.tell):
        try:
            report = asyncio.run(_run(config, clients, console))
        finally:
            clients.stop()
    said = f"model {report.model_digest[:16]}, {report.seconds:.0f} s; data: {plain(report.data)}"
    console.print(Text(f"{said}\nreport: {plain(str(config.run.folder / 'report.json'))}"), soft_wrap=True)


async def _run(config: Config, clients: Clients, console: Console) -> Report:
    federation = asyncio.ensure_future(serve(config, False, console, clients.start))
    while not federation.done():
        await asyncio.wait((federation,), timeout=1.0)
        broken = [] if federation.done() else list(clients.failed())
        if broken:
            federation.cancel()
            await asyncio.wait((federation,))
            raise RunFailedError("a client of the demo failed: " + "; ".join(broken))
    return federation.result()
