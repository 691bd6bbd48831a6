from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.bodies import DENSE_FLOAT32
from common.orders import TaskResult
from common.parameters.encodings import BLOCK, ENCODINGS, EncodedDelta
from common.parameters.schema import ParameterSchema
from server.aggregation.streaming import StreamingMean
from server.core.effects import Combine, Fold
from server.core.events import Answered
from tests.aggregation_cases import moved
from tests.core_cases import SCORES, Table


def vector(*values):
    return np.array(values, dtype=np.float32)


def fold(sums, deltas, weights):
    """Fold dense float32 vectors."""
    dense = ENCODINGS[DENSE_FLOAT32]
    schemas = {scope: ParameterSchema.of({"values": delta.shape}) for scope, delta in deltas.items()}
    encoded = [(s, EncodedDelta(dense, schemas[s], dense.encode(d, schemas[s]))) for s, d in deltas.items()]
    sums.add("o", encoded, weights)


def mean(deltas, weights, base=None, rate=1.0):
    """The weighted mean of one scope's deltas on top of `base`."""
    sums = StreamingMean()
    for delta, weight in zip(deltas, weights, strict=True):
        fold(sums, {"shared": delta}, {"shared": weight})
    return moved(sums, "shared", np.zeros_like(deltas[0]) if base is None else base, sum(weights), rate)


def test_the_mean_is_weighted():
    result = mean([vector(2, 4, 6), vector(3, 6, 9)], [1, 2])
    np.testing.assert_array_equal(result, vector(8 / 3, 16 / 3, 8))


def test_each_scope_is_averaged_over_its_own_holders():
    sums = StreamingMean()
    fold(sums, {"w1": vector(1), "w2": vector(2)}, {"w1": 1, "w2": 1})
    fold(sums, {"w2": vector(3), "w3": vector(4)}, {"w2": 1, "w3": 1})
    totals = {"w1": 1, "w2": 2, "w3": 1}
    assert [float(moved(sums, s, vector(0), n, 1.0)[0]) for s, n in totals.items()] == [1, 2.5, 4]


def test_the_cores_weights_average_each_scope_over_its_own_holders():
    table = Table()
    table.join("a", "sst2", examples=1)
    table.join("b", "qqp", examples=1)
    updates = {
        "a": {"task/sst2": vector(1), "shared": vector(2)},
        "b": {"shared": vector(3), "task/qqp": vector(4)},
    }
    sums = StreamingMean()
    for client, deltas in updates.items():
        header = table.header(client, examples=1)
        (folded, *_), order = table.apply(Answered(0.0, client, header)), header.order_id
        assert isinstance(folded, Fold) and folded.order_id == order
        fold(sums, deltas, folded.weights)
    (stored,) = table.of(Combine)
    values = {scope: float(moved(sums, scope, vector(0), n, 1.0)[0]) for scope, n in stored.totals.items()}
    assert values == {"task/sst2": 1, "shared": 2.5, "task/qqp": 4}


def test_a_client_with_two_tasks_moves_the_shared_scope_with_both_counts():
    table = Table()
    table.join("b", "qqp")
    table.join("a", "sst2", "qqp")
    both = (TaskResult("sst2", 1, None, SCORES["sst2"]), TaskResult("qqp", 2, None, SCORES["qqp"]))
    header = replace(table.header("a"), results=both)
    table.apply(Answered(0.0, "a", header))
    table.apply(Answered(0.0, "b", table.header("b", examples=3)))
    first, second = table.of(Fold)
    sums = StreamingMean()
    fold(sums, {"shared": vector(4), "task/qqp": vector(5)}, first.weights)
    fold(sums, {"shared": vector(2), "task/qqp": vector(10)}, second.weights)
    (stored,) = table.of(Combine)
    assert stored.totals == {"shared": 6, "task/sst2": 1, "task/qqp": 5}
    assert moved(sums, "shared", vector(0), 6, 1.0) == vector(3)
    assert moved(sums, "task/qqp", vector(0), 5, 1.0) == vector(8)


