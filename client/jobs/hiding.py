"""How an order's rows are hidden: the noise that its settings ask for, within the budget of each task's rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from client.jobs.hidden_scores import OrderScores
from client.jobs.local_client import LocalClient
from client.state.row_ledger import SCORES, TRAINING, RowCharge, RowLedger, key_of
from client.training.loop import TaskSet
from client.training.row_noise import HiddenRows, RowSecret, RowSteps, planned_steps
from common.bodies import RowNoise, TrainingSettings
from common.errors import ConfigError, FedMTLError
from common.methods.procedures import FedRep
from common.orders import Order
from common.privacy.accounting import noise_multiplier_for


class BudgetSpent(FedMTLError):
    """An order would tell more of a task's rows than their budget allows; nothing of it is done."""


class RowKeeper:
    """Hides a client's rows in all its orders of a run, and writes down what they tell.

    Args:
        client: whose rows they are.
        run: the run's id.
        folder: the client's folder of all runs; nothing is read or written there before `begin`.
    """

    def __init__(self, client: LocalClient, run: str, folder: Path) -> None:
        self._client, self._run, self._folder = client, run, folder
        self._ledgers: dict[str, RowLedger] = {}
        self._digests: dict[tuple[str, str], tuple[bytes, str]] = {}

    def begin(
        self, order: Order, settings: TrainingSettings, sets: Sequence[TaskSet], values: Mapping[str, Tensor]
    ) -> OrderRows:
        """Get ready for one order to train.

        Args:
            order: what is asked for.
            settings: of its body; they have row noise.
            sets: the examples of the order's tasks.
            values: all vectors that its result depends on, by name.

        Raises:
            StateError: the disk fails, or holds something else than was written to it.
            ConfigError: the procedure shows more than sums of gradients, or delta is too large for so many rows.
        """
        ledger = self._ledger(TRAINING)
        assert settings.row_noise is not None
        _require_fit(settings, settings.row_noise, sets)
        tasks = [item.task.name for item in sets]
        rows = {task: self._digests_of(task) for task in tasks}
        digest = _digest(self._run, order, {task: found[0] for task, found in rows.items()}, values)
        secret = RowSecret(ledger.key, digest)
        plan = planned_steps(sets, settings.batch_size, _epochs(settings))
        accounts = {task: found[1] for task, found in rows.items()}
        return OrderRows(ledger, self._run, order.order_id, secret, settings.row_noise, accounts, plan)

    def scores(
        self, order: Order, noise: RowNoise, sets: Sequence[TaskSet], values: Mapping[str, Tensor]
    ) -> OrderScores:
        """Get ready for the scores of one order; arguments and errors as of `begin`."""
        ledger = self._ledger(SCORES)
        tasks = [item.task.name for item in sets if item.task.type.one_class]
        for item in sets:
            _require_delta(noise, item.task.name, len(item.validation), "validation rows")
        rows = {task: self._digests_of(task, "validation") for task in tasks}
        digest = _digest(self._run, order, {task: found[0] for task, found in rows.items()}, values)
        accounts = {task: found[1] for task, found in rows.items()}
        return OrderScores(ledger, self._run, order.order_id, RowSecret(ledger.key, digest), noise, accounts)

    def _ledger(self, name: str) -> RowLedger:
        if name not in self._ledgers:
            self._ledgers[name] = RowLedger(self._folder, name)
        return self._ledgers[name]

    def _digests_of(self, task: str, split: Literal["train", "validation"] = "train") -> tuple[bytes, str]:
        """Of a task's rows as they stand, and whatever their order."""
        if (task, split) not in self._digests:
            data = self._client.data[task]
            found = (data.train if split == "train" else data.validation).digests()
            account = hashlib.sha256(task.encode() + b"|" + np.sort(found).astype("<u8").tobytes()).hexdigest()
            self._digests[task, split] = hashlib.sha256(found.astype("<u8").tobytes()).digest(), account
        return self._digests[task, split]


