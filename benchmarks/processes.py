"""Programs that run beside a measurement: start them, hear what they say and when, read what they use, stop them.

Linux only: processor time and memory are read from `/proc`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
TICK_SECONDS = 1.0 / os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 8.0


@dataclass(frozen=True)
class Line:
    """One line that a program wrote, and when it reached us (`time.monotonic`)."""

    at: float
    text: str


class ProgramFailed(RuntimeError):
    """A program ended, or stayed silent, before it said what was expected."""


class Program:
    """A process of this measurement; a thread reads what it writes to standard error, or to both outputs.

    `grace_seconds` is how long it may take to end when it is stopped.
    """

    grace_seconds = STOP_SECONDS

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        folder: Path = ROOT,
        both_outputs: bool = False,
    ) -> None:
        self.name = " ".join(arguments[:4])
        self._process = subprocess.Popen(
            list(arguments),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if both_outputs else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if both_outputs else subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})},
        )
        self._output = self._process.stdout if both_outputs else self._process.stderr
        self._lines: list[Line] = []
        self._said = threading.Condition()
        self._silent = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """Everything it wrote so far."""
        with self._said:
            return "\n".join(line.text for line in self._lines)

    def matches(self, pattern: str) -> list[tuple[float, re.Match[str]]]:
        """Every line so far that holds `pattern`, with its time."""
        with self._said:
            return self._matches(pattern)

    def wait_for(self, pattern: str, times: int = 1, seconds: float = 120.0) -> re.Match[str]:
        """Return when `pattern` was in `times` lines; the last of them.

        Raises:
            ProgramFailed: it ended first, or took too long.
        """
        limit = time.monotonic() + seconds
        with self._said:
            while True:
                found = self._matches(pattern)
                if len(found) >= times:
                    return found[times - 1][1]
                left = limit - time.monotonic()
                if self._silent or left <= 0:
                    why = "ended" if self._silent else f"took more than {seconds:g} s"
                    tail = "\n".join(line.text for line in self._lines[-30:])
                    raise ProgramFailed(f"{self.name} {why} without {pattern!r} x {times}:\n{tail}")
                self._said.wait(left)

    def wait(self, seconds: float) -> int:
        """Its exit code.

        Raises:
            ProgramFailed: it still runs after `seconds`.
        """
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{self.name} still runs after {seconds:g} s") from None

    def stop(self) -> None:
        """End it and what it started, and wait until they are gone."""
        family = descendants(self.pid) if self.running else []
        if self.running and self.grace_seconds:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self.grace_seconds)
        for pid, born in family:
            if stat_of(pid).get("born") == born:  # still the same process, not a later one with its number
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
        if self.running:
            self._process.kill()
        self._process.wait()
        self._reader.join(STOP_SECONDS)

    def cpu_seconds(self) -> float:
        """Processor time of this process, of what it started and of what those started, ended ones included."""
        own = [stat_of(self.pid), *(stat_of(pid) for pid, _ in descendants(self.pid))]
        return sum(stat.get("ticks", 0) for stat in own) * TICK_SECONDS

    def peak_bytes(self) -> int:
        """Largest resident memory so far of this process alone."""
        return memory_of(self.pid, "VmHWM")

    def resident_bytes(self) -> int:
        """Resident memory now of this process alone."""
        return memory_of(self.pid, "VmRSS")

    def tree_bytes(self) -> int:
        """Resident memory now of this process and of everything below it; shared pages count in each."""
        pids = [self.pid, *(pid for pid, _ in descendants(self.pid))]
        total = 0
        for pid in pids:
            with suppress(OSError, ProgramFailed):
                total += memory_of(pid, "VmRSS")
        return total

    def reset_peak(self) -> None:
        """Start a new peak from here, so that what came before does not count."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _matches(self, pattern: str) -> list[tuple[float, re.Match[str]]]:
        return [(line.at, found) for line in self._lines if (found := re.search(pattern, line.text))]

    def _read(self) -> None:
        assert self._output is not None
        for text in self._output:
            with self._said:
                self._lines.append(Line(time.monotonic(), text.rstrip()))
                self._said.notify_all()
        with self._said:
            self._silent = True
            self._said.notify_all()
        self._output.close()


class TreePeaks:
    """Samples the resident memory of whole process trees and keeps the largest sums."""

    def __init__(self, programs: Mapping[str, Program], every_seconds: float = 0.3) -> None:
        self.peaks = dict.fromkeys(programs, 0)
        self._programs = programs
        self._every = every_seconds
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._sampler.join()

    def _sample(self) -> None:
        while not self._over.wait(self._every):
            for name, program in self._programs.items():
                self.peaks[name] = max(self.peaks[name], program.tree_bytes())


def python(module: str, *arguments: str) -> list[str]:
    """The command line of a module of this project."""
    return [sys.executable, "-m", module, *arguments]


def stat_of(pid: int) -> dict[str, int]:
    """Parent, time of birth and processor ticks (with those of ended children) of a process; empty: it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return {}
    words = text.rpartition(")")[2].split()
    return {"parent": int(words[1]), "ticks": sum(map(int, words[11:15])), "born": int(words[19])}


def descendants(pid: int) -> list[tuple[int, int]]:
    """(process id, time of birth) of everything below a process."""
    stats = {int(path.name): stat_of(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found, parents = [], [pid]
    while parents:
        parents = [child for child, stat in stats.items() if stat.get("parent") in parents]
        found += [(child, stats[child]["born"]) for child in parents]
    return found


def memory_of(pid: int, field: str) -> int:
    """A field of `/proc/PID/status` in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise ProgramFailed(f"process {pid} has ended")
    return int(found.group(1)) * 1024
