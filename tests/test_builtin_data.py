import re
from collections import Counter
from dataclasses import FrozenInstanceError
from functools import cache
from itertools import chain

import numpy as np
import pytest
from scipy.stats import spearmanr

from client.data.builtin import KINDS, MEANINGS, TASKS, _decoys, generate
from client.data.example import Example
from common import lexicon
from common.errors import DataError
from common.models.vocabulary import build_vocabulary

PAIRS = ("qqp", "stsb")


@cache
def rows(task: str, split: str, count: int = 3_000, seed: int = 7) -> tuple[Example, ...]:
    return tuple(generate(task, split, count, seed))


def labels(examples: tuple[Example, ...]) -> np.ndarray:
    return np.array([example.label for example in examples], dtype=float)


def texts(example: Example) -> tuple[str, ...]:
    return (example.text,) if example.text_pair is None else (example.text, example.text_pair)


def overlap(example: Example) -> float:
    one, two = (set(text.split()) for text in texts(example))
    return len(one & two) / len(one | two)


def shape(example: Example) -> list[float]:
    """Everything but the words: lengths by position and in all, and for a pair the overlap and the difference."""
    sizes = [[len(word) for word in text.split()] for text in texts(example)]
    padded = [size + [0] * (20 - len(size)) for size in sizes]
    cues = [1.0, *chain(*padded), *(len(size) for size in sizes), *(np.mean(size) for size in sizes)]
    if len(sizes) == 2:
        cues += [overlap(example), abs(sum(sizes[0]) - sum(sizes[1])), *np.subtract(*padded).__abs__()]
    return cues


def words_of(text: str) -> list[float]:
    present = Counter(text.split())
    return [1.0, *(present[word] for word in MEANINGS)]


def predicted(train: list[list[float]], target: np.ndarray, validation: list[list[float]]) -> np.ndarray:
    """Ridge regression, which sees any cue that adds up."""
    x = np.array(train)
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ target)
    return np.array(validation) @ weights


def accuracy(scores: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean((scores > 0.5) == truth))


def majority(truth: np.ndarray) -> float:
    return float(max(truth.mean(), 1 - truth.mean()))


@pytest.mark.parametrize("task", TASKS)
def test_more_rows_extend_the_list_and_equal_seeds_give_equal_rows(task: str) -> None:
    assert generate(task, "train", 20, 3) == generate(task, "train", 50, 3)[:20]
    assert generate(task, "train", 20, 3) != generate(task, "train", 20, 4)
    assert generate(task, "train", 0, 3) == []


@pytest.mark.parametrize(
    "task, first",
    [
        ("sst2", Example("the house was clearly terrible but the medics do really relish the supper", None, 1)),
        ("qqp", Example("which children know the pretty film", "which tutors know the tedious house", 0)),
        ("stsb", Example("the children mend the avenue", "the youths repair the song", 3.3333333333333335)),
    ],
)
def test_rows_are_the_same_on_every_machine(task: str, first: Example) -> None:
    assert generate(task, "train", 1, 0) == [first]


@pytest.mark.parametrize("task", TASKS)
def test_no_text_is_in_both_splits_whatever_the_seeds(task: str) -> None:
    train = {frozenset(texts(example)) for example in rows(task, "train", 3_000, 1)}
    validation = {frozenset(texts(example)) for example in rows(task, "validation", 3_000, 2)}
    assert not train & validation


@pytest.mark.parametrize("task", TASKS)
def test_a_text_always_has_the_same_label(task: str) -> None:
    seen: dict[tuple[str, ...], object] = {}
    for example in rows(task, "train"):
        assert seen.setdefault(texts(example), example.label) == example.label


def test_labels_are_balanced_and_in_range() -> None:
    assert labels(rows("sst2", "train")).mean() == pytest.approx(0.5, abs=0.03)
    assert labels(rows("qqp", "train")).mean() == pytest.approx(0.37, abs=0.03)
    scores = labels(rows("stsb", "train"))
    assert scores.min() == 0 and scores.max() == 5
    assert all(type(example.label) is float for example in rows("stsb", "train"))
    assert all(type(example.label) is int for task in ("sst2", "qqp") for example in rows(task, "train"))
    assert np.mean((scores > 0) & (scores < 5)) > 0.3


