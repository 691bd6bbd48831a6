"""The problems of a dual method: linear heads, solved by coordinate ascent, and what certificates are made of.

A client keeps the dual variables of its rows. It hands in how its support changed, the sum of its rows times their dual
variables. Both count once the order is committed, so that the coordinator's sum and all clients' variables belong
together at any time. Those of the order before are kept too, for a coordinator that went back a version.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, fsum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.jobs.synchronizer import ClientModelSynchronizer
from client.training.design import DesignMatrix
from client.training.loop import TaskSet
from client.training.sdca import Subproblem, accuracy, measure, solve
from client.training.work import ClientState
from common.bodies import DualProblem, TrainingSettings
from common.errors import DataError, StateError
from common.methods.procedures import SDCA
from common.models.heads import LinearHead
from common.models.multitask import MultiTaskModel
from common.orders import DualSums
from common.parameters.flat import views
from common.parameters.scope import Scope
from common.parameters.vector import Float64
from common.seeds import derive_seed


@dataclass(frozen=True)
class WorkShare:
    """How much of a solver's passes a client does: drawn anew for each order, evenly from `least` to `most`."""

    least: float = 1.0
    most: float = 1.0
    seconds: float | None = None
    """At most so many for an order, whatever is left then; None: as many as it takes."""

    def of(self, seed: int) -> float:
        """For the order with this seed."""
        drawn = np.random.Generator(np.random.PCG64(derive_seed(seed, "work"))).random()
        return self.least + (self.most - self.least) * float(drawn)

    def clock(self) -> Callable[[], bool] | None:
        """Says whether the time for an order that begins now is over; None where it is not limited."""
        if self.seconds is None:
            return None
        end = time.monotonic() + self.seconds
        return lambda: time.monotonic() >= end


ALL_WORK = WorkShare()
_NOW, _BEFORE = "sdca", "sdca-before"
"""What a client keeps, and what it kept before its newest committed order."""


@dataclass(frozen=True)
class SolvedHead:
    """What came of one head's problem."""

    support: str
    """The scope whose change is handed in."""
    change: Tensor
    """A float64 CPU vector with the head's layout."""
    state: ClientState
    sums: DualSums


@dataclass(frozen=True)
class LinearProblems:
    """The linear problems of one head on a client's rows: one for two labels, else one for each output."""

    said: DualProblem
    """What the order says."""
    parts: tuple[Subproblem, ...]
    weights: Float64
    """As received, (problems, numbers of a row); that of the constant number is the last."""
    alpha: Float64
    """Dual variables as of the last committed order, (rows, problems)."""
    support: Tensor
    """Theirs, a CPU vector with the head's layout."""

    @classmethod
    def of(
        cls,
        said: DualProblem,
        settings: TrainingSettings,
        item: TaskSet,
        replica: ClientModelSynchronizer,
        kept: ClientState,
    ) -> LinearProblems:
        """The problems that an order asks about.

        Raises:
            DataError: the task has none, or its rows are not as many as before.
            StateError: the dual variables here are not those in the coordinator's sum.
        """
        solver, head = settings.procedure, replica.model.head(said.task)
        assert isinstance(solver, SDCA)
        rows, labels = _rows_of(replica.model, item, settings.eval_batch_size)
        found = item.task.type.linear_targets(item.task, labels, item.units)
        if found is None or type(head) is not LinearHead:
            raise DataError(f"task {said.task}: it has no linear problem, which training.procedure: sdca needs")
        targets, weights = found
        if said.rows < len(rows):
            raise DataError(
                f"task {said.task}: {len(rows)} training rows here, the coordinator knows of {said.rows}; rows must "
                "stay the same during a run with training.procedure: sdca"
            )
        if solver.bias:
            rows = np.concatenate([rows, np.full((len(rows), 1), solver.bias)], axis=1)
        design, loss = DesignMatrix.of(rows), solver.dual_loss()
        shared = loss, said.rows, solver.strength, said.variance, said.coupling
        columns = map(np.ascontiguousarray, targets.T)
        parts = tuple(Subproblem(design, column, weights, *shared) for column in columns)
        received = replica.received[said.scope]
        model = _weights_of(views(received, replica.schemas[said.scope]), len(parts), solver.bias)
        return cls(said, parts, model, *_kept(said, kept, targets.shape, received))

    def solved(self, number: int, seed: int, visits: int, stop: Callable[[], bool] | None = None) -> SolvedHead:
        """The problems after so many visits of rows, or when `stop` says so, in a round of this number."""
        pairs = list(zip(self.parts, self.weights, self.alpha.T, strict=True))
        found = [
            solve(part, weights, alpha, derive_seed(seed, self.said.task, str(place)), visits, stop)
            for place, (part, weights, alpha) in enumerate(pairs)
        ]
        alpha = np.stack([one.alpha for one in found], axis=1)
        theta = max(accuracy(*pair, one.alpha) for pair, one in zip(pairs, found, strict=True))
        support = self._in_layout(np.stack([one.support for one in found]))
        before = _state(self.said, _BEFORE, self.alpha, self.support, self.said.solved)
        state = {**before, **_state(self.said, _NOW, alpha, support, number)}
        sums = self._sums(alpha, sum(one.visits for one in found), theta)
        return SolvedHead(Scope.parse(self.said.scope).support, support - self.support, state, sums)

    def measured(self) -> DualSums:
        """The sums of the head as it was received, and of the dual variables as they are."""
        return self._sums(self.alpha, 0, 1.0)

    def _sums(self, alpha: Float64, visits: int, theta: float) -> DualSums:
        found = [measure(*row) for row in zip(self.parts, self.weights, alpha.T, strict=True)]
        return DualSums(
            fsum(one.loss_sum for one in found),
            fsum(one.dual_sum for one in found),
            fsum(one.norm_sum for one in found),
            fsum(one.square_sum for one in found),
            visits,
            theta,
        )

    def _in_layout(self, supports: Float64) -> Tensor:
        """Supports (problems, numbers of a row) in the layout of a head; see `_weights_of` for the inverse."""
        rows = np.concatenate([-supports / 2.0, supports / 2.0]) if len(supports) == 1 and self._halves else supports
        features = (self.support.numel() - len(rows)) // len(rows)
        bias = rows[:, features:] if rows.shape[1] > features else np.zeros((len(rows), 1))
        return torch.from_numpy(np.concatenate([rows[:, :features].ravel(), bias.ravel()]))

    @property
    def _halves(self) -> bool:
        """Whether two outputs hold one problem."""
        return bool(self.support.numel() > self.weights.shape[1] + 1)


