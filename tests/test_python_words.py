"""Tasks over words from Python: lists of words with their labels, texts alone, and what a run says of others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fedmtl
from fedmtl import FedMTLError
from tests.federations import write_model
from tests.test_decoders import write_decoder
from tests.test_tokens import BIO, sentences
from tests.training_cases import CONFIGS

FEW = {"model.max_length": 16, "training.batch_size": 8, "client.threads": 1}


def test_lists_of_words_and_labels_are_learned(tmp_path: Path) -> None:
    settings = FEW | {"training.num_rounds": 2, "training.local_epochs": 12, "training.learning_rate": 0.02}
    sites = {f"site-{seed}": {"ner": sentences(24, seed)} for seed in (1, 2)}
    encoder = str(write_model(tmp_path / "model", dropout=0.0))
    run = fedmtl.simulate({"ner": fedmtl.tokens(BIO)}, sites, encoder, settings, tmp_path / "run")
    assert run.report.tasks["ner"].metrics["entity_f1"] > 0.9
    assert run.predict("ner", [["Ada", "went", "to", "New", "York", "."]]) == [
        ["B-PER", "O", "O", "B-LOC", "I-LOC", "O"]
    ]
    with pytest.raises(FedMTLError, match="rows to predict, task ner, row 1: words are of type int; give a list"):
        run.predict("ner", [3])


def test_texts_alone_are_enough_for_next_words(tmp_path: Path) -> None:
    encoder = write_decoder(tmp_path / "decoder")
    (encoder / "config.json").write_text(json.dumps(CONFIGS["gpt2"] | {"n_embd": 32}))
    settings = FEW | {"training.num_rounds": 1, "training.local_epochs": 20, "training.learning_rate": 0.02}
    texts = ["abcabcabcabc"] * 16
    run = fedmtl.simulate({"lm": fedmtl.next_word()}, {"a": {"lm": (texts, texts)}}, str(encoder), settings)
    assert run.report.tasks["lm"].metrics["accuracy"] > 0.9
    assert run.predict("lm", ["abcab", "abc"]) == ["c", "a"]


def test_as_many_labels_as_words() -> None:
    rows = [["a", "b"], ["c"]]
    with pytest.raises(FedMTLError, match="site a, task ner, row 2: 1 words and 2 labels; give one label for each"):
        fedmtl.simulate({"ner": fedmtl.tokens(BIO)}, {"a": {"ner": (rows, [["O", "O"], ["O", "O"]])}}, "bert-tiny")
