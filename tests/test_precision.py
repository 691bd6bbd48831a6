"""bfloat16 products, the choice between the two formats, and losses that are not finite."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client.jobs.local_client import Computing
from client.jobs.precision import PrecisionChoice
from client.training import loop
from client.training.loop import TrainingDiverged, train
from client.training.precision import time_precisions
from tests.federations import digest_of, federate, small_config
from tests.training_cases import CLIPPED, SETTINGS, make_model, make_sets, no_progress, values_of

MODEL, SETS = make_model(), make_sets(0)


def test_only_products_are_bfloat16() -> None:
    results = {}
    for precision in (torch.float32, torch.bfloat16):
        model = make_model()
        model.precision = precision
        seen = []
        model.heads["sst2"].linear.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output.dtype))
        model.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output.dtype))
        results[precision] = train(model, make_sets(0), CLIPPED, 9, no_progress), values_of(model)
        assert set(seen) == {torch.float32, precision}
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    (losses, values), (rounded_losses, rounded_values) = results.values()
    assert any(not torch.equal(rounded_values[name], value) for name, value in values.items())
    assert rounded_losses == pytest.approx(losses, rel=0.02)


@pytest.mark.parametrize("pair_mode", ["siamese", "cross"])
def test_weights_are_rounded_anew_in_every_step(pair_mode: str) -> None:
    model = make_model(pair_mode=pair_mode).eval()
    model.precision = torch.bfloat16
    batch = make_sets(0, pair_mode)[1].train.batch(torch.arange(3).numpy())
    before = model("qqp", batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(model("qqp", batch), before, rtol=1e-2)


def test_timing_leaves_no_trace() -> None:
    model = make_model().eval()
    before, generator = values_of(model), torch.get_rng_state()
    timings = time_precisions(model, SETS, SETTINGS)
    assert timings is not None and min(timings) > 0
    assert all(torch.equal(value, before[name]) for name, value in values_of(model).items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.precision == torch.float32 and not model.training
    assert time_precisions(model, (), SETTINGS) is None


def timed(monkeypatch: pytest.MonkeyPatch, timings: tuple[float, float] | None, *, capable: bool = True) -> list[int]:
    """Replace machine and clock; the list grows with each measurement."""
    calls: list[int] = []

    def measure(*_: object) -> tuple[float, float] | None:
        calls.append(1)
        return timings

    monkeypatch.setattr("client.jobs.precision.multiplies_bfloat16", lambda device: capable)
    monkeypatch.setattr("client.jobs.precision.time_precisions", measure)
    return calls


@pytest.mark.parametrize(
    ("timings", "expected"),
    [((1.16, 1.0), torch.bfloat16), ((1.14, 1.0), torch.float32), ((0.5, 1.0), torch.float32)],
)
def test_the_choice_is_made_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timings: tuple[float, float], expected: torch.dtype
) -> None:
    calls = timed(monkeypatch, timings)
    choice = PrecisionChoice("auto", tmp_path / "run")
    assert [choice.choose(MODEL, SETS, SETTINGS) for _ in range(2)] == [expected] * 2
    assert len(calls) == 1
    calls = timed(monkeypatch, timings[::-1])
    assert PrecisionChoice("auto", tmp_path / "run").choose(MODEL, SETS, SETTINGS) == expected, "after a restart"
    assert calls == []
    note = tmp_path / "run" / "precision.json"
    assert "float32_ms" in note.read_text()
    for text in ("{", "{}", note.read_text().replace('"cpu"', '"cuda"')):
        note.write_text(text)
        calls.clear()
        PrecisionChoice("auto", tmp_path / "run").choose(MODEL, SETS, SETTINGS)
        assert calls == [1], text
    assert [path.name for path in note.parent.iterdir()] == ["precision.json"]


def test_nothing_is_timed_where_the_answer_is_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = timed(monkeypatch, (2.0, 1.0), capable=False)
    assert PrecisionChoice("auto", None).choose(MODEL, SETS, SETTINGS) == torch.float32
    assert PrecisionChoice("float32", None).choose(MODEL, SETS, SETTINGS) == torch.float32
    assert not caplog.records
    assert PrecisionChoice("bfloat16", None).choose(MODEL, SETS, SETTINGS) == torch.bfloat16
    assert "float32 is faster here" in caplog.text
    assert calls == []
    timed(monkeypatch, None)
    assert PrecisionChoice("auto", None).choose(MODEL, (), SETTINGS) == torch.float32


@pytest.mark.slow
def test_the_same_bits_in_every_run_of_either_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Computing().precision == "float32"
    timed(monkeypatch, (2.0, 1.0))
    digests = {}
    for name in ("float32", "bfloat16", "auto"):
        config = small_config(tmp_path, f"client.precision={name}")
        digests[name] = digest_of(asyncio.run(federate(config, tmp_path / name)))
    assert digests["auto"] == digests["bfloat16"] != digests["float32"]


@pytest.mark.parametrize("unread", [1, 3, 200])
def test_divergence_is_refused_however_rarely_losses_are_read(monkeypatch: pytest.MonkeyPatch, unread: int) -> None:
    monkeypatch.setattr(loop, "UNREAD_LOSSES", unread)
    with pytest.raises(TrainingDiverged, match=r"lower training\.learning_rate"):
        train(make_model(), SETS, replace(SETTINGS, learning_rate=1e30), 1, no_progress)


@pytest.mark.parametrize("unread", [1, 3, 200])
def test_mean_losses_do_not_depend_on_when_they_are_read(monkeypatch: pytest.MonkeyPatch, unread: int) -> None:
    expected = train(make_model(), SETS, SETTINGS, 1, no_progress)
    monkeypatch.setattr(loop, "UNREAD_LOSSES", unread)
    assert train(make_model(), SETS, SETTINGS, 1, no_progress) == expected
    assert train(make_model(), SETS, replace(SETTINGS, local_epochs=0), 1, no_progress) == {}
