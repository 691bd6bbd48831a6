"""Vision models of Hugging Face's transformers, by their configuration or from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from common.encoders.row import ArrayEncoder, shape_problems
from common.errors import ModelError
from common.models.description import IMAGE_KINDS, image_problems, read_object

if TYPE_CHECKING:
    from common.inputs.kind import Encoder
    from common.models.encoder import EncoderSource, Weights

E = TypeVar("E", bound="VisionEncoder")

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
FIXED_SIZE = "vit"
"""Has a vector for each place of an image, so that images must have its size."""
HALF = 0.5
"""Mean and deviation by which ViT was trained, and what is taken of channels that are no colours."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Means and deviations of ImageNet's red, green and blue, by which the other kinds were trained."""


@dataclass(frozen=True)
class VisionEncoder(ArrayEncoder):
    """A vision model of transformers: ViT, DINOv2, ConvNeXt or ResNet. Heads read its pooled vector."""

    name = "vision"
    kind = "images"
    example = "type: vit, shape: [3, 32, 32]"

    folder: str = ""
    """where save_pretrained wrote one, with its weights; says all that follows, unless it is written here"""
    type_: str = ""
    """vit | dinov2 | convnext | resnet"""
    shape: tuple[int, ...] = ()
    """of a row: channels, height, width; images are not resized"""
    config: Mapping[str, Any] = field(default_factory=dict)
    """keys of its config.json, such as {hidden_size: 64, num_hidden_layers: 4}; others have transformers' defaults"""
    mean: tuple[float, ...] = ()
    """of each channel of pixels from 0 to 1, to be subtracted; else 0.5 (vit), or those of ImageNet's colours"""
    std: tuple[float, ...] = ()
    """of each channel, to divide by; the same"""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """See `ArrayEncoder`."""
        return self.shape

    @property
    def has_norm_statistics(self) -> bool:
        """See `ArrayEncoder`."""
        return self.type_ == "resnet"

    @property
    def normalises(self) -> bool:
        """See `ArrayEncoder`."""
        return any(self.mean) or any(std != 1 for std in self.std)

    @property
    def has_weights(self) -> bool:
        """See `ArrayEncoder`."""
        return bool(self.folder)

    @property
    def origin(self) -> str:
        """See `ArrayEncoder`."""
        return f"random weights: {self.type_}"

    @property
    def hugging_face_config(self) -> dict[str, Any]:
        """What transformers builds it from."""
        channels, *area = self.shape
        whole = self.type_ == FIXED_SIZE and area[0] != area[1]
        sizes = {} if self.type_ == "resnet" else {"image_size": area if whole else max(area)}
        lists = {key: list(value) if isinstance(value, tuple) else value for key, value in self.config.items()}
        return {"num_channels": channels, **sizes, **lists}

    def resolved(self) -> VisionEncoder:
        """See `Row`; mean and deviation are written out, too. Where all is written, no folder is read."""
        complete = self.type_ and self.shape and self.config and self.mean and self.std
        found = self._of_folder(Path(self.folder).expanduser()) if self.folder and not complete else self
        if (problems := found._own_problems()) and self.folder:
            raise ModelError(f"model.server_model: folder {self.folder}: {problems[0]}")
        if problems:
            return found
        channels = found.shape[0]
        colours = found.type_ != FIXED_SIZE and channels == len(IMAGENET[0])
        mean, std = IMAGENET if colours else ((HALF,), (HALF,))
        wide = [each * channels if len(each) == 1 else each for each in (found.mean or mean, found.std or std)]
        return replace(found, mean=wide[0], std=wide[1])

    def found(self, weights: Weights) -> EncoderSource:
        """See `ArrayEncoder`."""
        from common.models.vision import find_weights

        return find_weights(self, weights)

    def describe(self) -> str:
        """See `ArrayEncoder`; without the folder, and with all else."""
        return super(VisionEncoder, replace(self.resolved(), folder="")).describe()

    def build(self) -> Encoder:
        """See `ArrayEncoder`."""
        from common.models.vision import VisionNetwork

        return VisionNetwork(self)

    @classmethod
    def read(cls: type[E], values: dict[str, Any]) -> E:
        """See `ArrayEncoder`; no description names a folder.

        Raises:
            ModelError: see there, or it does.
        """
        if values.get("folder"):
            raise ModelError("encoder of type 'vision': folder is for model.vision alone; write type, shape and config")
        return super().read(values)

    def problems(self) -> list[str]:
        """See `Row`; what a folder says is checked when it is read."""
        return [] if self.folder else self._own_problems()

    def _own_problems(self) -> list[str]:
        if self.type_ not in IMAGE_KINDS:
            return [f"type: '{self.type_:.40}' is no vision model known here; write {' | '.join(IMAGE_KINDS)}"]
        if found := shape_problems("shape", self.shape, "channels, height and width, e.g. [3, 224, 224]", 3):
            return found
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (0, 1, self.shape[0]):
                return [f"{key}: {len(numbers)} numbers for {self.shape[0]} channels; write one for each"]
        if not all(0 < std < float("inf") for std in self.std) or not all(abs(mean) < 1e6 for mean in self.mean):
            return ["std: must be above 0; write the deviations of pixels from 0 to 1"]
        return [f"config.{problem}" for problem in image_problems(self.type_, self.config)[:1]]

    def _of_folder(self, folder: Path) -> VisionEncoder:
        """With what its two files say, where nothing is written."""
        told, pixels = _object(folder / CONFIG), {}
        if (folder / PREPROCESSOR).is_file():
            pixels = _object(folder / PREPROCESSOR)
        type_ = self.type_ or str(told.get("model_type"))
        known = {key: value for key, value in told.items() if key in IMAGE_KINDS.get(type_, ())}
        shape = self.shape or _shape(type_, told, pixels)
        mean, std = self.mean or _numbers(pixels, "image_mean"), self.std or _numbers(pixels, "image_std")
        if pixels.get("do_normalize") is False:
            mean, std = self.mean or (0.0,), self.std or (1.0,)
        if type_ == FIXED_SIZE and shape[1:] != (size := _area(told.get("image_size", 224))):
            raise ModelError(f"model.vision.shape: {shape[1:]}, but {folder} reads images of {size}; resize the rows")
        return replace(self, type_=type_, shape=shape, config={**known, **self.config}, mean=mean, std=std)


