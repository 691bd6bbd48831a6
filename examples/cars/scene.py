"""Generated streets: pictures of 24 x 32 pixels, what every pixel shows, how far it is, and how many cars there are.

No real street is behind them. Ground runs from the viewer to a horizon; cars and trees stand on it, smaller and paler
the farther they are, and nearer ones hide others. Cars have two red lamps. Colours, light and noise differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 24, 32
CLASSES = ("sky", "ground", "car", "tree")
SKY, GROUND, CAR, TREE = range(len(CLASSES))
NEAREST = 4.0
"""Metres to the lowest row of ground that is `FALL` rows below the horizon."""
FALL = 16
HAZE = 40.0
"""Metres at which two thirds of a colour are lost."""

FARTHEST = 30.0
"""What is farther has no depth."""

LAMP = np.array([1.0, 0.1, 0.1])
"""The colour of the two lamps of a car."""

Drawn = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Streets:
    """Pictures and what is true of them."""

    pictures: NDArray[np.uint8]
    """(streets, 3, height, width)."""
    classes: NDArray[np.int64]
    """Places in `CLASSES`, (streets, height, width)."""
    depths: NDArray[np.float32]
    """Metres, (streets, height, width); NaN in the sky and beyond `FARTHEST`."""
    cars: NDArray[np.int64]
    """Cars that can be seen, (streets,)."""


def streets(count: int, seed: Sequence[int]) -> Streets:
    """So many streets; another seed gives others."""
    rng = np.random.Generator(np.random.PCG64([*seed]))
    drawn = [_street(rng) for _ in range(count)]
    pictures, classes, depths, cars = (np.stack([street[part] for street in drawn]) for part in range(4))
    return Streets(pictures, classes, depths, cars)


def _street(rng: np.random.Generator) -> Drawn:
    horizon = int(rng.integers(5, 9))
    rows = np.arange(HEIGHT)[:, None] + np.zeros((1, WIDTH))
    depth = np.where(rows > horizon, NEAREST * FALL / np.maximum(rows - horizon, 1), np.nan)
    classes = np.where(rows > horizon, GROUND, SKY)
    sky = np.array([0.6, 0.75, 0.95]) * rng.uniform(0.7, 1.0)
    colours = np.where((classes == SKY)[..., None], sky, np.array([0.4, 0.38, 0.36]) + rng.normal(0, 0.05, 3))
    number = np.zeros((HEIGHT, WIDTH), dtype=int)
    standing = [(int(rng.integers(horizon + 4, HEIGHT)), CAR) for _ in range(rng.integers(0, 5))]
    standing += [(int(rng.integers(horizon + 3, HEIGHT - 4)), TREE) for _ in range(rng.integers(0, 4))]
    for place, (foot, kind) in enumerate(sorted(standing), start=1):
        size = foot - horizon
        height, width = (0.5 * size, 0.9 * size) if kind == CAR else (1.3 * size, 0.6 * size)
        left = rng.uniform(-0.3 * width, WIDTH - 0.7 * width)
        inside = (rows > foot - height) & (rows <= foot) & (np.abs(np.arange(WIDTH) - left - width / 2) <= width / 2)
        colour = (
            rng.uniform(0.1, [0.6, 1.0, 1.0]) if kind == CAR else np.array([0.1, 0.4, 0.1]) + rng.normal(0, 0.06, 3)
        )
        classes, depth = np.where(inside, kind, classes), np.where(inside, NEAREST * FALL / size, depth)
        colours, number = np.where(inside[..., None], colour, colours), np.where(inside, place, number)
        if kind == CAR:
            windows, columns = inside & (rows <= foot - 0.55 * height), np.flatnonzero(inside.any(axis=0))
            colours[windows] = 0.15
            colours[foot - 1, columns[[0, -1]]] = LAMP
    share = np.where(np.isnan(depth), 0.0, 1 - np.exp(-np.nan_to_num(depth) / HAZE))[..., None]
    light = rng.uniform(0.75, 1.1) * ((1 - share) * colours + share * sky) + rng.normal(0, 0.03, (HEIGHT, WIDTH, 3))
    picture = (255 * np.clip(light, 0, 1)).astype(np.uint8).transpose(2, 0, 1)
    seen = len(np.unique(number[classes == CAR]))
    return picture, classes, np.where(depth <= FARTHEST, depth, np.nan).astype(np.float32), np.array(seen)
