"""Robust rules, the norm bound and server optimizers, by hand and by their laws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from common.errors import RunFolderError
from common.methods.robust import Median, MultiKrum, TrimmedMean
from common.methods.server_optimizers import FedAdam, FedAvgM, FedYogi, PlainStep
from common.parameters.encodings import BLOCK, ENCODINGS, EncodedDelta
from common.parameters.schema import ParameterSchema
from server.aggregation.aggregator import Aggregator
from server.aggregation.bound import bounded
from server.aggregation.kept_updates import KeptUpdates
from server.aggregation.strategy import AggregationStrategy as Strategy
from server.core.effects import Combine
from server.storage.models import MemoryModels, ModelFiles

ROBUST = {"median": Median(), "trimmed_mean": TrimmedMean(0.3), "multi_krum": MultiKrum(0.3)}


def encoded(delta, encoding="dense-float32"):
    schema = ParameterSchema.of({"values": delta.shape})
    return [("shared", EncodedDelta(ENCODINGS[encoding], schema, ENCODINGS[encoding].encode(delta.ravel(), schema)))]


def combine(method, deltas, base=None, weights=None):
    """One round of updates, each folded as the order of its number."""
    aggregator = Aggregator(method)
    for number, delta in enumerate(deltas):
        aggregator.fold(f"order-{number}", encoded(delta), {"shared": weights[number] if weights else 1}, {})
    base = np.zeros_like(deltas[0]) if base is None else base
    return aggregator.combine({"shared": base}, Combine(1, {"shared": sum(weights or [1] * len(deltas))}))["shared"]


def vectors(*rows):
    return [np.array(row, dtype=np.float32) for row in rows]


class TestRobust:
    def test_the_median_of_the_given_vectors(self):
        deltas = vectors([1, 0.2, 0.5, 1], [0.2, 0.5, 1, 0.2], [0.5, 1, 0.2, 0.5])
        np.testing.assert_array_equal(combine(Strategy(Median()), deltas), np.full(4, 0.5, np.float32))

    def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two(self):
        assert combine(Strategy(Median()), vectors([1], [100], [3], [-50])).tolist() == [2]

    def test_the_trimmed_mean_leaves_the_ends_of_every_coordinate_out(self):
        deltas = vectors([1, 9], [2, -9], [3, 1], [100, 2], [-100, 3])
        assert combine(Strategy(TrimmedMean(0.2)), deltas).tolist() == [2, 2]
        assert combine(Strategy(TrimmedMean(0.1)), vectors([1], [2], [6])).tolist() == [3]

    def test_multi_krum_leaves_the_far_one_out(self):
        # f = 1 of 5. Sums of the 2 smallest squared distances: 1+1, 1+1, 1+4 for 0, 1, 2 etc.; 50 is far from all.
        deltas = vectors([0], [1], [2], [1], [50])
        assert combine(Strategy(MultiKrum(0.2)), deltas).tolist() == [1]

    def test_multi_krum_bears_no_faulty_client_among_four(self):
        assert combine(Strategy(MultiKrum(0.4)), vectors([0], [1], [2], [1])).tolist() == [1]

    @pytest.mark.parametrize("rule", ROBUST.values(), ids=ROBUST)
    def test_equal_updates_give_federated_averaging_bit_for_bit(self, rule):
        rng = np.random.default_rng(1)
        base, delta = rng.normal(size=(2, 2 * BLOCK + 3)).astype(np.float32)
        found = combine(Strategy(rule), [delta] * 7, base)
        assert found.tobytes() == combine(Strategy(), [delta] * 7, base).tobytes()

    @pytest.mark.parametrize("rule", ROBUST.values(), ids=ROBUST)
    def test_the_order_of_arrival_leaves_no_trace(self, rule):
        rng = np.random.default_rng(2)
        deltas = rng.normal(size=(7, 700)).astype(np.float32)
        base, found = np.zeros(700, np.float32), set()
        for order in (range(7), [6, 2, 4, 0, 1, 5, 3]):
            aggregator = Aggregator(Strategy(rule))
            for number in order:
                aggregator.fold(f"order-{number}", encoded(deltas[number]), {"shared": 1}, {})
            found.add(aggregator.combine({"shared": base}, Combine(1, {"shared": 7}))["shared"].tobytes())
        assert len(found) == 1

    def test_one_wild_client_does_not_move_them_but_does_move_the_mean(self):
        rng = np.random.default_rng(3)
        honest = list((1 + 0.01 * rng.normal(size=(6, 50))).astype(np.float32))
        for wild in (np.full(50, 1e6, np.float32), np.full(50, -1e6, np.float32)):
            for rule in ROBUST.values():
                assert np.abs(combine(Strategy(rule), [*honest, wild]) - 1).max() < 0.05
            assert np.abs(combine(Strategy(), [*honest, wild])).min() > 1e5

    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_every_encoding_is_kept_as_it_would_be_summed(self, encoding):
        delta = np.zeros((300, 16), np.float32)
        delta[[3, 200]] = 0.5
        schema = ParameterSchema.of({"table": (300, 16)})
        kept = KeptUpdates(Median(), None)
        for number in range(3):
            payload = ENCODINGS[encoding].encode(delta.ravel(), schema)
            kept.add(str(number), [("shared", EncodedDelta(ENCODINGS[encoding], schema, payload))], {"shared": 1})
        (block,) = kept.report("shared", [])
        assert block[0] == 0 and block[1].tolist() == delta.ravel().tolist()

    def test_a_client_without_rows_does_not_count(self):
        assert combine(Strategy(Median()), vectors([1], [2], [90], [80]), weights=[1, 1, 0, 0]).tolist() == [1.5]

    def test_what_a_dead_coordinator_left_is_deleted_and_a_round_leaves_nothing(self, tmp_path: Path):
        (tmp_path / "shared.updates").write_bytes(b"half an update")
        aggregator = Aggregator(Strategy(Median(), folder=tmp_path))
        assert not list(tmp_path.iterdir())
        for value in (3.0, 5.0):
            aggregator.fold("o", encoded(np.array([value], np.float32)), {"shared": 1}, {})
            assert [path.name for path in tmp_path.iterdir()] == ["shared.updates"]
            found = aggregator.combine({"shared": np.zeros(1, np.float32)}, Combine(1, {"shared": 1}))
            assert found["shared"].tolist() == [value] and not list(tmp_path.iterdir())

    def test_a_disk_that_does_not_take_an_update_is_named(self, tmp_path: Path):
        kept = KeptUpdates(Median(), tmp_path / "updates")
        (tmp_path / "updates").rmdir()
        with pytest.raises(RunFolderError, match=r"updates cannot be written \(No such file or directory\); free"):
            kept.add("o", encoded(np.ones(3, np.float32)), {"shared": 1})


class TestNormBound:
    def test_a_long_update_is_shortened_and_a_short_one_is_not(self):
        first, second = vectors([3, 4], [0.3, 0.4])
        assert combine(Strategy(norm_bound=1.0), [first]).tolist() == pytest.approx([0.6, 0.8])
        assert combine(Strategy(norm_bound=1.0), [second]).tobytes() == combine(Strategy(), [second]).tobytes()

    def test_the_log_tells_how_many_were_shortened(self, caplog):
        caplog.set_level("INFO", "fedmtl.server")
        combine(Strategy(norm_bound=1.0), vectors([3, 4], [0.3, 0.4], [0, 1]))
        combine(Strategy(norm_bound=9.0), vectors([3, 4]))
        assert caplog.messages == ["1 of 3 updates were longer than aggregation.norm_bound 1 and shortened"]

    def test_the_norm_is_that_of_all_scopes_together(self):
        parts = [("a", encoded(np.array([3.0], np.float32))[0][1]), ("b", encoded(np.array([4.0], np.float32))[0][1])]
        (_, a), (_, b) = bounded(parts, 2.5)
        assert [float(block[0]) for delta in (a, b) for _, block in delta.blocks()] == [1.5, 2.0]
        assert bounded(parts, 5.0) is parts

    def test_the_order_of_arrival_leaves_no_trace(self):
        rng = np.random.default_rng(4)
        deltas, weights = (1e-3 * rng.normal(size=(6, 3000))).astype(np.float32), [1, 77, 5, 12345, 3, 999]
        method, found = Strategy(norm_bound=0.01), set()
        for order in (range(6), [5, 0, 3, 1, 4, 2]):
            found.add(combine(method, [deltas[i] for i in order], weights=[weights[i] for i in order]).tobytes())
        assert len(found) == 1


class TestOptimizers:
    def rounds(self, optimizer, steps, rate=1.0):
        """Values after each round, from 0, of one parameter that is asked to move by `steps`."""
        aggregator = Aggregator(
            Strategy(optimizer=optimizer, rate=rate),
            {f"{name}/shared": np.full(1, start, np.float32) for name, start in optimizer.moments},
        )
        values = [np.zeros(1, np.float32)]
        for step in steps:
            aggregator.fold("o", encoded(np.array([step], np.float32)), {"shared": 1}, {})
            values.append(aggregator.combine({"shared": values[-1]}, Combine(1, {"shared": 1}))["shared"])
        return [float(value[0]) for value in values[1:]]

    def test_sgd_is_the_step_times_the_rate(self):
        assert self.rounds(PlainStep(), [1, 2], rate=0.5) == [0.5, 1.5]

    def test_momentum_by_hand(self):
        assert self.rounds(FedAvgM(0.5), [1, 1, 0]) == [1, 2.5, 3.25]  # m = 1, 1.5, .75

    def test_adam_by_hand(self):
        # tau .1: v0 = .01. m1 = .5 * 1, v1 = .75 * .01 + .25 = .2575; m2 = .25 - 1, v2 = .75 * .2575 + .25 * 4
        x1 = 0.5 / (math.sqrt(0.2575) + 0.1)
        x2 = x1 - 0.75 / (math.sqrt(1.193125) + 0.1)
        assert self.rounds(FedAdam(0.5, 0.75, 0.1), [1, -2]) == pytest.approx([x1, x2], rel=1e-6)

    def test_yogi_by_hand(self):
        # v1 = .01 - .25 * 1 * sign(.01 - 1) = .26; v2 = .26 - .25 * .04 * sign(.26 - .04) = .25
        x1 = 0.5 / (math.sqrt(0.26) + 0.1)
        x2 = x1 + (0.25 - 0.1) / (math.sqrt(0.25) + 0.1)
        assert self.rounds(FedYogi(0.5, 0.75, 0.1), [1, -0.2]) == pytest.approx([x1, x2], rel=1e-6)

    @pytest.mark.parametrize("kind", ["files", "memory"])
    def test_moments_are_kept_for_the_versions_of_the_model(self, kind, tmp_path):
        schemas = {"shared": ParameterSchema.of({"w": (2, 3)}), "task/a": ParameterSchema.of({"b": (2,)})}
        (tmp_path / "models").mkdir()
        store = ModelFiles(tmp_path, schemas) if kind == "files" else MemoryModels()
        names = [f"{moment}/{scope}" for moment in ("first_moment", "second_moment") for scope in schemas]
        values = {scope: np.arange(schema.size, dtype=np.float32) for scope, schema in schemas.items()}
        for version in range(1, 5):
            moments = {name: values[name.split("/", 1)[1]] + version for name in names}
            store.write(version, values, values, moments)
        for version in (3, 4):
            found = store.read_moments(version, names)
            assert list(found) == names
            assert all((found[name] == values[name.split("/", 1)[1]] + version).all() for name in names)
        for version in (2, 9):
            with pytest.raises(RunFolderError):
                store.read_moments(version, names)
        assert store.read_moments(9, []) == {}
