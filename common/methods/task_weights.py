"""What tasks weigh against each other in a scope that they share: from what is known of them to their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.methods.choice import LARGEST, Bounds, Rate, Row, Strength, table

Float64 = NDArray[np.float64]
Trends = Sequence[Mapping[str, float]]
"""Of every round up to now, the tasks' training losses divided by those of the round before, where both are known."""


@dataclass(frozen=True)
class Evidence:
    """What is known of the tasks that share a scope at the end of a round.

    `examples` are the accepted ones, (T,) float64; `gram` has the inner products of the tasks' mean steps, (T, T).
    """

    tasks: tuple[str, ...]
    examples: Float64
    gram: Float64
    trends: Trends = ()


class TaskWeights(Row):
    """Base of the rows: called with the evidence, each gives weights of the tasks, (T,) float64, of any sum."""

    by_task: ClassVar[bool] = True
    """Whether the updates of a scope that tasks share are summed task by task."""
    counts_examples: ClassVar[bool] = True
    """Whether an update weighs as much as it has examples; else each one weighs 1."""
    reads_counts: ClassVar[bool] = False
    """Whether weights of tasks depend on how many examples there are."""
    reads_losses: ClassVar[bool] = False
    """Whether they depend on training losses."""

    def __call__(self, evidence: Evidence) -> Float64:
        """Weights of the tasks."""
        return evidence.examples


@dataclass(frozen=True)
class ExampleWeights(TaskWeights):
    """FedAvg (McMahan et al. 2017): clients weigh their training examples, times `tasks.<name>.weight`."""

    name = "examples"
    by_task = False
    reads_counts = True


@dataclass(frozen=True)
class UniformWeights(TaskWeights):
    """Every update with training examples weighs 1."""

    name = "uniform"
    by_task = False
    counts_examples = False


@dataclass(frozen=True)
class TaskBalancedWeights(TaskWeights):
    """One each: the mean of the tasks' own federated averages. Client k then weighs sum_t n_kt / n_t / T."""

    name = "task_balanced"

    def __call__(self, evidence: Evidence) -> Float64:
        """See `TaskWeights`."""
        return np.ones_like(evidence.examples)


@dataclass(frozen=True)
class TemperatureWeights(TaskWeights):
    """n_t^(1/temperature), temperature-scaled mixing (Raffel et al. 2020, section 3.5.2); 1 is `examples`."""

    name = "temperature"
    reads_counts = True
    temperature: Annotated[float, Bounds(least=1, most=LARGEST)] = 2.0
    """the larger, the more alike tasks count"""

    def __call__(self, evidence: Evidence) -> Float64:
        """See `TaskWeights`."""
        result: Float64 = evidence.examples ** (1.0 / self.temperature)
        return result


Temperature = Annotated[float, Bounds(least=1e-3, most=LARGEST)]


@dataclass(frozen=True)
class DynamicWeights(TaskWeights):
    """softmax(trend / temperature), dynamic weight average (Liu, Johns and Davison, CVPR 2019, equation 7).

    Tasks whose loss falls slowly get more. Their trends are of the two epochs before, ours of the updates at hand; a
    trend that is not known is 1.
    """

    name = "dynamic"
    reads_losses = True
    temperature: Temperature = 2.0
    """the larger, the more alike tasks count"""

    def __call__(self, evidence: Evidence) -> Float64:
        """See `TaskWeights`."""
        last = evidence.trends[-1] if evidence.trends else {}
        return _softmax(np.array([last.get(task, 1.0) for task in evidence.tasks]) / self.temperature)


@dataclass(frozen=True)
class AttentionWeights(TaskWeights):
    """softmax(cos(d_t, m) / temperature), d_t a task's mean step and m the plain mean of these over tasks.

    After FedAtt (Ji et al. 2019), which attends to clients, layer by layer, by the distance they moved: softmax of it.
    The cosine does not ask how far a task moved, and one that goes its own way gets less, not more.
    """

    name = "attention"
    temperature: Temperature = 2.0
    """the larger, the more alike tasks count; below 1 to be choosy"""

    def __call__(self, evidence: Evidence) -> Float64:
        """See `TaskWeights`."""
        gram = evidence.gram
        with_mean = gram.mean(axis=1)
        scale = np.sqrt(np.diag(gram) * max(float(gram.mean()), 0.0))
        return _softmax(np.divide(with_mean, scale, out=np.zeros_like(scale), where=scale > 0) / self.temperature)


@dataclass(frozen=True)
class FamoWeights(TaskWeights):
    """softmax(x), where x follows FAMO's rule (Liu et al., NeurIPS 2023, algorithm 1) from round to round.

    x starts at zero; a round moves it by Adam (rate, decay added to its slope) along softmax's Jacobian times the
    falls log L(last round) - log L(this one), over all tasks whose fall is known, so that those that fell least gain.
    Theirs is also divided by L_t, since it weighs gradients; local steps of Adam do not grow with the loss.
    """

    name = "famo"
    reads_losses = True
    rate: Rate = 0.1
    """how fast weights change from round to round"""
    decay: Strength = 1e-3
    """pull of the weights to equal ones"""

    def __call__(self, evidence: Evidence) -> Float64:
        """See `TaskWeights`."""
        logits = famo_logits(evidence.trends, self.rate, self.decay)
        return _softmax(np.array([logits.get(task, 0.0) for task in evidence.tasks]))


TASK_WEIGHTS: dict[str, type[TaskWeights]] = table(
    ExampleWeights,
    UniformWeights,
    TaskBalancedWeights,
    TemperatureWeights,
    DynamicWeights,
    AttentionWeights,
    FamoWeights,
)


def famo_logits(trends: Trends, rate: float, decay: float) -> dict[str, float]:
    """Every task's x after these rounds; absent tasks keep theirs. The same bits for the same rounds."""
    state: dict[str, tuple[float, float, float, int]] = {}
    for known in trends:
        tasks = sorted(task for task, trend in known.items() if trend > 0.0)
        if len(tasks) < 2:
            continue
        before = [state.get(task, (0.0, 0.0, 0.0, 0)) for task in tasks]
        shares = _softmax(np.array([x for x, *_ in before]))
        falls = -np.log(np.array([known[task] for task in tasks]))
        slopes = (shares * (falls - shares @ falls)).tolist()
        for task, (x, first, second, steps), slope in zip(tasks, before, slopes, strict=True):
            state[task] = _adam(x, first, second, steps + 1, slope + decay * x, rate)
    return {task: x for task, (x, *_) in state.items()}


def _adam(
    x: float, first: float, second: float, steps: int, slope: float, rate: float
) -> tuple[float, float, float, int]:
    """A step down the slope by Adam (Kingma and Ba 2015), with its usual constants."""
    first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope * slope
    move = first / (1.0 - 0.9**steps) / ((second / (1.0 - 0.999**steps)) ** 0.5 + 1e-8)
    return x - rate * move, first, second, steps


def _softmax(logits: Float64) -> Float64:
    powers = np.exp(logits - logits.max())
    result: Float64 = powers / powers.sum()
    return result
