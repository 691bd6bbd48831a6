"""Where an encoder's weights and tokenizer come from.

Only JSON, safetensors and `torch.load(weights_only=True)` are read: nothing from a model folder is ever executed.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from common.errors import ModelError, foreign_errors
from common.inputs.texts import has_token_types
from common.models.description import clean_config
from common.models.encoder import EncoderSource, Weights, load_config, reads_causally
from common.models.hub import find_folder
from common.models.packed_tokenizer import pack_tokenizer, unpack_tokenizer
from common.models.vocabulary import fallback_tokenizer
from common.models.weights import load_state, quiet, unread_message, weights_file
from common.models.wordpiece import VOCABULARY, load_wordpiece


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

_TOKENIZER_FILES = (
    "tokenizer.json", VOCABULARY, "tokenizer_config.json", "vocab.json", "spiece.model", "sentencepiece.bpe.model",
    "tokenizer.model",
)  # fmt: skip


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
    if found.unread and weights != "random":
        raise ModelError(unread_message(found.place, found.unread))
    if found.folder is not None and weights != "random" and weights_file(found.folder) is not None:
        state = load_state(found.folder, config_json)
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
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None and reads_causally(config):
        tokenizer.pad_token = tokenizer.eos_token  # nobody reads it: it stands behind the last token
    if tokenizer.pad_token_id is None:
        raise ModelError("model.tokenizer: it has no padding token; choose one that has")
    types = ["token_type_ids"] if has_token_types(config) else []
    tokenizer.model_input_names = ["input_ids", *types, "attention_mask"]
    return unpack_tokenizer(pack_tokenizer(tokenizer)), note


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    if path.is_file():
        return load_wordpiece(path)
    if not path.is_dir():
        raise ModelError(f"model.tokenizer: {path} does not exist; give a folder or a vocab.txt")
    if (path / VOCABULARY).is_file() and not (path / "tokenizer.json").is_file():
        return load_wordpiece(path / VOCABULARY)

    def unusable(error: Exception) -> ModelError:
        return ModelError(f"model.tokenizer: {path} holds no usable tokenizer ({type(error).__name__})")

    with foreign_errors(unusable), quiet():
        tokenizer = AutoTokenizer.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False, use_fast=True
        )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"model.tokenizer: {path} has no fast form; save it with a tokenizer.json")
    return tokenizer


def _lack(folder: Path | None, place: str) -> str:
    return f"could not be reached ({place})" if folder is None else f"has a configuration but no weights in {place}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"model: cannot read {path} ({type(error).__name__})") from None
