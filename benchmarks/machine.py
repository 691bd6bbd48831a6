"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def describe_machine() -> str:
    """Processor, cores, load, Python and torch in one line."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    load = os.getloadavg()[0]
    return (
        f"{processor}, {os.cpu_count()} cores, load {load:.1f} at start; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
