"""What tasks weigh against each other in a scope that they share: from examples per task to shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from common.config.schema import Config

Float64 = NDArray[np.float64]
Shares = Callable[[Float64, Float64], Float64]
"""Weights of the tasks, which need not sum to 1, from their accepted examples and the trends of their training losses
(this round's divided by the last one's, 1 where unknown), all (T,) float64."""


def by_examples(examples: Float64, _: Float64) -> Float64:
    """As many as there are (FedAvg, McMahan et al. 2017): the weighted mean over clients, put together from tasks."""
    return examples


def balanced(examples: Float64, _: Float64) -> Float64:
    """One each: the mean of the tasks' own federated averages. Client k then weighs sum_t n_kt / n_t / T."""
    return np.ones_like(examples)


def tempered(examples: Float64, _: Float64, temperature: float) -> Float64:
    """n_t^(1/temperature), temperature-scaled mixing (Raffel et al. 2020, section 3.5.2); 1 is `by_examples`."""
    result: Float64 = examples ** (1.0 / temperature)
    return result


def by_trend(_: Float64, trends: Float64, temperature: float) -> Float64:
    """softmax(trend / temperature), dynamic weight average (Liu, Johns and Davison, CVPR 2019, equation 7).

    Tasks whose loss falls slowly get more. Their trends are of the two epochs before, ours of the updates at hand.
    """
    result: Float64 = np.exp((trends - trends.max()) / temperature)
    return result


def shares_of(config: Config) -> Shares:
    """The weights that `aggregation.weights` names, where sums by task are kept."""
    section = config.aggregation
    table: Mapping[str, Shares] = {
        "examples": by_examples,
        "task_balanced": balanced,
        "temperature": partial(tempered, temperature=section.temperature),
        "dynamic": partial(by_trend, temperature=section.temperature),
    }
    return table[section.weights]
