"""Clipped sums of row gradients: as one row after the other gives them, never longer than asked for, or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from client.data.array_examples import ArrayExamples
from client.data.forms import FORMS
from client.data.tokenised import TokenisedSet
from client.training.loop import TaskSet
from client.training.row_gradients import RowGradients
from client.training.row_noise import row_losses
from common.encoders.conv1d import Conv1dEncoder
from common.encoders.conv2d import Conv2dEncoder
from common.encoders.gru import GRUEncoder
from common.encoders.mlp import MLPEncoder
from common.encoders.row import ArrayEncoder
from common.encoders.tabular import TabularEncoder
from common.errors import ModelError
from common.inputs import input_described
from common.models.multitask import MultiTaskModel, initialise
from common.orders import ModelArchitecture
from common.tasks import TASK_KINDS, TaskDefinition
from tests.training_cases import CONFIGS, make_model, make_sets

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "dropout": 0.0, "attention_dropout": 0.0}
ENCODERS: dict[str, ArrayEncoder] = {
    "mlp": MLPEncoder(7, (6, 5), dropout=0.0),
    "conv2d": Conv2dEncoder((3, 8, 6), (8, 6), hidden=5),
    "conv2d without norm": Conv2dEncoder((1, 8, 6), (4,), norm="none", hidden=5),
    "conv1d": Conv1dEncoder((12, 2), (4, 6), hidden=5),
    "tabular": TabularEncoder({"x": "number", "kind": ["p", "q", "r"], "y": "log", "size": ["s", "t"]}, (5,), 3),
}
TASKS = {
    "classification": TaskDefinition("a", TASK_KINDS["classification"], ("x", "y", "z"), False, ("accuracy",)),
    "regression": TaskDefinition("a", TASK_KINDS["regression"], (), False, ("rmse",)),
    "multilabel": TaskDefinition("a", TASK_KINDS["multilabel"], ("x", "y"), False, ("f1_micro",)),
}
ROWS = 6


def text_case(kind: str, pair_mode: str, task: str, **changes: object) -> tuple[MultiTaskModel, TaskSet]:
    """A text encoder without dropout and rows of sst2 or qqp."""
    model = make_model(kind, pair_mode, **(NO_DROPOUT | changes))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    padding = CONFIGS[kind].get("pad_token_id", 0)
    assert isinstance(padding, int)
    return model, next(item for item in make_sets(padding, pair_mode) if item.task.name == task)


def array_case(encoder: ArrayEncoder, task: TaskDefinition, rows: int = ROWS) -> tuple[MultiTaskModel, TaskSet]:
    """An encoder of ours with one head and random rows."""
    rng = np.random.Generator(np.random.PCG64(4))
    model = MultiTaskModel(ModelArchitecture(encoder.describe(), "cross", 1, "", 0), [task])
    initialise(model, 5)
    values = rng.standard_normal((rows, *encoder.row_shape)).astype(np.float32)
    if isinstance(encoder, TabularEncoder):
        values = np.abs(values).astype(np.int64).clip(0, 1).astype(np.float32)
    labels = {
        "classification": rng.integers(0, 3, rows),
        "regression": rng.standard_normal(rows),
        "multilabel": rng.integers(0, 2, (rows, 2)).astype(np.float32),
    }[task.type.name]
    form = FORMS[input_described(encoder.describe()).name]
    examples = ArrayExamples(values, labels, form)
    return model, TaskSet(task, examples, examples)


TEXTS = [
    (kind, mode, task)
    for kind in ("bert", "distilbert", "roberta", "albert")
    for mode, task in (("siamese", "qqp"), ("cross", "qqp"), ("cross", "sst2"))
]
CASES: dict[str, Callable[[], tuple[MultiTaskModel, TaskSet]]] = {
    **{" ".join(case): partial(text_case, *case) for case in TEXTS},
    **{f"{n}, {task}": partial(array_case, encoder, TASKS[task]) for n, encoder in ENCODERS.items() for task in TASKS},
}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters() if p.requires_grad
    }


def one_by_one(model: MultiTaskModel, item: TaskSet, places: np.ndarray, clip: float) -> dict[str, Tensor]:
    """The clipped sum as a loop over single rows gives it, in float64 from autograd's gradients."""
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in named.items()}
    for place in places:
        losses = row_losses(model, item, places[places == place][:1])()
        found = torch.autograd.grad(losses.sum(), list(named.values()), allow_unused=True)
        parts = {n: g.double() for n, g in zip(named, found, strict=True) if g is not None}
        norm = torch.cat([g.flatten() for g in parts.values()]).norm()
        for name, gradient in parts.items():
            total[name] += gradient * min(1.0, clip / float(norm))
    return total


