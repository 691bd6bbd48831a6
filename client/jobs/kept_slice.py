"""Keeps on a client's disk what of its model it received last, for predictions and exports after the run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from client.jobs.local_client import LocalClient
from client.state.slice import LastScores, ReceivedSlice, SliceDescription, SliceFiles
from common.bodies import Evaluate
from common.orders import Order, TaskResult, Welcome
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
    """

    def __init__(self, client: LocalClient, welcome: Welcome, tokenizer: bytes, folder: Path) -> None:
        self._files = SliceFiles(folder)
        self._description = SliceDescription(
            welcome,
            client.tasks,
            client.capacity,
            tokenizer,
            {task: header for task, data in client.data.items() for header in data.headers},
            {task: data.scale for task, data in client.data.items() if data.scale is not None},
        )
        self._config = client.config
        self._described = False
        self._next = 0.0

    def wants(self, order: Order) -> bool:
        """Whether to keep what was received for an order."""
        if isinstance(order.body, Evaluate):
            return True
        everything = set(self._description.tasks) <= {*order.tasks}
        return everything and order.version > 0 and time.monotonic() >= self._next

    def keep(self, order: Order, received: Mapping[str, Tensor], results: Iterable[TaskResult]) -> None:
        """Write it.

        Raises:
            StateError: the disk fails.
        """
        welcome = self._description.welcome
        definitions = {task.name: task for task in welcome.tasks}
        values = {wanted.scope: received[wanted.scope] for wanted in order.scopes if wanted.scope in received}
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
