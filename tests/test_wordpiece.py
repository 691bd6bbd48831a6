"""BERT's tokenizer from a vocab.txt: every setting does what transformers does with it, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from common.errors import ModelError
from common.models.packed_tokenizer import pack_tokenizer, unpack_tokenizer
from common.models.pretrained import _load_tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIALS, "<s>", "</s>", "<pad>", "<unk>", "<m>"]
WORDS += "ich Ich mochte möchte schon schön 東 東京駅 京 駅 ##京 ##駅 hello world wor ##ld ##s".split()  # noqa: SIM905
WORDS += "[ ] < > . , ent mask m".split()  # noqa: SIM905
TEXTS = ["ich möchte schon", "Ich MOCHTE schön, 東京駅.", "hello [MASK] worlds", "hello[MASK]world [ENT] ent"]
TEXTS += ["<m> ich <ENT>", "  tab\tand\x00 control ", "x" * 120, ""]


def write(folder: Path, settings: dict[str, Any] | None, words: list[str] = WORDS, **files: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def compare(folder: Path) -> None:
    """The same ids as transformers' own tokenizer, also after the way to a client."""
    ours, theirs = _load_tokenizer(folder), AutoTokenizer.from_pretrained(str(folder))
    travelled = unpack_tokenizer(pack_tokenizer(ours))
    for text in TEXTS:
        for pair in (None, "hello 京"):
            expected = theirs(text, pair)["input_ids"]
            assert ours(text, pair)["input_ids"] == expected, text
            assert travelled(text, pair)["input_ids"] == expected, text
    for role in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id")
    assert ours.truncation_side == theirs.truncation_side == travelled.truncation_side