@st.composite
def rounds(draw):
    """Deltas as AdamW makes them: many small steps from one float32 start, some coordinates without any gradient."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    clients, size = draw(st.integers(2, 12)), 500
    base = rng.normal(0, 0.02, size).astype(np.float32)
    base[:20] = 0  # biases
    rate = 10 ** draw(st.floats(-5, -2.5))
    still = rng.random((clients, size)) < 0.2
    deltas = []
    for client in range(clients):
        after = base.copy()
        for _ in range(draw(st.integers(1, 6))):
            after += (rate * np.clip(rng.normal(0, 0.7, size), -1, 1)).astype(np.float32)
        delta = after - base
        delta[still[client]] = 0
        deltas.append(delta)
    weights = [draw(st.integers(0, 10**6)) for _ in range(clients - 1)] + [draw(st.integers(1, 10**6))]
    return base, deltas, weights, draw(st.permutations(range(clients)))


@settings(max_examples=80, deadline=None)
@given(rounds())
def test_the_order_of_arrival_does_not_change_a_bit(case):
    base, deltas, weights, order = case
    straight = mean(deltas, weights, base)
    shuffled = mean([deltas[i] for i in order], [weights[i] for i in order], base)
    assert straight.tobytes() == shuffled.tobytes()
    exact = base + sum(w * d.astype(np.longdouble) for d, w in zip(deltas, weights, strict=True)) / sum(weights)
    np.testing.assert_allclose(straight, exact.astype(np.float64), rtol=2**-24, atol=1e-18)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.booleans())
def test_sums_are_exact_up_to_a_known_spread_of_changes_and_close_beyond(seed, clients, within):
    """Exact where the largest and smallest change lie within 2^29 / W, W the sum of the weights."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 1000, size=clients).tolist()
    spread = 29 - np.ceil(np.log2(sum(weights))) if within else 60
    exponents = rng.uniform(-20 - spread, -20, size=(clients, 200))
    deltas = (rng.choice([-1.0, 1.0], size=exponents.shape) * 2.0**exponents).astype(np.float32)
    order = rng.permutation(clients)
    straight = mean(list(deltas), weights)
    shuffled = mean([deltas[i] for i in order], [weights[i] for i in order])
    if within:
        assert straight.tobytes() == shuffled.tobytes()
    largest = np.abs(deltas.astype(float)).T @ weights / sum(weights)
    assert (np.abs(straight.astype(float) - shuffled) <= 2.0**-23 * largest).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_identical_clients_give_the_same_as_one(weights, seed):
    rng = np.random.default_rng(seed)
    base, delta = rng.normal(size=(2, 300)).astype(np.float32)
    assert mean([delta] * len(weights), weights, base).tobytes() == mean([delta], [1], base).tobytes()


def test_the_rate_scales_the_step_and_base_and_deltas_stay_as_they_are():
    base, delta = vector(1, 2), vector(4, -8)
    result = mean([delta], [5], base, rate=0.25)
    assert result.tolist() == [2, 0] and result.dtype == np.float32
    assert base.tolist() == [1, 2] and delta.tolist() == [4, -8] and not np.shares_memory(result, base)


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_blocks_leave_no_seam(size):
    rng = np.random.default_rng(size)
    base, first, second = rng.normal(size=(3, size)).astype(np.float32)
    expected = base + 0.5 * ((3.0 * first.astype(float) + 4.0 * second.astype(float)) / 7)
    np.testing.assert_array_equal(mean([first, second], [3, 4], base, 0.5), expected.astype(np.float32))


def test_cleared_sums_leave_nothing_behind():
    sums = StreamingMean()
    fold(sums, {"shared": vector(100, 100)}, {"shared": 9})
    sums.clear()
    fold(sums, {"shared": vector(1, 2)}, {"shared": 1})
    assert moved(sums, "shared", vector(0, 0), 1, 1.0).tolist() == [1, 2]
