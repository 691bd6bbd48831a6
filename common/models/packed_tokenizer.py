"""A tokenizer as bytes: how it travels, and how a run keeps it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from common.errors import WireError, foreign_errors

if TYPE_CHECKING:  # they take seconds to import, and digests are asked for without them
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SETTINGS = frozenset(
    {"model_max_length", "model_input_names", "padding_side", "truncation_side", *SPECIAL_TOKENS}
)  # fmt: skip


def pack_tokenizer(tokenizer: PreTrainedTokenizerFast) -> bytes:
    """A tokenizer as JSON, always the same bytes for the same tokenizer: `tokenizer.json`, `tokenizer_config.json`."""
    from tokenizers import Tokenizer

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
        **{name: str(special[name]) for name in SPECIAL_TOKENS if special.get(name)},
    }
    files = {"tokenizer.json": json.loads(bare.to_str()), "tokenizer_config.json": settings}
    return json.dumps(files, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def unpack_tokenizer(data: bytes) -> PreTrainedTokenizerFast:
    """The tokenizer in `pack_tokenizer`'s bytes; it gives the same ids.

    Raises:
        WireError: the bytes are not a packed tokenizer.
    """
    from tokenizers import Tokenizer

    with foreign_errors(lambda error: WireError(f"tokenizer: malformed ({type(error).__name__})")):
        files = json.loads(data)
        settings = dict(files["tokenizer_config.json"])
        settings.pop("tokenizer_class")
        backend = Tokenizer.from_str(json.dumps(files["tokenizer.json"]))
        size = backend.get_vocab_size()
        tokenizer = fast_tokenizer(backend, settings)
    if len(tokenizer) != size:
        raise WireError("tokenizer: a special token is not in the vocabulary")
    return tokenizer


def tokenizer_digest(data: bytes) -> str:
    """SHA-256 of a packed tokenizer."""
    return hashlib.sha256(data).hexdigest()


def fast_tokenizer(backend: Tokenizer, settings: dict[str, Any]) -> PreTrainedTokenizerFast:
    """A tokenizer from its two halves.

    Raises:
        ValueError: a setting is unknown, or a special token is no text.
    """
    from transformers import PreTrainedTokenizerFast

    if settings.keys() - _SETTINGS or not all(isinstance(settings.get(name, ""), str) for name in SPECIAL_TOKENS):
        raise ValueError("settings")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)  # type: ignore[no-untyped-call]