def clipped_sum(model: MultiTaskModel, item: TaskSet, places: np.ndarray, clip: float) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    with RowGradients(model) as rows:
        rows.add(row_losses(model, item, places), clip)
    return gradients(model)


def require_loop(model: MultiTaskModel, item: TaskSet, places: np.ndarray, clip: float) -> None:
    """The sum is that of the loop, to a millionth of what rows may add."""
    wanted, found = one_by_one(model, item, places, clip), clipped_sum(model, item, places, clip)
    for key, value in wanted.items():
        off = float((found[key].double() - value).norm())
        assert off <= 1e-6 * clip * len(places), f"{key}: {off:.2g} of {float(value.norm()):.2g}"


@pytest.mark.parametrize("name", CASES)
def test_the_sum_is_that_of_a_loop_over_single_rows(name: str) -> None:
    model, item = CASES[name]()
    places = np.arange(min(len(item.train), ROWS))
    with RowGradients(model) as rows:
        norms = rows.lengths(row_losses(model, item, places))
    clip = float(norms.median())
    assert float(norms.min()) < clip < float(norms.max()), "some rows are shortened and some are not"
    require_loop(model, item, places, clip)


@pytest.mark.parametrize("name", CASES)
def test_without_a_clip_the_sum_is_the_plain_gradient(name: str) -> None:
    model, item = CASES[name]()
    places = np.arange(min(len(item.train), ROWS))
    found = clipped_sum(model, item, places, float("inf"))
    model.zero_grad(set_to_none=True)
    row_losses(model, item, places)().sum().backward()  # type: ignore[no-untyped-call]
    for key, value in gradients(model).items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=2e-6, msg=key)


@pytest.mark.parametrize("name", CASES)
def test_the_trial_passes_and_leaves_the_model_as_it_is(name: str) -> None:
    model, item = CASES[name]()
    model.train()
    with RowGradients(model) as rows:
        rows.require_rows(
            row_losses(model, item, np.array([0, 1])), row_losses(model, item, np.array([0, 1, 1])), most=2
        )
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def separate(item: TaskSet) -> TaskSet:
    """Pairs whose first texts are so short beside the second that they are not stacked."""
    train = item.train
    assert isinstance(train, TokenisedSet) and train.second is not None
    first = train.first
    ends = first.offsets[:-1] + 1
    short = replace(first, ids=first.ids[first.offsets[:-1]], offsets=np.arange(len(ends) + 1))
    return replace(item, train=replace(train, first=short))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_two_texts_in_two_calls_are_one_row(kind: str) -> None:
    model, item = text_case(kind, "siamese", "qqp")
    item, places = separate(item), np.arange(ROWS)
    read = []
    model.get_submodule("encoder").register_forward_pre_hook(lambda *_: read.append(1))
    clipped_sum(model, item, places, 0.5)
    assert len(read) == 2
    require_loop(model, item, places, 0.5)


def length(found: dict[str, Tensor]) -> float:
    return float(torch.cat([g.double().flatten() for g in found.values()]).norm())


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(-20, 20),
    shift=st.floats(-1e6, 1e6),
    clip=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32),
    name=st.sampled_from(["mlp", "conv2d", "conv1d"]),
)
def test_no_row_is_longer_than_asked_for(scale: float, shift: float, clip: float, seed: int, name: str) -> None:
    model, item = array_case(ENCODERS[name], TASKS["regression"], rows=1)
    assert isinstance(item.train, ArrayExamples)
    numbers = np.random.Generator(np.random.PCG64(seed)).standard_normal(item.train.values.shape)
    values = ((numbers + shift) * 10.0**scale).astype(np.float32)
    item = replace(item, train=replace(item.train, values=values))
    assert length(clipped_sum(model, item, np.arange(1), clip)) <= clip


@settings(max_examples=30, deadline=None)
@given(loss=st.sampled_from([1.0, 1e10, 1e30, float("inf"), float("nan"), -1e20]), clip=st.floats(1e-3, 1e3))
def test_any_loss_of_a_text_stays_within_the_clip(loss: float, clip: float) -> None:
    model, item = text_case("bert", "siamese", "qqp")
    model.zero_grad(set_to_none=True)
    with RowGradients(model) as rows:
        rows.add(lambda: row_losses(model, item, np.arange(1))() * loss, clip)
    assert length(gradients(model)) <= clip


