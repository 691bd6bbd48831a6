"""Scores of an order that hide single validation rows: counts with noise, within a budget of their own."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace

from client.state.row_ledger import RowCharge, RowLedger, key_of
from client.training.evaluation import Scores
from client.training.noisy_counts import noised_counts
from client.training.row_noise import RowSecret
from common.bodies import RowNoise

log = logging.getLogger("fedmtl.client")


class OrderScores:
    """One order: charges its scorings, and gives what may leave of them.

    Scores of a client's own model stay: it was trained without noise, so that a single training row may have changed
    every one of them.

    Args:
        ledger: of validation rows.
        run: the run's id.
        order: the order's id.
        secret: of the noise; its digest is of all that the scores depend on.
        noise: what the order asks for.
        accounts: the ledger's name for the validation rows of each task.
    """

    def __init__(
        self,
        ledger: RowLedger,
        run: str,
        order: str,
        secret: RowSecret,
        noise: RowNoise,
        accounts: Mapping[str, str],
    ) -> None:
        self._ledger, self._run, self._order, self._noise, self._accounts = ledger, run, order, noise, accounts
        self._secret = secret

    def told(self, scores: Scores) -> Scores:
        """What may leave, by task, after it is charged: nothing of tasks that have no counts, or whose budget is spent.

        Raises:
            StateError: the disk fails.
        """
        deviation = self._noise.scores_noise
        assert deviation is not None
        secrets = {n: self._secret_of(n, found.labels) for n, found in scores.items() if n in self._accounts}
        charges = {name: self._charge(name, secret, deviation) for name, secret in secrets.items()}
        paid = {name: charge for name, charge in charges.items() if self._is_within(charge)}
        self._ledger.charge(list(paid.values()))
        return {name: noised_counts(scores[name], secrets[name], f"counts|{name}", deviation) for name in paid}

    def _secret_of(self, task: str, exact: tuple[int, ...]) -> RowSecret:
        """Other counts, such as those of another machine's last bits, have other noise, and are charged again."""
        digest = hashlib.sha256(self._secret.digest + f"|{task}|{exact}".encode()).digest()
        return replace(self._secret, digest=digest)

    def _charge(self, task: str, secret: RowSecret, deviation: float) -> RowCharge:
        key = key_of(secret.key, secret.digest)
        return RowCharge(self._accounts[task], task, self._run, self._order, key, 1, 1.0, deviation, 1.0)

    def _is_within(self, charge: RowCharge) -> bool:
        if self._noise.epsilon is None:
            return True
        spending = self._ledger.spent(charge.rows, besides=charge.key).add(charge.mechanism)
        if spending.epsilon(self._noise.delta) <= self._noise.epsilon:
            return True
        log.info("the privacy budget of the validation rows of task %s is spent; no scores are handed in", charge.task)
        return False
