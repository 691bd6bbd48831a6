"""Generated rows of numbers for any task: all tasks look at the same few hidden directions of the same space.

A row is x ~ N(0, I); what tasks know of it is tanh(W x), with one W for all tasks of a seed. A task's own weights turn
that into class scores, one yes or no per label, or a number, and noise covers a part. What an encoder learns of W for
one task therefore serves the others.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from client.data.features import NumberExamples
from common.seeds import derive_seed
from common.tasks import TaskDefinition

DIRECTIONS = 8
NOISE = 0.25


def generate_rows(
    task: TaskDefinition, features: int, split: Literal["train", "validation"], count: int, seed: int
) -> NumberExamples:
    """The first `count` rows of an endless split, which depends on task, features, split and seed alone."""
    common = np.random.Generator(np.random.PCG64(derive_seed(seed, features, "directions")))
    directions = common.standard_normal((features, DIRECTIONS)) / np.sqrt(features)
    own = np.random.Generator(np.random.PCG64(derive_seed(seed, task.name, features, "weights")))
    weights = own.standard_normal((DIRECTIONS, task.outputs)) / np.sqrt(DIRECTIONS)
    # One draw per row after the other, so that more rows never change earlier ones.
    rng = np.random.Generator(np.random.PCG64(derive_seed(seed, task.name, features, split, "rows")))
    drawn = rng.standard_normal((count, features + task.outputs))
    rows, noise = drawn[:, :features].astype(np.float32), drawn[:, features:]
    scores = np.tanh(2.0 * rows @ directions) @ weights * 2.0 + NOISE * noise
    return NumberExamples(rows, task.type.drawn(scores))
