"""Images as files: a folder per label, as most tools write them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError, foreign_errors

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""What Pillow calls images of so many channels."""


def is_image_folder(folder: Path) -> bool:
    """Whether there are images in folders of this folder."""
    return folder.is_dir() and any(_images(label) for label in _labels(folder))


def read_image_folder(folder: Path, shape: tuple[int, ...]) -> tuple[NDArray[Any], list[object]]:
    """All images, uint8 (images, channels, height, width), and the names of their folders; both in order of names.

    Grey images and those in colour are turned into each other as the channels ask for. Sizes must be right: what to cut
    off, and whether to stretch, is not for a program to say.

    Raises:
        DataError: an image cannot be read or has another size, or Pillow is not installed.
    """
    rows, labels = list[NDArray[Any]](), list[object]()
    for label in _labels(folder):
        for path in _images(label):
            rows.append(pixels(path, shape, str(path)))
            labels.append(label.name)
    return np.stack(rows), labels


def pixels(file: Path | BytesIO, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    """One image file, uint8 (channels, height, width); `where` it is opens the messages.

    Raises:
        DataError: it cannot be read or has another size, or Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataError(f"{where}: image files need Pillow; install the extra 'images'") from None
    channels, height, width = shape
    if channels not in MODES:
        raise DataError(f"{where}: image files have 1, 3 or 4 channels, model's shape has {channels}; change it")
    unreadable = DataError(f"{where} is not a readable image; write it again or remove it")
    with foreign_errors(lambda error: unreadable), Image.open(file) as image:
        if (image.height, image.width) != (height, width):  # before it is unpacked, whatever its size
            found = f"{image.height}x{image.width}"
            raise DataError(f"{where}: an image of {found} (height x width), wanted {height}x{width}; resize it")
        read = np.asarray(image.convert(MODES[channels]))
    return read.reshape(height, width, channels).transpose(2, 0, 1)


def _labels(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file())
