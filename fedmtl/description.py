"""Tasks and encoders as Python code describes them; the same keys as in a configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from common.errors import ConfigError

Keys = dict[str, object]
"""A section of the configuration, checked with all others once there is a run."""


def classification(labels: Sequence[str] | int, **keys: object) -> Keys:
    """A task whose answer is one of `labels`: their names, or their number.

    `keys` are others of a task's section, such as `metrics=["accuracy"]` or `weight=2.0`.
    """
    return {"type": "classification", "labels": labels if isinstance(labels, int) else [*labels], **keys}


def regression(**keys: object) -> Keys:
    """A task whose answer is a number; `keys` as for `classification`."""
    return {"type": "regression", **keys}


def dense_classification(labels: Sequence[str] | int, **keys: object) -> Keys:
    """A task whose answer is one of `labels` for every pixel of an image; its y are class indices, and 255 is ignored.

    The encoder must keep a map of the image: conv2d, or a module with a method `maps`.
    """
    return {**classification(labels, **keys), "type": "dense_classification"}


def dense_regression(**keys: object) -> Keys:
    """A task whose answer is a number for every pixel; its y are numbers, and NaN is ignored."""
    return {"type": "dense_regression", **keys}


def tokens(labels: Sequence[str], **keys: object) -> Keys:
    """A task whose answer is one of `labels` for every word; rows are lists of words, and y lists of labels."""
    return {**classification(labels, **keys), "type": "tokens"}


def next_word(**keys: object) -> Keys:
    """A task that finds the next words of texts, for decoders; it has no labels: give (texts, texts)."""
    return {"type": "next_word", **keys}


def module(kind: type[Any], *, reads: str | None = None, **args: object) -> Mapping[str, Keys]:
    """A torch module of your own as the encoder: `kind(**args)`, from a batch of rows to vectors (rows, hidden).

    Args:
        kind: the class. Its file is run again under another name, so it must not be the program itself.
        reads: numbers, images or sequences; None: by the dimensions of a row, where three are images.
        args: of the class, plain values. Initial weights derive from the run's seed.

    Raises:
        ConfigError: the class has no file of its own.
    """
    try:
        file = inspect.getsourcefile(kind)
    except (TypeError, OSError):
        file = None
    if file is None or kind.__module__ == "__main__":
        raise ConfigError(f"encoder: class '{kind.__name__}' is in no file of its own; move it to one, e.g. net.py")
    described: Keys = {"file": file, "class": kind.__name__, "args": args}
    return {"module": described | ({} if reads is None else {"reads": reads})}
