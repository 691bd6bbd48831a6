"""A step that hides rows: who takes part, what is added, what it is divided by, and what comes after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from client.training.loop import TaskSet, TrainingStopped, train
from client.training.row_gradients import RowGradients
from client.training.row_noise import HiddenRows, RowSecret, RowSteps, planned_steps, row_losses, train_hidden
from client.training.step import StepOptions, proximal_to
from common.bodies import TrainingSettings
from common.errors import ConfigError
from common.methods.balance import UncertaintyBalance
from common.methods.local_optimizers import SGDOptimizer
from common.models.multitask import MultiTaskModel
from common.tasks import TASK_KINDS, TaskDefinition
from tests.test_row_gradients import ENCODERS, NO_DROPOUT, TASKS, array_case
from tests.training_cases import SETTINGS, make_model, make_sets, no_progress, values_of

RATE = 0.125
SGD = replace(
    SETTINGS,
    local_epochs=1,
    learning_rate=RATE,
    head_learning_rate=RATE,
    weight_decay=0.0,
    optimizer=SGDOptimizer(momentum=0.0),
)
KEY, DIGEST = bytes(range(32)), bytes(range(32, 64))


def secret(key: int = 0, digest: int = 0) -> RowSecret:
    return RowSecret(bytes([key]) + KEY[1:], bytes([digest]) + DIGEST[1:])


def hidden(multiplier: float, clip: float = 1.0, of: RowSecret | None = None) -> HiddenRows:
    return HiddenRows(of or secret(), lambda steps: multiplier, clip)


def moved(
    model: MultiTaskModel, sets: Sequence[TaskSet], settings: TrainingSettings, how: HiddenRows, seed: int = 9
) -> dict[str, Tensor]:
    """What training changes, by parameter; the model stands as before afterwards."""
    before = values_of(model)
    assert train_hidden(model, sets, settings, seed, no_progress, how) == {}
    after = values_of(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name])
    return {name: after[name] - before[name] for name in before}


def flat(found: dict[str, Tensor]) -> np.ndarray:
    return torch.cat([value.flatten() for value in found.values()]).double().numpy()


def text_case() -> tuple[MultiTaskModel, tuple[TaskSet, ...]]:
    return make_model(**NO_DROPOUT), make_sets(0)


def test_without_noise_and_clip_all_rows_in_one_batch_are_plain_training() -> None:
    model, item = array_case(ENCODERS["mlp"], TASKS["classification"], rows=8)
    settings = replace(SGD, batch_size=8, local_epochs=3)
    found = moved(model, [item], settings, hidden(0.0, 1e9))
    before = values_of(model)
    train(model, [item], settings, 9, no_progress)
    for name, value in values_of(model).items():
        torch.testing.assert_close(before[name] + found[name], value, rtol=1e-5, atol=1e-6)


def test_the_largest_gradient_of_a_batch_is_not_what_clips() -> None:
    model, item = array_case(ENCODERS["mlp"], TASKS["classification"], rows=8)
    settings = replace(SGD, batch_size=8)
    assert np.array_equal(
        flat(moved(model, [item], settings, hidden(1.0))),
        flat(moved(model, [item], replace(settings, max_grad_norm=1e-3), hidden(1.0))),
    )


def test_a_step_is_the_clipped_sum_of_the_rows_drawn_divided_by_the_batch_size() -> None:
    model, item = array_case(ENCODERS["mlp"], TASKS["regression"], rows=40)
    weighted = replace(item, task=replace(item.task, weight=2.5))
    settings, seed = replace(SGD, batch_size=40), 9
    places = np.arange(40)
    model.zero_grad(set_to_none=True)
    with RowGradients(model) as rows:
        rows.add(row_losses(model, weighted, places), 0.7)
        half = rows.lengths(row_losses(model, item, places))
    assert float(half.max()) * 2.5 > 0.7, "the weight comes before the clip"
    wanted = {n: -RATE * p.grad / 40 for n, p in model.named_parameters() if p.grad is not None}
    for name, value in moved(model, [weighted], settings, hidden(0.0, 0.7), seed).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-7)


def test_the_denominator_tells_nothing_of_the_number_of_rows() -> None:
    """Of half of the rows, of which all take part in either case, half comes."""
    model, item = array_case(ENCODERS["mlp"], TASKS["regression"], rows=8)
    assert hasattr(item.train, "take")
    half = replace(item, train=item.train.take(np.arange(4)))
    rest = replace(item, train=item.train.take(np.arange(4, 8)))
    settings = replace(SGD, batch_size=8)
    whole, *parts = (flat(moved(model, [i], settings, hidden(0.0))) for i in (item, half, rest))
    np.testing.assert_allclose(sum(parts), whole, atol=1e-7)


def test_noise_reaches_every_trained_parameter_with_its_deviation() -> None:
    model, sets = text_case()
    multiplier, clip, size = 3.0, 0.5, 4
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layer.0.attention.self.query" not in name)
    settings = replace(SGD, batch_size=size)
    clean = moved(model, sets[:1], settings, hidden(0.0, clip))
    noisy = moved(model, sets[:1], settings, hidden(multiplier, clip))
    deviation = RATE * multiplier * clip / size
    steps = -(-len(sets[0].train) // size)
    for name, value in noisy.items():
        if "query" in name:
            assert not value.any()
            continue
        assert (value != clean[name]).all(), f"{name} has no noise"  # heads of other tasks and the idle pooler included
    quiet = [name for name, value in clean.items() if not value.any() and "query" not in name]
    assert {"heads.qqp.linear.weight"} <= set(quiet)
    found = np.concatenate([noisy[name].flatten().double().numpy() for name in quiet])
    table = noisy["encoder.embeddings.word_embeddings.weight"][200:].flatten().double().numpy()
    found = np.concatenate([found, table]) / (deviation * np.sqrt(steps))
    assert abs(found.std() - 1.0) < 4 / np.sqrt(2 * len(found))
    assert abs(found.mean()) < 4 / np.sqrt(len(found))
    assert stats.kstest(found, "norm").pvalue > 1e-3


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return abs(float(np.corrcoef(one, other)[0, 1]))


def test_the_same_secret_gives_the_same_bits_and_any_other_one_nothing_of_them() -> None:
    model, sets = make_model(), make_sets(0)  # with dropout
    settings = replace(SGD, batch_size=4)

    def found(of: RowSecret, seed: int = 9) -> np.ndarray:
        return flat(moved(model, sets, settings, hidden(50.0, of=of), seed))

    one = found(secret())
    assert np.array_equal(one, found(secret()))
    bound = 5 / np.sqrt(len(one))
    for other in (found(secret(key=1)), found(secret(digest=1)), found(secret(), seed=10)):
        assert correlation(one, other) < bound


def test_noise_of_two_steps_is_independent() -> None:
    values = [secret().noised(f"noise|{step}", torch.zeros(50_000), 1.0).double().numpy() for step in range(2)]
    assert correlation(*values) < 5 / np.sqrt(50_000)


def test_noised_sums_lie_on_a_grid_that_hides_the_last_bits() -> None:
    found = secret().noised("noise|0", torch.rand(1000) * 1e-6, 1.0).double() * 2.0**16
    assert torch.equal(found, found.round())


@pytest.mark.parametrize(("rows", "size"), [(400, 40), (1000, 7), (3, 2)])
def test_every_row_takes_part_by_itself_with_the_same_chance(rows: int, size: int) -> None:
    chance, draws = size / rows, 3000
    counts, sizes = np.zeros(rows), []
    for step in range(draws):
        places = secret().coins(f"rows|{step}", rows, chance)
        counts[places] += 1
        sizes.append(len(places))
    statistic = ((counts - draws * chance) ** 2).sum() / (draws * chance * (1 - chance))
    assert stats.chi2.sf(statistic, rows) > 1e-3 and stats.chi2.cdf(statistic, rows) > 1e-3
    assert abs(np.mean(sizes) - size) < 5 * np.sqrt(size / draws)
    assert np.var(sizes) == pytest.approx(size * (1 - chance), rel=0.15), "sizes vary as a binomial does"


def test_batches_depend_on_the_secret_and_not_on_the_seed_of_the_order() -> None:
    places = [s.coins("rows|1|0|0|0|a", 500, 0.1).tolist() for s in (secret(), secret(1), secret(0, 1))]
    assert places[0] != places[1] != places[2]
    assert secret().coins("rows|1", 5, 1.0).tolist() == [0, 1, 2, 3, 4]


def test_pieces_are_at_most_a_batch_and_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of more rows than usual is worked through piece by piece, so that memory is bounded."""
    model, sets = text_case()
    sizes: list[int] = []
    add = RowGradients.add

    def watched(self: RowGradients, losses: object, clip: float) -> None:
        add(self, lambda: keep(losses()), clip)  # type: ignore[operator]

    def keep(losses: Tensor) -> Tensor:
        sizes.append(len(losses))
        return losses

    monkeypatch.setattr(RowGradients, "add", watched)
    train_hidden(model, sets, replace(SGD, batch_size=4, local_epochs=10), 9, no_progress, hidden(1.0))
    assert max(sizes) == 4 and min(sizes) < 4


