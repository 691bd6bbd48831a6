"""A scope of float64 beside one of float32: sums, storage, wire and encodings know a vector's type from its schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.bodies import DENSE_FLOAT32, ScopeVersion
from common.errors import RunFolderError
from common.methods.robust import Median
from common.methods.server_optimizers import FedAvgM
from common.parameters.encodings import BLOCK, ENCODINGS, EncodedDelta
from common.parameters.schema import ElementType, ParameterSchema
from common.parameters.vector import Float64
from server.aggregation.accumulator import Piece, Summand
from server.aggregation.aggregator import Aggregator
from server.aggregation.kept_updates import KeptUpdates
from server.aggregation.strategy import AggregationStrategy
from server.aggregation.streaming import StreamingMean
from server.core.effects import Combine
from server.engine.broadcast import Broadcast
from server.storage.journal import Journal
from server.storage.models import JournalledModels, ModelFiles
from server.storage.tensor_files import decoded
from tests.aggregation_cases import moved

SIZE = BLOCK + 300 * 16
SHAPES = {"table": (300, 16), "rest": (BLOCK,)}
WIDE = ParameterSchema.of(SHAPES, ElementType.FLOAT64)
SCHEMAS = {"shared": ParameterSchema.of({"encoder": (4,)}), "task/a": WIDE}
FINE = 1e-12
"""Lost beside 1 in float32, and not in float64."""


def delta(seed: int) -> Float64:
    """A third of the table's rows, and all of the rest, change; by amounts that float32 does not have."""
    values = np.random.default_rng(seed).standard_normal(SIZE) + FINE
    values[: 300 * 16].reshape(300, 16)[::3] = 0.0
    return values


def update(values: NDArray[np.float64], name: str = DENSE_FLOAT32) -> list[tuple[str, EncodedDelta]]:
    encoding = ENCODINGS[name]
    return [("task/a", EncodedDelta(encoding, WIDE, encoding.encode(values, WIDE)))]


def test_a_type_is_part_of_the_layout_and_of_its_digest() -> None:
    narrow = ParameterSchema.of(SHAPES)
    assert (WIDE.nbytes, narrow.nbytes) == (8 * SIZE, 4 * SIZE) and WIDE.digest != narrow.digest
    assert WIDE.named_under("x/").dtype is ElementType.FLOAT64


@pytest.mark.parametrize("name", ENCODINGS)
def test_float64_travels_as_it_is_under_every_encoding(name: str) -> None:
    values = delta(1)
    ((_, arrived),) = update(values, name)
    least, most = ENCODINGS[name].bounds(WIDE)
    assert least <= len(arrived.payload) <= most
    arrived.check()
    found = np.zeros(SIZE)
    for start, block in arrived.blocks():
        assert block.dtype == np.float64 and len(block) <= BLOCK
        found[start : start + len(block)] = block
    assert found.tobytes() == values.tobytes()


def test_sums_round_to_the_type_of_the_scope_alone() -> None:
    one, two, base = delta(1), delta(2), np.ones(SIZE)
    aggregator = Aggregator(AggregationStrategy(optimizer=FedAvgM(0.5)))
    aggregator.fold("a", update(one), {"task/a": 1}, {})
    aggregator.fold("b", update(two), {"task/a": 3}, {})
    values = aggregator.combine({"task/a": base}, Combine(1, {"task/a": 4}))["task/a"]
    assert values.dtype == np.float64 and values.tobytes() == (base + (one + 3 * two) / 4).tobytes()
    assert {moment.dtype for moment in aggregator.moments.values()} == {np.dtype(np.float64)}


@pytest.mark.parametrize("make", [StreamingMean, lambda: KeptUpdates(Median(), None)])
def test_two_halves_merge_into_the_whole(make: type[StreamingMean]) -> None:
    whole, first, second = make(), make(), make()
    deltas = {f"order-{n}": np.round(delta(n), 3).astype(np.float32).astype(np.float64) for n in range(4)}
    for number, (order, values) in enumerate(deltas.items()):
        whole.add(order, update(values), {"task/a": 1})
        (first if number % 2 else second).add(order, update(values), {"task/a": 1})
    first.merge(second)

    def step(sums: StreamingMean) -> bytes:
        pieces = [Piece(0, SIZE, [Summand("", 4)])]
        return b"".join(block.tobytes() for _, block in sums.report("task/a", pieces))

    assert step(first) == step(whole)
    second.add("later", update(delta(9)), {"task/a": 1})  # what was merged away is not in it any more
    base = np.zeros(SIZE)
    if isinstance(second, StreamingMean):
        assert moved(second, "task/a", base, 1, 1.0).tobytes() == (base + delta(9)).tobytes()


def test_versions_and_moments_are_stored_in_the_type_of_their_scope(tmp_path: Path) -> None:
    vectors = {"shared": np.ones(4, np.float32), "task/a": delta(1)}
    moments = {"momentum/task/a": delta(2)}
    (tmp_path / "models").mkdir()
    files = ModelFiles(tmp_path, SCHEMAS)
    files.write(3, vectors, vectors, moments)
    for found in (files.read(3), files.decode(decoded(b"".join(files.versions.whole(vectors)), tmp_path))):
        assert {scope: values.tobytes() for scope, values in found.items()} == {
            scope: values.tobytes() for scope, values in vectors.items()
        }
    assert files.read_moments(3, list(moments))["momentum/task/a"].tobytes() == moments["momentum/task/a"].tobytes()
    models = JournalledModels(files, Journal(":memory:"))
    models.write(4, vectors, vectors)
    assert models.read(3)["task/a"].dtype == np.float64
    narrow = ModelFiles(tmp_path, {**SCHEMAS, "task/a": ParameterSchema.of(SHAPES)})
    with pytest.raises(RunFolderError, match=r"'table' is .* float64, expected .* float32"):
        narrow.read(3)


def test_a_scope_is_sent_in_chunks_of_its_own_bytes() -> None:
    values = delta(1)
    sent: Iterator[bytes | memoryview] = iter(Broadcast().chunks(ScopeVersion("task/a", 1), values, 0))
    assert b"".join(map(bytes, sent)) == values.tobytes()
