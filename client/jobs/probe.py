"""An order to compare candidates: each is put in its place and scored on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from client.data.examples import PreparedExamples
from client.jobs.synchronizer import ClientModelSynchronizer
from client.training.comparing import Float64, compared, row_losses
from client.training.loop import Progress, TaskSet
from common.bodies import Probe
from common.probing import ProbeLosses
from common.seeds import derive_seed


@dataclass(frozen=True)
class Rows:
    """The rows of a task that candidates are compared on."""

    item: TaskSet
    examples: PreparedExamples

    @classmethod
    def of(cls, item: TaskSet, body: Probe) -> Rows:
        """Those that the order asks for; what is drawn anew of training rows is drawn once for all candidates."""
        if body.rows == "validation":
            return cls(item, item.validation)
        return cls(item, item.train.drawn(derive_seed(body.seed, item.task.name, "masks")))


def losses_of(
    sets: tuple[TaskSet, ...], body: Probe, replica: ClientModelSynchronizer, progress: Progress
) -> ProbeLosses:
    """What each candidate comes to on the rows of each task.

    Args:
        sets: the order's tasks with their rows.
        body: what to compare.
        replica: has received all candidates; its private values are in place.
        progress: hears of the work done.
    """
    rows = [Rows.of(item, body) for item in sets]
    found: Mapping[str, list[Float64]] = {item.task.name: [] for item in sets}
    for number, candidate in enumerate(body.candidates):
        progress(number / len(body.candidates))
        replica.load_received()
        replica.load_candidates(wanted.scope for wanted in candidate)
        for each in rows:
            losses = row_losses(replica.model, each.item, each.examples, body.batch_size)
            found[each.item.task.name].append(losses)
    return ProbeLosses(tuple(compared(task, losses) for task, losses in found.items()))
