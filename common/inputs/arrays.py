"""Rows of numbers of one shape: flat ones such as sensors, tables, images, sequences; read by encoders of ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan
from typing import TYPE_CHECKING, ClassVar

from common.encoders.given import GivenEncoder
from common.encoders.module import ModuleEncoder
from common.encoders.row import ArrayEncoder
from common.encoders.table import ENCODERS
from common.encoders.tabular import NAMED, TabularEncoder
from common.errors import ModelError
from common.inputs.header import Header
from common.inputs.kind import Batch, Checks, Encoder, InputKind, TensorInput, moved
from common.inputs.row_scale import RowScale, spread
from common.models.encoder import EncoderSource, Weights
from common.standardising import MOST_COLUMNS, InputScale
from common.tasks import KNOWN_TASKS

if TYPE_CHECKING:  # see `common.inputs.kind`
    import torch
    from torch import Tensor

    from common.config.model_section import ModelSection
    from common.config.schema import Config

_REMEDY = "only texts have this; leave the key out, or name a text encoder as model.server_model"
_TEXT_KEYS = ("tokenizer", "pair_mode", "max_length")


@dataclass(frozen=True)
class ArrayBatch(Batch):
    """Rows of numbers."""

    values: Tensor
    """float32 (rows, *shape)."""
    labels: Tensor | None = None

    def to(self, device: torch.device) -> ArrayBatch:
        """See `Batch`."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            values=moved(self.values, device),
            labels=None if self.labels is None else moved(self.labels, device),
        )

    def vectors(self, encoder: Encoder) -> Tensor:
        """What the encoder makes of each row."""
        vectors: Tensor = encoder(self.values)
        return vectors

    def maps(self, encoder: Encoder) -> Tensor:
        """See `Batch`."""
        found: Tensor = encoder.maps(self.values)  # type: ignore[attr-defined]  # heads ask only those that have it
        return found


def _described(config: Config) -> list[str]:
    name = config.model.server_model
    if config.model.array_encoder is not None:
        return []
    return [f"model.{name}: missing; describe the encoder, e.g. model.{name}: {{{ENCODERS[name].example}}}"]


def _text_settings(config: Config) -> list[str]:
    """Settings of tokenizers and pretrained weights."""
    model = config.model
    found = [
        f"model.{key}: {getattr(model, key)} is not for server_model {model.server_model}; {_REMEDY}"
        for key in _TEXT_KEYS
        if getattr(model, key) != type(model).model_fields[key].default
    ]
    if model.weights == "pretrained" and not (model.array_encoder and model.array_encoder.has_weights):
        text = f"{model.server_model} always starts from random weights; write auto or random"
        found.append(f"model.weights: pretrained, but {text}")
    return found


def _codec(config: Config) -> list[str]:
    """There are no word embeddings of which rows could be left out."""
    encoding = config.federation.update_encoding
    if not encoding.startswith("rows"):
        return []
    dense, name = encoding.replace("rows", "dense"), config.model.server_model
    text = f"leaves out rows of word embeddings, {name} has none; write {dense}"
    return [f"federation.update_encoding: {encoding} {text}"]


def _tasks(config: Config) -> list[str]:
    inputs, name = config.model.inputs.name, config.model.server_model
    found = [
        f"tasks.{task}: known as a task over texts, {name} reads {inputs}; name a task of your own differently"
        for task in config.tasks
        if task in KNOWN_TASKS
    ]
    named = {task: section.columns for task, section in config.tasks.items() if section.columns is not None}
    found += [
        f"tasks.{task}.columns.text: {name} reads {inputs}, not texts; name label and features, or remove it"
        for task, columns in named.items()
        if columns.text is not None or columns.text_pair is not None
    ]
    encoder = config.model.array_encoder
    for task, columns in named.items():
        if columns.features is None or encoder is None:
            continue
        if encoder.row_names:
            found.append(f"tasks.{task}.columns.features: model.{name}.columns names them; remove it")
        elif encoder.part_encoders:
            found.append(f"tasks.{task}.columns.features: {inputs} have no columns; remove it")
        elif not encoder.flattens:
            if len(columns.features) > 1:
                found.append(f"tasks.{task}.columns.features: {inputs} are in one column; name that alone")
        elif len(columns.features) != encoder.row_shape[0]:
            count = f"names {len(columns.features)} features, model.{name}.features is {encoder.row_shape[0]}"
            found.append(f"tasks.{task}.columns.features: {count}; change one")
    return found


