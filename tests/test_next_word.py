"""Next words: a plain loop, the loss of transformers, scores, answers, and what makes no sense."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

import federated_main
from client.app import load_data
from client.data.texts import TextExamples, UnlabelledTexts
from client.data.tokenised import WordSet
from client.training.compact import compact_vocabulary
from client.training.evaluation import evaluate
from client.training.loop import TaskSet
from common.config import Config, load_config
from common.errors import DataError, ModelError
from common.inputs.texts import TextBatch
from common.models.multitask import MultiTaskModel, initialise
from common.models.packed_tokenizer import unpack_tokenizer
from common.orders import ModelArchitecture
from common.parameters.flat import tensors_of
from common.statistics import merge
from common.tasks import TASK_KINDS, TaskDefinition
from simulation.app import simulate
from tests.federations import digest_of, federate, make_model, small_config
from tests.test_decoders import write_decoder
from tests.training_cases import CONFIGS

ALL = ("accuracy", "perplexity", "top3_accuracy")
LM = TaskDefinition("lm", TASK_KINDS["next_word"], (), False, ALL)
ONE = "tasks={lm: {type: next_word, train_samples: 10, val_samples: 6}}"
STILL = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def config_in(folder: Path, *overrides: str) -> Config:
    """Built-in texts as bytes, and a GPT-2 of one layer without dropout."""
    model = write_decoder(folder / "decoder")
    (model / "config.json").write_text(json.dumps(CONFIGS["gpt2"] | STILL))
    settings = (
        f"model.server_model='{model}'",
        "model.max_length=24",
        "training.num_rounds=2",
        "training.batch_size=4",
    )
    return load_config(None, [*settings, ONE, "federation.min_clients=1", *overrides])


def lm_model(kind: str = "gpt2", task: TaskDefinition = LM, **changes: object) -> MultiTaskModel:
    model = MultiTaskModel(ModelArchitecture(json.dumps(CONFIGS[kind] | changes), "siamese", 32, "", 0), [task])
    initialise(model, 5)
    with torch.no_grad():
        for name, value in model.heads.named_parameters():
            if name.endswith("scale"):
                value.copy_(torch.rand(value.shape, generator=torch.Generator().manual_seed(2)) + 0.5)
    return model.eval()


def prepared(config: Config, texts: Sequence[str]) -> WordSet:
    tokenizer = unpack_tokenizer(make_model(config).tokenizer_bytes)
    found = examples(texts).prepare(LM, tokenizer, "siamese", config.model.max_length)
    assert isinstance(found, WordSet)
    return found


def examples(texts: Sequence[str], kind: type[TextExamples] = TextExamples) -> TextExamples:
    from client.data.example import Example

    return kind(Example(text, None, 0) for text in texts)


def test_training_alone_is_a_plain_loop_of_torch(tmp_path: Path) -> None:
    """Full batches: each round is a step of SGD on all texts, whose loss is that of all next tokens."""
    steps = ("training.num_rounds=3", "training.batch_size=64", "training.optimizer=sgd", "training.learning_rate=0.1")
    config = config_in(tmp_path, *steps, "training.max_grad_norm=0", "training.local_epochs=1")
    run = asyncio.run(federate(config, tmp_path / "run", (("a", ("lm",), "1/1"),)))
    start = make_model(config)
    encoder, tokenizer = start.model.encoder, unpack_tokenizer(start.tokenizer_bytes)
    rows = load_data(config, config.definitions())["lm"].train
    assert isinstance(rows, TextExamples)
    ids = [tokenizer(row.text)["input_ids"][:24] for row in rows]
    scale = torch.ones(16, requires_grad=True)
    optimizer = torch.optim.SGD([*encoder.parameters(), scale], 0.1)  # type: ignore[attr-defined]
    for _ in range(3):
        said, true = [], []
        for row in ids:
            hidden = encoder(input_ids=torch.tensor([row])).last_hidden_state[0, :-1]
            said.append(hidden * scale @ encoder.wte.weight.T)  # type: ignore[attr-defined]
            true += row[1:]
        optimizer.zero_grad()
        functional.cross_entropy(torch.cat(said), torch.tensor(true)).backward()
        optimizer.step()
    found = make_model(config)
    found.load_vectors(run.vectors)
    expected = {f"encoder.{name}": value for name, value in encoder.state_dict().items()} | {"heads.lm.scale": scale}
    for name, value in tensors_of(found.model).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)
    assert not torch.equal(scale, torch.ones(16))


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    model, rows = make_model(config).model.eval(), prepared(config, ["a b", "some words more", "x" * 40])
    theirs = GPT2LMHeadModel(GPT2Config(**CONFIGS["gpt2"])).eval()
    theirs.transformer.load_state_dict(model.encoder.state_dict())
    theirs.tie_weights()
    batch = rows.batch(np.arange(3))
    assert batch.labels is not None and rows.lengths.tolist() == [3, 15, 24]
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    with torch.no_grad():
        ours = LM.type.loss(model("lm", batch), batch.labels)
        expected = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_scores_are_those_of_all_next_tokens_by_hand(kind: str, tmp_path: Path) -> None:
    model, rows = lm_model(kind), prepared(config_in(tmp_path), ["a film", "no", "one of the best", "a b"])
    parts = [rows.batch(np.array([place])) for place in range(4)]
    losses, ranks = [], []
    with torch.no_grad():
        for part in parts:
            hidden = model.encoder(input_ids=part.input_ids).last_hidden_state[0, :-1]
            table = model.encoder.get_input_embeddings().weight
            logits = (hidden * model.heads["lm"].scale) @ table.T
            true = part.input_ids[0, 1:]
            losses += functional.cross_entropy(logits, true, reduction="none").tolist()
            ranks += [
                order.tolist().index(word) for order, word in zip(logits.argsort(descending=True), true, strict=True)
            ]
    halves = [rows_of(rows, places) for places in ([0, 1, 2], [3])]
    found = LM.summarise(merge(evaluate(model, LM, half, 2) for half in halves))
    assert len(losses) == 5 + 1 + 14 + 2
    assert found["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    assert found["accuracy"] == np.mean(np.array(ranks) < 1) and found["top3_accuracy"] == np.mean(np.array(ranks) < 3)
    few = TaskDefinition("lm", TASK_KINDS["next_word"], (), False, ("perplexity",))
    assert few.fits(evaluate(model, few, rows, 4)) and not few.fits(evaluate(model, LM, rows, 4))


def rows_of(rows: WordSet, places: Sequence[int]) -> WordSet:
    from client.data.tokenised import TokenisedTexts

    spans = [slice(*rows.texts.offsets[place : place + 2]) for place in places]
    texts = TokenisedTexts(
        np.concatenate([rows.texts.ids[span] for span in spans]),
        np.concatenate([[0], np.cumsum(rows.lengths[list(places)])]),
    )
    asked, labels = (np.concatenate([values[span] for span in spans]) for values in (rows.asked, rows.labels))
    return WordSet(texts, asked, labels, rows.padding_id, True)


def test_of_equal_words_the_first_are_the_likeliest() -> None:
    outputs = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]] * 4)
    assert [int(n) for n in LM.type.hits(outputs, torch.tensor([0, 2, 3, 4]))] == [1, 2]  # type: ignore[attr-defined]


def test_the_whole_table_is_trained(tmp_path: Path) -> None:
    rows = prepared(config_in(tmp_path), ["a b", "some words more"])
    assert compact_vocabulary(lm_model(), (TaskSet(LM, rows, rows),)) is None


@pytest.mark.parametrize(
    "plan", ["adaptive", *(pytest.param(p, marks=pytest.mark.slow) for p in ("hard", "private_heads"))]
)
def test_one_model_over_grpc(tmp_path: Path, plan: str) -> None:
    config = config_in(tmp_path, f"sharing.plan={plan}", "federation.min_clients=2")
    clients = (("a", ("lm",), "1/2"), ("b", ("lm",), "2/2"))
    runs = [asyncio.run(federate(config, tmp_path / how, clients, how)) for how in ("direct", "grpc")]
    assert digest_of(runs[0]) == digest_of(runs[1])
    history = [r for round_ in runs[0].journal.rounds() for o in round_.orders.values() for r in o.results]
    assert all(dict(r.validation.sums).keys() == {"top3"} for r in history if r.validation is not None)


def test_answers_are_the_likeliest_words_after_the_text(tmp_path: Path) -> None:
    config = config_in(tmp_path, f"run.run_dir='{tmp_path / 'run'}'", "simulation.clients=2")
    asyncio.run(simulate(config, False, None))
    (tmp_path / "rows.csv").write_text("text\na fi\n" + "no end " * 9 + "\nb\n")
    words = ["--mode", "predict", "--run_dir", str(tmp_path / "run"), "--task", "lm"]
    given = ["--input", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "out.jsonl")]
    assert federated_main.main([*words, *given]) == 0
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    from server.runs.saved import load_run

    run = load_run(tmp_path / "run").model
    tokenizer = unpack_tokenizer(run.tokenizer_bytes)
    for row in found:
        ids = torch.tensor([tokenizer(row["text"])["input_ids"][-24:]])
        batch = TextBatch(ids, torch.ones_like(ids), positions=torch.tensor([ids.shape[1] - 1]))
        with torch.no_grad():
            shares, best = run.model.eval()("lm", batch)[0].softmax(-1).topk(3)
        assert [row[f"predicted_word_{place}"] for place in (1, 2, 3)] == [tokenizer.decode([i]) for i in best.tolist()]
        assert [row[f"predicted_p_{place}"] for place in (1, 2, 3)] == pytest.approx(shares.tolist(), abs=1e-6)


def test_marks_after_a_text_are_not_asked_for() -> None:
    from common.models.vocabulary import fallback_tokenizer

    rows = examples(["a good film", "so"], UnlabelledTexts).prepare(LM, fallback_tokenizer(), "siamese", 12)
    batch = rows.batch(np.arange(2))
    assert isinstance(batch, TextBatch) and batch.positions is not None
    marked = batch.input_ids.flatten()[batch.positions + 1]
    assert (marked == fallback_tokenizer().sep_token_id).all() and (
        batch.positions // batch.input_ids.shape[1]
    ).tolist() == [0, 1]


def test_a_text_of_one_token_has_no_next_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="task lm: text 2 has one token, so that none comes next; remove it"):
        prepared(config_in(tmp_path), ["a b", "c"])


@pytest.mark.parametrize(
    ("kind", "encoder", "line"),
    [
        ("next_word", "bert", "next_word finds words from those before alone, .* type 'bert' .*; write masked_lm, or"),
        ("masked_lm", "gpt2", "masked_lm reads the words on both sides, .* type 'gpt2' .*; write next_word, or"),
    ],
)
def test_an_encoder_that_reads_otherwise_is_refused(kind: str, encoder: str, line: str, tmp_path: Path) -> None:
    config = small_config(tmp_path, f"tasks.lm.type={kind}", tasks=())
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIGS[encoder] | {"vocab_size": 30_522}))
    with pytest.raises(ModelError, match=rf"^tasks\.lm\.type: {line}"):
        make_model(config)
