"""Small images with a class and a number for every pixel, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from common.config import Config, load_config
from common.tasks import TASK_KINDS, TaskDefinition

HEIGHT, WIDTH = 12, 8
SEGMENTS = TaskDefinition("parts", TASK_KINDS["dense_classification"], ("floor", "box", "lamp"), False, ("iou",))
DEPTHS = TaskDefinition("depth", TASK_KINDS["dense_regression"], (), False, ("rmse", "mse", "mae", "pearson"))
TASKS = (
    "{parts: {type: dense_classification, labels: [floor, box, lamp]}, "
    "depth: {type: dense_regression, metrics: [rmse, mse, mae, pearson]}, "
    "full: {type: classification, labels: [no, yes]}}"
)
CLIENTS = (
    ("a", ("parts",), "1/2"),
    ("b", ("depth",), "1/2"),
    ("c", ("full", "parts"), "2/2"),
    ("d", ("depth",), "2/2"),
)
NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.out = nn.Linear(4, width)

    def maps(self, images):
        return torch.relu(self.conv(images))

    def forward(self, images):
        return self.out(self.maps(images).mean((2, 3)))


class NoMaps(nn.Module):
    def forward(self, images):
        return images.flatten(1)


class WrongMaps(NoMaps):
    def maps(self, images):
        return images.mean((2, 3))
"""


def images(seed: int, rows: int) -> tuple[Any, Any, Any]:
    """Images uint8 (rows, 2, height, width), classes with unknown pixels, and numbers around 1000 with gaps."""
    rng = np.random.Generator(np.random.PCG64(seed))
    x = rng.integers(256, size=(rows, 2, HEIGHT, WIDTH), dtype=np.uint8)
    classes = np.minimum(x[:, 0].astype(int) + x[:, 1], 510) // 171
    depth = 1000 + 40.0 * x[:, 0] / 255 - 20.0 * x[:, 1] / 255
    classes[rng.random(classes.shape) < 0.1] = 255
    depth[rng.random(depth.shape) < 0.1] = np.nan
    return x, classes, depth


def write_images(folder: Path, rows: int = 24) -> None:
    """A file for each of the tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    x, classes, depth = images(7, rows)
    np.savez(folder / "parts.npz", x=x, y=classes)
    np.savez(folder / "depth.npz", x=x, y=depth)
    np.savez(folder / "full.npz", x=x, y=(x.mean(axis=(1, 2, 3)) > 127).astype(int))


def dense_config(folder: Path, *more: str, encoder: str | None = None) -> Config:
    """Three tasks over the same images, whose files it writes."""
    if not (folder / "data").exists():
        write_images(folder / "data")
    shape = json.dumps([2, HEIGHT, WIDTH])
    sizes = ("training.num_rounds=2", "training.local_epochs=1", "training.learning_rate=1e-2", "training.batch_size=8")
    own = "model={server_model: conv2d, conv2d: {shape: " + shape + ", filters: [4, 6], hidden: 5}}"
    if encoder is not None:
        (folder / "net.py").write_text(NET)
        described = f"file: '{folder / 'net.py'}', class: {encoder}, reads: images, shape: {shape}"
        own = "model={server_model: module, module: {" + described + "}}"
    return load_config(None, [own, f"tasks={TASKS}", f"data.dir='{folder / 'data'}'", *sizes, *more])
