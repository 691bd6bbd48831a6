"""What stays of a run with a client, so that its model can be asked and exported without a coordinator.

Three files beside the private values: what the model is, the client's configuration, and what was received last.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from client.state.disk import Damaged, disk, read_tensors, write_tensors
from client.state.store import DURABLE, Durability
from common.capabilities import WHOLE, Capacity
from common.errors import StateError, WireError
from common.inputs.header import Header
from common.inputs.row_scale import RowScale
from common.orders import Welcome
from common.standardising import InputScale
from common.targets import TargetUnits
from common.wire.messages import WELCOME

DESCRIPTION = "model.safetensors"
RECEIVED = "received.safetensors"
_NO_TOKEN = "none"


@dataclass(frozen=True)
class SliceDescription:
    """What a client's model is, and how it reads rows."""

    welcome: Welcome
    """Without the session's token."""
    tasks: tuple[str, ...]
    """Those of the client."""
    capacity: Capacity = WHOLE
    """How much of the model the client holds."""
    tokenizer: bytes = b""
    """Packed; empty where nothing is tokenised."""
    headers: Mapping[str, Header] | None = None
    scales: Mapping[str, RowScale] | None = None
    """By task, of rows that were standardised."""


@dataclass(frozen=True)
class LastScores:
    """What both models of a client scored last on its validation rows; None where that is not known."""

    metric: str
    received: float | None = None
    personal: float | None = None


@dataclass(frozen=True)
class ReceivedSlice:
    """The published values that a client received last, and what belongs to them."""

    digests: Mapping[str, str]
    """Of the layout of every scope."""
    version: int
    values: Mapping[str, Tensor]
    """float32 CPU vectors by scope."""
    units: Mapping[str, TargetUnits]
    """Of heads, by task."""
    scales: Mapping[str, InputScale]
    """Of rows that are scaled by those of all clients, by task."""
    scores: Mapping[str, LastScores]
    """By task."""


class SliceFiles:
    """The files in a client's folder of a run. Each is whole or absent, and those with values tell when it is damaged.

    Raises (every method): `StateError` where the disk fails, or a file is damaged.
    """

    def __init__(self, folder: Path, durability: Durability = DURABLE) -> None:
        self.folder = folder
        self._flush = os.fsync if durability.flushed else _leave

    @property
    def config(self) -> Path:
        """The client's configuration in effect."""
        return self.folder / "config.yaml"

    def describe(self, description: SliceDescription, config: str) -> None:
        """Write what the model is, and the configuration, YAML, if there is one."""
        welcome = description.welcome
        bare = replace(welcome, session=replace(welcome.session, token=_NO_TOKEN))
        values = {
            "welcome": base64.b64encode(WELCOME.encode(bare)).decode(),
            "tasks": description.tasks,
            "capacity": asdict(description.capacity),
            "tokenizer": description.tokenizer.decode(),
            "headers": {task: asdict(header) for task, header in (description.headers or {}).items()},
            "scales": {
                task: {"mean": scale.mean.tolist(), "factor": scale.factor.tolist()}
                for task, scale in (description.scales or {}).items()
            },
        }
        with disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if config:
                temporary = self.folder / ".config.yaml.partial"
                with temporary.open("w", encoding="utf-8") as file:
                    file.write(config)
                    file.flush()
                    self._flush(file.fileno())
                temporary.rename(self.config)
        self._write(DESCRIPTION, {}, values)

    def keep(self, received: ReceivedSlice) -> None:
        """Write what was received, in place of what was before."""
        values = {
            "digests": dict(received.digests),
            "version": received.version,
            "units": {task: asdict(units) for task, units in received.units.items()},
            "scales": {task: asdict(scale) for task, scale in received.scales.items()},
            "scores": {task: asdict(scores) for task, scores in received.scores.items()},
        }
        self._write(RECEIVED, received.values, values)

    def description(self) -> SliceDescription | None:
        """What the model is, or None where nothing was kept."""
        found = self._read(DESCRIPTION)
        if found is None:
            return None
        values = found[1]
        try:
            return SliceDescription(
                WELCOME.decode(base64.b64decode(values["welcome"])),
                tuple(values["tasks"]),
                _capacity(values["capacity"]),
                values["tokenizer"].encode(),
                {task: _header(header) for task, header in values["headers"].items()},
                {task: RowScale(*map(np.array, (s["mean"], s["factor"]))) for task, s in values["scales"].items()},
            )
        except (WireError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(DESCRIPTION, f"{type(error).__name__} of another FedMTL") from None

    def received(self) -> ReceivedSlice | None:
        """What was received last, or None where nothing was kept."""
        found = self._read(RECEIVED)
        if found is None:
            return None
        vectors, values = found
        try:
            return ReceivedSlice(
                values["digests"],
                values["version"],
                vectors,
                {task: _units(units) for task, units in values["units"].items()},
                {task: InputScale(tuple(s["means"]), tuple(s["scales"])) for task, s in values["scales"].items()},
                {task: LastScores(**scores) for task, scores in values["scores"].items()},
            )
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(RECEIVED, f"{type(error).__name__} of another FedMTL") from None

    def _write(self, name: str, vectors: Mapping[str, Tensor], values: Mapping[str, object]) -> None:
        with disk(self.folder):
            temporary = self.folder / f".{name}.partial"
            write_tensors(temporary, vectors, json.dumps(values), self._flush)
            temporary.rename(self.folder / name)

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        with disk(self.folder):
            try:
                vectors, note = read_tensors(self.folder / name)
            except FileNotFoundError:
                return None
            except Damaged as damage:
                raise self._damaged(name, str(damage)) from None
        return vectors, json.loads(note)

    def _damaged(self, name: str, why: str) -> StateError:
        return StateError(
            f"client.state_dir: '{self.folder / name}' is damaged ({why}); bring it back from a backup",
            "what was kept of the model is damaged",
        )


def _leave(descriptor: int) -> None:
    """The operating system has the bytes."""


def _header(values: Mapping[str, Any]) -> Header:
    return Header(values["count"], values["digest"], tuple(values["names"]), tuple(values["shape"]))


def _capacity(values: Mapping[str, Any]) -> Capacity:
    return Capacity(values["trains"], values["layers"], tuple(values["lacks"]))


def _units(values: Mapping[str, Any]) -> TargetUnits:
    weights = values["weights"]
    return TargetUnits(values["mean"], values["scale"], None if weights is None else tuple(weights))