HEEDED: list[dict[str, Any]] = [
    {},
    {"do_lower_case": False},
    {"strip_accents": False},
    {"strip_accents": True, "do_lower_case": False},
    {"strip_accents": None},
    {"tokenize_chinese_chars": False},
    {"tokenize_chinese_chars": False, "do_lower_case": False, "strip_accents": True},
    {"tokenizer_class": "BertTokenizerFast", "do_basic_tokenize": True, "never_split": None},
    {"tokenizer_class": "DistilBertTokenizer", "clean_up_tokenization_spaces": True, "name_or_path": "x/y"},
    {"tokenizer_class": "ElectraTokenizer", "never_split": ["[MASK]"]},
    {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<m>"},
    {"bos_token": "<s>", "eos_token": "</s>"},
    {
        "mask_token": {
            "__type": "AddedToken",
            "content": "[MASK]",
            "lstrip": True,
            "single_word": True,
            "normalized": False,
        }
    },
    {"mask_token": {"__type": "AddedToken", "content": "<m>", "lstrip": False, "rstrip": True, "normalized": True}},
    {"additional_special_tokens": ["ent", "[ENT]"]},
    {"extra_special_tokens": [{"__type": "AddedToken", "content": "<ENT>", "single_word": False}]},
    {"model_max_length": 1000000000000000019884624838656, "truncation_side": "left", "padding_side": "left"},
    {"added_tokens_decoder": {"0": {"content": "[PAD]", "special": True, "normalized": False}}},
    {
        "added_tokens_decoder": {
            str(len(WORDS)): {"content": "[ENT]", "special": False, "normalized": False, "single_word": True},
            str(len(WORDS) + 1): {"content": "<ENT>", "special": True, "normalized": False},
        }
    },
]


@pytest.mark.parametrize("settings", HEEDED, ids=lambda settings: ",".join(settings) or "none")
def test_settings_are_heeded_as_transformers_does(tmp_path: Path, settings: dict[str, Any]) -> None:
    compare(write(tmp_path / "model", settings))


def test_the_older_files_beside_it_are_heeded_too(tmp_path: Path) -> None:
    compare(write(tmp_path / "none", None))
    compare(write(tmp_path / "specials", {}, special_tokens_map={"mask_token": "<m>", "cls_token": {"content": "<s>"}}))
    compare(write(tmp_path / "added", {}, added_tokens={"[ENT]": len(WORDS), "<ENT>": len(WORDS) + 1}))
    # What tokenizer_config.json says of added tokens is all that counts.
    settings = {"added_tokens_decoder": {}, "mask_token": "<m>"}
    compare(write(tmp_path / "both", settings, special_tokens_map={"mask_token": "[MASK]"}, added_tokens={"[ENT]": 30}))


def test_a_vocabulary_alone_takes_the_settings_beside_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"do_lower_case": False})
    assert _load_tokenizer(folder / "vocab.txt").tokenize("Ich") == ["Ich"]
    (folder / "words.txt").write_text("\n".join(WORDS))
    assert _load_tokenizer(folder / "words.txt").tokenize("Ich") == ["ich"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}, "tokenizer_class 'BertJapanese"),
        ({"tokenizer_class": "BertweetTokenizer"}, "tokenizer_class 'Bertweet"),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, "tokenizer_class 'PreTrainedTokenizerFast' is not BERT's"),
        ({"word_tokenizer_type": "mecab"}, "word_tokenizer_type is 'mecab'; it is not known"),
        ({"never_split": ["ich"]}, r"never_split is \['ich'\]"),
        ({"never_split": 3}, "never_split is 3"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize is False; only true is done"),
        ({"clean_text": False}, "clean_text is False"),
        ({"wordpieces_prefix": "@@"}, "wordpieces_prefix is '@@'"),
        ({"do_lower_case": "yes"}, "do_lower_case is 'yes'; write true or false"),
        ({"do_lower_case": None}, "do_lower_case is None"),
        ({"strip_accents": 1}, "strip_accents is 1"),
        ({"tokenize_chinese_chars": "false"}, "tokenize_chinese_chars is 'false'"),
        ({"model_max_length": 0}, "model_max_length is 0"),
        ({"model_max_length": "long"}, "model_max_length is 'long'"),
        ({"truncation_side": "middle"}, "truncation_side is 'middle'"),
        ({"mask_token": "[HIDDEN]"}, r"lacks \[HIDDEN\], the mask_token"),
        ({"mask_token": 7}, "mask_token is 7; it must be a token"),
        ({"pad_token": None}, "pad_token is None"),
        ({"cls_token": {"content": "[CLS]", "lstrip": "yes"}}, "cls_token is"),
        ({"added_tokens_decoder": {"3": {"content": "[ENT]"}}}, r"'\[ENT\]' cannot have the id 3"),
        ({"added_tokens_decoder": {"three": {"content": "[ENT]"}}}, "added_tokens_decoder is"),
        ({"added_tokens_decoder": ["[ENT]"]}, "added_tokens_decoder is"),
        ({"extra_special_tokens": {"entity": "[ENT]"}}, "extra_special_tokens is"),
        ({"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}, "auto_map is"),
    ],
)
def test_what_cannot_be_heeded_is_refused_by_name(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        _load_tokenizer(write(tmp_path / "model", settings))
    assert "\n" not in caught.value.message


def test_a_vocabulary_of_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {})
    for config, said in (
        ({"model_type": "esm"}, "of a 'esm' is not read like BERT's"),
        ({"model_type": "bert", "tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
        ({"model_type": "mpnet"}, "'mpnet'"),
    ):
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=said):
            _load_tokenizer(folder)


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map", "added_tokens"])
@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "3"])
def test_settings_that_are_no_object_are_one_line(tmp_path: Path, name: str, text: str) -> None:
    folder = write(tmp_path / "model", None)
    (folder / f"{name}.json").write_text(text)
    with pytest.raises(ModelError, match=f"{name}.json is no JSON object"):
        _load_tokenizer(folder)


def test_a_class_that_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "h", "i", "hi"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nh i\n")
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    assert _load_tokenizer(folder).tokenize("hi") == ["hi"]
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ClinicTokenizer"}')
    with pytest.raises(ModelError, match="holds no usable tokenizer"):
        _load_tokenizer(folder)
