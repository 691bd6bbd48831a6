"""Masked language modelling: masks, the tied head by hand, scores, and a federation that it helps."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from client.data.masking import Vocabulary, draw_masks
from client.data.request import DataRequest
from client.data.sources import load
from client.data.tokenised import MaskedSet, TokenisedTexts
from client.training.compact import compact_vocabulary
from client.training.evaluation import evaluate
from client.training.loop import TaskSet, epoch_steps, train
from common.config import load_config
from common.errors import ConfigError
from common.models.multitask import MultiTaskModel, initialise
from common.orders import ModelArchitecture
from common.tasks import TASK_KINDS, TaskDefinition
from tests.federations import digest_of, federate, small_config
from tests.training_cases import CONFIGS, SETTINGS, make_sets, no_progress, values_of
from tests.training_cases import make_model as small_model

LM = TaskDefinition("lm", TASK_KINDS["masked_lm"], (), False, ("masked_accuracy", "perplexity"))
WORDS = Vocabulary(300, 4, (0, 2, 3, 4))


def texts(rows: int, length: int) -> TokenisedTexts:
    """[CLS] words [SEP]"""
    rng = np.random.Generator(np.random.PCG64(1))
    ids = rng.integers(5, 300, size=(rows, length), dtype=np.int32)
    ids[:, 0], ids[:, -1] = 2, 3
    return TokenisedTexts(ids.ravel(), np.arange(rows + 1) * length)


def masked(rows: int = 20, length: int = 12) -> MaskedSet:
    found = texts(rows, length)
    return MaskedSet(found, 0, WORDS, draw_masks(found.ids, found.offsets, WORDS, 3))


def lm_model(kind: str = "bert") -> MultiTaskModel:
    import json

    model = MultiTaskModel(ModelArchitecture(json.dumps(CONFIGS[kind]), "siamese", 32, "", 0), [LM])
    initialise(model, 5)
    return model


def test_shares_of_masks() -> None:
    """15 % of the words; of these 80 % are hidden, 10 % another word, 10 % as they were, within four deviations."""
    given = texts(1000, 102)
    found = draw_masks(given.ids, given.offsets, WORDS, 7)
    words = given.ids > 4
    assert not (found.chosen & ~words).any() and np.array_equal(found.shown[~found.chosen], given.ids[~found.chosen])
    assert found.chosen.sum() / words.sum() == pytest.approx(0.15, abs=0.005)
    hidden, same = (found.shown == 4)[found.chosen].mean(), (found.shown == given.ids)[found.chosen].mean()
    assert hidden == pytest.approx(0.8, abs=0.013) and same == pytest.approx(0.1, abs=0.01)
    again, other = (draw_masks(given.ids, given.offsets, WORDS, seed) for seed in (7, 8))
    assert np.array_equal(again.shown, found.shown) and not np.array_equal(other.chosen, found.chosen)


def test_every_row_has_a_mask() -> None:
    given = TokenisedTexts(np.array([2, 9, 3, 2, 3, 2, 8, 7, 3], np.int32), np.array([0, 3, 5, 9]))
    for seed in range(20):
        chosen = draw_masks(given.ids, given.offsets, WORDS, seed).chosen
        assert chosen[1] and not chosen[[0, 2, 5, 8]].any() and chosen[3:5].sum() == 1 and chosen[6:8].any()


@pytest.mark.parametrize("kind", ["bert", "albert", "distilbert"])
def test_the_head_reads_hidden_words_with_the_table(kind: str) -> None:
    model, rows = lm_model(kind), masked()
    batch = rows.batch(np.array([3, 1]))
    assert batch.positions is not None and batch.labels is not None
    flat = rows.texts.ids.reshape(20, 12)[[3, 1]].ravel()
    assert batch.labels.tolist() == flat[rows.masks.chosen.reshape(20, 12)[[3, 1]].ravel()].tolist()
    model.eval()
    with torch.no_grad():
        outputs = model("lm", batch)
        hidden = model.encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        head, table = model.heads["lm"], model.encoder.get_input_embeddings().weight
        vectors = head.norm(functional.gelu(head.transform(hidden.reshape(-1, hidden.shape[-1])[batch.positions])))
    torch.testing.assert_close(outputs, vectors @ table.T + head.bias)
    assert [name for name, _ in head.named_parameters()] == ["bias", "transform.weight", *("transform.bias",), *NORM]


NORM = ("norm.weight", "norm.bias")


def test_scores_are_sums_over_hidden_words() -> None:
    model, rows = lm_model(), masked()
    with torch.no_grad():
        model.heads["lm"].bias[7] = 50.0  # always this word
    found = evaluate(model, LM, rows, 3)
    sevens = int((rows.texts.ids[rows.masks.chosen] == 7).sum())
    assert (found.examples, found.right) == (rows.masks.chosen.sum(), sevens)
    assert LM.fits(found) and evaluate(model, LM, rows, 20).loss_sum == pytest.approx(found.loss_sum)
    scores = LM.summarise(evaluate(lm_model(), LM, rows, 8))
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"] or 0)) and 200 < scores["perplexity"] < 450


def test_training_draws_masks_anew_in_every_epoch_and_learns() -> None:
    item = TaskSet(LM, masked(), masked())
    first, again, second = (epoch_steps([item], 4, 1, epoch)[0][0][0].train for epoch in (0, 0, 1))
    assert isinstance(first, MaskedSet) and isinstance(again, MaskedSet) and isinstance(second, MaskedSet)
    assert np.array_equal(first.masks.chosen, again.masks.chosen)
    assert not np.array_equal(first.masks.chosen, second.masks.chosen)
    model = lm_model()
    start = values_of(model)
    before = evaluate(model, LM, item.validation, 8).loss_sum
    from dataclasses import replace

    train(model, [item], replace(SETTINGS, local_epochs=20), 9, no_progress)
    assert evaluate(model, LM, item.validation, 8).loss_sum < 0.9 * before
    table = "encoder.embeddings.word_embeddings.weight"
    assert (values_of(model)[table] != start[table]).any(dim=1).sum() > 290  # rows of words that never occur, too


def test_the_compact_vocabulary_is_off_beside_a_masked_task() -> None:
    sets = make_sets(0)
    assert compact_vocabulary(small_model(), sets) is not None
    assert compact_vocabulary(small_model(), [*sets, TaskSet(LM, masked(), masked())]) is None


def test_files_need_no_labels(tmp_path: Path) -> None:
    (tmp_path / "lm").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "lm" / f"{split}.tsv").write_text("text\nsome words\nothers\n")
    found = load(DataRequest(LM, "files", tmp_path))
    assert sorted(row.text for row in found.train) == ["others", "some words"]  # type: ignore[union-attr]


# ---- whole federations ----

OVERRIDES = ("tasks.lm={type: masked_lm, auxiliary: true, train_samples: 24, val_samples: 12}",)
CLIENTS = (("a", ("sst2",), "1/3"), ("b", ("lm",), "2/3"), ("c", ("sst2", "lm"), "3/3"))


def test_a_federation_with_an_auxiliary_masked_task(tmp_path: Path) -> None:
    config = small_config(tmp_path, *OVERRIDES, "federation.min_clients=3", tasks=("sst2",))
    runs = [asyncio.run(federate(config, tmp_path / how, CLIENTS, how)) for how in ("direct", "grpc")]
    assert digest_of(runs[0]) == digest_of(runs[1])
    history = [r for round_ in runs[0].journal.rounds() for o in round_.orders.values() for r in o.results]
    assert {r.task for r in history if r.validation is not None} == {"sst2", "lm"}


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["tasks.lm={type: masked_lm, labels: [a, b]}"], "tasks.lm.labels: a masked_lm has none; remove them"),
        (["tasks.lm={type: masked_lm, columns: {text: t, label: l}}"], "tasks.lm.columns: a masked_lm reads one text"),
        (["tasks.lm={type: masked_lm, metrics: [f1]}"], "tasks.lm.metrics: 'f1' is not a metric of this masked_lm"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["tasks.sst2=", *overrides])
    (problem,) = caught.value.problems
    assert problem.startswith(line)


def test_an_mlp_has_no_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a masked_lm reads texts, server_model mlp reads numbers"):
        load_config(None, ["model.server_model=mlp", "model.mlp.features=3", "tasks.lm.type=masked_lm"])
