"""An encoder's weights in a model folder: which files hold them, whether they are whole, and their values.

Weights that are there and cannot be read are an error: nobody who names a trained model wants random values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModel, PretrainedConfig
from transformers.utils import logging

from common.errors import ModelError, foreign_errors
from common.models.description import read_object
from common.models.encoder import load_config
from common.models.randomness import borrowed_generator

WEIGHTS: dict[str, str] = {
    "model.safetensors": "",
    "model.safetensors.index.json": "model-*.safetensors",
    "pytorch_model.bin": "",
    "pytorch_model.bin.index.json": "pytorch_model-*.bin",
}
"""Files that stand for weights, the preferred one first: the weights themselves, or an index of their parts."""

INDEX_SUFFIX = ".index.json"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")
_INDEX_BYTES = 16 << 20
_MOST_PARTS = 1000

# What a folder without weights may hold: texts, settings, vocabularies, pictures of its description. Everything else
# may be weights in some form; there are too many forms to list.
_HARMLESS = frozenset({
    ".json", ".jsonl", ".txt", ".md", ".rst", ".html", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".csv", ".tsv", ".py",
    ".jinja", ".model", ".vocab", ".bpe", ".codes", ".spm", ".tiktoken", ".log", ".lock", ".metadata",
    ".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf",
})  # fmt: skip
_PLAIN_NAMES = frozenset({
    "license", "licence", "notice", "readme", "copying", "authors", "changelog", "makefile", "gitattributes",
    "gitignore",
})  # fmt: skip
_MOST_ENTRIES = 10_000


def weights_file(folder: Path) -> Path | None:
    """The file that stands for a folder's weights, or None where the folder holds a description alone.

    Raises:
        ModelError: the folder holds weights of which parts are missing, or in a form that is not read here.
    """
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        strange = unread_weights(file_names(folder))
        if strange is not None:
            raise ModelError(unread_message(str(folder), strange))
    elif found.name.endswith(INDEX_SUFFIX):
        _check_parts(found)
    return found


def unread_weights(names: Iterable[str]) -> str | None:
    """The first of a folder's or repository's files, by their relative names, that may hold weights in another form."""
    for name in sorted(names):
        path = PurePosixPath(name)
        index = name.endswith(INDEX_SUFFIX)
        plain = path.suffix == "" and path.stem.lower().lstrip(".") in _PLAIN_NAMES
        if index or not (plain or path.suffix.lower() in _HARMLESS):
            return name
    return None


def unread_message(place: str, name: str) -> str:
    """One line about weights that are there and are not read."""
    readable = ", ".join(WEIGHTS)
    return (
        f"model.server_model: {place} holds '{name}', but none of {readable}; convert the weights with "
        "save_pretrained, or write model.weights: random to do without them"
    )


def load_state(folder: Path, config_json: str) -> dict[str, Tensor]:
    """The values of a text encoder by parameter name; see `read_state`."""
    return read_state(folder, load_config(config_json))


def read_state(folder: Path, config: PretrainedConfig, **options: bool) -> dict[str, Tensor]:
    """An encoder's values by parameter name; those that the folder lacks (typically a pooler's) are left out.

    `options` are those of the encoder's class.

    Raises:
        ModelError: they cannot be read, are quantised or not finite, or belong to another configuration.
    """

    def unreadable(error: Exception) -> ModelError:
        return ModelError(
            f"model.server_model: the weights in {folder} cannot be read ({type(error).__name__}); "
            "give a folder saved by save_pretrained"
        )

    with foreign_errors(unreadable):
        raw = read_object((folder / "config.json").read_text(encoding="utf-8"))
    if raw.get("quantization_config") is not None:
        raise ModelError(f"model.server_model: the weights in {folder} are quantised; give those in full precision")
    with foreign_errors(unreadable), quiet(), borrowed_generator():
        # By the cleaned configuration: the file's own may name code, kernels or other folders.
        loading = {"local_files_only": True, "trust_remote_code": False, "output_loading_info": True}
        encoder, report = AutoModel.from_pretrained(str(folder), config=config, **loading, **options)
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ModelError(
            f"model.server_model: the weights in {folder} lack {missing[0]} and {len(missing) - 1} more; "
            "give a folder whose weights belong to its config.json"
        )
    values = {name: value.float() for name, value in encoder.state_dict().items() if name not in report["missing_keys"]}
    broken = next((name for name, value in values.items() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise ModelError(f"model.server_model: the weights in {folder} are not finite in {broken}; give whole ones")
    return values


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and advice of transformers, which would drown our own lines."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def file_names(folder: Path) -> Iterator[str]:
    """Relative names of a folder's files, of those right below it too; links that lead nowhere are files as well."""
    for count, path in enumerate(path for pattern in ("*", "*/*") for path in folder.glob(pattern)):
        name = path.relative_to(folder).as_posix()
        if count == _MOST_ENTRIES:
            raise ModelError(
                f"model.server_model: {folder} holds more than {_MOST_ENTRIES} files; give a model's folder"
            )
        if not path.is_dir() and not name.startswith("."):
            yield name


def _check_parts(index: Path) -> None:
    """Check that all parts of an index are there, and hold what it says.

    Raises:
        ModelError: they do not.
    """

    def whole(fine: bool, problem: str) -> None:
        if not fine:
            raise ModelError(f"model.server_model: {index}: {problem}; fetch the model's folder again")

    try:
        size = index.stat().st_size
        whole(size <= _INDEX_BYTES, f"{size} bytes are more than an index has")
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        by_part: dict[str, set[str]] = {}
        for name, part in parts.items():
            by_part.setdefault(str(part), set()).add(name)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ModelError(
            f"model.server_model: {index} is no index of weights; fetch the model's folder again"
        ) from None
    whole(0 < len(by_part) <= _MOST_PARTS, f"it names {len(by_part)} parts")
    suffix = PurePosixPath(index.name.removesuffix(INDEX_SUFFIX)).suffix
    for part, names in sorted(by_part.items()):
        whole(bool(_PART.fullmatch(part)) and part.endswith(suffix), f"{part[:80]!r} is no name of a part")
        whole((index.parent / part).is_file(), f"the part {part} is missing")
        if suffix == ".safetensors":
            try:
                with safe_open(index.parent / part, framework="pt") as file:
                    lacking = sorted(names - set(file.keys()))
            except (OSError, SafetensorError) as error:
                raise ModelError(f"model.server_model: {index.parent / part} cannot be read ({error})") from None
            whole(not lacking, f"the part {part} lacks {lacking[0] if lacking else ''}")