def _source(config: Config) -> list[str]:
    name, inputs = config.model.server_model, config.model.inputs.name
    if config.data.source == "builtin":
        kinds = ((task, section.kind_of(task)) for task, section in config.tasks.items())
        dense = [f"task '{task}', a {kind}" for task, kind in kinds if kind is not None and kind.per_pixel]
        return [f"data.source: builtin has no maps for {each}; set data.dir to a folder of your own" for each in dense]
    if config.data.source != "glue":
        return []
    return [f"data.source: glue has texts, {name} reads {inputs}; write builtin (synthetic rows), or files with dir"]


def _statistics(config: Config) -> list[str]:
    encoder, columns = config.model.array_encoder, config.model.inputs.scaled(config) * len(config.tasks)
    if config.data.statistics != "none" and encoder is not None and encoder.normalises:
        remedy = f"remove it, or write mean: [0], std: [1] in model.{encoder.name}"
        return [f"data.statistics: {config.model.server_model} brings rows to a scale of its own; {remedy}"]
    if config.data.statistics != "federation" or columns <= MOST_COLUMNS:
        return []
    told = f"federation tells the mean and the spread of {columns} columns of all tasks, at most {MOST_COLUMNS}"
    return [f"data.statistics: {told}; write site or none"]


class Arrays(InputKind):
    """The same shape in every row of every task."""

    checks: ClassVar[Checks] = (
        (("model",), _described),
        (("model",), _text_settings),
        (("model", "federation"), _codec),
        (("model",), _tasks),
        (("model", "data"), _source),
        (("model", "data"), _statistics),
    )
    reads: ClassVar[str] = ""
    """See `TensorInput.says`."""

    def headers(self, config: Config) -> dict[str, Header]:
        """The named features of each task, or the shape of a row."""
        encoder = config.model.array_encoder
        if encoder is None:
            return {}
        named = {name: section.columns.features if section.columns else None for name, section in config.tasks.items()}
        whole = header_of(encoder)
        flat = encoder.flattens
        return {name: Header.of(features) if features and flat else whole for name, features in named.items()}

    def scaled(self, config: Config) -> int:
        """The features or channels of the encoder's rows."""
        encoder = config.model.array_encoder
        return 0 if encoder is None else encoder.row_shape[self.channel_axis]

    def categories(self, config: Config) -> tuple[int, ...]:
        """Those of the encoder."""
        encoder = config.model.array_encoder
        return () if encoder is None else encoder.categories

    def row_scale(self, encoder_config: str, scale: InputScale) -> RowScale:
        """By column or channel."""
        return RowScale.along(scale, self.channel_axis, len(encoder_described(encoder_config).row_shape))

    def find_encoder(self, section: ModelSection, weights: Weights | None = None) -> EncoderSource:
        """An encoder of ours, described by its parameters."""
        encoder = section.array_encoder
        assert encoder is not None  # `checks` see to it
        return encoder.found(weights or section.weights)

    def build_encoder(self, encoder_config: str) -> Encoder:
        """An encoder of ours."""
        return encoder_described(encoder_config).build()

    def tensor_inputs(self, encoder_config: str, form: str) -> tuple[TensorInput, ...]:
        """One tensor of rows."""
        return (TensorInput("values", ("rows", *encoder_described(encoder_config).row_shape), says=self.reads),)

    def drawn_tensors(
        self, encoder_config: str, form: str, rows: int, length: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Normal numbers."""
        import torch

        return (torch.randn(rows, *encoder_described(encoder_config).row_shape, generator=generator),)

    def batch_of(self, form: str, tensors: tuple[Tensor, ...]) -> ArrayBatch:
        """See `InputKind`."""
        return ArrayBatch(*tensors)

    def draws(self, encoder: Encoder) -> bool:
        """An encoder of ours without dropout draws nothing."""
        return bool(getattr(encoder.config, "draws", encoder.config.hidden_dropout_prob))


def header_of(encoder: ArrayEncoder) -> Header:
    """What the numbers of a row are, as far as the encoder says: its columns, their shape, or that of each part."""
    if encoder.row_names:
        return Header.of(encoder.row_names, columns=True)
    if parts := encoder.part_encoders.items():
        return Header.of([f"{name} {'x'.join(map(str, part.row_shape))}" for name, part in parts])
    return Header.shaped(encoder.row_shape)


def encoder_described(encoder_config: str) -> ArrayEncoder:
    """The encoder of ours that a description is of.

    Raises:
        ModelError: it is of none.
    """
    from common.models.description import read_object

    values = read_object(encoder_config)
    row = ENCODERS.get(str(values.get("model_type")))
    if row is None:
        raise ModelError("the encoder's description is of no encoder of ours")
    return row.read(values)


def _types(kind: str) -> frozenset[str]:
    return frozenset(name for name, encoder in ENCODERS.items() if encoder.kind == kind)


class Numbers(Arrays):
    """Flat rows: sensors, tables without categories."""

    name = "numbers"
    encoder_types = _types("numbers") | {ModuleEncoder.name, GivenEncoder.name}
    joins_with = ("number of features, and the names of their columns in order where they have names",)
    stays = "features"


class Tables(Arrays):
    """Rows of named columns, numbers and categories: float32 (columns,), NaN for a missing number."""

    name = "tables"
    encoder_types = _types("tables")
    joins_with = ("a digest of the columns' names, kinds and categories, and the first of them by name",)
    stays = "rows"
    reads = "columns in alphabetical order; nan for a missing number, and a category by its place (see the data page)"

    def drawn_tensors(
        self, encoder_config: str, form: str, rows: int, length: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Normal numbers, of which the first row lacks all, and places of categories."""
        import torch

        encoder = encoder_described(encoder_config)
        assert isinstance(encoder, TabularEncoder)
        (values,) = super().drawn_tensors(encoder_config, form, rows, length, generator)
        for place, column in enumerate(encoder.layout):
            count = NAMED + len(column.categories)
            values[0, place] = nan
            if column.categories:
                values[:, place] = torch.randint(count, (rows,), generator=generator).float()
        return (values,)


class Images(Arrays):
    """Rows (channels, height, width)."""

    name = "images"
    encoder_types = _types("images")
    reads = "pixels from 0 to 1, which are bytes divided by 255"
    joins_with = ("size of the images",)
    stays = "images"
    can_be_mirrored = True


class Sequences(Arrays):
    """Rows (length, channels)."""

    name = "sequences"
    encoder_types = _types("sequences")
    joins_with = ("length and channels of the sequences",)
    stays = "sequences"
    channel_axis = 1


_OF_ONE_PART = {kind.name: kind for kind in (Numbers, Tables, Images, Sequences)}


def parts_of(encoder: ArrayEncoder) -> list[tuple[tuple[int, ...], int]]:
    """The shape of each part of a row, and the axis of its columns or channels."""
    return [(part.row_shape, _OF_ONE_PART[part.inputs].channel_axis) for part in encoder.part_encoders.values()]


def _scaled_twice(config: Config) -> list[str]:
    encoder = config.model.array_encoder
    if config.data.statistics == "none" or encoder is None:
        return []
    return [
        f"data.statistics: part '{name}' brings its numbers to a scale of its own; remove it, or write "
        f"mean: [0], std: [1] in model.{encoder.name}.parts.{name}.{part.name}"
        for name, part in encoder.part_encoders.items()
        if part.normalises
    ]


class Parts(Arrays):
    """Rows of several parts, each of its own shape, of which a row may lack some."""

    name = "parts"
    encoder_types = _types("parts")
    checks = (*Arrays.checks, (("model", "data"), _scaled_twice))
    joins_with = ("names and sizes of the parts of a row, and which of them it has no rows of",)
    stays = "all parts of rows"
    reads = "all parts one after the other, flattened, pixels from 0 to 1; nan in place of a part that a row lacks"

    def scaled(self, config: Config) -> int:
        """The columns or channels of all parts."""
        encoder = config.model.array_encoder
        return 0 if encoder is None else sum(shape[axis] for shape, axis in parts_of(encoder))

    def categories(self, config: Config) -> tuple[int, ...]:
        """Those of parts that are tables, counted over all parts."""
        encoder, start, found = config.model.array_encoder, 0, []
        if encoder is None:
            return ()
        for part, (shape, axis) in zip(encoder.part_encoders.values(), parts_of(encoder), strict=True):
            found += [start + place for place in part.categories]
            start += shape[axis]
        return tuple(found)

    def row_scale(self, encoder_config: str, scale: InputScale) -> RowScale:
        """By column or channel of each part."""
        parts = parts_of(encoder_described(encoder_config))
        return RowScale.by(spread(scale.means, parts)[None], spread(scale.scales, parts)[None])

    def drawn_tensors(
        self, encoder_config: str, form: str, rows: int, length: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Those of each part; the first row lacks the first part."""
        import torch

        parts = encoder_described(encoder_config).part_encoders.values()
        found = []
        for part in parts:
            kind = _OF_ONE_PART[part.inputs]()
            (values,) = kind.drawn_tensors(part.describe(), form, rows, length, generator)
            found.append(values.reshape(rows, -1))
        found[0][0] = nan
        return (torch.cat(found, dim=1),)
