"""Folding updates into the sum: ms per update, beside what torch and the memory of this machine can do.

One thread. Several updates of different content take turns, so that none lies in the cache when its turn comes; all
rows of the table take turns with each other. `checks` is what an update passes before it is folded.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from benchmarks.sheet import Sheet
from benchmarks.spread import interleaved
from common.parameters.encodings import ENCODINGS, EncodedDelta
from common.parameters.schema import ParameterSchema
from server.aggregation.streaming import StreamingMean

COLUMNS = {"what": "what", "ms": "ms per update", "gb_s": "GB/s of dense float32", "torch": "torch add_ x"}
REST = 479_000
"""Parameters of BERT-tiny outside of its word embeddings, roughly."""
WIDTH = 128
SHARED = "shared"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--words", type=int, default=30_522, help="rows of the word embeddings (default: %(default)s)")
    parser.add_argument("--rest", type=int, default=REST, help="other parameters (default: %(default)s)")
    parser.add_argument("--touched", type=float, default=0.2, help="share of rows that changed (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=8, help="different updates (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="default: %(default)s")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """One row per kernel, the reference kernels first."""
    torch.set_num_threads(1)
    schema = ParameterSchema.of({"word_embeddings": (options.words, WIDTH), "rest": (options.rest,)})
    deltas = [make_delta(schema, options.touched, seed) for seed in range(options.updates)]
    works = references(deltas) | kernels(deltas, schema)
    found = interleaved(works, options.repeats)
    reference = found["torch add_(alpha=), float32"].median
    sheet.columns(COLUMNS)
    for what, seconds in found.items():
        one = seconds.scaled(1.0 / len(deltas))
        speed = schema.nbytes / one.median / 1e9
        sheet.row(what=what, ms=one.scaled(1e3), gb_s=speed, torch=seconds.median / reference, mb=schema.nbytes / 1e6)


def make_delta(schema: ParameterSchema, touched: float, seed: int) -> NDArray[np.float32]:
    """A delta of which a share of the first table's rows is not zero."""
    rng = np.random.default_rng(seed)
    delta = rng.standard_normal(schema.size, dtype=np.float32)
    table = schema.entries[0] if len(schema.entries[0].shape) == 2 else schema.entries[1]
    matrix = delta[table.offset : table.offset + table.count].reshape(table.shape)
    matrix[rng.random(len(matrix)) >= touched] = 0.0
    return delta


def references(deltas: list[NDArray[np.float32]]) -> dict[str, Callable[[], object]]:
    """What a bare pass over the same memory takes."""
    target = np.zeros_like(deltas[0])
    tensors, total = [torch.from_numpy(delta) for delta in deltas], torch.zeros(len(target))
    wide = torch.zeros(len(target), dtype=torch.float64)

    def copy() -> None:
        for delta in deltas:
            np.copyto(target, delta)

    return {
        "copy (read and write)": copy,
        "torch add_(alpha=), float32": lambda: [total.add_(tensor, alpha=3.0) for tensor in tensors],
        "torch add_(alpha=), float64 sum": lambda: [wide.add_(tensor, alpha=3.0) for tensor in tensors],
    }


def kernels(deltas: list[NDArray[np.float32]], schema: ParameterSchema) -> dict[str, Callable[[], object]]:
    """This project's passes over the same updates, in every encoding."""
    works: dict[str, Callable[[], object]] = {}
    for name, encoding in ENCODINGS.items():
        coded = [EncodedDelta(encoding, schema, encoding.encode(delta, schema)) for delta in deltas]
        sums = StreamingMean()

        def fold(coded: list[EncodedDelta] = coded, sums: StreamingMean = sums) -> None:
            for delta in coded:
                sums.add("", [(SHARED, delta)], {SHARED: 1000})

        def check(coded: list[EncodedDelta] = coded) -> None:
            for delta in coded:
                delta.check()

        def digest(coded: list[EncodedDelta] = coded) -> None:
            for delta in coded:
                xxhash.xxh3_128_digest(delta.payload.data)

        works |= {f"fold, {name}": fold, f"checks, {name}": check, f"xxh3-128, {name}": digest}
    return works
