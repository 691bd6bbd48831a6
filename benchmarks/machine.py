"""What a measurement ran on, and how much of it others used meanwhile."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.processes import TICK_SECONDS

PACKAGES = ("torch", "transformers", "grpcio", "numpy")


def describe() -> dict[str, object]:
    """Processor, cores, memory, versions and threads, for JSON."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count() or 1,
        "memory_gb": round(memory / 2**30),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")) or None,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def describe_machine() -> str:
    """`describe` and the load in one line."""
    facts = describe()
    versions = ", ".join(f"{name} {facts[name]}" for name in ("python", *PACKAGES))
    threads = f"OMP_NUM_THREADS={facts['threads']}" if facts["threads"] else "OMP_NUM_THREADS not set"
    where = f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gb']} GB"
    return f"{where}; load {load():.2f}; {versions}; {threads}"


def version(package: str) -> str:
    """The installed version; `absent` if there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def load() -> float:
    """Mean number of running processes over the last minute."""
    return os.getloadavg()[0]


def busy_seconds() -> float:
    """Processor time that everybody on this machine has used since it started."""
    words = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(words[:3]) + sum(words[5:8])) * TICK_SECONDS


class Others:
    """The share of the machine, 0 to 1, that other programs used while a measurement lasted."""

    share = 0.0

    def __init__(self) -> None:
        self._since = (time.monotonic(), busy_seconds())

    def since_start(self, own_seconds: float) -> float:
        """The share so far, where `own_seconds` of processor time were ours."""
        wall = time.monotonic() - self._since[0]
        rest = busy_seconds() - self._since[1] - own_seconds
        return max(0.0, rest) / (wall * (os.cpu_count() or 1))

    def __enter__(self) -> Self:
        self._since = (time.monotonic(), busy_seconds())
        self._own = sum(os.times()[:4])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.share = self.since_start(sum(os.times()[:4]) - self._own)
