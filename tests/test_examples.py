"""The examples run at a small size and say what they promise; the banks have a file of their own."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_architecture import ROOT

EXAMPLES = ROOT / "examples"


def printed_by(
    name: str, rates: tuple[float, ...], small: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Path:
    """Run an example with one learning rate; the picture that it drew."""
    picture = folder / "picture.png"
    made = runpy.run_path(str(EXAMPLES / name / "run.py"))
    if rates:
        monkeypatch.setitem(made["main"].__globals__, "RATES", rates)
    monkeypatch.setattr(sys, "argv", [name, *small, "--seeds", "1", "--rounds", "1", "--picture", str(picture)])
    made["main"]()
    return picture


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "small", "rates", "words"),
    [
        ("cars", ["--streets", "2"], (), ["| each site alone |", "| learned relations |"]),
        ("farm", ["--plots", "8"], (1e-2,), ["| each farm alone |", "| shared, with parts |"]),
        ("keyboard", ["--messages", "8"], (1e-2,), ["| each phone alone |", "| one model |", "| top layer by group |"]),
        ("factory", ["--windows", "120"], (), ["| conv1d |", "| mlp |"]),
        (
            "relations",
            ["--processes", "1"],
            (),
            ["| fully connected | fast, 0.4 | never |", "| learned |", "below 0.96"],
        ),
        ("hospital", ["--data", "scans", "--images", "12"], (3e-3,), ["| each alone |", "| shared |"]),
        ("hospital", ["--data", "digits", "--images", "12"], (3e-3,), ["| accuracy | rate | digit | odd | large |"]),
    ],
)
def test_an_example_prints_its_table_and_draws_its_picture(
    name: str,
    small: list[str],
    rates: tuple[float, ...],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    if "digits" in small:
        pytest.importorskip("sklearn")
    picture = printed_by(name, rates, small, monkeypatch, tmp_path)
    printed = capsys.readouterr().out
    assert all(word in printed for word in words) and picture.stat().st_size > 1000


def test_two_in_a_hundred_windows_of_the_factory_have_each_fault() -> None:
    sites = runpy.run_path(str(EXAMPLES / "factory" / "run.py"))["plants"](1, 4000)
    shares = [np.mean(labels == "fault") for site in sites.values() for _, labels, *_ in site.values()]
    assert all(0.012 < share < 0.028 for share in shares)
    windows = next(iter(sites["north"].values()))[0]
    np.testing.assert_allclose(windows.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(windows.std(axis=(1, 2)), 1, atol=1e-5)


def test_streets_are_what_their_labels_say() -> None:
    scene = runpy.run_path(str(EXAMPLES / "cars" / "scene.py"))
    seen = scene["streets"](60, [1])
    assert seen.pictures.shape == (60, 3, 24, 32) and seen.pictures.dtype == np.uint8
    sky, car = seen.classes == scene["SKY"], seen.classes == scene["CAR"]
    assert np.isnan(seen.depths[sky]).all() and np.nanmax(seen.depths) <= scene["FARTHEST"]
    assert ((seen.cars > 0) == car.any(axis=(1, 2))).all() and 0.02 < car.mean() < 0.3
    np.testing.assert_array_equal(scene["streets"](3, [1]).pictures, seen.pictures[:3])


def test_relations_are_drawn_as_is_said() -> None:
    """All tasks of the tutorial are one; known models have equal variance and the signs that their kind says."""
    made = runpy.run_path(str(EXAMPLES / "relations" / "run.py"))
    sites = made["tutorial"](1)
    assert len(sites) == 30 and all(50 <= len(rows[task][1]) < 150 for task in "abcde" for rows in [sites[f"{task}3"]])
    for task in "abcde":
        x, y = (np.concatenate([sites[f"{task}{client}"][task][part] for client in range(6)]) for part in (2, 3))
        classes = y.astype(int)
        assert np.bincount(classes, minlength=10).min() > 85
        np.testing.assert_allclose(x[np.arange(1200), classes].mean(), 2.0, atol=0.15)
    assert abs(made["least_loss"](20_000) - 0.961) < 0.02
    signs = {}
    for kind in made["KINDS"]:
        directions = []
        for rows in made["known"](kind, 1, 4000).values():
            x, y = rows["label"][:2]
            means = np.stack([x[y == label].mean(axis=0) for label in made["LABELS"]])
            directions.append((means / np.linalg.norm(means)).ravel())
        signs[kind] = np.corrcoef(np.stack(directions))
    near = np.kron(np.eye(2, dtype=bool), np.ones((5, 5), dtype=bool))
    assert signs["related"].min() > 0.8 and signs["opposites"][near].min() > 0.8
    assert signs["opposites"][~near].max() < -0.5
    assert np.abs(signs["unrelated"] - np.eye(10)).max() < 0.3


def test_no_digit_is_at_two_hospitals() -> None:
    pytest.importorskip("sklearn")
    sites = runpy.run_path(str(EXAMPLES / "hospital" / "run.py"))["hospitals"]("digits", 3, 100)
    images = np.concatenate([np.concatenate(rows["digit"][::2]) for rows in sites.values()])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
