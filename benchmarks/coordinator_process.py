"""A real coordinator process and real client daemons for benchmarks."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, Program, python
from common.config import load_config, render

CLOSED = r"round (\d+) closed"


ALONE = ("federation.start_timeout_seconds=200",)
"""A run whose benchmark was killed ends by itself, and its clients with it."""


class CoordinatorProcess(Program):
    """`federated_main.py --mode server` on a free port of this machine, configured by a file beside its run folder."""

    grace_seconds = 0.0  # its run folder is thrown away: nothing is worth draining for

    def __init__(self, run_dir: Path, settings: Sequence[str], start_seconds: float = 300.0) -> None:
        self.run_dir = run_dir
        self.config = run_dir.with_name(f"{run_dir.name}.yaml")
        self.config.write_text(
            render(load_config(None, [*ALONE, *settings, f"run.run_dir='{run_dir}'", "server.port=0"]))
        )
        command = [sys.executable, str(ROOT / "federated_main.py"), "--mode", "server", "--config", str(self.config)]
        super().__init__(command)
        with ExitStack() as unless_it_listens:
            unless_it_listens.callback(self.stop)
            self.port = int(self.wait_for(r"listens on \S+:(\d+)", seconds=start_seconds)[1])
            unless_it_listens.pop_all()

    def wait_for_rounds(self, count: int, seconds: float) -> float:
        """Wait until `count` rounds are closed; when the last of them was."""
        self.wait_for(CLOSED, count, seconds)
        return self.matches(CLOSED)[count - 1][0]

    def wait_until_finished(self, seconds: float = 600.0) -> None:
        """Wait until the run is over; the process may still say goodbye then."""
        self.wait_for("the run is finished", 1, seconds)

    def report(self) -> dict[str, Any]:
        """The run's report, once it has ended."""
        self.wait(60.0)
        found: dict[str, Any] = json.loads((self.run_dir / "report.json").read_text(encoding="utf-8"))
        return found


def client_daemon(
    coordinator: CoordinatorProcess, client_id: str, task: str, settings: Sequence[str], still: bool
) -> Program:
    """A client daemon for one task; a still one trains nothing and is otherwise the same program."""
    keys = [f"client.server=127.0.0.1:{coordinator.port}", f"client.state_dir='{coordinator.run_dir}-{client_id}'"]
    words = [word for key in (*keys, *settings) for word in ("--set", key)]
    words = ["--config", str(coordinator.config), "--client_id", client_id, "--tasks", task, *words]
    if still:
        return Program(python("benchmarks.scoring_client", *words))
    return Program([sys.executable, str(ROOT / "federated_main.py"), "--mode", "client", *words])
