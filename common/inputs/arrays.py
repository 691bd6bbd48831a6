"""Rows of numbers of one shape: flat ones such as sensors and tables, images, sequences; read by encoders of ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from common.encoders.module import ModuleEncoder
from common.encoders.row import ArrayEncoder
from common.encoders.table import ENCODERS
from common.errors import ModelError
from common.inputs.header import Header
from common.inputs.kind import Batch, Checks, Encoder, InputKind, moved
from common.models.encoder import EncoderSource, Weights
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
    needed = {"mlp": "features: 9", "several": "parts: {...}"}.get(name, "shape: [...]")
    return [f"model.{name}: missing; describe the encoder, e.g. model.{name}: {{{needed}}}"]


def _text_settings(config: Config) -> list[str]:
    """Settings of tokenizers and pretrained weights."""
    model = config.model
    found = [
        f"model.{key}: {getattr(model, key)} is not for server_model {model.server_model}; {_REMEDY}"
        for key in _TEXT_KEYS
        if getattr(model, key) != type(model).model_fields[key].default
    ]
    if model.weights == "pretrained":
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
        if not encoder.flattens:
            found.append(f"tasks.{task}.columns.features: {inputs} have no columns; remove it")
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


class Arrays(InputKind):
    """The same shape in every row of every task."""

    checks: ClassVar[Checks] = (
        (("model",), _described),
        (("model",), _text_settings),
        (("model", "federation"), _codec),
        (("model",), _tasks),
        (("model", "data"), _source),
    )
    no_export = "it is no Hugging Face model; the run folder's models/*.safetensors hold it"

    def headers(self, config: Config) -> dict[str, Header]:
        """The named features of each task, or the shape of a row."""
        encoder = config.model.array_encoder
        if encoder is None:
            return {}
        named = {name: section.columns.features if section.columns else None for name, section in config.tasks.items()}
        whole = header_of(encoder)
        return {name: Header.of(features) if features else whole for name, features in named.items()}

    def find_encoder(self, section: ModelSection, weights: Weights | None = None) -> EncoderSource:
        """An encoder of ours, described by its parameters."""
        encoder = section.array_encoder
        assert encoder is not None  # `checks` see to it
        return EncoderSource(encoder.describe(), None, None, f"random weights: {encoder.name}")

    def build_encoder(self, encoder_config: str) -> Encoder:
        """An encoder of ours."""
        return encoder_described(encoder_config).build()

    def draws(self, encoder: Encoder) -> bool:
        """An encoder of ours without dropout draws nothing."""
        return bool(getattr(encoder.config, "draws", encoder.config.hidden_dropout_prob))


def header_of(encoder: ArrayEncoder) -> Header:
    """What the numbers of a row are, as far as the encoder says: their shape, or that of each part."""
    parts = encoder.part_encoders.items()
    if parts:
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
    """Flat rows: sensors, tables."""

    name = "numbers"
    encoder_types = _types("numbers") | {ModuleEncoder.name}
    joins_with = ("number of features, and the names of their columns in order where they have names",)
    stays = "features"


class Images(Arrays):
    """Rows (channels, height, width)."""

    name = "images"
    encoder_types = _types("images")
    joins_with = ("size of the images",)
    stays = "images"


class Sequences(Arrays):
    """Rows (length, channels)."""

    name = "sequences"
    encoder_types = _types("sequences")
    joins_with = ("length and channels of the sequences",)
    stays = "sequences"


def _no_standardising(config: Config) -> list[str]:
    if not config.data.standardise:
        return []
    return ["data.standardise: rows of several parts are read as they are; remove it, and scale numbers in the files"]


class Parts(Arrays):
    """Rows of several parts, each of its own shape, of which a row may lack some."""

    name = "parts"
    encoder_types = _types("parts")
    checks = (*Arrays.checks, (("model", "data"), _no_standardising))
    joins_with = ("names and sizes of the parts of a row, and which of them it has no rows of",)
    stays = "all parts of rows"
