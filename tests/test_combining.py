"""From the core's decisions to new values: weights of tasks, sums by task, conflicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.bodies import DENSE_FLOAT32
from common.methods.conflict import ConflictResolver
from common.methods.server_optimizers import FedAvgM
from common.methods.task_weights import (
    AttentionWeights,
    DynamicWeights,
    Evidence,
    ExampleWeights,
    FamoWeights,
    TaskBalancedWeights,
    TemperatureWeights,
    famo_logits,
)
from common.orders import TaskResult
from common.parameters.encodings import BLOCK, ENCODINGS, EncodedDelta
from common.parameters.schema import ParameterSchema
from server.aggregation.aggregator import Aggregator
from server.aggregation.strategy import AggregationStrategy as Strategy
from server.aggregation.strategy import WeightedMean
from server.aggregation.streaming import StreamingMean
from server.core.effects import Combine, Commit, Fold
from server.core.events import Answered
from server.storage.journal import Journal
from tests.core_cases import SCORES, TASKS, Table, rules
from tests.row_cases import conflict_rule


def vector(*values):
    return np.array(values, dtype=np.float32)


def encoded(deltas):
    dense = ENCODINGS[DENSE_FLOAT32]
    schemas = {scope: ParameterSchema.of({"values": delta.shape}) for scope, delta in deltas.items()}
    return [(s, EncodedDelta(dense, schemas[s], dense.encode(d, schemas[s]))) for s, d in deltas.items()]


def hold(core_rules, clients, deltas, method):
    """One round through core and aggregator: {client: {task: examples}}, each client's delta of `shared`."""
    held = tuple(task for task in TASKS if any(task.name in examples for examples in clients.values()))
    table, aggregator = Table(replace(core_rules, min_clients=len(clients), tasks=held)), Aggregator(method)
    for client, examples in clients.items():
        table.join(client, *examples, examples=max(examples.values()))
    for client, examples in clients.items():
        header = table.header(client)
        results = tuple(TaskResult(task, n, None, SCORES[task]) for task, n in examples.items())
        effects = table.apply(Answered(0.0, client, replace(header, results=results)))
        (fold,) = [effect for effect in effects if isinstance(effect, Fold)]
        own = {"shared": deltas[client]} | {f"task/{task}": vector(*range(10)) for task in examples}
        aggregator.fold(fold.order_id, encoded(own), fold.weights, fold.rows)
    (stored,) = table.of(Combine)
    base = {scope: np.zeros(10, np.float32) for scope in stored.totals} | {"shared": np.zeros_like(deltas["a"])}
    return aggregator.combine(base, stored), aggregator, stored


CLIENTS = {"a": {"sst2": 10}, "b": {"sst2": 30}, "c": {"qqp": 5}, "d": {"sst2": 20, "qqp": 15}}
DELTAS = {"a": vector(1, 0), "b": vector(0, 2), "c": vector(3, 3), "d": vector(-1, 4)}


def expected(shares):
    """sum_t share_t sum_k n_kt delta_k / n_t, in the words of the definition."""
    total = np.zeros(2)
    for task, share in shares.items():
        counts = {client: tasks.get(task, 0) for client, tasks in CLIENTS.items()}
        mean = sum(n * DELTAS[client].astype(float) for client, n in counts.items()) / sum(counts.values())
        total += share * mean
    return total


@pytest.mark.parametrize(
    ("shares", "by_task"),
    [
        (ExampleWeights(), {"sst2": 60 / 80, "qqp": 20 / 80}),
        (TaskBalancedWeights(), {"sst2": 0.5, "qqp": 0.5}),
        (TemperatureWeights(2.0), {"sst2": 3**0.5 / (3**0.5 + 1), "qqp": 1 / (3**0.5 + 1)}),
    ],
)
def test_tasks_weigh_what_their_shares_say(shares, by_task):
    values, aggregator, stored = hold(rules(by_task=True), CLIENTS, DELTAS, Strategy(WeightedMean(shares)))
    assert stored.rows == {"shared": {"sst2": 60, "qqp": 20}}
    np.testing.assert_allclose(values["shared"], expected(by_task), rtol=1e-6)
    tasks, matrix = aggregator.cosines["shared"]
    assert tasks == ("sst2", "qqp") and matrix.shape == (2, 2) and set(aggregator.cosines) == {"shared"}


def test_a_tasks_weight_multiplies_its_share():
    method = Strategy(WeightedMean(TaskBalancedWeights(), {"sst2": 3.0}))
    values, *_ = hold(rules(by_task=True), CLIENTS, DELTAS, method)
    np.testing.assert_allclose(values["shared"], expected({"sst2": 0.75, "qqp": 0.25}), rtol=1e-6)


