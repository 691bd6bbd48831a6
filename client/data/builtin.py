"""Generated data for the three demo tasks: sentiment, paraphrase and similarity over one small language.

All three are answered from the same knowledge, which words share a meaning and which share a polarity, so
what an encoder learns for one task serves the others. Nothing but the words helps: wherever the label picks
between two words, both have the same length, and how much two questions overlap is settled before their label.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar, get_args

from client.data.example import Example
from common import lexicon
from common.errors import DataError
from common.seeds import derive_seed

GeneratedSplit = Literal["train", "validation"]
Item = TypeVar("Item")

DUPLICATES = 0.37  # as in the real qqp
IDENTICAL = 0.15  # low, so that counting common words says little about a score
VALIDATION_SHARE = 4  # one text in so many

KINDS: dict[str, tuple[lexicon.Group, ...]] = {
    "people": lexicon.PEOPLE,
    "verb": lexicon.LIKING + lexicon.DISLIKING + lexicon.ACTIONS,
    "topic": lexicon.TOPICS,
    "quality": lexicon.POSITIVE_QUALITIES + lexicon.NEGATIVE_QUALITIES,
}
QUESTIONS: tuple[str, ...] = (
    "how do {people} {verb} the {topic}",
    "why will {people} {verb} the {topic}",
    "what makes the {topic} so {quality}",
    "where can {people} find the {quality} {topic}",
    "which {people} know the {quality} {topic}",
)
STATEMENTS: tuple[str, ...] = (
    "the {people} {verb} the {topic}",
    "the {topic} was {quality}",
    "the {people} saw the {quality} {topic}",
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a word stands for; two words of one kind and group are synonyms."""

    kind: str
    group: lexicon.Group
    polarity: int


def _polarity(group: lexicon.Group) -> int:
    positive = lexicon.POSITIVE_QUALITIES + lexicon.LIKING
    negative = lexicon.NEGATIVE_QUALITIES + lexicon.DISLIKING
    return (group in positive) - (group in negative)


MEANINGS: dict[str, Meaning] = {
    word: Meaning(kind, group, _polarity(group)) for kind, groups in KINDS.items() for group in groups for word in group
}


def generate(task: str, split: GeneratedSplit, count: int, seed: int) -> list[Example]:
    """The first `count` rows of an endless split; a row depends on the task, split, seed and its index alone.

    Raises:
        DataError: The task or the split is not one of the built-in ones.
    """
    if task not in TASKS:
        raise DataError(f"task {task!r} has no built-in data; choose one of {', '.join(TASKS)}")
    if split not in get_args(GeneratedSplit):
        raise DataError(f"split {split!r} is not one of {', '.join(get_args(GeneratedSplit))}")
    return [_row(task, split, random.Random(derive_seed(seed, task, split, row))) for row in range(count)]


def _row(task: str, split: GeneratedSplit, rng: random.Random) -> Example:
    # A text's own checksum says which split it belongs to, so no seed ever puts one text into both.
    while True:
        example = TASKS[task](rng)
        texts = sorted((example.text, example.text_pair or ""))
        validation = zlib.crc32("\n".join(texts).encode()) % VALIDATION_SHARE == 0
        if validation == (split == "validation"):
            return example


def _sentiment(rng: random.Random) -> Example:
    """The last clause decides; a negation turns its clause round."""
    label = int(_chance(rng, 0.5))
    text = _clause(rng, positive=bool(label))
    if _chance(rng, 0.3):
        text = f"{_clause(rng, positive=not label)} {_pick(rng, lexicon.CONTRASTS)} {text}"
    return Example(text, None, label)


def _clause(rng: random.Random, *, positive: bool) -> str:
    negated = _chance(rng, 0.25)
    polarity = 1 if positive != negated else -1
    adverb = _pick(rng, lexicon.NEGATIONS if negated else lexicon.INTENSIFIERS)
    topic = _word(rng, "topic")
    if _chance(rng, 0.5):
        return f"the {topic} was {adverb} {_word(rng, 'quality', polarity)}"
    return f"the {_word(rng, 'people')} do {adverb} {_word(rng, 'verb', polarity)} the {topic}"


def _paraphrase(rng: random.Random) -> Example:
    """Changed words are synonyms in a duplicate and mean something else otherwise; at most one word is kept."""
    question = _pick(rng, QUESTIONS)
    slots = _slots(question)
    kept = _choose(rng, slots, int(_chance(rng, 0.5)))
    duplicate = _chance(rng, DUPLICATES)
    first = {slot: _word(rng, slot) for slot in slots}
    second = {slot: word if slot in kept else _other(rng, word, duplicate) for slot, word in first.items()}
    return Example(question.format(**first), question.format(**second), int(duplicate))


def _similarity(rng: random.Random) -> Example:
    """The score is the mean likeness of the slots; a shared meaning is seldom a shared word."""
    statement = _pick(rng, STATEMENTS)
    slots = _slots(statement)
    alike = _choose(rng, slots, int(rng.random() * (len(slots) + 1)))
    first = {slot: _word(rng, slot) for slot in slots}
    second = {
        slot: word if slot in alike and _chance(rng, IDENTICAL) else _other(rng, word, slot in alike)
        for slot, word in first.items()
    }
    score = 5 * sum(likeness(first[slot], second[slot]) for slot in slots) / len(slots)
    return Example(statement.format(**first), statement.format(**second), score)


TASKS: dict[str, Callable[[random.Random], Example]] = {
    "sst2": _sentiment,
    "qqp": _paraphrase,
    "stsb": _similarity,
}


def likeness(one: str, other: str) -> float:
    """1 for words of one synonym group, a half if they only share a polarity, else 0."""
    left, right = MEANINGS[one], MEANINGS[other]
    if left.group == right.group:
        return 1.0
    return 0.5 if left.polarity == right.polarity != 0 else 0.0


def _other(rng: random.Random, word: str, alike: bool) -> str:
    """A synonym of `word`, or unless `alike` a word of another meaning that is as long as that synonym."""
    synonym = _pick(rng, [each for each in MEANINGS[word].group if each != word])
    return synonym if alike else _pick(rng, _decoys(word, len(synonym)))


@cache
def _decoys(word: str, length: int) -> tuple[str, ...]:
    own = MEANINGS[word]
    groups = (group for group in KINDS[own.kind] if group != own.group)
    return tuple(each for group in groups for each in group if len(each) == length)


@cache
def _slots(template: str) -> tuple[str, ...]:
    return tuple(kind for kind in KINDS if f"{{{kind}}}" in template)


@cache
def _words(kind: str, polarity: int | None) -> tuple[str, ...]:
    return tuple(
        word for word, meaning in MEANINGS.items() if meaning.kind == kind and polarity in (None, meaning.polarity)
    )


def _word(rng: random.Random, kind: str, polarity: int | None = None) -> str:
    return _pick(rng, _words(kind, polarity))


# Only `random()` is promised to give the same numbers under every Python version.
def _chance(rng: random.Random, probability: float) -> bool:
    return rng.random() < probability


def _pick(rng: random.Random, items: Sequence[Item]) -> Item:
    return items[int(rng.random() * len(items))]


def _choose(rng: random.Random, items: Sequence[Item], count: int) -> list[Item]:
    left = list(items)
    return [left.pop(int(rng.random() * len(left))) for _ in range(count)]
