"""Rows of several parts, standardised by column or channel of each part, as rows of one part are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import federated_main
from client.data.array_examples import ArrayExamples
from client.data.forms import form_of
from common.encoders.several import SeveralEncoder
from common.errors import ConfigError
from common.export.folder import export_task
from common.standardising import pooled_scale
from common.targets import coarse
from server.runs.saved import load_run
from simulation.app import simulate
from tests.federations import digest_of, federate
from tests.test_array_encoders import config_of
from tests.test_several import farms, simulated

STATISTICS = ("site", "federation")
PARTS = {
    "image": {"conv2d": {"shape": [2, 3, 2], "filters": [3], "hidden": 5, "norm": "none"}},
    "soil": {"tabular": {"columns": {"acid": "number", "kind": ["clay", "sand"]}, "hidden": [4]}},
    "table": {"mlp": {"features": 3, "hidden": [4]}},
    "wave": {"conv1d": {"shape": [5, 2], "filters": [3], "hidden": 4, "norm": "none"}},
}
FARM = SeveralEncoder(PARTS, hidden=6)
AXES = {"image": 1, "soil": 1, "table": 1, "wave": 2}


def drawn(seed: int, count: int) -> dict[str, np.ndarray]:
    """Far from 0 and 1; some rows lack a part, and a number of soil is missing in others."""
    rng = np.random.Generator(np.random.PCG64(seed))
    shapes = {name: encoder.row_shape for name, encoder in FARM.part_encoders.items()}
    found = {name: rng.normal(40.0, 9.0, (count, *shape)).astype(np.float32) for name, shape in shapes.items()}
    found["soil"][:, 1] = rng.integers(4, size=count)
    found["soil"][::5, 0] = np.nan
    for at, name in enumerate(("image", "soil", "wave")):
        found[name][at::7] = np.nan
    return found


def examples(parts: dict[str, np.ndarray]) -> ArrayExamples:
    flat = np.concatenate([parts[name].reshape(len(parts[name]), -1) for name in FARM.part_encoders], axis=1)
    return ArrayExamples(flat, np.zeros(len(flat), dtype=np.int64), form_of(FARM))


def by_hand(parts: dict[str, np.ndarray], of: dict[str, np.ndarray], rounded: bool = False) -> np.ndarray:
    """Each column and channel minus the mean of `of`, by its deviation; categories as they are."""
    found = []
    for name in FARM.part_encoders:
        rows = parts[name].astype(np.float64)
        for channel in range(rows.shape[AXES[name]]):
            if (name, channel) == ("soil", 1):
                continue
            place = (slice(None),) * AXES[name] + (channel,)
            known = of[name].astype(np.float64)[place]
            mean, width = np.nanmean(known), np.nanstd(known)
            if rounded:
                units = coarse(float(mean), float(width))
                mean, width = units.mean, units.scale
            rows[place] = (rows[place] - mean) / width
        found.append(rows.reshape(len(rows), -1))
    return np.concatenate(found, axis=1)


def test_a_site_scales_each_part_by_its_own_rows() -> None:
    parts, later = drawn(1, 40), drawn(2, 8)
    scale = examples(parts).row_scale()
    for rows in (parts, later):
        found = examples(rows).on_scale(scale).values
        np.testing.assert_allclose(found, by_hand(rows, parts), rtol=0, atol=1e-6)
    never = parts | {"wave": np.full_like(parts["wave"], np.nan)}
    scale = examples(never).row_scale()
    assert np.isfinite(scale.mean).all() and np.isfinite(scale.factor).all()


def test_a_federation_scales_each_part_by_the_rows_of_all_who_have_it() -> None:
    one, other = drawn(3, 40), drawn(4, 25)
    other["wave"] = np.full_like(other["wave"], np.nan)
    sums = [examples(rows).input_sums() for rows in (one, other)]
    assert sums[1].counts == (21, 21, 17, 0, 25, 25, 25, 0, 0)
    scale, silent = pooled_scale([(each, 1.0) for each in sums])
    assert silent == [3]
    both = {name: np.concatenate([one[name], other[name]]) for name in PARTS}
    found = examples(other).scaled(scale).batch(np.arange(25)).values.numpy()
    np.testing.assert_allclose(found, by_hand(other, both, rounded=True), rtol=0, atol=1e-6)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_one_model_over_every_transport(tmp_path: Path, statistics: str) -> None:
    config = config_of(FARM, "sharing.plan=adaptive", "federation.min_clients=2", f"data.statistics={statistics}")
    clients = (("a", ("a0",), "1/2"), ("b", ("a0", "b1"), "2/2"))
    found = [asyncio.run(federate(config, tmp_path / how, clients, how)) for how in ("direct", "grpc")]
    assert len({digest_of(run) for run in found}) == 1
    assert {*found[0].state.scales} == ({"a0", "b1"} if statistics == "federation" else set())


def test_who_lacks_a_part_says_nothing_of_it(tmp_path: Path) -> None:
    given: dict[str, tuple[Any, Any]] = {}
    for place, site in enumerate("abc"):
        rng = np.random.Generator(np.random.PCG64(place))
        x: dict[str, Any] = {"table": rng.normal(size=(40, 3)).astype(np.float32)}
        if site != "c":
            x["image"] = rng.normal(70.0, 3.0, (40, 1, 6, 4)).astype(np.float32)
        given[site] = x, np.where(x["table"][:, 0] > 0, "yes", "no")
    run = simulated(farms("data.statistics=federation"), tmp_path, given)
    scale = run.state.scales["a0"]
    assert len(scale.means) == 4 and 68 < scale.means[0] < 72 and scale.scales[0] in (2.0, 4.0)
    assert all(abs(mean) < 1 for mean in scale.means[1:])


def test_the_coordinators_model_has_the_scale_wherever_it_goes(tmp_path: Path) -> None:
    parts = drawn(5, 60)
    labels = np.where(np.nan_to_num(parts["table"][:, 0]) > 40, "yes", "no")
    for task in ("a0", "b1"):
        np.savez(tmp_path / f"{task}.npz", **parts, y=labels)
    more = (f"data.dir='{tmp_path}'", f"run.run_dir='{tmp_path / 'run'}'", "data.statistics=federation")
    clients = ("simulation.clients=2", "federation.min_clients=2", "tasks.b1.weight=2")
    asyncio.run(simulate(config_of(FARM, *more, *clients), False, None))
    words = ["--mode", "predict", "--run_dir", str(tmp_path / "run"), "--task", "a0"]
    paths = ["--input", str(tmp_path / "a0.npz"), "--output", str(tmp_path / "answers.npz")]
    assert federated_main.main([*words, *paths]) == 0
    run = load_run(tmp_path / "run")
    trained = run.trained("a0")
    rows = examples(parts).scaled(run.scales["a0"]).batch(np.arange(60))
    with torch.inference_mode():
        wanted = trained.model("a0", rows).softmax(dim=1)[:, 1]
    with np.load(tmp_path / "answers.npz") as answers:
        np.testing.assert_allclose(answers["predicted_p_yes"], wanted, rtol=0, atol=1e-6)
    assert export_task(trained, tmp_path / "out") == ["README.md", "model.pt2"]
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    logits = program(torch.from_numpy(examples(parts).values))
    torch.testing.assert_close(logits.softmax(dim=1)[:, 1].float(), wanted, rtol=0, atol=1e-5)
    assert "the model scales them" in (tmp_path / "out" / "README.md").read_text()


def test_a_part_with_a_scale_of_its_own_is_refused() -> None:
    vit = {"vision": {"type": "vit", "shape": [3, 8, 8]}}
    with pytest.raises(ConfigError, match=r"data\.statistics: part 'image' brings .* model\.several\.parts\.image"):
        config_of(SeveralEncoder(PARTS | {"image": vit}), "data.statistics=site")
