from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from client.data import tokenised
from client.data.example import Example
from client.data.texts import TextExamples
from common.errors import DataError, ModelError
from common.tasks import KNOWN_TASKS, TASK_KINDS, TaskDefinition

SST2, QQP, STSB = KNOWN_TASKS["sst2"], KNOWN_TASKS["qqp"], KNOWN_TASKS["stsb"]
TOPICS = TaskDefinition("topics", TASK_KINDS["multilabel"], ("sport", "politics", "art"), False, ("f1_micro",))
WORDS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "good", "bad", "film", "##s", "very")
UNK, CLS, SEP, PAD, GOOD, BAD, FILM, S, VERY = range(len(WORDS))


def prepared(examples, *how):
    return TextExamples(examples).prepare(*how)


def make_tokenizer(*, special: bool = True, pad: str | None = "[PAD]") -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if special:
        core.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token=pad,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


TOKENIZER = make_tokenizer()
PAIRS = [Example("good films", "bad", 1), Example("film", "very very bad film", 0)]


def test_single_texts() -> None:
    examples = [Example("Good films", None, 1), Example("bad", None, 0), Example("null", None, 0)]
    encoded = prepared(examples, SST2, TOKENIZER, "cross", 16)
    assert encoded.first.ids.dtype == np.int32
    assert encoded.lengths.tolist() == [5, 3, 3]
    batch = encoded.batch(np.array([1, 0]))
    assert batch.input_ids.tolist() == [[CLS, BAD, SEP, PAD, PAD], [CLS, GOOD, FILM, S, SEP]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.labels is not None and batch.labels.tolist() == [0, 1]
    assert batch.input_ids.dtype == batch.attention_mask.dtype == batch.labels.dtype == torch.int64
    assert batch.token_type_ids is None and batch.pair is None
    assert encoded.batch(np.array([2, 1])).input_ids.shape == (2, 3)


def test_siamese_pairs_are_padded_apart() -> None:
    encoded = prepared(PAIRS, QQP, TOKENIZER, "siamese", 16)
    assert encoded.lengths.tolist() == [5, 6]
    batch = encoded.batch(np.array([0, 1]))
    assert batch.input_ids.tolist() == [[CLS, GOOD, FILM, S, SEP], [CLS, FILM, SEP, PAD, PAD]]
    assert batch.pair is not None
    assert batch.pair.input_ids.shape == (2, 6)
    assert batch.pair.attention_mask.sum(dim=1).tolist() == [3, 6]
    assert batch.token_type_ids is None and batch.pair.token_type_ids is None and batch.pair.labels is None


def test_cross_pairs_have_types() -> None:
    batch = prepared(PAIRS, QQP, TOKENIZER, "cross", 16).batch(np.array([0, 1]))
    assert batch.pair is None and batch.token_type_ids is not None
    assert batch.input_ids[0].tolist() == [CLS, GOOD, FILM, S, SEP, BAD, SEP, PAD]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1, 1]]


def test_types_only_where_the_tokenizer_gives_them() -> None:
    tokenizer = make_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert prepared(PAIRS, QQP, tokenizer, "cross", 16).first.types is None


def test_truncation() -> None:
    long = [Example("very " * 50, "bad " * 50, 1)]
    assert prepared(long, QQP, TOKENIZER, "cross", 9).lengths.tolist() == [9]
    assert prepared(long, QQP, TOKENIZER, "siamese", 9).lengths.tolist() == [9]
    assert prepared(long, SST2, TOKENIZER, "siamese", 9).first.ids.tolist() == [CLS, *[VERY] * 7, SEP]


def test_labels() -> None:
    scores = prepared([Example("a", "b", 2.5), Example("a", "b", 0)], STSB, TOKENIZER, "siamese", 8).labels
    assert scores.dtype == np.float64 and scores.tolist() == [2.5, 0.0]
    several = prepared([Example("a", None, (0, 2)), Example("a", None, ())], TOPICS, TOKENIZER, "cross", 8)
    labels = several.batch(np.array([0, 1])).labels
    assert labels is not None and labels.dtype == torch.float32
    assert labels.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_a_remapped_vocabulary_keeps_working() -> None:
    encoded = prepared(PAIRS, QQP, TOKENIZER, "siamese", 16)
    moved = replace(encoded, first=replace(encoded.first, ids=encoded.first.ids + 1), padding_id=0)
    batch = moved.batch(np.array([0, 1]))
    assert batch.input_ids.tolist() == [[2, 5, 7, 8, 3], [2, 7, 3, 0, 0]]


def test_a_text_without_tokens_is_refused() -> None:
    bare = make_tokenizer(special=False)
    with pytest.raises(DataError, match="task sst2: text 2 has no token"):
        prepared([Example("good", None, 1), Example("\u200b", None, 1)], SST2, bare, "cross", 8)


def test_a_tokenizer_without_padding_is_refused() -> None:
    with pytest.raises(ModelError, match="no padding token"):
        prepared(PAIRS, QQP, make_tokenizer(pad=None), "cross", 8)


texts = st.lists(st.sampled_from(["good", "bad", "films", "odd", "very"]), min_size=1, max_size=8).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=20), cross=st.booleans())
def test_batches_equal_the_tokenizers_own(pairs: list[tuple[str, str]], cross: bool) -> None:
    examples = [Example(first, second, 1) for first, second in pairs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenised, "TEXTS_PER_CALL", 7)
        encoded = prepared(examples, QQP, TOKENIZER, "cross" if cross else "siamese", 12)
    rows = np.arange(len(pairs))[::-1]
    batch = encoded.batch(rows)
    firsts, seconds = [pairs[row][0] for row in rows], [pairs[row][1] for row in rows]
    options = {"truncation": True, "max_length": 12, "padding": True, "return_tensors": "pt"}
    expected = TOKENIZER(firsts, seconds if cross else None, **options)
    assert torch.equal(batch.input_ids, expected["input_ids"])
    assert torch.equal(batch.attention_mask, expected["attention_mask"])
    if cross:
        assert batch.token_type_ids is not None
        assert torch.equal(batch.token_type_ids, expected["token_type_ids"])
    else:
        assert batch.pair is not None
        assert torch.equal(batch.pair.input_ids, TOKENIZER(seconds, **options)["input_ids"])
