"""torch's process-wide generators, borrowed for a while and given back as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_OWNER = threading.RLock()


@contextmanager
def borrowed_generator(seed: int | None = None, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's generators for the work inside, and restore them afterwards.

    Initialisation and dropout draw from generators that belong to the process and take no other. Several clients in
    one process (simulation, tests) therefore do such work one after the other; that is what the lock is for.

    Args:
        seed: where the generators start; None for work whose random values do not matter.
        device: a CUDA device whose generator is wanted too.
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    with _OWNER, torch.random.fork_rng(devices=devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield
