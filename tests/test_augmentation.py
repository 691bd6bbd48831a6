"""Images of an epoch are mirrored, moved, brighter or darker: as the seed says, in training alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from client.app import load_data
from client.data.array_examples import ArrayExamples
from client.data.augmenting import drawn_changes
from client.data.forms import FORMS
from common.augmentation import Augmentation
from common.config import Config, load_config
from common.encoders.conv2d import Conv2dEncoder
from common.errors import ConfigError
from common.standardising import InputScale
from simulation.population import population
from simulation.virtual_clients import run_virtual_clients
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.federations import array_config, digest_of, federate, make_model
from tests.test_array_encoders import CLIENTS, MIN, config_of

ROWS = 40
PIXELS = np.random.Generator(np.random.PCG64(2)).normal(2, 1, (ROWS, 3, 8, 6)).astype(np.float32)
ALL = np.arange(ROWS)
FLIP, CROP, JITTER = Augmentation(flip=True), Augmentation(crop=2), Augmentation(jitter=0.3)
EVERYTHING = Augmentation(flip=True, crop=2, jitter=0.3)


def images(augmentation: Augmentation | None, values: np.ndarray = PIXELS, labels: np.ndarray = ALL) -> ArrayExamples:
    return ArrayExamples(values, labels, FORMS["images"], augmentation=augmentation)


def epoch(augmentation: Augmentation, seed: int, values: np.ndarray = PIXELS) -> np.ndarray:
    return images(augmentation, values).drawn(seed).batch(ALL[: len(values)]).values.numpy()


@pytest.mark.parametrize("augmentation", [FLIP, CROP, JITTER, EVERYTHING])
def test_the_seed_decides_and_nothing_else(augmentation: Augmentation) -> None:
    found = epoch(augmentation, 5)
    np.testing.assert_array_equal(found, epoch(augmentation, 5))
    assert not np.array_equal(found, epoch(augmentation, 6)) and not np.array_equal(found, PIXELS)
    other_batches = images(augmentation).drawn(5)
    for places in ([7, 3], [12], [0, 1, 2]):
        np.testing.assert_array_equal(other_batches.batch(np.array(places)).values.numpy(), found[places])


def test_rows_that_are_scored_stay_as_they_are() -> None:
    np.testing.assert_array_equal(images(EVERYTHING).batch(ALL).values.numpy(), PIXELS)
    np.testing.assert_array_equal(images(None).drawn(5).batch(ALL).values.numpy(), PIXELS)


def test_half_of_the_images_are_exact_mirrors() -> None:
    found = epoch(FLIP, 5)
    mirrored = [np.array_equal(after, before[:, :, ::-1]) for before, after in zip(PIXELS, found, strict=True)]
    kept = [np.array_equal(after, before) for before, after in zip(PIXELS, found, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True)) and 10 < sum(mirrored) < 30


def test_a_crop_moves_an_image_and_zeros_come_in() -> None:
    found, moved = epoch(CROP, 5), drawn_changes(CROP, ROWS, 5).moved
    assert {*moved.ravel().tolist()} == {-2, -1, 0, 1, 2}
    for before, after, (down, right) in zip(PIXELS, found, moved.tolist(), strict=True):
        expected = np.zeros_like(before)
        for row in range(8):
            for column in range(6):
                if 0 <= row - down < 8 and 0 <= column - right < 6:
                    expected[:, row, column] = before[:, row - down, column - right]
        np.testing.assert_array_equal(after, expected)


def test_jitter_changes_mean_and_deviation_by_at_most_its_share() -> None:
    found = epoch(JITTER, 5)
    mean, deviation = PIXELS.mean((1, 2, 3)), PIXELS.std((1, 2, 3))
    brightness, contrast = (found.mean((1, 2, 3)) - mean) / deviation, found.std((1, 2, 3)) / deviation
    assert 0.2 < abs(brightness).max() <= 0.3 + 1e-5 and 0.2 < abs(contrast - 1).max() <= 0.3 + 1e-5
    shape = (found - found.mean((1, 2, 3), keepdims=True)) / contrast[:, None, None, None]
    np.testing.assert_allclose(shape, PIXELS - mean[:, None, None, None], atol=1e-5)


def test_scale_and_bytes_come_first() -> None:
    """What comes in at an edge is 0 on the scale that the encoder reads."""
    scale, pixels = InputScale((0.5,) * 3, (0.25,) * 3), np.full((ROWS, 3, 8, 6), 255, dtype=np.uint8)
    found = images(CROP, pixels).scaled(scale).drawn(5).batch(ALL).values
    assert {*found.unique().tolist()} == {0.0, 2.0}


@pytest.mark.parametrize(("kind", "nothing"), [(np.uint8, 255), (np.float32, np.nan)])
def test_labels_of_pixels_go_with_their_pixels(kind: type, nothing: float) -> None:
    labels = np.arange(ROWS * 48).reshape(ROWS, 8, 6).astype(kind) % 200 + 1
    values = np.repeat(labels[:, None].astype(np.float32), 3, axis=1)
    batch = images(Augmentation(flip=True, crop=2), values, labels.astype(kind)).drawn(5).batch(ALL)
    assert batch.labels is not None and batch.labels.dtype == torch.from_numpy(labels).dtype
    expected = torch.where(batch.values[:, 0] == 0, torch.tensor(nothing), batch.values[:, 0])
    torch.testing.assert_close(batch.labels.float(), expected.float(), rtol=0, atol=0, equal_nan=True)


# ---- in a federation ----

ENCODER = Conv2dEncoder((3, 8, 6), (4, 6), hidden=5)
SOME = "data.augment={flip: true, crop: 2, jitter: 0.1}"


def test_a_federation_trains_on_other_rows_with_the_same_bits_everywhere(tmp_path: Path) -> None:
    plain, config = config_of(ENCODER, MIN), config_of(ENCODER, MIN, SOME)
    found = {how: asyncio.run(federate(config, tmp_path / how, CLIENTS, how)) for how in ("direct", "grpc")}
    assert len({digest_of(run) for run in found.values()}) == 1
    assert digest_of(found["grpc"]) != digest_of(asyncio.run(federate(plain, tmp_path / "plain", CLIENTS)))
    validation = load_data(config, config.definitions())["a0"].validation
    assert isinstance(validation, ArrayExamples) and validation.augmentation is None


def test_a_simulation_has_the_same_bits_with_any_number_of_workers(tmp_path: Path) -> None:
    def digest(workers: int) -> str:
        config = config_of(ENCODER, f"simulation={{clients: 4, workers: {workers}}}", SOME)
        run = run_virtual_clients(config, make_model(config), population(config), tmp_path / str(workers))
        return digest_of(asyncio.run(run)[0])

    assert digest(1) == digest(2)


@pytest.mark.parametrize("dies_after", [pytest.param(3, marks=pytest.mark.slow), 6])
def test_coordinator_and_clients_that_die_and_come_back_end_with_the_same_bits(tmp_path: Path, dies_after: int) -> None:
    config = config_of(ENCODER, "federation.min_clients=2", SOME)
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, (CLIENTS[0], CLIENTS[3]))
    expected, effects = asyncio.run(crash_and_recover(config, template, tmp_path / "whole", cast, None, True))
    assert dies_after < len(effects)
    found, _ = asyncio.run(crash_and_recover(config, template, tmp_path / "dies", cast, dies_after, True))
    assert found == expected


def texts() -> Config:
    return load_config(None, ["tasks={sst2: {}}", SOME])


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (texts, "data.augment: changes images, server_model prajjwal1/bert-tiny reads texts; remove it"),
        (lambda: array_config(SOME), "data.augment: changes images, server_model mlp reads numbers; remove it"),
        (lambda: config_of(ENCODER, "data.augment={}"), "data.augment.flip: nothing is changed; write flip: true"),
        (lambda: config_of(ENCODER, "data.augment.jitter=1"), "data.augment.jitter: 1"),
        (lambda: config_of(ENCODER, "data.augment.crop=-1"), "data.augment.crop: -1"),
    ],
)
def test_what_cannot_be_changed_is_told_in_one_line(config, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config()
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith(line), caught.value.problems
