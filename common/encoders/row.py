"""What an encoder of ours is to both sides: parameters that describe it, the shape of its rows, and how it is built."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args, get_origin

from common.errors import ModelError
from common.methods.choice import Row, parameters_of

if TYPE_CHECKING:  # a coordinator at work has no torch
    from common.inputs.kind import Encoder
    from common.models.encoder import EncoderSource, Weights

E = TypeVar("E", bound="ArrayEncoder")

LARGEST_SIZE = 1_000_000
MOST_LAYERS = 1000
MOST_DIMENSIONS = 8
MOST_ENTRIES = 1000
"""Of a mapping, such as the arguments of a class or the columns of a table."""
MOST_NESTED = 5
MOST_VALUES = 1 << 26
"""In a row of an array: 256 MiB of float32."""


class ArrayEncoder(Row):
    """Base of the encoders over rows of numbers, whatever their shape: flat, images, sequences.

    A row's fields are its parameters. They stand in the configuration as `model.<name>`, and, as JSON, in the
    description from which both sides build the same module.
    """

    kind: ClassVar[str] = ""
    """Which of `INPUT_KINDS` it reads, where that is the same for all of its rows."""
    own_code: ClassVar[bool] = False
    """Whether it is a person's own code, which every process must be given."""
    flattens: ClassVar[bool] = False
    """Whether rows of more dimensions are read as one."""
    example: ClassVar[str] = "shape: [...]"
    """What a configuration must say of it."""

    shape: tuple[int, ...]
    """A parameter of most: the shape of a row. Those without it say `row_shape`."""
    reads: str
    """A parameter of a person's own code: which of `INPUT_KINDS` it reads."""

    @property
    def inputs(self) -> str:
        """Which of `INPUT_KINDS` it reads."""
        return self.reads if self.own_code else self.kind

    @property
    def has_norm_statistics(self) -> bool:
        """Whether it gathers statistics of its rows in training, as batch normalisation does; own code may."""
        return self.own_code

    @property
    def part_encoders(self) -> Mapping[str, ArrayEncoder]:
        """The encoders of its rows' parts by name, in order, where rows have several."""
        return {}

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row, without the dimension of the batch."""
        return self.shape

    @property
    def row_names(self) -> tuple[str, ...]:
        """What each number of a row is, where the encoder names the columns of tables that rows are made of."""
        return ()

    @property
    def categories(self) -> tuple[int, ...]:
        """Which numbers of a row are no quantities but places in a list, so that they have neither mean nor scale."""
        return ()

    @property
    def origin(self) -> str:
        """Where its initial values come from, for logs and reports."""
        return f"random weights: {self.name}"

    @property
    def normalises(self) -> bool:
        """Whether it brings the numbers of rows to a scale by itself."""
        return False

    @property
    def has_weights(self) -> bool:
        """Whether it can start from other values than random ones."""
        return False

    def found(self, weights: Weights) -> EncoderSource:
        """Its description and initial values.

        Raises:
            ModelError: its weights cannot be read.
        """
        from common.models.encoder import EncoderSource

        return EncoderSource(self.describe(), None, None, self.origin)

    @abstractmethod
    def build(self) -> Encoder:
        """The module, with values from torch's global generator."""

    def allow(self) -> None:
        """Let this process build it from a description that another one made; see `ModuleEncoder`.

        Raises:
            ConfigError: it needs a file that is not there.
        """

    def describe(self) -> str:
        """The description as JSON with sorted keys."""
        return json.dumps({"model_type": self.name, **self.values()}, sort_keys=True)

    @classmethod
    def read(cls: type[E], values: dict[str, Any]) -> E:
        """The encoder of a description, which may come from another machine.

        Raises:
            ModelError: it is of another encoder, or a value is impossible.
        """
        known = parameters_of(cls)
        if set(values) != {"model_type", *known}:
            raise ModelError(f"encoder of type '{cls.name}': its description has {', '.join(sorted(values))[:200]}")
        for key, parameter in known.items():
            if not _is_of(values[key], parameter.kind):
                raise ModelError(f"encoder of type '{cls.name}': {key} is {values[key]!r:.80}, of another type")
            if parameter.bounds is not None and (problem := parameter.bounds.problem(values[key])):
                raise ModelError(f"encoder of type '{cls.name}': {key}: {problem}")
        made = cls.of({key: _frozen(values[key]) for key in known})
        if problems := made.problems():
            raise ModelError(f"encoder of type '{cls.name}': {problems[0]}")
        return made


def sizes_problems(key: str, sizes: Sequence[int], most: int = MOST_LAYERS) -> list[str]:
    """What is wrong with a list of sizes, such as the widths of layers."""
    if len(sizes) > most:
        return [f"{key}: {len(sizes)} of them; write at most {most}"]
    wrong = next((size for size in sizes if not 1 <= size <= LARGEST_SIZE), None)
    return [] if wrong is None else [f"{key}: {wrong} is out of range; write 1 to {LARGEST_SIZE}"]


def shape_problems(key: str, shape: Sequence[int], dimensions: str, count: int | None = None) -> list[str]:
    """What is wrong with the shape of a row; `dimensions` names them for a person."""
    if not shape or len(shape) > MOST_DIMENSIONS or (count is not None and len(shape) != count):
        return [f"{key}: {len(shape)} numbers; write {dimensions}"]
    if found := sizes_problems(key, shape):
        return found
    size = prod(shape)
    return [f"{key}: a row has {size} numbers; {MOST_VALUES} is the most"] if size > MOST_VALUES else []


def row_problems(reads: str, shape: Sequence[int]) -> list[str]:
    """What is wrong with the shape of rows of a kind."""
    dimensions = {"numbers": ("the number of features", 1), "sequences": ("length and channels", 2)}
    text, count = dimensions.get(reads, ("channels, height and width", 3))
    return shape_problems("shape", shape, text, count)


def _is_of(value: object, kind: Any) -> bool:
    """Whether a value of JSON is what a parameter wants: no text for a number, no truth value for a count."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is tuple:
        return isinstance(value, list) and all(_is_of(item, inner[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, dict) and _is_plain(value)
    if origin is not None:  # a literal
        return value in inner
    return type(value) is kind


def _is_plain(value: object, depth: int = MOST_NESTED) -> bool:
    if isinstance(value, list):
        return depth > 0 and len(value) <= MOST_LAYERS and all(_is_plain(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return depth > 0 and len(value) <= MOST_ENTRIES and all(_is_plain(item, depth - 1) for item in value.values())
    return value is None or isinstance(value, int | float | bool | str)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
