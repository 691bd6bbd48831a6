from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from common import lexicon
from common.models.vocabulary import MAX_LENGTH, SPECIAL_IDS, VOCABULARY_SIZE, build_vocabulary, fallback_tokenizer

TOKENIZER = fallback_tokenizer()
UNKNOWN = SPECIAL_IDS["[UNK]"]


def tokens(text: str, tokenizer: PreTrainedTokenizerFast = TOKENIZER) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_vocabulary_has_the_size_and_the_special_ids_of_bert() -> None:
    vocabulary = build_vocabulary()
    assert len(vocabulary) == len(set(vocabulary)) == VOCABULARY_SIZE == 30_522
    assert {token: vocabulary.index(token) for token in SPECIAL_IDS} == SPECIAL_IDS
    assert vocabulary[1] == "[unused0]" and vocabulary[99] == "[unused98]"
    assert vocabulary == build_vocabulary()


def test_every_listed_word_is_one_lower_case_token() -> None:
    assert len(lexicon.WORDS) == len(set(lexicon.WORDS))
    assert all(word.isascii() and word.isalpha() and word.islower() for word in lexicon.WORDS)
    assert 1_000 <= len(lexicon.COMMON_WORDS) == len(set(lexicon.COMMON_WORDS))
    assert set(lexicon.WORDS) <= set(build_vocabulary())


@given(st.text(st.characters(max_codepoint=127), max_size=300))
@settings(max_examples=200, deadline=None)
def test_no_ascii_text_is_unknown(text: str) -> None:
    assume("[UNK]" not in text)
    assert UNKNOWN not in TOKENIZER(text)["input_ids"]


@pytest.mark.parametrize("length", [63, 64, 65, 100, 101, 1_000])
def test_a_word_of_any_length_is_spelt_out(length: int) -> None:
    word = "qxz7"[: length % 4 + 1] * length
    assert "".join(token.removeprefix("##") for token in tokens(word)) == word


def test_text_is_lower_cased_and_split_like_bert_does() -> None:
    assert tokens("The Movie, was GREAT!") == ["the", "movie", ",", "was", "great", "!"]
    assert tokens("kindness")[-1].startswith("##")


def test_pairs_are_joined_truncated_and_padded_like_bert_does() -> None:
    one, two = TOKENIZER([("a film", "a movie"), ("a", "b")], padding=True)["input_ids"]
    cls, sep, pad = (SPECIAL_IDS[token] for token in ("[CLS]", "[SEP]", "[PAD]"))
    assert one[0] == cls and one[3] == one[-1] == sep
    assert two[-2:] == [pad, pad]
    pair = TOKENIZER("a film", "a movie")
    assert list(pair["token_type_ids"]) == [0, 0, 0, 0, 1, 1, 1]
    assert len(TOKENIZER("film " * 2_000, truncation=True)["input_ids"]) == MAX_LENGTH == TOKENIZER.model_max_length


def test_a_saved_tokenizer_reads_alike(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "an unforgettable movie " + "x" * 200
    assert tokens(text, again) == tokens(text)
    assert again.decode(again(text)["input_ids"], skip_special_tokens=True).startswith("an unforgettable movie")
