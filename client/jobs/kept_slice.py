"""Keeps on a client's disk what of its model it received last, for predictions and exports after the run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from client.jobs.kept import patiently
from client.jobs.local_client import LocalClient
from client.state.slice import LastScores, ReceivedSlice, SliceDescription, SliceFiles
from client.state.store import DURABLE, REPEATABLE
from client.training.loop import Progress
from common.bodies import Evaluate
from common.orders import Order, TaskResult, Welcome
from common.parameters.scope import Scope, is_private
from common.tasks import TaskDefinition

PAUSE_SECONDS = 60.0
"""Between two times while rounds train: whoever kills a client loses no more of what it could have kept."""


class KeptSlice:
    """What a client keeps of its model: at the end, when the last one is scored, and now and then before.

    Args:
        client: whose it is, with the configuration that is kept.
        welcome: describes the model.
        tokenizer: packed.
        folder: the client's of the run.
        beside_run: whether that lies in the run folder, which has the published values, tokenizer and configuration.
    """

    def __init__(
        self, client: LocalClient, welcome: Welcome, tokenizer: bytes, folder: Path, beside_run: bool = False
    ) -> None:
        self._files = SliceFiles(folder, REPEATABLE if beside_run else DURABLE)
        self._beside_run = beside_run
        self._description = SliceDescription(
            welcome,
            client.tasks,
            client.capacity,
            b"" if beside_run else tokenizer,
            {task: header for task, data in client.data.items() for header in data.headers},
            {task: data.scale for task, data in client.data.items() if data.scale is not None},
        )
        self._config = client.config
        self._described = False
        self._next = 0.0

    async def keep_if_wanted(
        self, order: Order, received: Mapping[str, Tensor], results: Sequence[TaskResult], progress: Progress
    ) -> None:
        """Write what was received for an order, with its results, if it is time to; a short disk is waited for.

        Raises:
            StateError: the disk fails.
        """
        if self._wants(order):
            await patiently(lambda: self._keep(order, received, results), lambda: progress(1.0))

    def _wants(self, order: Order) -> bool:
        if isinstance(order.body, Evaluate):
            return not self._beside_run or self._has_its_own()
        if self._beside_run:
            return False
        everything = set(self._description.tasks) <= {*order.tasks}
        return everything and order.version > 0 and time.monotonic() >= self._next

    def _has_its_own(self) -> bool:
        """Whether the run folder could not answer for the client: a scope or a scale is its own, or its state is."""
        scopes = (Scope.parse(scope) for scope, _ in self._description.welcome.schema_digests)
        own = any(scope.is_member or is_private(str(scope)) for scope in scopes)
        return own or bool(self._description.scales) or self._files.folder.is_dir()

    def _keep(self, order: Order, received: Mapping[str, Tensor], results: Sequence[TaskResult]) -> None:
        welcome = self._description.welcome
        definitions = {task.name: task for task in welcome.tasks}
        scopes = [] if self._beside_run else [wanted.scope for wanted in order.scopes if wanted.scope in received]
        values = {scope: received[scope] for scope in scopes}
        digests = {scope: digest for scope, digest in welcome.schema_digests if scope in values}
        scores = {result.task: last_scores(definitions[result.task], result) for result in results}
        if not self._described:  # not before: a folder without it is one in which nothing was learnt yet
            self._files.describe(self._description, self._config)
            self._described = True
        of_all = dict(order.units), dict(order.scales)
        self._files.keep(ReceivedSlice(digests, order.version, values, *of_all, scores))
        self._next = time.monotonic() + PAUSE_SECONDS


def last_scores(task: TaskDefinition, result: TaskResult) -> LastScores:
    """The primary metric of both models."""
    metric, models = task.metrics[0], (result.validation, result.personal)
    received, personal = (None if found is None else task.summarise(found)[metric] for found in models)
    return LastScores(metric, received, personal)
