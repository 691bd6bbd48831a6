"""Where an encoder's weights and tokenizer come from, and how a tokenizer travels.

Only JSON, safetensors and `torch.load(weights_only=True)` are read: nothing from a model folder is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast
from transformers.utils import logging

from common.errors import ModelError, WireError, foreign_errors
from common.models.encoder import clean_config, has_token_types, load_config
from common.models.hub import WEIGHT_FILES, find_folder
from common.models.randomness import borrowed_generator
from common.models.vocabulary import fallback_tokenizer

Weights = Literal["auto", "pretrained", "random"]

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_WORDPIECE_SPECIALS = {"[PAD]": "pad", "[UNK]": "unk", "[CLS]": "cls", "[SEP]": "sep", "[MASK]": "mask"}


def _bert(layers: int, hidden: int) -> str:
    return clean_config(
        json.dumps(
            {
                "model_type": "bert",
                "vocab_size": 30_522,
                "num_hidden_layers": layers,
                "hidden_size": hidden,
                "num_attention_heads": hidden // 64,
                "intermediate_size": 4 * hidden,
                "max_position_embeddings": 512,
                "type_vocab_size": 2,
                "hidden_act": "gelu",
                "hidden_dropout_prob": 0.1,
                "attention_probs_dropout_prob": 0.1,
                "initializer_range": 0.02,
                "layer_norm_eps": 1e-12,
                "pad_token_id": 0,
            }
        )
    )


KNOWN_ARCHITECTURES: dict[str, str] = {
    "prajjwal1/bert-tiny": _bert(2, 128),
    "prajjwal1/bert-mini": _bert(4, 256),
    "prajjwal1/bert-small": _bert(4, 512),
    "prajjwal1/bert-medium": _bert(8, 512),
    "google/bert_uncased_L-2_H-128_A-2": _bert(2, 128),
    "bert-base-uncased": _bert(12, 768),
    "google-bert/bert-base-uncased": _bert(12, 768),
}
"""Configurations that need no download, by the model's name. Source: Turc et al., 2019; Devlin et al., 2019."""


@dataclass(frozen=True)
class EncoderSource:
    """An encoder as found.

    `config_json` is its Hugging Face configuration; `state` its float32 values by parameter name, or None for random
    ones; `tokenizer` is None for an encoder of numbers; `origin` says for logs and reports where all came from.
    """

    config_json: str
    state: dict[str, Tensor] | None
    tokenizer: PreTrainedTokenizerFast | None
    origin: str


def resolve_encoder(
    server_model: str, weights: Weights, tokenizer: str | None, hub_timeout_seconds: float
) -> EncoderSource:
    """Find an encoder: a local folder, a known package, the Hugging Face cache, then the hub.

    Args:
        server_model: a folder, a model's name on the hub, or `minilm-l6`.
        weights: `auto` falls back to random weights, `pretrained` refuses to, `random` wants nothing else.
        tokenizer: a folder or a vocab.txt; None for the model's own or, with random weights, a built-in one.
        hub_timeout_seconds: the most that the hub may take altogether; 0 leaves it out.

    Raises:
        ModelError: nothing usable was found, in one line with the remedies.
    """
    known = KNOWN_ARCHITECTURES.get(server_model)
    found = find_folder(server_model, weights == "random", known is not None, hub_timeout_seconds)
    config_json = known if found.folder is None else clean_config(_read(found.folder / "config.json"))
    if config_json is None:
        raise ModelError(
            f"model.server_model: {server_model} could not be reached ({found.place}) and is not built in; give a "
            f"local folder, raise model.hub_timeout_seconds or choose one of {', '.join(KNOWN_ARCHITECTURES)}"
        )
    config = load_config(config_json)
    state = None
    if found.folder is not None and weights != "random" and _has_weights(found.folder):
        state = _load_state(found.folder)
    if state is None and weights == "pretrained":
        raise ModelError(
            f"model.weights: pretrained, but {server_model} {_lack(found.folder, found.place)}; "
            "give a local folder with weights, or set model.weights: auto or random"
        )
    words, note = _find_tokenizer(tokenizer, found.folder, state is not None, config)
    if state is not None:
        origin = f"pretrained from {found.place}"
    elif weights == "random":
        origin = "random weights as configured"
    else:
        origin = f"random weights: {server_model} {_lack(found.folder, found.place)}"
    return EncoderSource(config_json, state, words, origin + note)