def test_pulls_come_after_the_noise_and_no_clip_shortens_them() -> None:
    model, item = array_case(ENCODERS["mlp"], TASKS["regression"], rows=8)
    settings, far = replace(SGD, batch_size=8), 1e4
    anchors = {name: value + far for name, value in values_of(model).items()}
    plain = flat(moved(model, [item], settings, hidden(1.0)))
    before = values_of(model)
    options = StepOptions(proximal_to(model, anchors, 0.5, settings))
    train_hidden(model, [item], settings, 9, no_progress, hidden(1.0), options)
    found = flat({name: value - before[name] for name, value in values_of(model).items()})
    np.testing.assert_allclose(found, plain + RATE * 0.5 * far, rtol=1e-5)


def test_steps_are_counted_as_they_are_taken() -> None:
    model, sets = text_case()
    heard: list[RowSteps] = []
    done: list[float] = []

    def spend(steps: Sequence[RowSteps]) -> float:
        heard.extend(steps)
        return 1.0

    settings, how = replace(SGD, batch_size=4, local_epochs=3), HiddenRows(secret(), spend, 1.0)
    train_hidden(model, sets, settings, 9, done.append, how)
    assert heard == [RowSteps("sst2", 15, 4 / 18), RowSteps("qqp", 9, 4 / 10)]
    assert heard == list(planned_steps(sets, 4, 3)) and len(done) == 15
    assert planned_steps(sets, 100, 2) == (RowSteps("sst2", 2, 1.0), RowSteps("qqp", 2, 1.0))