def test_uniform_counts_every_client_that_brings_rows_once():
    clients = CLIENTS | {"e": {"sst2": 0}}
    values, _, stored = hold(rules(one_each=True), clients, DELTAS | {"e": vector(100, 100)}, Strategy())
    assert stored.totals == {"shared": 4, "task/sst2": 3, "task/qqp": 2} and not stored.rows
    np.testing.assert_allclose(values["shared"], np.mean([DELTAS[c] for c in "abcd"], axis=0), rtol=1e-6)


def test_a_task_without_rows_in_this_round_takes_no_share():
    clients = {"a": {"sst2": 10}, "c": {"qqp": 0}}
    values, aggregator, stored = hold(
        rules(by_task=True), clients, DELTAS, Strategy(WeightedMean(TaskBalancedWeights()))
    )
    assert stored.rows == {"shared": {"sst2": 10}} and not aggregator.cosines
    assert values["shared"].tolist() == [1, 0]


@pytest.mark.parametrize("name", ["none", "pcgrad", "mgda", "cagrad", "nash", "imtl_g", "upgrad"])
def test_one_task_is_federated_averaging_bit_for_bit(name):
    rng = np.random.default_rng(4)
    clients = {"a": {"sst2": 7}, "b": {"sst2": 12}, "d": {"sst2": 1000}}
    deltas = {client: rng.normal(size=3 * BLOCK + 5).astype(np.float32) for client in clients}
    resolver = ConflictResolver(conflict_rule(name), only_conflicts=False) if name != "none" else None
    plain, *_ = hold(rules(), clients, deltas, Strategy())
    for shares in (
        ExampleWeights(),
        TaskBalancedWeights(),
        FamoWeights(0.1, 0.01),
        *(row(3.0) for row in (TemperatureWeights, DynamicWeights, AttentionWeights)),
    ):
        found, *_ = hold(rules(by_task=True), clients, deltas, Strategy(WeightedMean(shares, resolver=resolver)))
        assert {scope: v.tobytes() for scope, v in found.items()} == {s: v.tobytes() for s, v in plain.items()}


@pytest.mark.parametrize("name", ["pcgrad", "nash"])
def test_the_order_of_arrival_leaves_no_trace_in_a_settled_step(name):
    rng = np.random.default_rng(4)
    deltas = {client: (1e-3 * rng.normal(size=BLOCK + 9)).astype(np.float32) for client in CLIENTS}
    method = Strategy(WeightedMean(TaskBalancedWeights(), resolver=ConflictResolver(conflict_rule(name))))
    values = [
        hold(rules(by_task=True), {c: CLIENTS[c] for c in order}, deltas, method)[0]["shared"].tobytes()
        for order in ("abcd", "dcba", "bdac")
    ]
    assert len(set(values)) == 1


def test_a_conflict_is_settled_between_the_tasks_means():
    clients = {"a": {"sst2": 10}, "b": {"sst2": 10}, "c": {"qqp": 5}}
    deltas = {"a": vector(2, 1), "b": vector(0, -1), "c": vector(-0.8, 0.6)}
    resolver = ConflictResolver(conflict_rule("pcgrad", rescale=False))
    values, aggregator, _ = hold(
        rules(by_task=True), clients, deltas, Strategy(WeightedMean(TaskBalancedWeights(), resolver=resolver))
    )
    np.testing.assert_allclose(values["shared"], (0.18, 0.54), atol=1e-6)
    np.testing.assert_allclose(aggregator.cosines["shared"][1], [[1, -0.8], [-0.8, 1]], atol=1e-6)
    assert values["task/sst2"].tolist() == list(range(10)), "a head is its task's alone"


def test_a_second_round_starts_from_nothing():
    aggregator = Aggregator(Strategy(WeightedMean(TaskBalancedWeights())))
    base = {"shared": np.zeros(3, np.float32)}
    for delta in (vector(1, 2, 3), vector(4, 5, 6)):
        aggregator.fold("o", encoded({"shared": delta}), {"shared": 2}, {"shared": {"sst2": 2}})
        aggregator.fold("o", encoded({"shared": -delta}), {"shared": 2}, {"shared": {"sst2": 1, "qqp": 1}})
        values = aggregator.combine(base, Combine(1, {"shared": 4}, {"shared": {"sst2": 3, "qqp": 1}}))
        np.testing.assert_allclose(values["shared"], delta * ((2 - 1) / 3 - 1) / 2, rtol=1e-6)
    aggregator.fold("o", encoded({"shared": delta}), {"shared": 2}, {"shared": {"sst2": 2}})
    aggregator.clear()
    aggregator.fold("o", encoded({"shared": vector(1, 1, 1)}), {"shared": 2}, {"shared": {"sst2": 2}})
    assert aggregator.combine(base, Combine(1, {"shared": 2}, {"shared": {"sst2": 2}}))["shared"].tolist() == [1, 1, 1]


def test_memory_is_kept_per_task_only_where_it_is_asked_for():
    sums = StreamingMean()
    sums.add("o", encoded({"shared": vector(1), "task/sst2": vector(1)}), {"shared": 2, "task/sst2": 2})
    assert set(sums._sums) == {("shared", ""), ("task/sst2", "")}


