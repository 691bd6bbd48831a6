"""How long the common step of several tasks is: by hand, over whole runs, and what it must not change."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from common.errors import ConfigError
from common.methods.step_scale import MEAN, NORM, StepScale, lengthening
from common.methods.task_weights import TaskBalancedWeights
from server.aggregation.strategy import AggregationStrategy, WeightedMean
from tests.core_cases import rules
from tests.federations import Clients, array_config, digest_of, federate
from tests.test_combining import CLIENTS, DELTAS, hold, vector

MIXED: Clients = (("a", ("a0",), "1/2"), ("b", ("b1",), "2/2"), ("c", ("a0", "b1"), "1/3"))
TWO: Clients = MIXED[:2]
ALL = "federation.min_clients="


def gram_of(*steps: tuple[float, ...]) -> np.ndarray:
    moves = np.array(steps)
    return moves @ moves.T


EVEN = np.array([0.5, 0.5])


@pytest.mark.parametrize(
    ("steps", "factor"),
    [
        (((1.0, 0.0), (0.0, 1.0)), np.sqrt(2)),
        (((3.0, 0.0), (3.0, 0.0)), 1.0),
        (((3.0, 0.0), (0.0, 1.0)), 2.0 / np.sqrt(2.5)),
        (((1.0, 0.0), (-0.9, 0.0)), np.sqrt(2)),
        (((1.0, 0.0), (-1.0, 0.0)), np.sqrt(2)),
        (((1.0, 2.0), (0.0, 0.0)), 1.0),
    ],
)
def test_the_mean_step_gets_the_mean_length_but_no_more_than_makes_up_for_orthogonal_steps(
    steps: tuple[tuple[float, ...], ...], factor: float
) -> None:
    """Orthogonal; equal; of lengths 3 and 1, with mean 2 and mean step (1.5, .5); opposed; zeros."""
    gram = gram_of(*steps)
    assert lengthening(NORM, EVEN, gram) == pytest.approx(factor, rel=1e-12)
    assert lengthening(MEAN, EVEN, gram) == 1.0 and lengthening(2.5, EVEN, gram) == 2.5


def test_shares_weigh_lengths_and_steps() -> None:
    """Shares 3/4 and 1/4 of (4, 0) and (0, 4): the mean step is (3, 1), the mean length 4."""
    assert lengthening(NORM, np.array([0.75, 0.25]), gram_of((4, 0), (0, 4))) == pytest.approx(4 / np.sqrt(10))
    assert lengthening(NORM, np.array([1.0, 0.0]), gram_of((0.1, 0.7), (0, 4))) == 1.0


def scaled(scale: StepScale, mean: WeightedMean | None = None) -> AggregationStrategy:
    return AggregationStrategy(mean=mean or WeightedMean(), scale=scale)


@pytest.mark.parametrize("balanced", [True, False])
def test_a_round_by_hand(balanced: bool) -> None:
    """sst2 has 10, 30 and 20 rows, qqp 5 and 15, with weights 1/2 each or 60/80 and 20/80 by rows."""
    deltas = DELTAS | {"c": vector(-9, -5)}
    mean = WeightedMean(weights=TaskBalancedWeights()) if balanced else WeightedMean()
    found, _, _ = hold(rules(by_task=True), CLIENTS, deltas, scaled(NORM, mean))
    steps = np.array(
        [
            (10 * deltas["a"] + 30 * deltas["b"] + 20 * deltas["d"]) / 60,
            (5 * deltas["c"] + 15 * deltas["d"]) / 20,
        ]
    )
    shares = np.array([0.5, 0.5] if balanced else [0.75, 0.25])
    step = shares @ steps
    wanted = shares @ np.linalg.norm(steps, axis=1)
    expected = step * min(np.sqrt(2), wanted / np.linalg.norm(step))
    np.testing.assert_allclose(found["shared"], expected, rtol=1e-6)
    assert wanted / np.linalg.norm(step) > 1.1
    np.testing.assert_array_equal(found["task/sst2"], np.arange(10), "heads keep their mean")


def test_a_number_multiplies_what_tasks_share(tmp_path: Path) -> None:
    """As a server rate does that heads do not have."""
    for_all = asyncio.run(federate(array_config(ALL + "2", "aggregation.scale=2"), tmp_path / "scale", TWO))
    rate = array_config(ALL + "2", "federation.server_learning_rate=2.0", "aggregation.task_learning_rate=1.0")
    assert digest_of(for_all) == digest_of(asyncio.run(federate(rate, tmp_path / "rate", TWO)))


def test_one_task_is_federated_averaging_to_the_bit(tmp_path: Path) -> None:
    alone: Clients = (("a", ("a0",), "1/2"), ("b", ("a0",), "2/2"))
    found = [
        asyncio.run(
            federate(array_config(ALL + "2", f"aggregation.scale={scale}", tasks=("a0",)), tmp_path / scale, alone)
        )
        for scale in ("mean", "norm")
    ]
    assert digest_of(found[0]) == digest_of(found[1])


def test_who_comes_first_and_how_does_not_matter(tmp_path: Path) -> None:
    config = array_config(ALL + "3", "aggregation.scale=norm", "training.num_rounds=3")
    ways = (("direct", 1), ("codec", 2), ("grpc", 3))
    found = {digest_of(asyncio.run(federate(config, tmp_path / how, MIXED, how, order))) for how, order in ways}
    assert len(found) == 1
    plain = array_config(ALL + "3", "training.num_rounds=3")
    assert found != {digest_of(asyncio.run(federate(plain, tmp_path / "plain", MIXED)))}


@pytest.mark.parametrize("scale", ["norm", "1.5"])
def test_copies_that_are_one_take_the_same_step_as_one_model(scale: str, tmp_path: Path) -> None:
    """To 1e-5 after two rounds in float32."""
    hard = array_config(ALL + "2", f"aggregation.scale={scale}")
    copies = array_config(
        *(ALL + "2", f"aggregation.scale={scale}", "sharing.plan=adaptive", "relation={name: parting, together: 1.0}")
    )
    expected = asyncio.run(federate(hard, tmp_path / "hard", TWO)).vectors["shared"]
    found = asyncio.run(federate(copies, tmp_path / "copies", TWO)).vectors
    first = asyncio.run(federate(array_config(ALL + "2"), tmp_path / "plain", TWO)).vectors["shared"]
    for task in ("a0", "b1"):
        np.testing.assert_allclose(found[f"member/{task}/layer_0"], expected, atol=1e-5)
    assert np.abs(first - expected).max() > 1e-3


def test_members_that_are_alone_keep_their_steps(tmp_path: Path) -> None:
    found = [
        asyncio.run(
            federate(
                array_config(
                    *(ALL + "2", f"aggregation.scale={scale}", "sharing.plan=adaptive"),
                    "relation={name: parting, together: 0.0}",
                ),
                tmp_path / str(scale),
                TWO,
            )
        )
        for scale in ("mean", "norm", 3)
    ]
    assert len({digest_of(run) for run in found}) == 1


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("aggregation.scale=sum",), r"aggregation.scale: 'sum' is not mean, norm or a number above 0"),
        (("aggregation.scale=0",), r"aggregation.scale: '0' is not mean"),
        (
            ("aggregation.scale=norm", "aggregation.robust=median", "aggregation.weights=uniform"),
            r"median makes no mean",
        ),
        (("aggregation.scale=norm", "aggregation.weights=uniform"), r"aggregation.weights: uniform counts clients"),
        (("aggregation.scale=norm", "aggregation.conflict=pcgrad"), r"pcgrad gives the step a length of its own"),
        (("aggregation.scale=2", "aggregation.optimizer=adam"), r"moves of adam are as long whatever the step"),
        (("aggregation.scale=norm", "sharing.plan=local"), r"plan local averages over no tasks"),
        (("aggregation.scale=norm", "sharing.plan=soft"), r"relation mean averages no steps"),
    ],
)
def test_lengths_that_nothing_has_are_refused(overrides: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        array_config(*overrides)