def is_vision_folder(name: str) -> bool:
    """Whether this is the folder of a vision model known here."""
    try:
        told = read_object((Path(name).expanduser() / CONFIG).read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError, ModelError):  # whoever reads it as something else says what is wrong
        return False
    return told.get("model_type") in IMAGE_KINDS


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"model.vision.folder: cannot read {path} ({type(error).__name__}); correct it") from None


def _shape(type_: str, told: Mapping[str, Any], pixels: Mapping[str, Any]) -> tuple[int, ...]:
    """Channels, height and width of the images that a model is meant for."""
    cropped = pixels.get("crop_size") if pixels.get("do_center_crop", True) else None
    sizes = [told.get("image_size", 224)] if type_ == FIXED_SIZE else [cropped, pixels.get("size")]
    area = next(filter(None, map(_area, [*sizes, told.get("image_size")])), ())
    if not area:
        raise ModelError(
            "model.vision.shape: neither config.json nor preprocessor_config.json says the size of images; "
            "write model.vision: {folder: ..., shape: [3, 224, 224]}"
        )
    channels = told.get("num_channels", 3)
    return (channels if isinstance(channels, int) else 0, *area)


def _area(size: object) -> tuple[int, ...]:
    """Height and width as transformers writes them; nothing where it is none."""
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        size = [size.get("height", edge), size.get("width", edge)]
    if isinstance(size, int):
        size = [size, size]
    whole = isinstance(size, list) and len(size) == 2 and all(isinstance(edge, int) for edge in size)
    return tuple(size) if whole else ()  # type: ignore[arg-type]


def _numbers(pixels: Mapping[str, Any], key: str) -> tuple[float, ...]:
    found = pixels.get(key, [])
    if not isinstance(found, list) or not all(isinstance(number, int | float) for number in found):
        raise ModelError(f"model.vision.folder: {PREPROCESSOR}: {key} is {found!r:.80}, no list of numbers; correct it")
    return tuple(map(float, found))