def test_dynamic_weights_come_from_two_rounds_of_losses():
    table = Table(rules(by_task=True, min_clients=2))
    for client, task in (("a", "sst2"), ("b", "qqp")):
        table.join(client, task)
    for losses in ((4.0, 2.0), (2.0, 1.8)):
        for client, loss in zip("ab", losses, strict=True):
            header = table.header(client)
            results = tuple(replace(result, train_loss=loss) for result in header.results)
            table.apply(Answered(0.0, client, replace(header, results=results)))
    first, second = table.of(Combine)
    assert first.trends == ({},) and second.trends == ({}, {"sst2": 0.5, "qqp": 0.9})
    weights = DynamicWeights(2.0)(evidence([[1, 0], [0, 1]], trends=second.trends))
    np.testing.assert_allclose(weights / weights.sum(), np.exp([0.25, 0.45]) / np.exp([0.25, 0.45]).sum())
    journal = Journal(":memory:")
    for effect in table.of(Commit):
        journal.commit(effect.records)
    restored = journal.restore(table.settings.schemas, 1.0)
    assert restored.losses == table.state.losses == {"sst2": 2.0, "qqp": 1.8}
    assert restored.trends == table.state.trends == second.trends
    journal.close()


def evidence(gram, trends=()):
    gram = np.array(gram, dtype=np.float64)
    return Evidence(("sst2", "qqp", "stsb")[: len(gram)], np.ones(len(gram)), gram, trends)


def test_attention_goes_to_tasks_that_go_the_way_of_all():
    """Steps (1, 0), (1, 0), (0, 2): their mean is (2, 2) / 3, so all cosines with it are 1 / sqrt(2), whatever lengths.

    With (1, 0), (1, 0), (-1, 0) the mean is (1, 0) / 3 and the cosines are 1, 1, -1: softmax of twice these at
    temperature 0.5. Steps that cancel out have no way in common.
    """
    steps = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(AttentionWeights(0.1)(evidence(steps @ steps.T)), [1 / 3] * 3)
    steps[2] = -1.0, 0.0
    powers = np.exp([2.0, 2.0, -2.0])
    np.testing.assert_allclose(AttentionWeights(0.5)(evidence(steps @ steps.T)), powers / powers.sum())
    np.testing.assert_allclose(AttentionWeights(0.5)(evidence([[1, -1], [-1, 1]])), [0.5, 0.5])
    np.testing.assert_allclose(AttentionWeights(1.0)(evidence([[1, 0], [0, 0]])), np.exp([1, 0]) / (1 + np.e))


def test_famo_over_rounds_gives_more_to_what_falls_less():
    """Losses fall to 1/2 and 9/10: softmax's Jacobian at (.5, .5) gives slopes -+, and Adam's first step is -+rate.

    Equal falls have no slope, so x moves on by what Adam remembers: with betas .9 and .999 its second move is
    rate (.9 * .1 / .19) / sqrt(.999 * .001 / .001999) = .67 rate. A round that knows one task alone changes nothing.
    """
    rounds = [{}, {"sst2": 0.5, "qqp": 0.9}]
    logits = famo_logits(rounds, 0.1, 0.0)
    assert logits == pytest.approx({"sst2": -0.1, "qqp": 0.1}, abs=1e-6)
    weights = FamoWeights(0.1, 0.0)(evidence([[1, 0], [0, 1]], trends=rounds))
    np.testing.assert_allclose(weights, np.exp([-0.1, 0.1]) / np.exp([-0.1, 0.1]).sum(), rtol=1e-6)
    more = 0.1 * (0.09 / 0.19) / np.sqrt(0.000999 / 0.001999)
    rounds += [{"sst2": 0.8, "qqp": 0.8}, {"sst2": 0.1}]
    assert famo_logits(rounds, 0.1, 0.0) == pytest.approx({"sst2": -0.1 - more, "qqp": 0.1 + more}, abs=1e-6)
    np.testing.assert_allclose(FamoWeights(0.1, 0.0)(evidence([[1]], trends=rounds)), [1.0])


def test_heads_may_have_an_optimizer_and_a_rate_of_their_own():
    method = Strategy(rate=0.5, task_optimizer=FedAvgM(0.5), task_rate=2.0)
    aggregator = Aggregator(method, {"first_moment/task/sst2": np.zeros(1, np.float32)})
    values = {scope: np.zeros(1, np.float32) for scope in ("shared", "task/sst2")}
    for expected in ((0.5, 2.0), (1.0, 5.0)):  # momentum: 1, then 0.5 + 1
        aggregator.fold("o", encoded(dict.fromkeys(values, vector(1))), dict.fromkeys(values, 1), {})
        values = aggregator.combine(values, Combine(1, dict.fromkeys(values, 1)))
        assert tuple(float(value[0]) for value in values.values()) == expected
    assert set(aggregator.moments) == {"first_moment/task/sst2"}
