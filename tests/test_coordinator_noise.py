"""Noise of the coordinator: one clip per update, fixed denominators, noise first, and nothing else changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.methods.conflict import ConflictResolver, PCGrad
from common.methods.server_optimizers import FedAdam
from common.methods.task_weights import TaskBalancedWeights
from common.parameters.encodings import ENCODINGS, EncodedDelta
from common.parameters.schema import ParameterSchema
from common.privacy.accounting import Mechanism
from server.aggregation.accumulator import Delta
from server.aggregation.aggregator import Aggregator
from server.aggregation.bound import clipped
from server.aggregation.noise import NoiseSettings
from server.aggregation.strategy import AggregationStrategy, WeightedMean
from server.aggregation.streaming import StreamingMean
from server.core.effects import Combine
from server.core.privacy_facts import Charges, Ledger, Noising
from tests.federations import NOISE_KEY

Rows = Mapping[str, Mapping[str, int]]
INFINITE = float("inf")


def delta_of(values: NDArray[np.float32]) -> Delta:
    schema = ParameterSchema.of({"values": values.shape})
    dense = ENCODINGS["dense-float32"]
    return EncodedDelta(dense, schema, dense.encode(values, schema))


def update(**scopes: object) -> list[tuple[str, Delta]]:
    """`task_a` stands for the scope task/a."""
    return [(name.replace("_", "/"), delta_of(np.array(v, np.float32))) for name, v in scopes.items()]


def values_of(deltas: list[tuple[str, Delta]]) -> dict[str, list[float]]:
    return {scope: [float(x) for _, block in delta.blocks() for x in block] for scope, delta in deltas}


def released(
    updates: list[list[tuple[str, Delta]]],
    noising: Noising,
    rows: Rows | None = None,
    version: int = 1,
    **strategy: object,
) -> dict[str, NDArray[np.float32]]:
    """The step of each scope from zeros, of updates that count once each."""
    settings = {"noise": NoiseSettings(NOISE_KEY), **strategy}
    aggregator = Aggregator(AggregationStrategy(**settings))
    sizes: dict[str, int] = {}
    for number, deltas in enumerate(updates):
        sizes |= {scope: delta.schema.size for scope, delta in deltas}
        by_task = {scope: rows[scope] for scope, _ in deltas if scope in rows} if rows else {}
        aggregator.fold(f"order-{number}", deltas, {scope: 1 for scope, _ in deltas}, by_task, noising.clip)
    totals = {scope: sum(scope in dict(deltas) for deltas in updates) for scope in sizes}
    asked = Combine(version, totals, rows or {}, noise=noising)
    return aggregator.combine({scope: np.zeros(size, np.float32) for scope, size in sizes.items()}, asked)


def test_an_update_is_clipped_as_a_whole() -> None:
    # Norm of (3, 4) and (0, 12): 13. With heads' lengths halved: sqrt(25 + 36) = 7.810250, factor 0.128037.
    found, within = clipped(update(shared=[3, 4], task_a=[0, 12]), 1.0, 1.0)
    assert not within
    assert values_of(found)["shared"] == pytest.approx([3 / 13, 4 / 13], rel=1e-6)
    assert values_of(found)["task/a"] == pytest.approx([0, 12 / 13], rel=1e-6)
    found, _ = clipped(update(shared=[3, 4], task_a=[0, 12]), 1.0, 2.0)
    assert values_of(found)["shared"] == pytest.approx([3 * 0.128037, 4 * 0.128037], rel=1e-5)


def test_an_update_in_two_sums_stands_in_each_with_its_share_and_is_as_long_as_before() -> None:
    rows = {"shared": {"a": 1, "b": 1}}
    found, within = clipped(update(shared=[3, 4]), 5.0, 1.0, rows)  # twice (3, 4)/sqrt(2): norm 5
    assert within
    assert values_of(found)["shared"] == pytest.approx([3 / 2**0.5, 4 / 2**0.5], rel=1e-6)
    found, within = clipped(update(shared=[3, 4]), 4.99, 1.0, rows)
    assert not within


@pytest.mark.parametrize("values", [[0, 0], [0.5, 0.75], [0.125, -0.25], [-1.0, 0.0]])
def test_an_update_that_is_not_too_long_stays_as_it_is(values: list[float]) -> None:
    found, within = clipped(update(shared=values), 1.0, 1.0)
    assert within and values_of(found)["shared"] == pytest.approx(values, abs=2**-31)
    deltas = update(shared=values)
    assert clipped(deltas, INFINITE, 1.0) == (deltas, True)


@given(st.permutations(range(6)), st.integers(0, 2**32))
def test_sums_are_the_same_to_the_last_bit_in_any_order_however_far_apart_the_updates_are(
    order: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    deltas = [update(shared=rng.normal(size=20) * 10.0 ** rng.integers(-30, 3, size=20)) for _ in order]
    sums = []
    for arrival in (range(6), order):
        mean = StreamingMean()
        for i in arrival:
            mean.add(f"order-{i}", clipped(deltas[i], 0.7, 1.0)[0], {"shared": 1})
        sums.append(mean.whole("shared", "", 20)[0].tobytes())
    assert sums[0] == sums[1]


FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


@given(st.lists(FLOATS, min_size=1, max_size=6), st.lists(FLOATS, min_size=1, max_size=6), st.integers(1, 5),
       st.sampled_from([1e-3, 1.0, 7.5]), st.sampled_from([0.25, 1.0, 4.0]))  # fmt: skip
def test_no_update_moves_the_sums_by_more_than_the_clip(
    shared: list[float], head: list[float], tasks: int, clip: float, head_scale: float
) -> None:
    rows = {"shared": {f"t{i}": 1 for i in range(tasks)}}
    found, _ = clipped(update(shared=shared, task_a=head), clip, head_scale, rows)
    squares = [np.sum(np.array(values, np.float64) ** 2) for values in values_of(found).values()]
    assert np.sqrt(tasks * squares[0] + squares[1] / head_scale**2) <= clip


@pytest.mark.parametrize("method", [{}, {"optimizer": FedAdam(), "rate": 0.01}], ids=["sgd", "adam"])
def test_without_noise_and_clip_it_is_federated_averaging_bit_for_bit(method: dict[str, object]) -> None:
    rng = np.random.default_rng(2)
    updates = [update(shared=rng.normal(size=70_000), task_a=rng.normal(size=3)) for _ in range(5)]
    nothing = Noising(0.0, INFINITE, {"shared": 5.0, "task/a": 5.0}, 5.0)
    plain = Aggregator(AggregationStrategy(**method))
    for number, deltas in enumerate(updates):
        plain.fold(f"order-{number}", deltas, {"shared": 1, "task/a": 1}, {})
    zeros = {"shared": np.zeros(70_000, np.float32), "task/a": np.zeros(3, np.float32)}
    expected = plain.combine(zeros, Combine(1, {"shared": 5, "task/a": 5}))
    found = released(updates, nothing, **method)
    assert {scope: vector.tobytes() for scope, vector in found.items()} == {
        scope: vector.tobytes() for scope, vector in expected.items()
    }


def test_sums_are_divided_by_what_was_fixed_and_not_by_how_many_answered() -> None:
    found = released([update(shared=[0.2, 0.4])], Noising(0.0, 1.0, {"shared": 4.0}, 4.0))
    assert found["shared"].tolist() == pytest.approx([0.05, 0.1])


def test_noise_has_its_deviation_in_every_cell_and_none_knows_of_another() -> None:
    size, cells = 200_000, {"shared": 10.0, "task/a": 2.0}
    deltas = [update(shared=np.zeros(size), task_a=np.zeros(size))]
    noise = NoiseSettings(NOISE_KEY, head_scale=3.0)
    one, two = (released(deltas, Noising(2.0, 0.5, cells, 10.0), noise=noise, version=v) for v in (1, 2))
    # Standard deviations: 2 * 0.5 / 10 and, with heads' scale, 2 * 0.5 * 3 / 2.
    assert one["shared"].std() == pytest.approx(0.1, rel=0.01)
    assert one["task/a"].std() == pytest.approx(1.5, rel=0.01)
    others = one["task/a"], two["shared"], two["task/a"]
    assert max(abs(np.corrcoef(one["shared"], other)[0, 1]) for other in others) < 5 / size**0.5


def test_the_same_sum_has_the_same_noise_and_one_more_update_has_another() -> None:
    rng = np.random.default_rng(3)
    updates = [update(shared=rng.normal(size=50_000) * 1e-4) for _ in range(4)]
    noising = Noising(1.0, 1.0, {"shared": 4.0}, 4.0)
    first, again, fewer = (released(part, noising) for part in (updates, updates[::-1], updates[:3]))
    assert first["shared"].tobytes() == again["shared"].tobytes()
    assert abs(np.corrcoef(first["shared"], fewer["shared"])[0, 1]) < 0.03
    other = released(updates, noising, noise=NoiseSettings(bytes(32)))
    assert abs(np.corrcoef(first["shared"], other["shared"])[0, 1]) < 0.03


def test_a_cell_that_nobody_answered_for_is_noise_alone() -> None:
    aggregator = Aggregator(AggregationStrategy(noise=NoiseSettings(NOISE_KEY)))
    asked = Combine(1, {"shared": 1}, noise=Noising(1.0, 1.0, {"shared": 2.0}, 2.0))
    found = aggregator.combine({"shared": np.zeros(50_000, np.float32)}, asked)
    assert found["shared"].std() == pytest.approx(0.5, rel=0.02)


def test_the_clip_follows_the_median_of_the_lengths_of_updates() -> None:
    # s = max(m/20, 2z) = 2 for 10 clients and z = 1: the values then have (1 - 1/16)^-1/2 = 1.0328 as much noise.
    settings, rng = NoiseSettings(NOISE_KEY, quantile=0.5), np.random.default_rng(4)
    assert settings.deviation(Noising(1.0, 1.0, {}, 10.0), "shared") == pytest.approx(1.032796, abs=1e-6)
    for first in (0.1, 10.0):
        clip, seen = first, []
        for version in range(1, 81):
            aggregator = Aggregator(AggregationStrategy(noise=settings))
            for number in range(100):
                length = float(rng.lognormal(0.0, 0.5))
                aggregator.fold(f"order-{number}", update(shared=[length]), {"shared": 1}, {}, clip)
            asked = Combine(version, {"shared": 100}, noise=Noising(1.0, clip, {"shared": 100.0}, 100.0))
            aggregator.combine({"shared": np.zeros(1, np.float32)}, asked)
            assert aggregator.clip is not None
            clip = aggregator.clip
            seen.append(clip)
        assert 0.85 < np.mean(seen[30:]) < 1.15


class TestSumsByTask:
    ROWS: ClassVar[Rows] = {"shared": {"a": 1, "b": 1}}

    def test_conflicts_are_resolved_of_what_has_noise(self) -> None:
        """Two opposed steps of length 1: PCGrad takes each one's part against the other away, which leaves nothing."""
        mean = WeightedMean(weights=TaskBalancedWeights(), resolver=ConflictResolver(PCGrad(rescale=False), True))
        updates = [update(shared=[1.0, 0.0]), update(shared=[-1.0, 0.0])]
        noising = Noising(0.0, 5.0, {"shared (a)": 1.0, "shared (b)": 1.0}, 2.0)
        aggregator = Aggregator(AggregationStrategy(mean=mean, noise=NoiseSettings(NOISE_KEY)))
        for number, (deltas, task) in enumerate(zip(updates, "ab", strict=True)):
            aggregator.fold(f"order-{number}", deltas, {"shared": 1}, {"shared": {task: 1}}, 5.0)
        asked = Combine(1, {"shared": 2}, self.ROWS, noise=noising)
        found = aggregator.combine({"shared": np.zeros(2, np.float32)}, asked)
        assert found["shared"].tolist() == [0.0, 0.0]
        assert aggregator.cosines["shared"][1].tolist() == [[1.0, -1.0], [-1.0, 1.0]]

    def test_steps_that_are_shorter_than_their_noise_weigh_as_in_the_mean(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "fedmtl.server")
        mean = WeightedMean(weights=TaskBalancedWeights(), resolver=ConflictResolver(PCGrad(), False))
        noising = Noising(50.0, 1.0, {"shared (a)": 1.0, "shared (b)": 1.0}, 2.0)
        nothing = [update(shared=np.zeros(1000))] * 2
        without = replace(mean, resolver=None)
        first, second = (released(nothing, noising, self.ROWS, mean=chosen) for chosen in (mean, without))
        assert first["shared"].tobytes() == second["shared"].tobytes()
        assert (
            "scope shared: the noise of a task's step hides its length; tasks weigh as in the mean" in caplog.messages
        )

    def test_cosines_of_long_steps_do_not_sink_with_the_noise(self) -> None:
        rng = np.random.default_rng(5)
        common = rng.normal(size=20_000)
        a, b = (common + rng.normal(size=20_000) * 0.5 for _ in range(2))
        true = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        noising = Noising(1.0, 1.0, {"shared (a)": 100.0, "shared (b)": 100.0}, 200.0)
        aggregator = Aggregator(
            AggregationStrategy(mean=WeightedMean(weights=TaskBalancedWeights()), noise=NoiseSettings(NOISE_KEY))
        )
        for task, step in (("a", a), ("b", b)):
            for number in range(100):  # as long as the clip each
                deltas = update(shared=step / np.linalg.norm(step))
                aggregator.fold(f"order-{task}{number}", deltas, {"shared": 1}, {"shared": {task: 1}}, 1.0)
        asked = Combine(1, {"shared": 200}, {"shared": {"a": 100, "b": 100}}, noise=noising)
        aggregator.combine({"shared": np.zeros(20_000, np.float32)}, asked)
        # Noise of norm 141 / 100 beside steps of length 1: raw cosines would be near true / 3.
        assert aggregator.cosines["shared"][1][0, 1] == pytest.approx(true, abs=0.1)


def test_the_ledger_composes_releases_and_what_earlier_runs_published() -> None:
    # Once with z = 1 twice and z = 2 four times: mu^2 = 2 + 1, epsilon 8.385419 at 1e-5.
    ledger = Ledger(Mechanism(2.0), 1e-5, 1.0, spent={"a": 4, "b": 4}, earlier=(Charges(Mechanism(1.0), {"a": 2}),))
    assert ledger.epsilon_of("a") == pytest.approx(8.385419, abs=1e-6)
    assert ledger.epsilon() == ledger.epsilon_of("a") > ledger.epsilon_of("b") > 0
