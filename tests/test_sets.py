"""Data sets of the package `datasets`: saved on disk, and loaded by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from client.app import load_data, local_definitions
from client.data.array_examples import ArrayExamples
from client.data.columns import ColumnNames
from client.data.example import Example
from client.data.hub import HubSet
from client.data.request import DataRequest
from client.data.sources import load
from client.data.splits import SplitRule
from common.config import Config, load_config
from common.encoders.conv1d import Conv1dEncoder
from common.encoders.conv2d import Conv2dEncoder
from common.encoders.mlp import MLPEncoder
from common.errors import ConfigError, DataError
from common.tasks import TASK_KINDS, TaskDefinition

datasets = pytest.importorskip("datasets")

NEWS = TaskDefinition("news", TASK_KINDS["classification"], ("world", "sport"), False, ("accuracy",))
TAGS = TaskDefinition("news", TASK_KINDS["multilabel"], ("world", "sport"), False, ("f1_micro",))
RNG = np.random.Generator(np.random.PCG64(4))
PIXELS = RNG.integers(0, 255, (6, 5, 4, 3), dtype=np.uint8)
SPORT_FIRST = ["sport", "world"]
"""The other order than the task's: names count, not numbers."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def news(rows: int = 4, start: int = 0) -> object:
    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=SPORT_FIRST)})
    cells = {"text": [f"text {start + n}" for n in range(rows)], "label": [n % 2 for n in range(rows)]}
    return datasets.Dataset.from_dict(cells, kinds)


def folder_of(rows: object, folder: Path) -> Path:
    rows.save_to_disk(str(folder / "news"))
    return folder


def request(folder: Path, **more: object) -> DataRequest:
    return DataRequest(NEWS, "files", folder, **more)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(DataError) as refused:
        action()
    assert "\n" not in refused.value.message
    return refused.value.message


# ---- on disk ----


def test_a_saved_set_has_its_splits_and_its_names_of_classes(tmp_path: Path) -> None:
    saved = datasets.DatasetDict(train=news(), validation=news(2, 10), test=news(1, 20))
    folder = folder_of(saved, tmp_path)
    for broken in (tmp_path / "news" / "test").glob("*.arrow"):
        broken.write_bytes(b"nothing")  # nobody reads it for training
    data = load(request(folder))
    assert sorted(data.train, key=lambda example: example.text) == [
        Example(f"text {n}", None, 1 - n % 2) for n in range(4)
    ]
    assert {example.text for example in data.validation} == {"text 10", "text 11"}
    assert "test is not a readable data set of the package datasets; save it again" in refusal(
        lambda: load(request(folder, scored="test"))
    )


def test_a_saved_set_of_one_split_is_divided(tmp_path: Path) -> None:
    folder = folder_of(news(20), tmp_path)
    assert "news has no validation file" in refusal(lambda: load(request(folder)))
    data = load(request(folder, split=SplitRule(0.25, 0.25, stratify=True)))
    assert len(data.train) == 10 and sorted(data.validation.labels) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    groups = load(request(folder, split=SplitRule(0.4, by="text"), columns=ColumnNames(group="text")))
    assert len(groups.train) + len(groups.validation) == 20


def test_columns_and_arrays_of_numbers(tmp_path: Path) -> None:
    x = RNG.normal(size=(8, 2)).astype(np.float32)
    cells = {"u": x[:, 0], "v": x[:, 1], "label": ["world", "sport"] * 4}
    numbers = {"inputs": "numbers", "encoder": MLPEncoder(2)}
    folder = folder_of(datasets.Dataset.from_dict(cells), tmp_path / "columns")
    data = load(request(folder, **numbers))
    assert data.headers[0].names == ("u", "v") and (len(data.train), len(data.validation)) == (6, 2)
    folder = folder_of(datasets.Dataset.from_dict({"x": x.tolist(), "label": cells["label"]}), tmp_path / "lists")
    lists = load(request(folder, **numbers))
    assert lists.headers[0].names == ()
    np.testing.assert_array_equal(lists.train.values, data.train.values)
    ragged = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0]], "label": ["world", "sport"]})
    folder = folder_of(ragged, tmp_path / "ragged")
    assert "row 2, column 'x': shape (1,), but (2,) in the first row; give all rows the same" in refusal(
        lambda: load(request(folder, **numbers))
    )


