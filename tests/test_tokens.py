"""A label per word: which token stands for a word, a plain loop, entities counted twice, formats, answers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import federated_main
from client.data.example import Example
from client.data.request import DataRequest
from client.data.sources import load
from client.data.texts import TextExamples
from client.data.tokenised import WordSet
from client.training.compact import compact_vocabulary
from client.training.evaluation import evaluate
from client.training.loop import TaskSet
from common.class_weights import balanced_classes
from common.config import Config, load_config
from common.errors import ConfigError, DataError, Refused
from common.models.packed_tokenizer import unpack_tokenizer
from common.models.vocabulary import fallback_tokenizer
from common.parameters.flat import tensors_of
from common.statistics import merge
from common.targets import TargetSums, TargetUnits
from common.tasks import TASK_KINDS, TaskDefinition
from common.tasks.tokens import spans
from server.core.admission import check_join
from server.core.events import Joined
from server.runs.saved import load_run
from simulation.app import simulate
from tests.core_cases import Table, rules
from tests.federations import digest_of, federate, make_client, make_model, write_model

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ALL = ("entity_f1", "f1", "accuracy")
NER = TaskDefinition("ner", TASK_KINDS["tokens"], BIO, False, ALL)
NAMES, PLACES = ("Ada", "Mary Jane", "Bo"), ("Rome", "New York", "Oslo")


def sentences(rows: int, seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """Words and labels of generated sentences: NAME went to PLACE."""
    rng = np.random.Generator(np.random.PCG64(seed))
    words, labels = [], []
    for _ in range(rows):
        found: list[tuple[str, str]] = []
        for many, kind in ((NAMES, "PER"), (PLACES, "LOC")):
            names = many[rng.integers(3)].split()
            found += [(name, f"{'I' if place else 'B'}-{kind}") for place, name in enumerate(names)]
            found += [(word, "O") for word in (["went", "to"] if kind == "PER" else ["."])]
        words.append([word for word, _ in found])
        labels.append([label for _, label in found])
    return words, labels


def config_in(folder: Path, *overrides: str) -> Config:
    """Files of sentences as JSON lines, and a BERT of one layer without dropout."""
    data = folder / "data" / "ner"
    data.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", 24), ("validation", 12)):
        pairs = zip(*sentences(rows, rows), strict=True)
        lines = [json.dumps({"tokens": words, "ner_tags": labels}) for words, labels in pairs]
        (data / f"{split}.jsonl").write_text("\n".join(lines))
    task = "tasks={ner: {type: tokens, labels: [O, B-PER, I-PER, B-LOC, I-LOC]}}"
    model = f"model.server_model='{write_model(folder / 'model', dropout=0.0)}'"
    settings = ("model.max_length=16", "training.num_rounds=2", "training.batch_size=8", "federation.min_clients=1")
    return load_config(None, [model, f"data.dir='{folder / 'data'}'", task, *settings, *overrides])


def prepared(words: Sequence[Sequence[str]], labels: Sequence[Sequence[str]], longest: int = 16) -> WordSet:
    rows = [
        Example(" ".join(row), None, tuple(map(BIO.index, names))) for row, names in zip(words, labels, strict=True)
    ]
    found = TextExamples(rows).prepare(NER, fallback_tokenizer(), "siamese", longest)
    assert isinstance(found, WordSet)
    return found


# ---- which token ----


def test_the_first_token_of_each_word_has_its_label(caplog: pytest.LogCaptureFixture) -> None:
    words = [["Xqzvbrandishingly", "went", "to", "Oslo!"], ["Bo"], ["a"] * 20]
    labels = [["B-PER", "O", "O", "B-LOC"], ["B-PER"], ["O"] * 20]
    tokenizer = fallback_tokenizer()
    with caplog.at_level(logging.WARNING, "fedmtl.client"):
        rows = prepared(words, labels)
    batch = rows.batch(np.array([1, 0, 2]))
    pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words[0]]
    assert len(pieces[0]) > 1 < len(pieces[3])
    assert batch.positions is not None and batch.labels is not None
    places, classes = divmod(batch.positions.numpy(), batch.input_ids.shape[1]), batch.labels.numpy()
    firsts = np.cumsum([1, *map(len, pieces[:-1])]).tolist()
    assert places[0].tolist() == classes[:, 1].tolist() == [0, 1, 1, 1, 1, *[2] * 14]
    assert places[1].tolist() == [1, *firsts, *range(1, 15)]
    assert classes[:, 0].tolist() == [1, 1, 0, 0, 3, *[0] * 14]
    assert [word.sum() for word in rows.heard] == [4, 1, 14]
    said = "6 of 25 words have no token among the 16 of a row that the model reads; they have no label, and count in no"
    assert said in caplog.text


def test_a_text_without_any_token_is_refused() -> None:
    with pytest.raises(DataError, match="task ner: of text 2 no word has a token; remove it"):
        prepared([["a"], ["\u200b"]], [["O"], ["O"]])


def test_only_embeddings_of_own_words_are_trained(tmp_path: Path) -> None:
    rows = prepared(*sentences(8, 1))
    table = compact_vocabulary(make_model(config_in(tmp_path)).model, (TaskSet(NER, rows, rows),))
    assert table is not None and len(table) < 40
    small = table.renumbered(TaskSet(NER, rows, rows)).train
    assert torch.equal(small.batch(np.arange(8)).labels, rows.batch(np.arange(8)).labels)


# ---- training and scores ----


@pytest.mark.parametrize("weights", [pytest.param("none", marks=pytest.mark.slow), "balanced"])
def test_training_alone_is_a_plain_loop_of_torch(tmp_path: Path, weights: str) -> None:
    """Full batches: each round is a step of SGD on all rows; the loss is the mean over words, times label weights."""
    steps = ("training.num_rounds=3", "training.batch_size=64", "training.optimizer=sgd", "training.learning_rate=0.1")
    steps += (f"tasks.ner.class_weights={weights}",)
    config = config_in(tmp_path, *steps, "training.max_grad_norm=0", "training.local_epochs=1")
    run = asyncio.run(federate(config, tmp_path / "run", (("a", ("ner",), "1/1"),)))
    start = make_model(config)
    encoder, tokenizer, linear = start.model.encoder, unpack_tokenizer(start.tokenizer_bytes), start.model.heads["ner"]
    assert isinstance(encoder, torch.nn.Module)
    weight, bias = (value.detach().clone().requires_grad_() for value in linear.parameters())
    optimizer = torch.optim.SGD([*encoder.parameters(), weight, bias], 0.1)
    for _ in range(3):
        said, true = [], []
        for words, labels in zip(*sentences(24, 24), strict=True):
            ids, firsts = [tokenizer.cls_token_id], []
            for word in words:
                firsts.append(len(ids))
                ids += tokenizer(word, add_special_tokens=False)["input_ids"]
            hidden = encoder(input_ids=torch.tensor([[*ids, tokenizer.sep_token_id]])).last_hidden_state[0]
            said.append(hidden[firsts] @ weight.T + bias)
            true += map(BIO.index, labels)
        optimizer.zero_grad()
        counts = np.bincount(true, minlength=5)
        by_label = balanced_classes(counts.tolist(), len(true)) if weights == "balanced" else (1.0,) * 5
        losses = functional.cross_entropy(torch.cat(said), torch.tensor(true), reduction="none")
        (losses * torch.tensor(by_label)[true]).mean().backward()
        optimizer.step()
    found = make_model(config)
    found.load_vectors(run.vectors)
    expected = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    expected |= {"heads.ner.linear.weight": weight, "heads.ner.linear.bias": bias}
    for name, value in tensors_of(found.model).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)


def test_a_word_of_weight_three_counts_as_three_words() -> None:
    outputs = torch.tensor([[0.3, -0.2, 0, 0, 1], [1.0, 0.5, 0, 2, 0]])
    targets, units = torch.tensor([[0, 0], [3, 0]]), TargetUnits(weights=(1.0, 1.0, 1.0, 3.0, 1.0))
    thrice = NER.type.loss(outputs[[0, 1, 1, 1]], targets[[0, 1, 1, 1]], "sum").item()
    assert NER.type.loss(outputs, targets, "sum", units).item() == pytest.approx(thrice, rel=1e-6)
    scored = NER.type.score(NER, [(outputs, targets)], np.arange(1), units)
    assert scored.loss_sum == pytest.approx(thrice, rel=1e-6)


def test_labels_are_balanced_by_the_words_of_all_clients(tmp_path: Path) -> None:
    """Two clients with 24 texts; of theirs, every word counts: n / (5 n_c), to 1/16."""
    config = config_in(tmp_path, "tasks.ner.class_weights=balanced")
    requests = [make_client(config, name, ("ner",), part).request for name, part in (("a", "1/2"), ("b", "2/2"))]
    table = Table(rules(tasks=requests[0].tasks, schemas={}, min_clients=2))
    for request in requests:
        check_join(table.settings, table.state, request)
        table.apply(Joined(table.now, request, f"token-{request.client_id}"))
    counts = np.bincount([BIO.index(label) for row in sentences(24, 24)[1] for label in row], minlength=5)
    assert sum(np.array(request.targets[0][1].counts) for request in requests).tolist() == counts.tolist()
    found = np.array(table.state.units["ner"].weights)
    assert np.abs(found / (counts.sum() / (5 * np.maximum(counts, 5))) - 1).max() <= 1 / 16
    few = replace(requests[0], client_id="c", targets=(("ner", TargetSums(counts=(1, 0, 0, 0, 0))),))
    with pytest.raises(Refused, match="counts of labels are not those of 12 training rows"):
        check_join(table.settings, table.state, few)


def test_a_rare_label_of_words_is_told() -> None:
    said = replace(NER, metrics=("accuracy",)).rare_label((96, 40, 30, 30, 4), 20)
    assert said is not None and said.startswith("'I-LOC' is the label of 2.0% of the training words, and a model")


@pytest.mark.parametrize(
    "plan", ["adaptive", *(pytest.param(p, marks=pytest.mark.slow) for p in ("hard", "private_heads"))]
)
def test_one_model_over_grpc(tmp_path: Path, plan: str) -> None:
    config = config_in(tmp_path, f"sharing.plan={plan}", "federation.min_clients=2")
    clients = (("a", ("ner",), "1/2"), ("b", ("ner",), "2/2"))
    runs = [asyncio.run(federate(config, tmp_path / how, clients, how)) for how in ("direct", "grpc")]
    assert digest_of(runs[0]) == digest_of(runs[1])


def entities_by_states(labels: Sequence[str]) -> set[tuple[int, int, str]]:
    """Entities of one text, found by asking at each word whether one ends before it and whether one begins."""
    found, start = set(), None
    for place, label in enumerate([*labels, "O"]):
        last = labels[place - 1] if place else "O"
        same = label[2:] == last[2:]
        if last != "O" and (label == "O" or label[0] == "B" or not same):
            found.add((start, place, last[2:]))
        if label != "O" and (last == "O" or label[0] == "B" or not same):
            start = place
    return found


def test_scores_are_those_of_another_implementation(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.Generator(np.random.PCG64(7))
    counts, true, said, parts = [0, 0, 0], [], [], []
    for lengths in rng.integers(1, 9, size=(5, 40)):
        rows = np.repeat(np.arange(40), lengths)
        y = rng.integers(5, size=len(rows))
        p = np.where(rng.random(len(rows)) < 0.6, y, rng.integers(5, size=len(rows)))
        outputs = torch.from_numpy(np.eye(5)[p] * 3)
        targets = torch.from_numpy(np.stack([y, rows], axis=1))
        halves = [(outputs[at], targets[at]) for at in (rows < 11, rows >= 11)]
        parts.append(NER.type.score(NER, halves, np.arange(len(rows))))
        for row in range(40):
            here, there = ([BIO[k] for k in found[rows == row]] for found in (y, p))
            a, b = entities_by_states(here), entities_by_states(there)
            counts = [n + len(each) for n, each in zip(counts, (a, b, a & b), strict=True)]
        true += y.tolist()
        said += p.tolist()
    total = merge(parts)
    assert NER.fits(total) and dict(total.sums)["entities"] == tuple(counts)
    found = NER.summarise(total)
    assert found["entity_f1"] == pytest.approx(2 * counts[2] / (counts[0] + counts[1]))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, said))
    assert found["f1"] == pytest.approx(metrics.f1_score(true, said, average="macro"))
    logits = torch.from_numpy(np.eye(5)[said] * 3)
    assert found["loss"] == pytest.approx(functional.cross_entropy(logits, torch.tensor(true)).item())


def test_entities_by_hand() -> None:
    """O I-PER | I-PER B-PER I-LOC: an I- after O, of another text or of another type begins an entity."""
    assert spans(BIO, [0, 2, 2, 1, 4], [0, 0, 1, 1, 1]).tolist() == [[1, 1, 1], [2, 2, 1], [3, 3, 1], [4, 4, 2]]
    assert spans(BIO, [1, 2, 2, 0, 3, 4], [0] * 6).tolist() == [[0, 2, 1], [4, 5, 2]]


@pytest.mark.parametrize("values", [(1.0, 1.0, 2.0), (1.5, 2.0, 1.0), (99.0, 1.0, 1.0), (1.0, 1.0, -1.0), (1.0, 1.0)])
def test_entities_that_no_words_have_do_not_fit(values: tuple[float, ...]) -> None:
    batch = torch.eye(5)[[1, 0]], torch.tensor([[1, 0], [3, 0]])
    found = NER.type.score(NER, [batch], np.arange(2))
    assert NER.fits(found) and not NER.fits(replace(found, sums=(("entities", values),)))


def test_labels_that_are_no_entities_have_no_entity_score() -> None:
    kind = TASK_KINDS["tokens"]
    assert kind.default_metrics(("noun", "verb")) == ("f1", "accuracy") and kind.default_metrics(BIO) == ALL
    with pytest.raises(ConfigError, match=r"tasks\.pos\.metrics: 'entity_f1' is not a metric of this tokens"):
        load_config(None, ["tasks.pos={type: tokens, labels: [noun, verb], metrics: [entity_f1]}", "data.dir=x"])


# ---- rows ----


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "saved"])
def test_rows_of_every_format_are_the_same(form: str, tmp_path: Path) -> None:
    words, labels = [["Ada", "left"], ["New", "York", "."]], [["B-PER", "O"], ["B-LOC", "I-LOC", "O"]]
    folder = tmp_path / "ner"
    folder.mkdir()
    if form == "jsonl":
        rows = (json.dumps({"words": w, "labels": y}) for w, y in zip(words, labels, strict=True))
        (folder / "train.jsonl").write_text("\n".join(rows))
    elif form == "csv":
        rows = (f"{' '.join(w)},{' '.join(y)}" for w, y in zip(words, labels, strict=True))
        (folder / "train.csv").write_text("\n".join(["text,tags", *rows]))
    elif form == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"tokens": words, "tags": labels}), folder / "train.parquet")
    else:
        datasets = pytest.importorskip("datasets")
        numbers = [[BIO.index(name) for name in row] for row in labels]
        features = datasets.Features(
            {
                "tokens": datasets.Sequence(datasets.Value("string")),
                "ner_tags": datasets.Sequence(datasets.ClassLabel(names=[*BIO])),
            }
        )
        made = datasets.Dataset.from_dict({"tokens": words, "ner_tags": numbers}, features=features)
        made.save_to_disk(str(folder / "train"))
    found = load(DataRequest(NER, "files", tmp_path, val_samples=0)).train
    assert sorted((row.text, row.label) for row in found) == [("Ada left", (1, 0)), ("New York .", (3, 4, 0))]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "column 'tags': 2 words and 1 labels; give one label for each word"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "column 'tokens': word 2 is no text, empty or holds a space"),
        ({"tokens": ["a", 5], "tags": ["O", "O"]}, "column 'tokens': word 2 is no text, empty or holds a space"),
        ({"tokens": [], "tags": []}, "column 'tokens': the text is empty; fill it in or remove the row"),
        ({"tokens": 7, "tags": ["O"]}, "column 'tokens': words are of type int; give a list of words"),
        ({"tokens": ["a"], "tags": 3}, "column 'tags': labels are missing; give a list with a label for each word"),
        ({"tokens": ["a"], "tags": ["B-X"]}, "column 'tags': unknown label 'B-X'"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row: dict[str, Any], line: str, tmp_path: Path) -> None:
    (tmp_path / "ner").mkdir()
    (tmp_path / "ner" / "train.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=f"train.jsonl, row 1, {line}"):
        load(DataRequest(NER, "files", tmp_path, val_samples=0))


def test_a_second_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tasks\.ner\.columns\.text_pair: a tokens reads one text; remove it"):
        load_config(None, ["tasks.ner={type: tokens, labels: [a, b], columns: {text: t, text_pair: u}}", "data.dir=x"])


# ---- answers ----


def test_a_run_learns_names_and_answers_with_a_label_per_word(tmp_path: Path) -> None:
    rounds = ("training.num_rounds=2", "training.local_epochs=12", "training.learning_rate=0.02", "client.threads=1")
    config = config_in(tmp_path, *rounds, f"run.run_dir='{tmp_path / 'run'}'", "simulation.clients=2")
    asyncio.run(simulate(config, False, None))
    words, labels = sentences(9, 3)
    words.append(["went"] * 15)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"tokens": row}) for row in words))
    given = ["--input", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert federated_main.main(["--mode", "predict", "--run_dir", str(tmp_path / "run"), "--task", "ner", *given]) == 0
    found = [json.loads(line)["predicted_labels"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [*map(len, found)] == [*map(len, words)]
    assert found[-1][-1] is None and None not in found[-1][:-1]
    hits = [a == b for row, names in zip(found, labels, strict=False) for a, b in zip(row, names, strict=True)]
    assert np.mean(hits) > 0.9
    model = load_run(tmp_path / "run").model.model
    scored = evaluate(model, NER, prepared(words[:9], labels), 4)
    assert scored.right == sum(hits) and scored.examples == len(hits)
