"""Encoders, heads and the multi-task model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from common.errors import ModelError
from common.inputs.texts import TextBatch
from common.models.encoder import build_encoder, load_config, longest_input
from common.models.heads import LinearHead, SiameseHead
from common.models.multitask import MultiTaskModel, initialise
from common.models.pretrained import (
    KNOWN_ARCHITECTURES,
)
from common.orders import ModelArchitecture
from common.parameters.flat import shapes_of
from common.tasks import KNOWN_TASKS, TASK_KINDS, TaskDefinition

BERT_TINY = KNOWN_ARCHITECTURES["prajjwal1/bert-tiny"]
SMALL = json.dumps(json.loads(BERT_TINY) | {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 120})
DISTILBERT = json.dumps(
    {"model_type": "distilbert", "dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2, "vocab_size": 120}
)
TASKS = [KNOWN_TASKS[name] for name in ("sst2", "qqp", "stsb")]


def architecture(config: str = SMALL, pair_mode: str = "siamese") -> ModelArchitecture:
    return ModelArchitecture(config, pair_mode, 32, "", 0)


def batch(rows: int, length: int, seed: int = 0) -> TextBatch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 120, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    return TextBatch(ids, mask)


def test_bert_tiny_has_its_published_size() -> None:
    shapes = shapes_of(build_encoder(BERT_TINY))
    assert len(shapes) == 39
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 4_385_920
    assert "pooler.dense.weight" in shapes


def test_cross_heads_have_258_258_and_129_parameters() -> None:
    with torch.device("meta"):
        model = MultiTaskModel(architecture(BERT_TINY, "cross"), TASKS)
    sizes = {task: sum(p.numel() for p in head.parameters()) for task, head in model.heads.items()}
    assert sizes == {"sst2": 258, "qqp": 258, "stsb": 129}
    assert {name.split(".")[0] for name in shapes_of(model)} == {"encoder", "heads"}


def test_siamese_heads_are_for_pairs_only() -> None:
    model = MultiTaskModel(architecture(), TASKS)
    assert {task: type(head) for task, head in model.heads.items()} == {
        "sst2": LinearHead,
        "qqp": SiameseHead,
        "stsb": SiameseHead,
    }
    assert tuple(model.heads["stsb"].linear.weight.shape) == (1, 4 * 16 + 1)


def test_tied_parameters_are_named_once() -> None:
    model = MultiTaskModel(architecture(), TASKS)
    before = len(shapes_of(model))
    model.heads["qqp"].linear.weight = torch.nn.Parameter(model.heads["qqp"].linear.weight.detach())
    model.heads["stsb"].linear.bias = model.encoder.pooler.dense.bias
    assert len(shapes_of(model)) == before - 1


def test_siamese_features_past_the_first_two_do_not_depend_on_the_order_of_texts() -> None:
    head = SiameseHead(3, 16, 0.0)
    u, v = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(head(u, v), head(v, u))
    with torch.no_grad():
        head.linear.weight[:, :32] = 0
    assert torch.equal(head(u, v), head(v, u))


def test_siamese_head_by_hand() -> None:
    # u = (1, 0), v = (1, 1): features 1 0 1 1 0 1 1 0 and cosine 1 / sqrt(2).
    head = SiameseHead(1, 2, 0.0, 2.5)
    with torch.no_grad():
        head.linear.weight.copy_(torch.arange(1.0, 10.0).unsqueeze(0))
        head.linear.bias.fill_(0.5)
    expected = 1 + 3 + 4 + 6 + 7 + 9 / 2**0.5 + 0.5
    assert head(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])).item() == pytest.approx(expected)


@pytest.mark.parametrize("lengths", [(9, 9), (4, 11), (40, 3)])
def test_one_call_for_both_texts_equals_two(lengths: tuple[int, int]) -> None:
    model = MultiTaskModel(architecture(), TASKS).eval()
    first, second = batch(3, lengths[0]), batch(3, lengths[1], seed=1)
    both = first.stacked(second, 0).mean_vectors(model.encoder)
    torch.testing.assert_close(both[:3], first.mean_vectors(model.encoder))
    expected = model.heads["stsb"](both[:3], both[3:])
    torch.testing.assert_close(model("stsb", replace(first, pair=second)), expected)


def test_padding_changes_nothing() -> None:
    model = MultiTaskModel(architecture(), TASKS).eval()
    short = TextBatch(*(torch.tensor([row]) for row in ([7, 8, 9], [1, 1, 1])))
    long = TextBatch(*(torch.tensor([row]) for row in ([7, 8, 9, 0, 0], [1, 1, 1, 0, 0])))
    torch.testing.assert_close(short.mean_vectors(model.encoder), long.mean_vectors(model.encoder))
    torch.testing.assert_close(model("sst2", short), model("sst2", long))


def test_a_pair_task_needs_a_pair() -> None:
    with pytest.raises(ValueError, match="reads pairs of texts"):
        MultiTaskModel(architecture(), TASKS)("stsb", batch(2, 4))


def test_an_encoder_without_a_pooler_reads_the_first_token() -> None:
    model = MultiTaskModel(architecture(DISTILBERT), TASKS).eval()
    texts = replace(batch(2, 6), token_type_ids=torch.zeros(2, 6, dtype=torch.int64))
    hidden = model.encoder(texts.input_ids, texts.attention_mask).last_hidden_state
    torch.testing.assert_close(model("sst2", texts), model.heads["sst2"](hidden[:, 0]))


def test_token_types_reach_the_encoder() -> None:
    model = MultiTaskModel(architecture(pair_mode="cross"), TASKS).eval()
    texts = batch(2, 6)
    typed = replace(texts, token_type_ids=torch.ones(2, 6, dtype=torch.int64))
    assert not torch.allclose(model("qqp", texts), model("qqp", typed))


def test_initial_heads_depend_on_the_seed_and_their_own_name_only() -> None:
    def made(names: list[str], seed: int) -> dict[str, torch.Tensor]:
        model = MultiTaskModel(architecture(), [KNOWN_TASKS[name] for name in names])
        initialise(model, seed)
        return {name: value.detach().clone() for name, value in model.named_parameters()}

    one, more, other = made(["mrpc"], 1), made(["sst2", "qqp", "mrpc"], 1), made(["mrpc"], 2)
    assert all(torch.equal(value, more[name]) for name, value in one.items())
    assert not torch.equal(one["heads.mrpc.linear.weight"], other["heads.mrpc.linear.weight"])
    word = "encoder.embeddings.word_embeddings.weight"
    assert not torch.equal(one[word], other[word])
    assert not torch.equal(more["heads.qqp.linear.weight"], more["heads.mrpc.linear.weight"])


def test_a_siamese_regression_starts_with_the_cosine_around_the_mean() -> None:
    model = MultiTaskModel(architecture(), TASKS).eval()
    initialise(model, 1)
    first, second = batch(4, 6), batch(4, 6, seed=1)
    u, v = first.mean_vectors(model.encoder), second.mean_vectors(model.encoder)
    expected = 2.5 * functional.cosine_similarity(u, v) - 1.25
    torch.testing.assert_close(model("stsb", replace(first, pair=second))[:, 0], expected)


def test_building_and_initialising_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    initialise(MultiTaskModel(architecture(), TASKS), 3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_task_cannot_be_named_like_a_method() -> None:
    with pytest.raises(ModelError, match=r"tasks\.keys"):
        MultiTaskModel(architecture(), [replace(KNOWN_TASKS["sst2"], name="keys")])


def test_losses_by_hand() -> None:
    outputs = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    many = TaskDefinition("m", TASK_KINDS["multilabel"], ("a", "b"), False, ("f1_micro",))
    rows = many.type.loss(outputs, torch.tensor([[0.0, 1.0], [1.0, 1.0]]), "none")
    log2, log_e2 = 0.693147, 0.126928  # log 2 and log(1 + exp(-2))
    assert rows.tolist() == pytest.approx([log2, (log_e2 + log2) / 2], abs=1e-5)
    loss = KNOWN_TASKS["sst2"].type.loss(outputs, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx((log2 + log_e2) / 2, abs=1e-5)
    score = KNOWN_TASKS["stsb"].type.loss(torch.tensor([[1.0], [4.0]]), torch.tensor([3.0, 4.0]), "sum")
    assert score.item() == 4.0
    assert many.type.loss(outputs, torch.ones(2, 2)).item() == pytest.approx(
        functional.binary_cross_entropy_with_logits(outputs, torch.ones(2, 2)).item()
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "not JSON"),
        ("[]", "model_type"),
        ('{"model_type": "no-such-model"}', "no-such-model"),
        ('{"model_type": "t5", "num_layers": 1, "d_model": 4, "num_heads": 1}', "not a text encoder"),
        ('{"model_type": "bert", "hidden_size": 10, "num_attention_heads": 3}', "bert"),
    ],
)
def test_unusable_configurations_are_refused(config: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build_encoder(config)


def test_longest_input() -> None:
    assert longest_input(load_config(BERT_TINY)) == 512
    roberta = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    assert longest_input(load_config(json.dumps(roberta))) == 512