def test_sequences_are_arrays_of_two_dimensions(tmp_path: Path) -> None:
    x = RNG.normal(size=(8, 6, 2)).astype(np.float32)
    kinds = {"signal": datasets.Array2D((6, 2), "float32"), "label": datasets.ClassLabel(names=SPORT_FIRST)}
    rows = datasets.Dataset.from_dict({"signal": x, "label": [0, 1] * 4}, datasets.Features(kinds))
    asked = request(folder_of(rows, tmp_path), inputs="sequences", encoder=Conv1dEncoder((6, 2), (2,)))
    data = load(asked)
    whole = np.concatenate([data.train.values, data.validation.values])
    np.testing.assert_array_equal(np.sort(whole.ravel()), np.sort(x.ravel()))


def pictures(column: str = "image", **more: list[object]) -> object:
    kinds = {column: datasets.Image(), "label": datasets.ClassLabel(names=SPORT_FIRST)}
    kinds |= dict.fromkeys(more, datasets.Image())
    cells = {column: [Picture.fromarray(pixels) for pixels in PIXELS], "label": [0, 1] * 3, **more}
    return datasets.Dataset.from_dict(cells, datasets.Features(kinds))


COLOURS = {"inputs": "images", "encoder": Conv2dEncoder((3, 5, 4), (2,))}


def test_images_are_decoded_as_files_of_images_are(tmp_path: Path) -> None:
    folder = folder_of(pictures(), tmp_path)
    data = load(request(folder, **COLOURS))
    assert isinstance(data.train, ArrayExamples) and data.train.values.dtype == np.uint8
    labelled = {p.transpose(2, 0, 1).tobytes(): 1 - n % 2 for n, p in enumerate(PIXELS)}
    for rows in (data.train, data.validation):
        assert [labelled[row.tobytes()] for row in rows.values] == rows.labels.tolist()
    grey = load(request(folder, inputs="images", encoder=Conv2dEncoder((1, 5, 4), (2,))))
    assert grey.train.values.shape == (5, 1, 5, 4)
    assert "row 1, column 'image': an image of 5x4 (height x width), wanted 9x9; resize it" in refusal(
        lambda: load(request(folder, inputs="images", encoder=Conv2dEncoder((3, 9, 9), (2,))))
    )


def test_a_second_column_of_images_is_not_chosen_between(tmp_path: Path) -> None:
    twice = pictures("front", back=[Picture.fromarray(pixels[::-1].copy()) for pixels in PIXELS])
    folder = folder_of(twice, tmp_path)
    said = refusal(lambda: load(request(folder, **COLOURS)))
    assert said.endswith("rows could be in 'front' or 'back'; name the right one in tasks.news.columns.features")
    data = load(request(folder, columns=ColumnNames(features=("back",)), **COLOURS))
    backs = {pixels[::-1].transpose(2, 0, 1).tobytes() for pixels in PIXELS}
    assert {row.tobytes() for row in data.train.values} <= backs


def test_a_parquet_file_with_images_is_read_too(tmp_path: Path) -> None:
    rows = pictures()
    (tmp_path / "news").mkdir()
    rows.to_parquet(str(tmp_path / "news" / "train.parquet"))
    numbered = replace(NEWS, labels=("0", "1"))
    data = load(DataRequest(numbered, "files", tmp_path, split=SplitRule(0.4), **COLOURS))
    assert (data.train.values.shape, len(data.validation)) == ((4, 3, 5, 4), 2)


def test_lists_of_classes_are_the_labels_of_a_multilabel_task(tmp_path: Path) -> None:
    kinds = {"text": datasets.Value("string"), "label": datasets.Sequence(datasets.ClassLabel(names=SPORT_FIRST))}
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [[0], [1, 0]]}, datasets.Features(kinds))
    folder = folder_of(datasets.DatasetDict(train=rows, validation=rows), tmp_path)
    data = load(DataRequest(TAGS, "files", folder))
    assert sorted(data.train.labels) == [(0, 1), (1,)]