def test_only_the_pair_tasks_have_a_second_text() -> None:
    assert all(example.text_pair is None for example in rows("sst2", "train"))
    assert all(example.text_pair for task in PAIRS for example in rows(task, "train"))


@pytest.mark.parametrize("task", TASKS)
def test_every_word_is_a_whole_token(task: str) -> None:
    used = {word for example in rows(task, "train") for text in texts(example) for word in text.split()}
    assert used <= set(build_vocabulary())


def test_the_tasks_share_their_words() -> None:
    used = [{w for e in rows(task, "train") for t in texts(e) for w in t.split()} & set(MEANINGS) for task in TASKS]
    sentiment, *others = used
    assert all(other == set(MEANINGS) for other in others)
    assert len(sentiment) > 0.8 * len(MEANINGS)


def test_each_word_has_one_meaning_and_decoys_of_every_length_it_needs() -> None:
    groups = [group for kind in KINDS.values() for group in kind]
    assert len(MEANINGS) == sum(map(len, groups))
    assert all(
        _decoys(word, len(synonym)) for group in groups for word in group for synonym in group if synonym != word
    )


@pytest.mark.parametrize(
    "one, other",
    [(lexicon.POSITIVE_QUALITIES, lexicon.NEGATIVE_QUALITIES), (lexicon.LIKING, lexicon.DISLIKING)],
)
def test_both_polarities_have_words_of_the_same_lengths(
    one: tuple[lexicon.Group, ...], other: tuple[lexicon.Group, ...]
):
    assert sorted(map(len, chain(*one))) == sorted(map(len, chain(*other)))


def test_overlap_says_nothing_about_a_paraphrase_and_little_about_a_score() -> None:
    for split in ("train", "validation"):
        duplicates = rows("qqp", split)
        assert abs(spearmanr([overlap(example) for example in duplicates], labels(duplicates)).statistic) < 0.06
        scored = rows("stsb", split)
        assert abs(spearmanr([overlap(example) for example in scored], labels(scored)).statistic) < 0.45


@pytest.mark.parametrize("task", ["sst2", "qqp"])
def test_lengths_and_positions_do_not_give_a_class_away(task: str) -> None:
    train, validation = rows(task, "train"), rows(task, "validation")
    scores = predicted([shape(e) for e in train], labels(train), [shape(e) for e in validation])
    assert accuracy(scores, labels(validation)) < majority(labels(validation)) + 0.03


def test_lengths_and_positions_do_not_give_a_score_away() -> None:
    train, validation = rows("stsb", "train"), rows("stsb", "validation")
    scores = predicted([shape(e) for e in train], labels(train), [shape(e) for e in validation])
    assert spearmanr(scores, labels(validation)).statistic < 0.45


@pytest.mark.parametrize("task", PAIRS)
def test_one_text_of_a_pair_does_not_suffice(task: str) -> None:
    train, validation = rows(task, "train"), rows(task, "validation")
    for side in (0, 1):
        scores = predicted(
            [words_of(texts(e)[side]) for e in train],
            labels(train),
            [words_of(texts(e)[side]) for e in validation],
        )
        assert abs(spearmanr(scores, labels(validation)).statistic) < 0.12


def test_sentiment_needs_negation_and_the_last_clause() -> None:
    """The words alone, without their order, stay short of the truth; the last clause read with its negation is it."""
    train, validation = rows("sst2", "train"), rows("sst2", "validation")
    scores = predicted([words_of(e.text) for e in train], labels(train), [words_of(e.text) for e in validation])
    assert 0.55 < accuracy(scores, labels(validation)) < 0.8
    for example in validation:
        clause = re.split(rf"\b(?:{'|'.join(lexicon.CONTRASTS)})\b", example.text)[-1].split()
        polarity = sum(MEANINGS[word].polarity for word in clause if word in MEANINGS)
        negated = bool(set(clause) & set(lexicon.NEGATIONS))
        assert example.label == int((polarity > 0) != negated)


@pytest.mark.parametrize("task, split", [("mrpc", "train"), ("sst2", "test")])
def test_an_unknown_name_is_an_error_that_says_what_there_is(task: str, split: str) -> None:
    with pytest.raises(DataError, match=re.escape("sst2, qqp, stsb" if task == "mrpc" else "train, validation")):
        generate(task, split, 1, 0)


def test_an_example_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Example("a", None, 1).label = 0
