"""Rows held out by `data.split`: whole groups, right shares, the same for every kind of inputs."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client.data.array_examples import ArrayExamples
from client.data.columns import ColumnNames
from client.data.examples import TaskData
from client.data.request import DataRequest
from client.data.sources import load
from client.data.splits import Divided, SplitRule, divide
from common.config import load_config
from common.encoders.conv1d import Conv1dEncoder
from common.encoders.conv2d import Conv2dEncoder
from common.encoders.mlp import MLPEncoder
from common.encoders.row import ArrayEncoder
from common.encoders.several import SeveralEncoder
from common.errors import ConfigError, DataError
from common.tasks import TASK_KINDS, TaskDefinition

COUGH = TaskDefinition("cough", TASK_KINDS["classification"], ("a", "b", "c"), False, ("accuracy",))
AGE = TaskDefinition("age", TASK_KINDS["regression"], (), False, ("rmse",))
SPLITS = ("train", "validation", "test")


def rows_of(labels: list[int] | np.ndarray) -> ArrayExamples:
    return ArrayExamples(np.zeros((len(labels), 1), np.float32), np.asarray(labels))


def divided(
    rule: SplitRule,
    labels: list[int] | np.ndarray,
    groups: list[str] | None = None,
    task=COUGH,
    seed=3,
    files=("train",),
) -> Divided:
    return divide(rule, lambda split: split in files, task, seed, rows_of(labels), groups, "rows.csv")


def sides(found: Divided, count: int) -> list[str]:
    """The split of each row; every row is in exactly one."""
    whose = {int(place): split for split, places in found.sides.items() for place in places}
    assert len(whose) == count == sum(map(len, found.sides.values()))
    return [whose[row] for row in range(count)]


def by_group(found: Divided, groups: list[str]) -> dict[str, str]:
    """The split of each group, which is in one alone."""
    pairs = set(zip(groups, sides(found, len(groups)), strict=True))
    assert len(pairs) == len({*groups}), "a group is on two sides"
    return dict(pairs)


patients = st.lists(st.integers(0, 40).map(str), min_size=30, max_size=80)


@given(groups=patients, more=patients, seed=st.integers(0, 99))
def test_a_group_is_on_one_side_whatever_else_there_is(groups: list[str], more: list[str], seed: int) -> None:
    rule = SplitRule(0.2, 0.2, "patient")
    groups = [*groups, *(f"other {number}" for number in range(20))]
    first = by_group(divided(rule, np.arange(len(groups)) % 3, groups, seed=seed), groups)
    together = [*more, *groups[::-1]]
    assert by_group(divided(rule, np.zeros(len(together), int), together, AGE, seed), together).items() >= first.items()


def test_the_shares_of_groups_are_right_on_average() -> None:
    groups = [str(number) for number in range(4000)]
    found = Counter(sides(divided(SplitRule(0.2, 0.1, "patient"), np.zeros(4000, int), groups), 4000))
    assert abs(found["validation"] - 800) < 100 and abs(found["test"] - 400) < 80  # four deviations
    assert (
        divided(SplitRule(0.2, by="p"), [0] * 99, groups[:99], seed=1).sides["train"].tolist()
        != divided(SplitRule(0.2, by="p"), [0] * 99, groups[:99], seed=2).sides["train"].tolist()
    )


def test_shares_of_rows_are_exact_and_depend_on_seed_and_task() -> None:
    rule = SplitRule(0.2, 0.1)
    found = divided(rule, [0] * 100)
    assert Counter(sides(found, 100)) == {"train": 70, "validation": 20, "test": 10}
    again, other, another = (
        divided(rule, [0] * 100),
        divided(rule, [0] * 100, seed=4),
        divided(rule, [0] * 100, task=AGE),
    )
    assert sides(again, 100) == sides(found, 100)
    assert sides(other, 100) != sides(found, 100) != sides(another, 100)


@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_stratified_labels_keep_their_shares_to_within_a_row(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    found = sides(divided(SplitRule(0.25, 0.2, stratify=True), labels, seed=seed), len(labels))
    for label, count in enumerate(counts):
        mine = Counter(side for side, of in zip(found, labels, strict=True) if of == label)
        assert mine["train"] >= 1, "a label that nobody trains on"
        if count > 3:
            assert abs(mine["validation"] - 0.25 * count) <= 1 and abs(mine["test"] - 0.2 * count) <= 1
    if min(counts) > 3:
        total = Counter(found)
        assert abs(total["validation"] - 0.25 * len(labels)) <= 1 and abs(total["test"] - 0.2 * len(labels)) <= 1


def test_a_regression_is_stratified_by_tenths_of_its_scores() -> None:
    scores = np.random.Generator(np.random.PCG64(1)).normal(size=200) ** 3
    found = divided(SplitRule(0.2, stratify=True), scores, task=AGE).sides["validation"]
    tenths = np.argsort(np.argsort(scores))[found] // 20
    assert Counter(tenths.tolist()) == dict.fromkeys(range(10), 4)


def test_stratified_groups_stay_whole_and_keep_the_shares_of_labels() -> None:
    rng = np.random.Generator(np.random.PCG64(2))
    whose = np.repeat(np.arange(300), rng.integers(1, 6, 300))
    labels = (whose % 10 == 0).astype(int)  # a tenth of the patients
    groups = [f"p{number}" for number in whose]
    found = divided(SplitRule(0.2, 0.2, "patient", stratify=True), labels, groups)
    by_group(found, groups)
    for split in ("validation", "test"):
        places = found.sides[split]
        for label in (0, 1):
            mine = (labels == label).sum()
            assert abs((labels[places] == label).sum() - 0.2 * mine) <= 3
    order = rng.permutation(len(groups))
    turned = [groups[place] for place in order]
    assert by_group(divided(SplitRule(0.2, 0.2, "patient", stratify=True), labels[order], turned), turned) == by_group(
        found, groups
    )


def test_what_has_a_file_of_its_own_is_not_held_out() -> None:
    rule = SplitRule(0.2, 0.2)
    assert {*divided(rule, [0] * 10, files=("train", "test")).sides} == {"train", "validation"}
    assert {*divided(rule, [0] * 10, files=("train", "validation")).sides} == {"train", "test"}
    assert divided(rule, [0] * 10, files=SPLITS).sides["train"].tolist() == [*range(10)]


def test_an_empty_side_is_told_and_an_empty_training_side_refused() -> None:
    (note,) = divided(SplitRule(0.2, 0.3), [0, 1]).notes
    assert note == (
        "rows.csv: data.split: none of 2 rows is for validation; there are too few, or too few groups of them"
    )
    with pytest.raises(DataError, match=r"rows.csv: data.split leaves none of 5 rows to train on; lower its shares"):
        divided(SplitRule(0.9, by="patient"), [0] * 5, ["x"] * 5)
    with pytest.raises(DataError, match=r"rows.csv has no column or array 'patient'; name one that is there"):
        divided(SplitRule(0.9, by="patient"), [0] * 5)


# ---- files of every kind ----

RULE = SplitRule(0.25, 0.25, "patient")
PATIENTS = [number // 4 for number in range(48)]
LABELS = [number % 3 for number in range(48)]


def cells(kind: str) -> tuple[ArrayEncoder | None, np.ndarray | None]:
    rng = np.random.Generator(np.random.PCG64(0))
    match kind:
        case "numbers":
            return MLPEncoder(2), np.c_[np.arange(48.0), rng.normal(size=48)]
        case "images":
            return Conv2dEncoder((1, 4, 4), (2,)), rng.integers(0, 255, (48, 4, 4), dtype=np.uint8)
        case "sequences":
            return Conv1dEncoder((6, 2), (2,)), rng.normal(size=(48, 6, 2))
    return None, None


def write(folder: Path, kind: str, form: str) -> DataRequest:
    """A file of all rows, with a column or an array `patient`."""
    encoder, x = cells(kind)
    if form == "csv":
        names = "text" if x is None else "u,v"
        rows = [f"text {n}" if x is None else f"{x[n, 0]},{x[n, 1]}" for n in range(48)]
        lines = [
            f"{names},patient,label",
            *(f"{r},{p},{'abc'[y]}" for r, p, y in zip(rows, PATIENTS, LABELS, strict=True)),
        ]
        path = folder / "cough" / "train.csv"
        path.parent.mkdir()
        path.write_text("\n".join(lines) + "\n")
    elif form == "all":
        np.savez(
            folder / "all.npz", task=["cough"] * 48 + ["other"], x=[*x, x[0]], y=[*LABELS, 0], patient=[*PATIENTS, 99]
        )
    else:
        np.savez(folder / "cough.npz", x=x, y=LABELS, patient=PATIENTS)
    kinds = {"inputs": "texts" if encoder is None else kind, "encoder": encoder, "split": RULE}
    return DataRequest(COUGH, "files", folder, ColumnNames(group="patient"), seed=5, **kinds)


def patients_in(data: TaskData, kind: str) -> tuple[set[int], set[int]]:
    """Whose rows are to train on, and whose to score on."""
    x = cells(kind)[1]

    def whose(rows) -> set[int]:
        if x is None:
            return {PATIENTS[int(example.text.split()[1])] for example in rows}
        first = {row.astype(rows.values.dtype).tobytes(): patient for row, patient in zip(x, PATIENTS, strict=True)}
        return {first[row.tobytes()] for row in rows.values}

    return whose(data.train), whose(data.validation)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("texts", "csv"),
        ("numbers", "csv"),
        ("numbers", "npz"),
        ("numbers", "all"),
        ("images", "npz"),
        ("sequences", "npz"),
    ],
)
def test_patients_of_every_kind_of_rows_are_on_one_side(kind: str, form: str, tmp_path: Path) -> None:
    request = write(tmp_path, kind, form)
    data = load(request)
    train, validation = patients_in(data, kind)
    test = patients_in(load(replace(request, scored="test")), kind)[1]
    assert train | validation | test == {*range(12)} and len(train) + len(validation) + len(test) == 12
    assert validation and test
    # The same patients whatever the kind of rows and of file: "4", 4 and 4.0 are one patient.
    expected = by_group(divided(RULE, LABELS, [*map(str, PATIENTS)], seed=5), [*map(str, PATIENTS)])
    assert {str(p) for p in validation} == {p for p, side in expected.items() if side == "validation"}
    assert all("patient" not in header.names for header in data.headers)
    everything = load(replace(request, split=None, val_samples=0 if kind == "texts" or form == "csv" else None))
    assert len(everything.train) + len(everything.validation) == 48


def test_rows_of_several_parts_are_split_by_patient(tmp_path: Path) -> None:
    table, scan = {"mlp": {"features": 1}}, {"conv2d": {"shape": [1, 4, 4], "filters": [2]}}
    farm = SeveralEncoder({"table": table, "scan": scan})
    np.savez(tmp_path / "cough.npz", table=np.arange(48.0)[:, None], y=LABELS, patient=PATIENTS)
    kinds = {"inputs": farm.inputs, "encoder": farm, "split": RULE}
    data = load(DataRequest(COUGH, "files", tmp_path, ColumnNames(group="patient"), seed=5, **kinds))
    assert data.lacks == {"scan"}
    expected = by_group(divided(RULE, LABELS, [*map(str, PATIENTS)], seed=5), [*map(str, PATIENTS)])
    for rows, split in ((data.train, "train"), (data.validation, "validation")):
        assert len(rows) and {expected[str(PATIENTS[int(row[0])])] for row in rows.values} == {split}


def test_image_files_are_split_by_rows(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / "cough" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number).save(path)
    encoder = Conv2dEncoder((1, 4, 4), (2,))
    rule = SplitRule(0.25, 0.25, stratify=True)
    data = load(DataRequest(COUGH, "files", tmp_path, inputs="images", encoder=encoder, split=rule))
    assert (len(data.train), sorted(data.validation.labels)) == (6, [0, 1, 2])
    with pytest.raises(DataError, match=r"cough has no column or array 'patient'"):
        load(DataRequest(COUGH, "files", tmp_path, inputs="images", encoder=encoder, split=RULE))


def test_an_empty_cell_of_a_group_and_an_array_of_another_length_are_refused(tmp_path: Path) -> None:
    request = write(tmp_path, "texts", "csv")
    path = tmp_path / "cough" / "train.csv"
    path.write_text(path.read_text().replace("text 2,0,", "text 2,,"))
    with pytest.raises(
        DataError, match=r"train.csv, row 3: no text or number in the column of data.split.by; fill it in"
    ):
        load(request)
    np.savez(tmp_path / "cough.npz", x=np.ones((4, 2)), y=[0, 1, 2, 0], patient=[1, 2])
    numbers = {"inputs": "numbers", "encoder": MLPEncoder(2), "split": RULE, "columns": ColumnNames(group="patient")}
    path.unlink()
    with pytest.raises(DataError, match=r"cough.npz: array 'patient' has shape \(2,\), not one value for each row"):
        load(DataRequest(COUGH, "files", tmp_path, **numbers))


# ---- the configuration ----


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.split.by=patient"], "data.split.by: not read without a share; set data.split.validation or"),
        (["data.split={validation: 0.5, test: 0.5}"], "data.split: 0.5 and 0.5 leave nothing to train on; lower them"),
        (["data.split.test=1"], "data.split.test: 1 is out of range; write less than 1"),
        (
            ["data.split={test: 0.1, stratify: true}", "tasks.words={type: masked_lm}"],
            "data.split.stratify: needs one label per row, task words has none; leave it out",
        ),
        (
            ["data.split={test: 0.1, stratify: true}", "tasks.tags={type: multilabel, labels: 2}"],
            "data.split.stratify: needs one label per row, task tags has many; leave it out",
        ),
        (
            ["data.split.test=0.1", "data.dir=null"],
            "data.split: source builtin says itself what is scored on; remove it",
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(None, ["tasks={sst2: {}}", "data.dir=x", *overrides], "client")
    assert line in "\n".join(refused.value.problems)
