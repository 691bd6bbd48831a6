"""Generated rows of numbers for any task: all tasks look at the same few hidden directions of the same space.

A flat row is x ~ N(0, I); what tasks know of it is tanh(W x), with one W for all tasks of a seed. An image or sequence
is noise with a few patterns at random places, of normally distributed strengths; tasks know the tanh of
these. Parts of rows are drawn each by itself. A task's own weights turn that into class scores, one yes or no per
label, or a number; noise covers a part. What an encoder learns for one task therefore serves the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.data.array_examples import ArrayExamples
from client.data.forms import FORMS
from client.data.request import Split
from common.encoders.row import ArrayEncoder
from common.seeds import derive_seed
from common.tasks import TaskDefinition

DIRECTIONS = 8
NOISE = 0.25
PATTERNS = 4
PATTERN_EDGE = 3
PATTERN_STRENGTH = 2.0

Floats = NDArray[np.floating]


def generate_rows(task: TaskDefinition, encoder: ArrayEncoder, split: Split, count: int, seed: int) -> ArrayExamples:
    """The first `count` rows of an endless split, which depends on task, shape, split and seed alone."""
    if encoder.part_encoders:
        drawn = [
            _drawn(task, part.row_shape, split, count, derive_seed(seed, "part", name))
            for name, part in encoder.part_encoders.items()
        ]
        values = np.concatenate([rows.reshape(count, -1) for rows, _ in drawn], axis=1)
        scores = np.sum([scores for _, scores in drawn], axis=0) / np.sqrt(len(drawn))
    else:
        values, scores = _drawn(task, encoder.row_shape, split, count, seed)
    return ArrayExamples(values, task.type.drawn(scores), FORMS[encoder.inputs])


def _drawn(
    task: TaskDefinition, shape: tuple[int, ...], split: Split, count: int, seed: int
) -> tuple[NDArray[np.float32], Floats]:
    """Rows of one shape, and what they say of the task, (rows, outputs)."""
    size = "x".join(map(str, shape)) if len(shape) > 1 else shape[0]
    own = np.random.Generator(np.random.PCG64(derive_seed(seed, task.name, size, "weights")))
    known_count = DIRECTIONS if len(shape) == 1 else PATTERNS
    weights = own.standard_normal((known_count, task.outputs)) / np.sqrt(known_count)
    common = np.random.Generator(np.random.PCG64(derive_seed(seed, size, "directions")))
    rng = np.random.Generator(np.random.PCG64(derive_seed(seed, task.name, size, split, "rows")))
    draw = _flat if len(shape) == 1 else _patterned
    values, known, noise = draw(shape, common, rng, count, task.outputs)
    return values, np.tanh(2.0 * known) @ weights * 2.0 + NOISE * noise


# Both draw one row after the other, so that more rows never change earlier ones.


def _flat(
    shape: tuple[int, ...], common: np.random.Generator, rng: np.random.Generator, count: int, outputs: int
) -> tuple[NDArray[np.float32], Floats, Floats]:
    features = shape[0]
    directions = common.standard_normal((features, DIRECTIONS)) / np.sqrt(features)
    drawn = rng.standard_normal((count, features + outputs))
    rows, noise = drawn[:, :features].astype(np.float32), drawn[:, features:]
    return rows, rows @ directions, noise


def _patterned(
    shape: tuple[int, ...], common: np.random.Generator, rng: np.random.Generator, count: int, outputs: int
) -> tuple[NDArray[np.float32], Floats, Floats]:
    """Rows with patterns. Of an image all channels, of a sequence all steps of a pattern go to one place."""
    channels = 0 if len(shape) == 3 else 1
    edges = [size if axis == channels else min(size, PATTERN_EDGE) for axis, size in enumerate(shape)]
    patterns = common.standard_normal((PATTERNS, *edges)) * PATTERN_STRENGTH
    rows = np.empty((count, *shape), dtype=np.float32)
    strengths, noise = np.empty((count, PATTERNS)), np.empty((count, outputs))
    for row in range(count):
        strengths[row], noise[row] = rng.standard_normal(PATTERNS), rng.standard_normal(outputs)
        places, values = rng.random((PATTERNS, len(shape))), rng.standard_normal(shape)
        for pattern in range(PATTERNS):
            starts = [int(p * (whole - e + 1)) for p, whole, e in zip(places[pattern], shape, edges, strict=True)]
            place = tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))
            values[place] += strengths[row, pattern] * patterns[pattern]
        rows[row] = values
    return rows, strengths, noise
