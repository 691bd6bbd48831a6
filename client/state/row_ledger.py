"""What a client keeps over all runs so that its rows stay hidden: the secret of its noise, and what it has spent."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from client.state.disk import disk
from common.errors import StateError
from common.privacy.accounting import Mechanism, Spending
from common.privacy.noise import KEY_BYTES
from common.privacy.secret import secret_at, sync_folder

log = logging.getLogger("fedmtl.client")

_KEY = "rows.key"
TRAINING, SCORES = "rows.ledger", "scores.ledger"
"""The ledger of training rows, and that of validation rows."""


@dataclass(frozen=True)
class RowCharge:
    """What one order tells of every training row of one task."""

    rows: str
    """SHA-256 of the task's rows, whatever their order."""
    task: str
    run: str
    order: str
    key: str
    """SHA-256 of the secret and of all that the order's result depends on: the same order twice is charged once."""
    steps: int
    chance: float
    """How likely a row takes part in a step."""
    noise: float
    """Standard deviation of the noise in units of `clip`."""
    clip: float

    @property
    def mechanism(self) -> Mechanism:
        """One of its steps."""
        return Mechanism(self.noise, self.chance)


class RowLedger:
    """A client's secret `rows.key` and one of its ledgers, a line of JSON for each charge, in its folder of all runs.

    A charge is on the disk before `charge` returns, so nothing may leave before that. A last line that a crash cut off
    belongs to an answer that never left.

    Raises (every method): `StateError` where the disk fails, or a file does not hold what was written to it.
    """

    def __init__(self, folder: Path, name: str = TRAINING) -> None:
        self._folder, self._name = folder, name
        with disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self.key = self._load_key()
            self._charges = self._load_charges()

    def spent(self, rows: str, besides: str = "") -> Spending:
        """What all orders have told of these rows, but the one that has this key."""
        found = Spending()
        for charge in self._charges:
            if charge.rows == rows and charge.key != besides:
                found = found.add(charge.mechanism, charge.steps)
        return found

    def charge(self, charges: Sequence[RowCharge]) -> None:
        """Write charges down; those that are there already are not charged again."""
        known = set(self._charges)
        fresh = [charge for charge in charges if charge not in known]
        if not fresh:
            return
        lines = "".join(json.dumps(asdict(charge)) + "\n" for charge in fresh)
        with disk(self._folder), (self._folder / self._name).open("a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self._charges += fresh

    def _load_key(self) -> bytes:
        key = secret_at(self._folder / _KEY)
        if len(key) != KEY_BYTES:
            raise self._damaged(_KEY, "bring it back from a backup, or delete it: noise is then drawn anew")
        return key

    def _load_charges(self) -> list[RowCharge]:
        path = self._folder / self._name
        if not path.exists():
            path.touch(0o600)
            sync_folder(self._folder)
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) != len(text):
            log.warning("'%s': its last line was cut off and is left out; its answer never left", path)
            with path.open("r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())
        return [self._read(line) for line in whole.splitlines()]

    def _read(self, line: bytes) -> RowCharge:
        try:
            values = json.loads(line)
            found = RowCharge(**{field.name: values.pop(field.name) for field in fields(RowCharge)})
            Spending().add(found.mechanism, found.steps)
            if values:
                raise ValueError(f"unknown {sorted(values)}")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._damaged(
                self._name, "bring it back from a backup: without it nobody knows what is spent"
            ) from None
        return found

    def _damaged(self, name: str, remedy: str) -> StateError:
        return StateError(f"client.state_dir: '{self._folder / name}' is damaged; {remedy}", f"{name} is damaged")


def key_of(secret: bytes, digest: bytes) -> str:
    """See `RowCharge.key`."""
    return hashlib.sha256(b"fedmtl rows|" + secret + digest).hexdigest()
