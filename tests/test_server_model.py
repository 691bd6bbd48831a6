"""The coordinator's model: creation, counts, slices, and replacing values all at once or not at all."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.errors import ModelError
from common.models.encoder import EncoderSource, build_encoder
from common.models.packed_tokenizer import tokenizer_digest, unpack_tokenizer
from common.models.pretrained import KNOWN_ARCHITECTURES
from common.models.vocabulary import fallback_tokenizer
from common.parameters.plan import PLANS, SharingPlan
from common.tasks import KNOWN_TASKS
from server.runs.model import MTLServerModel

BERT_TINY = KNOWN_ARCHITECTURES["prajjwal1/bert-tiny"]
SMALL = json.dumps(json.loads(BERT_TINY) | {"hidden_size": 8, "intermediate_size": 16})
TASKS = tuple(KNOWN_TASKS[name] for name in ("sst2", "qqp", "stsb"))
TOKENIZER = fallback_tokenizer()
SOURCE = EncoderSource(SMALL, None, TOKENIZER, "random weights as configured")


def make(
    source: EncoderSource = SOURCE, pair_mode: str = "siamese", plan: str = "hard", seed: int = 1, length: int = 64
) -> MTLServerModel:
    return MTLServerModel.create(source, pair_mode, length, TASKS, SharingPlan(PLANS[plan]), seed)


@pytest.fixture(scope="module")
def model() -> MTLServerModel:
    return make()


def values(model: MTLServerModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.model.named_parameters()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_counts_and_summary_of_bert_tiny() -> None:
    made = make(replace(SOURCE, config_json=BERT_TINY), "cross")
    counts = made.parameter_counts()
    assert counts.shared == 4_385_920
    assert counts.heads == {"sst2": 258, "qqp": 258, "stsb": 129}
    assert counts.total == 4_386_565 == sum(vector.numel() for vector in made.vectors.values())
    assert made.summary().splitlines() == [
        "base model        bert, random weights as configured",
        "tasks             sst2, qqp, stsb (pairs: cross)",
        "encoder (shared)  4,385,920",
        "head sst2               258  classification, 2 labels",
        "head qqp                258  classification, 2 labels, pairs",
        "head stsb               129  regression, pairs",
        "total             4,386,565",
    ]


def test_scopes_are_vectors_that_the_model_lives_in(model: MTLServerModel) -> None:
    assert sorted(model.schemas) == sorted(model.vectors) == ["shared", "task/qqp", "task/sst2", "task/stsb"]
    made = make()
    made.vectors["task/sst2"].fill_(3.0)
    assert all((value == 3.0).all() for value in made.get_task_head_parameters("sst2").values())


def test_private_scopes_are_held_too() -> None:
    assert set(make(plan="private_heads").vectors) == {"shared", "private/qqp", "private/sst2", "private/stsb"}


def test_the_architecture_is_enough_to_build_a_client(model: MTLServerModel) -> None:
    architecture = model.architecture
    assert architecture.tokenizer_bytes == len(model.tokenizer_bytes)
    assert architecture.tokenizer_digest == tokenizer_digest(model.tokenizer_bytes)
    text = "federated learning"
    assert unpack_tokenizer(model.tokenizer_bytes)(text)["input_ids"] == TOKENIZER(text)["input_ids"]


def test_equal_seeds_give_equal_models(model: MTLServerModel) -> None:
    assert equal(values(make()), values(model))
    assert not equal(values(make(seed=2)), values(model))
    assert equal(values(make(plan="full")), values(model))


def test_given_weights_win_and_missing_ones_come_from_the_seed(model: MTLServerModel) -> None:
    state = {n: torch.ones_like(v) for n, v in build_encoder(SMALL).state_dict().items() if "pooler" not in n}
    made = values(make(replace(SOURCE, state=state)))
    assert all((made[f"encoder.{name}"] == 1).all() for name in state)
    assert torch.equal(made["encoder.pooler.dense.weight"], values(model)["encoder.pooler.dense.weight"])


@pytest.mark.parametrize("state", [{"stranger": torch.ones(1)}, {"pooler.dense.bias": torch.ones(3)}])
def test_weights_that_do_not_fit_are_refused(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ModelError, match="weights do not fit"):
        make(replace(SOURCE, state=state))


def test_texts_longer_than_the_encoder_reads_are_refused() -> None:
    with pytest.raises(ModelError, match="max_length: 513 tokens, but the encoder reads at most 512"):
        make(length=513)


def test_slices_are_copies_by_module_under_every_plan() -> None:
    made = make(plan="full")
    before = values(made)
    part = made.get_model_slice_for_task("qqp")
    assert set(part) == {name for name in before if name.startswith(("encoder.", "heads.qqp."))}
    for value in part.values():
        value.zero_()
    assert equal(values(made), before)


def test_values_can_be_replaced() -> None:
    made = make()
    made.set_shared_parameters({name: value + 1 for name, value in made.get_shared_parameters().items()})
    made.set_task_head_parameters("sst2", {n: v + 1 for n, v in made.get_task_head_parameters("sst2").items()})
    fresh = make()
    torch.testing.assert_close(made.vectors["shared"], fresh.vectors["shared"] + 1)
    torch.testing.assert_close(made.vectors["task/sst2"], fresh.vectors["task/sst2"] + 1)
    assert torch.equal(made.vectors["task/qqp"], fresh.vectors["task/qqp"])


def test_a_refused_replacement_changes_nothing() -> None:
    made = make()
    before = values(made)
    good = {name: value + 1 for name, value in made.get_task_head_parameters("sst2").items()}
    weight, bias = sorted(good, reverse=True)
    bad = {
        f"'{bias}' is missing": {weight: good[weight]},
        "'heads.sst2.extra' is not one": good | {"heads.sst2.extra": torch.ones(1)},
        f"'{bias}': shape": good | {bias: torch.ones(5)},
        f"'{weight}': a value is not finite": good | {weight: good[weight] / 0},
        "'encoder.x' is not one": good | {"encoder.x": torch.ones(1)},
    }
    for words, given in bad.items():
        with pytest.raises(ModelError, match=words):
            made.set_task_head_parameters("sst2", given)
    with pytest.raises(ModelError, match="is missing"):
        made.set_shared_parameters({})
    assert equal(values(made), before)


def test_unknown_tasks_are_named(model: MTLServerModel) -> None:
    for ask in (model.get_task_head_parameters, model.get_model_slice_for_task):
        with pytest.raises(ModelError, match="'cola' is not in this model; it has sst2, qqp, stsb"):
            ask("cola")


def test_a_restored_model_takes_the_vectors_of_the_old_one(model: MTLServerModel) -> None:
    plan = SharingPlan(PLANS["hard"])
    made = MTLServerModel.restore(model.architecture, model.tokenizer_bytes, "bert-tiny", TASKS, plan)
    assert not any(vector.any() for vector in made.vectors.values())
    frozen = {scope: vector.numpy().copy() for scope, vector in model.vectors.items()}
    for vector in frozen.values():
        vector.setflags(write=False)
    made.load_vectors(frozen)
    assert equal(values(made), values(model))


def test_refused_vectors_change_nothing() -> None:
    made = make()
    before = values(made)
    good = {scope: vector.numpy() + 1 for scope, vector in made.vectors.items()}
    name = "task/stsb"
    bad = {
        "scope 'task/x' is not in": good | {"task/x": np.ones(1, np.float32)},
        f"'{name}': float32": good | {name: good[name][1:]},
        f"'{name}': float64": good | {name: good[name].astype(np.float64)},
        f"'{name}': a value is not": good | {name: good[name] * np.float32("nan")},
    }
    for words, given in bad.items():
        with pytest.raises(ModelError, match=words):
            made.load_vectors(given)
    assert equal(values(made), before)
