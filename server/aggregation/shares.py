"""What tasks weigh against each other in a scope that they share: from what is known of them to shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from common.config.schema import Config
from common.parameters.vector import Float64

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


Shares = Callable[[Evidence], Float64]
"""Weights of the tasks, (T,) float64, which need not sum to 1."""


def by_examples(evidence: Evidence) -> Float64:
    """As many as there are (FedAvg, McMahan et al. 2017): the weighted mean over clients, put together from tasks."""
    return evidence.examples


def balanced(evidence: Evidence) -> Float64:
    """One each: the mean of the tasks' own federated averages. Client k then weighs sum_t n_kt / n_t / T."""
    return np.ones_like(evidence.examples)


def tempered(evidence: Evidence, temperature: float) -> Float64:
    """n_t^(1/temperature), temperature-scaled mixing (Raffel et al. 2020, section 3.5.2); 1 is `by_examples`."""
    result: Float64 = evidence.examples ** (1.0 / temperature)
    return result


def by_trend(evidence: Evidence, temperature: float) -> Float64:
    """softmax(trend / temperature), dynamic weight average (Liu, Johns and Davison, CVPR 2019, equation 7).

    Tasks whose loss falls slowly get more. Their trends are of the two epochs before, ours of the updates at hand; a
    trend that is not known is 1.
    """
    last = evidence.trends[-1] if evidence.trends else {}
    return _softmax(np.array([last.get(task, 1.0) for task in evidence.tasks]) / temperature)


def by_attention(evidence: Evidence, temperature: float) -> Float64:
    """softmax(cos(d_t, m) / temperature), d_t a task's mean step and m the plain mean of these over tasks.

    After FedAtt (Ji et al. 2019), which attends to clients, layer by layer, by the distance they moved: softmax of it.
    The cosine does not ask how far a task moved, and one that goes its own way gets less, not more.
    """
    gram = evidence.gram
    with_mean = gram.mean(axis=1)
    scale = np.sqrt(np.diag(gram) * max(float(gram.mean()), 0.0))
    return _softmax(np.divide(with_mean, scale, out=np.zeros_like(scale), where=scale > 0) / temperature)


def by_fall(evidence: Evidence, rate: float, decay: float) -> Float64:
    """softmax(x), where x follows FAMO's rule (Liu et al., NeurIPS 2023, algorithm 1) from round to round.

    x starts at zero; a round moves it by Adam (rate, decay added to its slope) along softmax's Jacobian times the
    falls log L(last round) - log L(this one), over all tasks whose fall is known, so that those that fell least gain.
    Theirs is also divided by L_t, since it weighs gradients; local steps of Adam do not grow with the loss.
    """
    logits = famo_logits(evidence.trends, rate, decay)
    return _softmax(np.array([logits.get(task, 0.0) for task in evidence.tasks]))


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


def shares_of(config: Config) -> Shares:
    """The weights that `aggregation.weights` names, where sums by task are kept."""
    section = config.aggregation
    table: Mapping[str, Shares] = {
        "examples": by_examples,
        "task_balanced": balanced,
        "temperature": partial(tempered, temperature=section.temperature),
        "dynamic": partial(by_trend, temperature=section.temperature),
        "attention": partial(by_attention, temperature=section.temperature),
        "famo": partial(by_fall, rate=section.famo_rate, decay=section.famo_decay),
    }
    return table[section.weights]