def test_positions_that_cancel_out_do_not_slip_through() -> None:
    """The sum is rounding alone, and yet as long as the terms are large."""
    model, _ = array_case(Conv1dEncoder((12, 2), (4,), kernel=1, pooling=1, hidden=5), TASKS["regression"], 1)
    signs = torch.tensor([1.0, -1.0]).repeat(6)
    convolution = model.get_submodule("encoder.layers.0.convolution")
    assert isinstance(convolution, nn.Conv1d) and convolution.bias is not None
    nn.init.constant_(convolution.bias, 1e3)
    model.zero_grad(set_to_none=True)

    def losses() -> Tensor:
        maps: Tensor = convolution(torch.full((1, 2, 12), 1e3) + 1e-4 * torch.arange(12)).sum(dim=1)
        return (maps * signs * 1e6 + 0.1 * maps).sum(dim=1)

    with RowGradients(model) as rows:
        rows.add(losses, 1.0)
    assert 0.0 < length(gradients(model)) <= 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_row_that_is_not_finite_adds_nothing_and_stops_nobody(bad: float) -> None:
    model, item = array_case(ENCODERS["mlp"], TASKS["regression"])
    assert isinstance(item.train, ArrayExamples)
    values = item.train.values.copy()
    values[2] = bad
    broken = replace(item, train=replace(item.train, values=values))
    found = clipped_sum(model, broken, np.arange(ROWS), 0.3)
    others = np.array([0, 1, 3, 4, 5])
    for key, value in clipped_sum(model, item, others, 0.3).items():
        if not np.isfinite(bad):
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-7, msg=key)
        assert torch.isfinite(found[key]).all()


def test_frozen_parts_get_nothing_and_the_rest_is_clipped_alone() -> None:
    model, item = text_case("bert", "cross", "sst2", num_hidden_layers=2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layer.1" in name or name.startswith("heads."))
    places = np.arange(ROWS)
    require_loop(model, item, places, 0.2)
    assert all(
        (p.grad is None) is not p.requires_grad
        for n, p in model.named_parameters()
        if "qqp" not in n and "pooler" not in n
    )


# ---- what is refused ----


def refused(model: MultiTaskModel) -> str:
    with pytest.raises(ModelError) as caught:
        RowGradients(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "named"),
    [
        (GRUEncoder((7, 2), hidden=5, layers=2), "encoder.layers.0.weight_ih_l0: a GRU is none of Linear"),
        (Conv2dEncoder((1, 8, 6), (4,), norm="batch"), "encoder.layers.0.norm: it normalises rows by each other"),
    ],
)
def test_modules_of_other_kinds_are_refused_by_name(encoder: ArrayEncoder, named: str) -> None:
    assert named in refused(array_case(encoder, TASKS["regression"])[0])


@pytest.mark.parametrize(("kind", "named"), [("gpt2", "Conv1D"), ("llama", "LlamaRMSNorm")])
def test_encoders_with_layers_of_their_own_are_refused(kind: str, named: str) -> None:
    assert f"a {named} is none of" in refused(make_model(kind, "cross"))


def test_tied_weights_are_refused_by_name() -> None:
    model, _ = array_case(ENCODERS["mlp"], TASKS["regression"])
    model.extra = nn.Linear(6, 5)
    model.extra.weight = model.get_submodule("encoder.layers.1").weight
    assert "extra.weight: it is the same as encoder.layers.1.weight" in refused(model)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding="same"), nn.Conv1d(4, 4, 3, padding_mode="circular"),
        nn.Embedding(4, 3, max_norm=1.0), nn.Embedding(4, 3, sparse=True), nn.Embedding(4, 3, scale_grad_by_freq=True),
    ],
)  # fmt: skip
def test_unusual_layers_are_refused(module: nn.Module) -> None:
    model, _ = array_case(ENCODERS["mlp"], TASKS["regression"])
    model.extra = module
    assert "in extra.weight: it" in refused(model)


class Mixing(nn.Module):
    """Rows that see each other."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.layers: Any = inner.layers

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.inner(values)
        return found - 0.5 * found.mean(dim=0)


class Turned(Mixing):
    """Rows that are not the first axis."""

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.layers[1](self.layers[0](values.T.unsqueeze(-1).expand(-1, -1, 7)).mean(dim=0))
        return found


class PastIts(Mixing):
    """A weight that is read by other ways than its module."""

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.inner(values) + self.layers[1].weight.sum()
        return found


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Mixing, "(the loss of a row depends on other rows|it is read in another way)"),
        (Turned, "encoder.inner.layers.0: the first axis of what it reads is not that of rows"),
        (PastIts, "encoder.inner.layers.1.weight: it is read in another way"),
    ],
)
def test_the_trial_finds_what_no_list_knows(kind: type[Mixing], why: str) -> None:
    model, item = array_case(ENCODERS["mlp"], TASKS["regression"])
    model.set_submodule("encoder", kind(model.encoder))
    two, three = (row_losses(model, item, np.array(places)) for places in ([0, 1], [0, 1, 1]))
    with RowGradients(model) as rows, pytest.raises(ModelError, match=why):
        rows.require_rows(two, three, most=1)
