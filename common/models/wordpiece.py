"""BERT's tokenizer from a vocab.txt and the settings beside it. A setting is heeded or refused, never passed over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from common.errors import ModelError, foreign_errors
from common.models.packed_tokenizer import SPECIAL_TOKENS, fast_tokenizer

VOCABULARY = "vocab.txt"
_SETTINGS, _SPECIALS, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"

_DEFAULTS = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"
}  # fmt: skip
_LENGTH = 512
_LONGEST_LENGTH = int(1e30)

# Whose tokenizer is BERT's, by the name of the tokenizer's class (without "Fast") and by the kind of the model.
_CLASSES = frozenset({
    "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "SqueezeBertTokenizer",
    "ConvBertTokenizer", "LayoutLMTokenizer",
})  # fmt: skip
_MODELS = frozenset({
    "bert", "distilbert", "electra", "mobilebert", "squeezebert", "convbert", "layoutlm", "ernie", "megatron-bert"
})  # fmt: skip

_HEEDED = frozenset({
    "do_lower_case", "strip_accents", "tokenize_chinese_chars", "never_split", "added_tokens_decoder",
    "additional_special_tokens", "extra_special_tokens", "model_max_length", "truncation_side", "padding_side",
    *SPECIAL_TOKENS,
})  # fmt: skip
# Where files came from, how texts look that are made from ids, and what whoever calls a tokenizer decides himself.
_WITHOUT_EFFECT = frozenset({
    "tokenizer_class", "name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "init_inputs",
    "processor_class", "use_fast", "from_slow", "backend", "is_local", "local_files_only", "model_input_names",
    "clean_up_tokenization_spaces", "max_length", "padding", "pad_to_multiple_of", "pad_token_type_id", "stride",
    "truncation", "truncation_strategy", "_commit_hash",
})  # fmt: skip
_ONLY: dict[str, object] = {
    "do_basic_tokenize": True, "clean_text": True, "wordpieces_prefix": "##", "split_special_tokens": False,
    "add_special_tokens": True, "max_input_chars_per_word": 100,
}  # fmt: skip
"""Settings of which one value is what is done here."""


def load_wordpiece(vocabulary: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a vocab.txt, with the settings of its folder; built alike under every version of transformers.

    Raises:
        ModelError: the folder is another kind of tokenizer's, a setting cannot be heeded, or a token is missing.
    """
    # A list of words under any other name has no settings: nothing is ever found below a file.
    folder = vocabulary.parent if vocabulary.name == VOCABULARY else vocabulary
    settings = _read(folder / _SETTINGS)
    _check_kind(folder, settings)
    _check_known(folder, settings)
    if "added_tokens_decoder" not in settings:  # which holds, where it is given, all that these two hold
        settings |= _read(folder / _SPECIALS)
    ids = {token: number for number, token in enumerate(_text(vocabulary).rstrip("\n").split("\n"))}
    named = _named_tokens(vocabulary, folder, settings, ids)
    special = {name: token.content for name, token in named.items()}
    backend = Tokenizer(WordPiece(ids, unk_token=special["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=_flag(folder, settings, "do_lower_case", True) is True,
        strip_accents=_flag(folder, settings, "strip_accents", None),
        handle_chinese_chars=_flag(folder, settings, "tokenize_chinese_chars", True) is True,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    sep, cls = special["sep_token"], special["cls_token"]
    backend.post_processor = processors.BertProcessing((sep, ids[sep]), (cls, ids[cls]))
    backend.decoder = decoders.WordPiece(prefix="##")
    _add_tokens(backend, folder, settings, named)
    _check_never_split(folder, settings, backend)
    sides = {key: _side(folder, settings, key) for key in ("padding_side", "truncation_side")}
    return fast_tokenizer(backend, {"model_max_length": _longest(folder, settings), **sides, **special})


def _check_kind(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse the folder of another kind of tokenizer, which may have a vocab.txt too."""
    config = _read(folder / "config.json")
    declared = settings.get("tokenizer_class") or config.get("tokenizer_class")
    remedy = "save it with a tokenizer.json, or give a BERT tokenizer"
    if declared is not None:
        if str(declared).removesuffix("Fast") not in _CLASSES:
            raise ModelError(f"model.tokenizer: {folder}: tokenizer_class {declared!r:.80} is not BERT's; {remedy}")
    elif config.get("model_type", "bert") not in _MODELS:
        kind = config["model_type"]
        raise ModelError(f"model.tokenizer: {folder}: {VOCABULARY} of a {kind!r:.80} is not read like BERT's; {remedy}")


def _check_known(folder: Path, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if key in _ONLY and value not in (_ONLY[key], None):
            raise _refusal(folder, key, settings, f"only {json.dumps(_ONLY[key])} is done here; save a tokenizer.json")
        if key not in _HEEDED | _WITHOUT_EFFECT | _ONLY.keys() and value is not None:
            raise _refusal(folder, key, settings, "it is not known here; remove it, or save a tokenizer.json")


def _named_tokens(
    vocabulary: Path, folder: Path, settings: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, AddedToken]:
    """The special tokens by their roles; those that every text needs must be there."""
    named = {}
    for role in SPECIAL_TOKENS:
        value = settings.get(role, _DEFAULTS.get(role))
        if value is None and role in ("mask_token", "bos_token", "eos_token"):
            continue
        token = _token(folder, role, value, special=True)
        if token.content not in ids:
            raise ModelError(
                f"model.tokenizer: {vocabulary} lacks {token.content[:80]}, the {role}; give a BERT vocab.txt, "
                f"or name it in {_SETTINGS}"
            )
        named[role] = token
    return named


def _add_tokens(backend: Tokenizer, folder: Path, settings: Mapping[str, Any], named: Mapping[str, AddedToken]) -> None:
    """Tokens that are found in texts before anything else; their ids are those of the vocabulary, or the next ones."""
    added: dict[Any, Any] = settings.get("added_tokens_decoder") or {}
    by_content = {token.content: token for token in named.values()}
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    if not isinstance(added, dict) or not isinstance(extra, list):
        key = "extra_special_tokens" if isinstance(added, dict) else "added_tokens_decoder"
        raise _refusal(folder, key, settings, "save a tokenizer.json")
    numbered = {str(number): _token(folder, "added_tokens_decoder", token, False) for number, token in added.items()}
    extras = [_token(folder, "additional_special_tokens", token, special=True) for token in extra]
    if "added_tokens_decoder" not in settings:
        specials = {*by_content, *(token.content for token in extras)}
        numbered = {
            str(number): AddedToken(content, special=content in specials, normalized=content not in specials)
            for content, number in _read(folder / _ADDED).items()
        }
    if not all(number.isdecimal() for number in numbered):
        raise _refusal(folder, "added_tokens_decoder", settings, "its keys are ids; save a tokenizer.json")
    for number, token in sorted(numbered.items(), key=lambda item: int(item[0])):
        token.special = token.special or token.content in by_content
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        if backend.token_to_id(token.content) != int(number):
            problem = f"token {token.content!r:.80} cannot have the id {number}; save a tokenizer.json"
            raise ModelError(f"model.tokenizer: {folder}: {problem}")
    there = {token.content for token in numbered.values()}
    backend.add_special_tokens([token for token in (*named.values(), *extras) if token.content not in there])


def _token(folder: Path, key: str, value: object, special: bool) -> AddedToken:
    """A token as the files write it: its text, or its text with how it is found."""
    if isinstance(value, str) and value:
        return AddedToken(value, special=special, normalized=not special)
    if isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]:
        flags = {name: flag for name, flag in value.items() if name not in ("content", "__type")}
        if flags.keys() <= {"single_word", "lstrip", "rstrip", "normalized", "special"} and all(
            isinstance(flag, bool) for flag in flags.values()
        ):
            return AddedToken(value["content"], **{**flags, "special": special or flags.get("special", False)})
    raise ModelError(f"model.tokenizer: {folder}: {key} is {value!r:.80}; it must be a token")


def _check_never_split(folder: Path, settings: Mapping[str, Any], backend: Tokenizer) -> None:
    """Words that are not to be split can only be tokens of their own: nothing else keeps a word whole here."""
    kept = settings.get("never_split") or []
    whole = {token.content for token in backend.get_added_tokens_decoder().values()}
    if not isinstance(kept, list) or not all(isinstance(word, str) for word in kept) or not set(kept) <= whole:
        raise _refusal(
            folder, "never_split", settings, "list the words as added tokens instead, or save a tokenizer.json"
        )


def _flag(folder: Path, settings: Mapping[str, Any], key: str, default: bool | None) -> bool | None:
    value = settings.get(key, default)
    if isinstance(value, bool) or value is default:
        return value if isinstance(value, bool) else None
    raise _refusal(folder, key, settings, "write true or false")


def _side(folder: Path, settings: Mapping[str, Any], key: str) -> str:
    side = settings.get(key, "right")
    if side not in ("left", "right"):
        raise _refusal(folder, key, settings, "write left or right")
    return str(side)


def _longest(folder: Path, settings: Mapping[str, Any]) -> int:
    value = settings.get("model_max_length", _LENGTH)
    if value is None:
        return _LENGTH
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= _LONGEST_LENGTH:
        raise _refusal(folder, "model_max_length", settings, "write a number of tokens")
    return int(value)


def _refusal(folder: Path, key: str, settings: Mapping[str, Any], remedy: str) -> ModelError:
    return ModelError(f"model.tokenizer: {folder / _SETTINGS}: {key} is {settings.get(key)!r:.80}; {remedy}")


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file; none where there is no file."""
    if not path.exists():
        return {}
    with foreign_errors(
        lambda error: ModelError(f"model.tokenizer: {path} is no JSON object ({type(error).__name__})")
    ):
        value = json.loads(path.read_text(encoding="utf-8"))
        return dict(value.items())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"model.tokenizer: cannot read {path} ({type(error).__name__})") from None