def share_of_passes(settings: TrainingSettings, rows: int, work: float) -> int:
    """How many rows are visited of so many, by a client that does this much of the work."""
    assert isinstance(settings.procedure, SDCA)
    return ceil(work * settings.procedure.passes * rows)


@torch.inference_mode()
def _rows_of(model: MultiTaskModel, item: TaskSet, batch_size: int) -> tuple[Float64, NDArray[Any]]:
    """What heads read of the training rows, float64 (rows, features), and their labels."""
    model.eval()
    device = next(model.parameters()).device
    places = np.arange(len(item.train))
    batches = [item.train.batch(places[start : start + batch_size]) for start in range(0, len(places), batch_size)]
    vectors = [batch.to(device).vectors(model.encoder).double().cpu().numpy() for batch in batches]
    labels = [batch.labels.numpy() for batch in batches if batch.labels is not None]
    return np.concatenate(vectors), np.concatenate(labels)


def _weights_of(head: Mapping[str, Tensor], problems: int, bias: float) -> Float64:
    """The weights of a head's problems; of two outputs for one problem, the difference."""
    matrix, constant = (
        next(value for name, value in head.items() if name.endswith(f"linear.{word}")).numpy()
        for word in ("weight", "bias")
    )
    found = np.concatenate([matrix, constant[:, np.newaxis] / bias], axis=1) if bias else matrix
    return found[1:] - found[:1] if problems == 1 and len(found) == 2 else found


def _kept(said: DualProblem, kept: ClientState, shape: tuple[int, ...], like: Tensor) -> tuple[Float64, Tensor]:
    """The dual variables and their support as of the last committed order; zeros before the first."""
    names = {age: _name(said, age, "round") for age in (_BEFORE, _NOW)}
    rounds = {int(kept[name]): age for age, name in names.items() if name in kept} or {0: _NOW}
    if said.solved not in rounds:
        raise StateError(
            f"task {said.task}: the dual variables here are of round {max(rounds)}, those in the coordinator's sum of "
            f"round {said.solved}; start this client with the state_dir that it had",
            "its dual variables are of another round",
        )
    if not said.solved:
        return np.zeros(shape), torch.zeros_like(like)
    age = rounds[said.solved]
    alpha = kept[_name(said, age, "alpha")].numpy()
    if alpha.shape != shape:
        raise DataError(
            f"task {said.task}: {shape[0]} training rows, but its dual variables are of {alpha.shape[0]}; rows must "
            "stay the same during a run with training.procedure: sdca"
        )
    return alpha, kept[_name(said, age, "support")]


def _state(said: DualProblem, age: str, alpha: Float64, support: Tensor, number: int) -> ClientState:
    """What a client keeps of the dual variables of a round."""
    found = {"alpha": torch.from_numpy(alpha), "support": support, "round": torch.tensor([number], dtype=torch.float64)}
    return {_name(said, age, what): value for what, value in found.items()}


def _name(said: DualProblem, age: str, what: str) -> str:
    """Of a part of what a client keeps."""
    return f"{age}/{said.task}/{what}"
