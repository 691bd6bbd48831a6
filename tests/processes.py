"""The program in processes of its own: start it, read what it says line by line, stop or kill it."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAM = Path(__file__).parent.parent / "federated_main.py"
DEADLINE_SECONDS = 120.0
LISTENS = r"listens on 127\.0\.0\.1:(\d+)"


class Program:
    """One `federated_main.py`; a thread reads its output."""

    def __init__(self, folder: Path, arguments: tuple[str, ...]) -> None:
        self.name = " ".join(arguments[:4])
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        self._lines: list[str] = []
        self._said = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """Everything so far."""
        with self._said:
            return "".join(self._lines)

    def wait_for(self, pattern: str, times: int = 1, seconds: float = DEADLINE_SECONDS) -> re.Match[str]:
        """Return when `pattern` was found in `times` lines; give the last match."""
        limit = time.monotonic() + seconds
        with self._said:
            while True:
                found = [match for line in self._lines if (match := re.search(pattern, line))]
                if len(found) >= times:
                    return found[times - 1]
                left = limit - time.monotonic()
                if self._over or left <= 0:
                    why = "ended without" if self._over else f"took {seconds:g} s without"
                    raise AssertionError(f"{self.name} {why} {pattern!r} x {times}:\n{''.join(self._lines)}")
                self._said.wait(left)

    def port(self) -> int:
        """The port of a coordinator that was started with `--port 0`, or with another one."""
        return int(self.wait_for(LISTENS)[1])

    def count(self, pattern: str) -> int:
        """How many lines so far hold `pattern`."""
        return len(re.findall(pattern, self.output))

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self._process.kill()
        assert self._process.wait(DEADLINE_SECONDS) == -signal.SIGKILL, self.output
        self._reader.join(DEADLINE_SECONDS)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def pause(self) -> None:
        """`kill -STOP`: it stands still, as when its machine sleeps or moves."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """`kill -CONT`."""
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to stop."""
        self._process.terminate()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def exit_code(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for its end."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {seconds:g} s:\n{self.output}") from None
        self._reader.join(DEADLINE_SECONDS)
        return code

    def close(self) -> None:
        """End it if it still runs, and forget its output."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(DEADLINE_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._said:
                self._lines.append(line)
                self._said.notify_all()
        with self._said:
            self._over = True
            self._said.notify_all()


class Programs:
    """The processes of one test; those that still run at its end are killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Program] = []

    def start(self, *arguments: str) -> Program:
        program = Program(self._folder, arguments)
        self._started.append(program)
        return program

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in self._started:
            program.close()


@contextmanager
def log_given_back() -> Iterator[None]:
    """For tests that call `main` in their own process: it takes the log over."""
    root, ours = logging.getLogger(), logging.getLogger("fedmtl")
    before = (root.handlers[:], root.level, ours.level)
    try:
        yield
    finally:
        root.handlers[:], root.level = before[0], before[1]
        ours.setLevel(before[2])