def test_it_can_be_stopped_and_nothing_hears_of_it_any_more() -> None:
    model, sets = text_case()

    def stop(done: float) -> None:
        raise TrainingStopped("now")

    with pytest.raises(TrainingStopped):
        train_hidden(model, sets, SGD, 9, stop, hidden(1.0))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"type": TASK_KINDS["tokens"]}, "tasks.sst2.type: the loss of tokens is not one of single rows"),
        ({"auxiliary": True}, "auxiliary"),
    ],
)
def test_what_looks_at_several_rows_is_refused(changes: dict[str, object], line: str) -> None:
    model, sets = text_case()
    strange = (replace(sets[0], task=replace(sets[0].task, **changes)), sets[1])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=line):
        train_hidden(model, strange, SGD, 9, no_progress, hidden(1.0))


def test_other_balances_and_a_look_ahead_are_refused() -> None:
    model, sets = text_case()
    with pytest.raises(ConfigError, match="balance: plain"):
        train_hidden(model, sets, replace(SGD, balance=UncertaintyBalance()), 9, no_progress, hidden(1.0))
    with pytest.raises(ConfigError, match="look ahead"):
        train_hidden(model, sets, SGD, 9, no_progress, hidden(1.0), StepOptions(look_ahead=0.1))


def test_noise_hides_a_row_that_plain_training_shows() -> None:
    """With one row of large weight the plain change says which; with noise of the clip's length it does not."""
    task = TaskDefinition("a", TASK_KINDS["regression"], (), False, ("rmse",))
    model, item = array_case(ENCODERS["mlp"], task, rows=6)
    with_row, without = item, replace(item, train=item.train.take(np.arange(5)))  # type: ignore[attr-defined]
    settings = replace(SGD, batch_size=6)
    gap = flat(moved(model, [with_row], settings, hidden(0.0))) - flat(moved(model, [without], settings, hidden(0.0)))
    length = np.linalg.norm(gap) * 6 / RATE
    assert 0.0 < length <= 1.0, "one row moves the sum by the clip at most"