def pack_tokenizer(tokenizer: PreTrainedTokenizerFast) -> bytes:
    """A tokenizer as JSON, always the same bytes for the same tokenizer: `tokenizer.json`, `tokenizer_config.json`."""
    bare = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    bare.no_padding()
    bare.no_truncation()
    special = tokenizer.special_tokens_map
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(tokenizer.model_max_length),
        "model_input_names": list(tokenizer.model_input_names),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        **{name: str(special[name]) for name in _SPECIAL_TOKENS if special.get(name)},
    }
    files = {"tokenizer.json": json.loads(bare.to_str()), "tokenizer_config.json": settings}
    return json.dumps(files, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def unpack_tokenizer(data: bytes) -> PreTrainedTokenizerFast:
    """The tokenizer in `pack_tokenizer`'s bytes; it gives the same ids.

    Raises:
        WireError: the bytes are not a packed tokenizer.
    """
    with foreign_errors(lambda error: WireError(f"tokenizer: malformed ({type(error).__name__})")):
        files = json.loads(data)
        settings = dict(files["tokenizer_config.json"])
        settings.pop("tokenizer_class")
        backend = Tokenizer.from_str(json.dumps(files["tokenizer.json"]))
        size = backend.get_vocab_size()
        tokenizer = _fast(backend, settings)
    if len(tokenizer) != size:
        raise WireError("tokenizer: a special token is not in the vocabulary")
    return tokenizer


def tokenizer_digest(data: bytes) -> str:
    """SHA-256 of a packed tokenizer."""
    return hashlib.sha256(data).hexdigest()


def _fast(backend: Tokenizer, settings: dict[str, Any]) -> PreTrainedTokenizerFast:
    unknown = settings.keys() - {
        "model_max_length", "model_input_names", "padding_side", "truncation_side", *_SPECIAL_TOKENS
    }  # fmt: skip
    if unknown or not all(isinstance(settings.get(name, ""), str) for name in _SPECIAL_TOKENS):
        raise ValueError("settings")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)  # type: ignore[no-untyped-call]


def _find_tokenizer(
    given: str | None, folder: Path | None, pretrained: bool, config: PretrainedConfig
) -> tuple[PreTrainedTokenizerFast, str]:
    """The tokenizer to use, in the form in which it reaches the clients, and what `origin` says of it."""
    if given is not None:
        tokenizer, note = _load_tokenizer(Path(given).expanduser()), f", tokenizer from {given}"
    elif folder is not None and _has_tokenizer(folder):
        tokenizer, note = _load_tokenizer(folder), ""
    elif pretrained:
        raise ModelError("model.tokenizer: the pretrained weights lack a tokenizer; give its folder or vocab.txt")
    else:
        tokenizer, note = fallback_tokenizer(), ", built-in vocabulary"
    highest = max(tokenizer.get_vocab().values())
    if highest >= config.vocab_size:
        raise ModelError(
            f"model.tokenizer: it has token ids up to {highest}, but the encoder only {config.vocab_size} embeddings; "
            "give the tokenizer that belongs to the model"
        )
    if tokenizer.pad_token_id is None:
        raise ModelError("model.tokenizer: it has no padding token; choose one that has")
    types = ["token_type_ids"] if has_token_types(config) else []
    tokenizer.model_input_names = ["input_ids", *types, "attention_mask"]
    return unpack_tokenizer(pack_tokenizer(tokenizer)), note


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "vocab.json", "spiece.model")
    return any((folder / name).is_file() for name in names)


def _load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    if path.is_file():
        return _wordpiece(path, lowercase=True)
    if not path.is_dir():
        raise ModelError(f"model.tokenizer: {path} does not exist; give a folder or a vocab.txt")
    if (path / "vocab.txt").is_file() and not (path / "tokenizer.json").is_file():
        return _wordpiece(path / "vocab.txt", _lowercases(path / "tokenizer_config.json"))

    def unusable(error: Exception) -> ModelError:
        return ModelError(f"model.tokenizer: {path} holds no usable tokenizer ({type(error).__name__})")

    with foreign_errors(unusable), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False, use_fast=True
        )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"model.tokenizer: {path} has no fast form; save it with a tokenizer.json")
    return tokenizer


def _lowercases(settings: Path) -> bool:
    return not settings.is_file() or json.loads(_read(settings)).get("do_lower_case", True) is not False


def _wordpiece(vocab_file: Path, lowercase: bool) -> PreTrainedTokenizerFast:
    """BERT's tokenizer over a vocab.txt, built alike under every version of transformers."""
    vocabulary = {token: number for number, token in enumerate(_read(vocab_file).rstrip("\n").split("\n"))}
    missing = [token for token in _WORDPIECE_SPECIALS if token not in vocabulary]
    if missing:
        raise ModelError(f"model.tokenizer: {vocab_file} lacks {', '.join(missing)}; give a BERT vocab.txt")
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    backend.decoder = decoders.WordPiece(prefix="##")
    special = {f"{kind}_token": token for token, kind in _WORDPIECE_SPECIALS.items()}
    return _fast(backend, {"model_max_length": 512, **special})


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in WEIGHT_FILES)


def _load_state(folder: Path) -> dict[str, Tensor]:
    """The encoder's values by parameter name; those that the folder lacks (typically a pooler's) are left out."""

    def unreadable(error: Exception) -> ModelError:
        return ModelError(
            f"model.server_model: the weights in {folder} cannot be read ({type(error).__name__}); "
            "give a folder saved by save_pretrained"
        )

    with foreign_errors(unreadable), _quiet(), borrowed_generator():
        encoder, report = AutoModel.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ModelError(
            f"model.server_model: the weights in {folder} lack {missing[0]} and {len(missing) - 1} more; "
            "give a folder whose weights belong to its config.json"
        )
    values = encoder.state_dict()
    return {name: value.float() for name, value in values.items() if name not in report["missing_keys"]}


def _lack(folder: Path | None, place: str) -> str:
    return f"could not be reached ({place})" if folder is None else f"has a configuration but no weights in {place}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"model: cannot read {path} ({type(error).__name__})") from None


@contextmanager
def _quiet() -> Iterator[None]:
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
