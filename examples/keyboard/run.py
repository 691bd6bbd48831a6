"""Keyboards of three groups of people learn the next word; all write in the same way, each group of other things.

The data is generated: `messages` draws sentences from templates that all groups share and words that they do not.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import fedmtl
from examples.runs import figure, markdown, options, report_of, tuned

GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "ward": {
        "thing": ("chart", "drip", "bandage", "scanner"),
        "spot": ("theatre", "pharmacy", "lab", "desk"),
        "person": ("surgeon", "patient", "nurse"),
        "hour": ("seven", "seven", "eight", "noon"),
    },
    "road": {
        "thing": ("parcel", "van", "trailer", "pallet"),
        "spot": ("depot", "gate", "harbour", "garage"),
        "person": ("driver", "customer", "mechanic"),
        "hour": ("five", "five", "six", "noon"),
    },
    "kitchen": {
        "thing": ("soup", "bread", "knife", "menu"),
        "spot": ("oven", "cellar", "counter", "terrace"),
        "person": ("cook", "guest", "waiter"),
        "hour": ("nine", "nine", "ten", "noon"),
    },
}
TEMPLATES = (
    "please bring the {thing} to the {spot}",
    "who has seen the {thing} of the {person}",
    "the {person} is waiting for the {thing}",
    "see you at {hour} near the {spot}",
    "tell the {person} that i am late today",
    "can you call the {person} before {hour}",
    "thank you i am on my way to the {spot}",
    "sorry the {thing} is not in the {spot} any more",
    "we need one more {thing} for the {person}",
    "did the {person} say when he comes back",
    "i will send you the list of today in a minute",
    "do not forget to close the {spot} at {hour}",
    "good morning how was your weekend",
    "ask the {person} where the {thing} should go",
)
HABIT = 0.7
"""How often a thing is named with the spot where it belongs."""
PHONES = 2
OF_GROUPS = {"sharing.plan": "groups", "sharing.groups": {f"{group}s": [group] for group in GROUPS}}
WAYS: dict[str, dict[str, object]] = {
    "each phone alone": {"sharing.plan": "local"},
    "one model": {"sharing.plan": "hard"},
    "top layer by group": OF_GROUPS,
}
"""What is compared: sharing plans."""
RATES = (3e-3, 1e-2)
DECODER = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16}
SPECIAL = ("[PAD]", "[UNK]", "[END]")
METRICS = ("accuracy", "top3_accuracy")
TASKS = {group: fedmtl.next_word(metrics=[*METRICS]) for group in GROUPS}


def messages(rng: np.random.Generator, count: int, group: str) -> list[str]:
    """Sentences of a person of a group."""
    words = GROUPS[group]
    found = []
    for _ in range(count):
        thing, person, hour = (rng.integers(len(words[name])) for name in ("thing", "person", "hour"))
        spot = thing if rng.random() < HABIT else rng.integers(len(words["spot"]))
        chosen = {"thing": thing, "person": person, "hour": hour, "spot": spot}
        template = TEMPLATES[rng.integers(len(TEMPLATES))]
        found.append(template.format(**{name: words[name][place] for name, place in chosen.items()}))
    return found


def write_decoder(folder: Path) -> Path:
    """A folder with a small GPT-2 without weights, and a tokenizer that knows the words of all groups."""
    texts = " ".join(TEMPLATES).replace("{", " ").replace("}", " ").split()
    own = [word for words in GROUPS.values() for many in words.values() for word in many]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*SPECIAL, *texts, *own]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]"
    )
    tokenizer.save_pretrained(str(folder))
    ids = {"vocab_size": len(vocabulary), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(DECODER | ids))
    return folder


def phones(seed: int, count: int) -> dict[str, dict[str, Sequence[Any]]]:
    """Sentences of every phone: to learn from, and 60 others to score on."""
    sites: dict[str, dict[str, Sequence[Any]]] = {}
    for number, group in enumerate(GROUPS):
        for phone in range(PHONES):
            rng = np.random.Generator(np.random.PCG64([seed, number, phone]))
            train, scored = messages(rng, count, group), messages(rng, 60, group)
            sites[f"{group}-{phone + 1}"] = {group: (train, train, scored, scored)}
    return sites


def scores(way: str, count: int, rounds: int, rate: float, seed: int) -> np.ndarray:
    """Accuracy and top-3 accuracy of the last model's next words, over all phones of each group: (groups, 2)."""
    settings = {
        **{"training.learning_rate": rate, "training.num_rounds": rounds, "model.weights": "random"},
        **{"training.local_epochs": 4, "training.batch_size": 8, "model.max_length": 16, "run.seed": 1, **WAYS[way]},
    }
    with tempfile.TemporaryDirectory() as folder:
        tasks = report_of(TASKS, phones(seed, count), str(write_decoder(Path(folder))), settings).tasks
    return np.array([[tasks[group].metrics[metric] for metric in METRICS] for group in GROUPS], dtype=np.float64)


def compared(count: int, rounds: int, seeds: int) -> dict[str, tuple[float, np.ndarray]]:
    """The rate that served each way best on other sentences, and its scores, (seeds, groups, 2)."""
    return {
        way: tuned(lambda rate, seed, way=way: scores(way, count, rounds, rate, seed), RATES, seeds)  # type: ignore[misc]
        for way in WAYS
    }


def table(found: Mapping[str, tuple[float, np.ndarray]]) -> str:
    """Means over the seeds as Markdown."""
    rows = []
    for way, (rate, values) in found.items():
        means = [*values.mean(axis=(0, 1)), *values[..., 1].mean(axis=0)]
        rows.append((way, [f"{rate:g}", *(f"{mean:.3f}" for mean in means)]))
    return markdown(["", "rate", "next word right", "among the first three", *GROUPS], rows)


def draw(found: Mapping[str, tuple[float, np.ndarray]], path: str) -> None:
    """How often the next word is among the first three, by group and way; a dot for every seed."""
    drawn = figure(7, 3.2)
    axes = drawn.subplots()
    for number, (way, (_, values)) in enumerate(found.items()):
        places = np.arange(len(GROUPS)) + 0.27 * (number - 1)
        axes.bar(places, values[..., 1].mean(axis=0), 0.25, label=way)
        axes.plot(np.tile(places, len(values)), values[..., 1].ravel(), "k.", markersize=4)
    axes.set_xticks(np.arange(len(GROUPS)), [*GROUPS])
    axes.set_ylim(0, 1)
    axes.set_ylabel("next word among the first three")
    axes.legend(fontsize="small", loc="lower right")
    drawn.savefig(path, dpi=150)


def main() -> None:
    """Print the table."""
    args = options(__doc__, "messages", 16, rounds=6, seeds=2).parse_args()
    found = compared(args.rows, args.rounds, args.seeds)
    print(table(found))
    if args.picture:
        draw(found, args.picture)


if __name__ == "__main__":
    main()
