"""A real coordinator process for benchmarks: start it, learn its port, read what it used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAM = Path(__file__).resolve().parent.parent / "federated_main.py"
SIZES = {
    "bert-tiny": (2, 128),
    "bert-mini": (4, 256),
    "bert-base": (12, 768),
}
"""Layers and hidden size of BERT encoders to make at random."""


def write_encoder(folder: Path, name: str) -> Path:
    """A model folder with a configuration and no weights."""
    layers, hidden = SIZES[name]
    config = {
        "model_type": "bert",
        "vocab_size": 30_522,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class CoordinatorProcess:
    """`federated_main.py --mode server` on a free port of this machine."""

    def __init__(self, run_dir: Path, tasks: Sequence[str], settings: Sequence[str]) -> None:
        overrides = [word for setting in settings for word in ("--set", setting)]
        config = run_dir.with_suffix(".yaml")
        config.write_text("tasks:\n" + "".join(f"  {task}:\n" for task in tasks))
        overrides += ["--config", str(config)]
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "--mode", "server", "--port", "0", "--run_dir", str(run_dir), *overrides],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=PROGRAM.parent,
        )
        self.lines: list[str] = []
        self.port = int(self._wait_for(r"listens on \S+:(\d+)"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _wait_for(self, pattern: str) -> str:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip())
            found = re.search(pattern, line)
            if found:
                return found.group(1)
        raise RuntimeError("the coordinator ended:\n" + "\n".join(self.lines))

    def wait_until_finished(self) -> None:
        """Read the log until the run is over; the process may still say goodbye then."""
        self._wait_for(r"(the run is finished)")

    def peak_bytes(self) -> int:
        """Largest resident memory so far (Linux: VmHWM)."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        """Start a new peak from here (Linux), so that building the model does not count."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def _status(self, field: str) -> int:
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(rf"{field}:\s+(\d+) kB", text)
        assert found is not None
        return int(found.group(1)) * 1024
