"""Which number format this client multiplies in while it trains; an automatic choice is made once per run."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from client.state.disk import disk
from client.training.loop import TaskSet
from client.training.precision import multiplies_bfloat16, time_precisions
from common.bodies import TrainingSettings
from common.models.multitask import MultiTaskModel

log = logging.getLogger("fedmtl.client")

Precision = Literal["float32", "bfloat16", "auto"]

LEAST_GAIN = 1.15
"""bfloat16 must be this much faster to be worth its rounding."""

_FILE = "precision.json"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class PrecisionChoice:
    """The precision of one client in one run.

    Args:
        wanted: `float32`, `bfloat16`, or `auto` for the faster one.
        folder: where an automatic choice is kept, so that a restarted client repeats an order bit for bit; None for
            nowhere.
    """

    def __init__(self, wanted: Precision, folder: Path | None) -> None:
        self._wanted = wanted
        self._path = None if folder is None else folder / _FILE
        self._chosen: torch.dtype | None = None

    def choose(self, model: MultiTaskModel, sets: Sequence[TaskSet], settings: TrainingSettings) -> torch.dtype:
        """The precision to train in; the first call may time a few steps, and leaves the model as it is."""
        if self._chosen is None:
            device = next(model.parameters()).device
            if self._wanted == "auto":
                self._chosen = self._recall(device) or self._measure(model, sets, settings, device)
            else:
                self._chosen = _DTYPES[self._wanted]
                if self._chosen == torch.bfloat16 and not multiplies_bfloat16(device):
                    log.warning("client.precision: %s has no bfloat16 products; float32 is faster here", device)
        return self._chosen

    @contextmanager
    def in_use(self, model: MultiTaskModel, sets: Sequence[TaskSet], settings: TrainingSettings) -> Iterator[None]:
        """Inside, the model multiplies in the chosen precision; outside in float32."""
        model.precision = self.choose(model, sets, settings)
        try:
            yield
        finally:
            model.precision = torch.float32

    def _measure(
        self, model: MultiTaskModel, sets: Sequence[TaskSet], settings: TrainingSettings, device: torch.device
    ) -> torch.dtype:
        if not multiplies_bfloat16(device):
            log.info("precision: float32, since %s has no bfloat16 products", device)
            return torch.float32
        timings = time_precisions(model, sets, settings)
        if timings is None:
            return torch.float32
        full, half = timings
        chosen = "bfloat16" if full >= LEAST_GAIN * half else "float32"
        log.info("precision: %s; a step takes %.2f ms in float32, %.2f in bfloat16", chosen, full * 1e3, half * 1e3)
        self._remember(
            {"precision": chosen, "device": device.type, "float32_ms": full * 1e3, "bfloat16_ms": half * 1e3}
        )
        return _DTYPES[chosen]

    def _recall(self, device: torch.device) -> torch.dtype | None:
        """An earlier choice on the same kind of device."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            with disk(self._path.parent):
                note = json.loads(self._path.read_text(encoding="utf-8"))
            found, kind = _DTYPES[note["precision"]], note["device"]
        except (ValueError, KeyError, TypeError):
            log.warning("%s cannot be read; the precision is chosen again", self._path)
            return None
        if kind != device.type:
            return None
        log.info("precision: %s, as chosen before", note["precision"])
        return found

    def _remember(self, note: dict[str, str | float]) -> None:
        if self._path is None:
            return
        temporary = self._path.with_name(f".{_FILE}.partial")
        with disk(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(note, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._path)