class OrderRows:
    """One order: asks the ledger before each part of the work, and charges it when all is done.

    Args:
        ledger: of this client.
        run: the run's id.
        order: the order's id.
        secret: of its batches and its noise.
        noise: what the order asks for.
        accounts: the ledger's name for the rows of each task.
        plan: all the steps that the order is going to take.
    """

    def __init__(
        self,
        ledger: RowLedger,
        run: str,
        order: str,
        secret: RowSecret,
        noise: RowNoise,
        accounts: Mapping[str, str],
        plan: Sequence[RowSteps],
    ) -> None:
        self._ledger, self._run, self._order, self._noise, self._accounts = ledger, run, order, noise, accounts
        self._key = key_of(secret.key, secret.digest)
        self._multiplier = _multiplier(noise, tuple(plan))
        self._charges: dict[tuple[str, float], RowCharge] = {}
        self.hidden = HiddenRows(secret, self._spend, noise.clip)

    def charge(self) -> None:
        """Write down what was told of each task's rows, before anything of it leaves."""
        self._ledger.charge(list(self._charges.values()))

    def _spend(self, steps: Sequence[RowSteps]) -> float:
        """See `Spend`."""
        for part in steps:
            mine = RowCharge(
                self._accounts[part.task],
                part.task,
                self._run,
                self._order,
                self._key,
                part.steps,
                part.chance,
                self._multiplier,
                self._noise.clip,
            )
            before = self._charges.get((part.task, part.chance))
            mine = mine if before is None else replace(mine, steps=mine.steps + before.steps)
            self._require_budget(mine)
            self._charges[part.task, part.chance] = mine
        return self._multiplier

    def _require_budget(self, charge: RowCharge) -> None:
        if self._noise.epsilon is None:
            return
        spending = self._ledger.spent(charge.rows, besides=self._key).add(charge.mechanism, charge.steps)
        if spending.epsilon(self._noise.delta) > self._noise.epsilon:
            raise BudgetSpent(f"the privacy budget of task {charge.task} is spent")


def _require_fit(settings: TrainingSettings, noise: RowNoise, sets: Sequence[TaskSet]) -> None:
    """See `RowKeeper.begin`."""
    if not settings.procedure.sums_gradients:
        line = f"training.procedure: {settings.procedure.name} does not follow gradients of single rows"
        raise ConfigError(f"{line} (privacy.noise: rows); write plain, fedprox or fedrep")
    for item in sets:
        _require_delta(noise, item.task.name, len(item.train), "rows")


def _require_delta(noise: RowNoise, task: str, count: int, what: str) -> None:
    if noise.delta * count >= 1.0:
        raise ConfigError(
            f"privacy.delta: {noise.delta:g} is not below one in {count} {what} of task {task}; write less"
        )


def _epochs(settings: TrainingSettings) -> int:
    """The epochs over all rows that an order comes to."""
    heads = settings.procedure.head_epochs if isinstance(settings.procedure, FedRep) else 0
    return settings.local_epochs + heads


def _digest(run: str, order: Order, rows: Mapping[str, bytes], values: Mapping[str, Tensor]) -> bytes:
    """SHA-256 of all that an order's result depends on; two that differ have nothing of their noise in common."""
    stated = replace(order, seconds_left=0.0, inline=())
    digest = hashlib.sha256(repr((run, stated, sorted(rows.items()))).encode())
    for name, vector in sorted(values.items()):
        digest.update(f"|{name}|{len(vector)}|".encode())
        digest.update(vector.detach().cpu().numpy().data)
    return digest.digest()


@lru_cache(maxsize=1024)  # a simulation may have as many plans as clients
def _multiplier(noise: RowNoise, plan: tuple[RowSteps, ...]) -> float:
    """The noise of an order in units of the clip: what the task needs that needs most."""
    if noise.noise_multiplier is not None:
        return noise.noise_multiplier
    assert noise.epsilon is not None
    found = [
        noise_multiplier_for(noise.epsilon, noise.delta, part.steps * noise.rounds, part.chance)
        for part in plan
        if part.steps
    ]
    return max(found, default=1.0)
