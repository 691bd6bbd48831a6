"""What a kind of inputs is to both sides: which encoders read it, what a batch of it is, what it means for settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from common.inputs.header import Header
from common.models.encoder import EncoderSource, Weights

# A coordinator at work has no torch, and whoever asks for a status not even numpy: what needs them comes late.
if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from common.config.model_section import ModelSection
    from common.config.schema import Config
    from common.inputs.row_scale import RowScale
    from common.standardising import InputScale

Checks: TypeAlias = "tuple[tuple[tuple[str, ...], Callable[[Config], list[str]]], ...]"
"""Checks of a configuration, each with the sections that it reads; they give `path: problem; remedy` lines."""


class Encoder(Protocol):
    """A module that turns batches into vectors: one of Hugging Face's, or of ours."""

    config: Any
    """Has `hidden_size`, and the rates of dropout by Hugging Face's names."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Vectors of what this encoder reads."""

    def get_input_embeddings(self) -> nn.Module | None:
        """The table of word embeddings, if there is one."""

    def state_dict(self) -> Mapping[str, Any]:
        """See torch."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """See torch."""


class Batch(ABC):
    """What one forward pass reads."""

    labels: Tensor | None
    """int64 (rows,) for classes, float64 (rows,) for scores, float32 (rows, labels) for multi-label tasks; of pixels
    (rows, height, width), uint8 for classes and float32 for numbers."""

    @abstractmethod
    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; a copy to a GPU goes on in the background."""

    @abstractmethod
    def vectors(self, encoder: Encoder) -> Tensor:
        """One vector per example, (rows, hidden)."""

    def pair_vectors(self, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """The vectors of both halves of every example, (rows, hidden) each."""
        raise ValueError("a siamese head reads pairs of texts, but the batch has no second texts")

    def shaped(self, outputs: Tensor) -> Tensor:
        """A head's outputs, one row for each example, where a head gives more than one for each."""
        return outputs

    def maps(self, encoder: Encoder) -> Tensor:
        """What an encoder with `config.map_channels` makes of each image, (rows, channels, height, width)."""
        raise ValueError("a dense head reads images, but the batch has none")

    def hidden_vectors(self, encoder: Encoder) -> Tensor:
        """The vectors of the tokens that are asked for, (tokens, hidden)."""
        raise ValueError("a task over tokens reads batches that say which tokens are asked for")


BRIGHTEST = 255.0
"""Of a pixel that is a byte."""


@dataclass(frozen=True)
class TensorInput:
    """One tensor that an exported model reads."""

    name: str
    axes: tuple[str | int, ...]
    """The name of each dimension that varies, the size of each that does not; the first is `rows`."""
    whole: bool = False
    """Whether it is of int64, and not of float32."""
    says: str = ""
    """What a user has to know of its numbers."""

    def read(self, tensor: Tensor) -> Tensor:
        """As a batch has it."""
        return tensor if self.whole else as_read(tensor)


class InputKind(ABC):
    """What examples are made of. A kind is a file here, its client's half in `client/data`, and a row for each."""

    name: ClassVar[str]
    """Plural, for messages too."""
    encoder_types: ClassVar[frozenset[str]] = frozenset()
    """The encoders that read it: `model_type` in their descriptions, and `model.server_model`."""
    checks: ClassVar[Checks] = ()
    """What a configuration for this kind may not say."""
    joins_with: ClassVar[tuple[str, ...]] = ()
    """What a client says of its examples when it joins, for a person."""
    stays: ClassVar[str]
    """What of an example never leaves a client."""
    update_shows: ClassVar[str] = ""
    """What an update alone gives away of examples."""
    channel_axis: ClassVar[int] = 0
    """Of a row of numbers: along it, each place has a mean and a deviation of its own where rows are standardised."""

    can_be_mirrored: ClassVar[bool] = False
    """Whether a row mirrored or moved by a few places stays what it was, as images do."""

    def headers(self, config: Config) -> dict[str, Header]:
        """What the numbers in each task's examples are, by task, as far as a configuration says."""
        return {}

    def scaled(self, config: Config) -> int:
        """How many columns or channels of a row have a mean and a deviation; 0 where rows are no numbers."""
        return 0

    def categories(self, config: Config) -> tuple[int, ...]:
        """Which of these columns are places in a list, which have neither mean nor deviation."""
        return ()

    def row_scale(self, encoder_config: str, scale: InputScale) -> RowScale:
        """The scale of the federation as it fits to batches of rows that the described encoder reads."""
        raise NotImplementedError(f"{self.name} have no scale")

    def notes(self, config: Config) -> list[str]:
        """Advice on settings that are valid but may not be meant."""
        return []

    def longest_input(self, encoder_config: str) -> int | None:
        """The most tokens that an encoder can read at once, or None where there is no limit."""
        return None

    @abstractmethod
    def find_encoder(self, section: ModelSection, weights: Weights | None = None) -> EncoderSource:
        """The encoder that `section` names.

        Args:
            section: checked configuration.
            weights: what to look for instead of `section.weights`.

        Raises:
            ModelError: nothing usable was found, in one line with the remedies.
        """

    @abstractmethod
    def build_encoder(self, encoder_config: str) -> Encoder:
        """An encoder from its description, with values from torch's global generator.

        Raises:
            ModelError: the description is of no such encoder.
        """

    def tensor_inputs(self, encoder_config: str, form: str) -> tuple[TensorInput, ...]:
        """What an exported model reads; nothing where models over this kind cannot be exported.

        Args:
            encoder_config: description of the model's encoder.
            form: that of the task's head.
        """
        return ()

    def drawn_tensors(
        self, encoder_config: str, form: str, rows: int, length: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Random examples as `tensor_inputs` describes them, of at most this length where that varies."""
        raise NotImplementedError(f"{self.name} have no tensor_inputs")

    def batch_of(self, form: str, tensors: tuple[Tensor, ...]) -> Batch:
        """The batch of such tensors, without labels."""
        raise NotImplementedError(f"{self.name} have no tensor_inputs")

    def draws(self, encoder: Encoder) -> bool:
        """Whether a training step takes random numbers from torch's generator; False only where that is certain."""
        return True


def as_read(numbers: Tensor) -> Tensor:
    """Numbers of rows as float32; bytes are the brightness of pixels, from 0 to 1."""
    import torch

    return numbers.float() / BRIGHTEST if numbers.dtype == torch.uint8 else numbers.float()


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of a batch on a GPU, some time soon."""
    return tensor.pin_memory().to(device, non_blocking=True)