def test_classes_of_other_names_are_refused(tmp_path: Path) -> None:
    folder = folder_of(datasets.DatasetDict(train=news(), validation=news()), tmp_path)
    numbered = replace(NEWS, labels=("0", "1"))
    assert "row 1, column 'label': unknown label 'sport'" in refusal(
        lambda: load(DataRequest(numbered, "files", folder))
    )
    unlabelled = news().map(lambda row: {"label": -1})
    folder = folder_of(datasets.DatasetDict(train=unlabelled, validation=news()), tmp_path / "unlabelled")
    assert "column 'label'" in refusal(lambda: load(request(folder)))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    import dill

    folder = folder_of(datasets.DatasetDict(train=news(), validation=pictures()), tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module in (pickle, dill):
        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(module, name, refuse)
    assert len(load(request(folder, val_samples=0)).train) == 4


# ---- by name ----


def hub(folder: Path, **more: object) -> DataRequest:
    return DataRequest(NEWS, "hub", dataset=HubSet(str(folder), **more))


def write_set(folder: Path) -> Path:
    """A folder that is laid out as a set on the hub."""
    folder.mkdir()
    for split, rows in (("train", 6), ("test", 2)):
        lines = [f"{split} {n},{('world', 'sport')[n % 2]}" for n in range(rows)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return folder


def test_a_set_is_read_by_name_and_splits(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    data = load(hub(folder, validation="train[5:]", train="train[:5]"))
    assert {example.text for example in data.train} == {f"train {n}" for n in range(5)}
    assert [example.text for example in data.validation] == ["train 5"]
    assert data.origin == f"data set {folder}"
    tested = load(replace(hub(folder), scored="test"))
    assert sorted(example.text for example in tested.validation) == ["test 0", "test 1"]
    held = load(replace(hub(folder), split=SplitRule(0.5, 0.5, stratify=True)))
    assert (len(held.train), len(held.validation)) == (3, 3)  # the test split is a split of its own


def test_a_set_of_images_or_numbers_is_read_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for split in ("train", "validation"):
        pictures().to_parquet(str(folder / f"{split}.parquet"))
    data = load(replace(hub(folder), **COLOURS))
    assert (len(data.train), data.validation.values.shape) == (6, (6, 3, 5, 4))


def test_what_a_set_has_not_is_told(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    said = refusal(lambda: load(hub(folder)))
    assert said == (
        f"data set {folder} has no validation split, but train, test; name one in dataset.validation, write "
        "data.split.validation, or val_samples: 0"
    )
    assert "split 'other' cannot be read; present are train, test; change dataset.train" in refusal(
        lambda: load(hub(folder, train="other"))
    )
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "code.py").write_text("raise SystemExit('it ran')\n")
    assert f"data set {tmp_path / 'code'} could not be loaded (" in refusal(lambda: load(hub(tmp_path / "code")))


def test_without_the_hub_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    said = refusal(lambda: load(DataRequest(NEWS, "hub", dataset=HubSet("nobody/nothing", "small"))))
    assert said.startswith("data set nobody/nothing/small could not be loaded (")
    assert said.endswith(
        "check name, config and network, or save it to a folder (save_to_disk) and name that in data.dir"
    )


def test_the_configuration_names_sets_by_task(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")

    def config(*overrides: str) -> Config:
        return load_config(None, ["tasks={news: {type: classification, labels: [world, sport]}}", *overrides], "client")

    named = config("data.source=hub", f"tasks.news.dataset='{folder}'", "tasks.news.val_samples=0")
    assert len(load_data(named, local_definitions(named, ["news"]))["news"].train) == 6
    sliced = config("data.source=hub", f"tasks.news.dataset={{name: '{folder}', validation: 'test[:1]'}}")
    assert len(load_data(sliced, local_definitions(sliced, ["news"]))["news"].validation) == 1
    for overrides, line in (
        (("data.source=hub",), "tasks.news.dataset: missing, where data.source is hub; name a set"),
        (("data.source=hub", "tasks.news.dataset=a/b", "data.dir=x"), "data.dir: 'x' is not read by source hub; write"),
    ):
        with pytest.raises(ConfigError) as refused:
            config(*overrides)
        assert line in "\n".join(refused.value.problems)
