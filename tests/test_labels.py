"""One rule for labels, whatever format a cell comes from: names, then whole numbers, then booleans of two labels."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from client.data.array_examples import ArrayExamples
from client.data.examples import TaskData
from client.data.request import DataRequest
from client.data.sources import load
from common.encoders.mlp import MLPEncoder
from common.errors import DataError
from common.tasks import KNOWN_TASKS, TASK_KINDS, TaskDefinition, TaskKind
from common.tasks.labels import CellError

SST2 = KNOWN_TASKS["sst2"]
TOPICS = TaskDefinition("topics", TASK_KINDS["multilabel"], ("sport", "politics", "art"), False, ("f1_micro",))


def of(*labels: str, kind: TaskKind = TASK_KINDS["classification"]) -> Callable[[object], object]:
    return kind.label_parser(TaskDefinition("own", kind, labels, False, ("accuracy",)))


def refusal(parse: Callable[[object], object], value: object) -> str:
    with pytest.raises(CellError) as caught:
        parse(value)
    return str(caught.value)


# ---- classes ----


@pytest.mark.parametrize(
    "value",
    [
        *("positive", "Positive", " POSITIVE ", "1", "1.0", "1.", "+1", "01", "1e0", "1.000000000000000000e+00"),
        *("true", "True", "TRUE", 1, 1.0, True, Decimal("1"), Decimal("1.00"), b"1", b"positive"),
        *(np.int8(1), np.uint64(1), np.float16(1), np.float32(1), np.float64(1), np.bool_(True), np.str_("1")),
    ],
    ids=repr,
)
def test_a_class_may_be_written_in_many_ways(value: object) -> None:
    assert SST2.type.label_parser(SST2)(value) == 1


@pytest.mark.parametrize(
    "value", ["1_0", "1,0", "0x1", "\u0661", "1.5", 0.5, "yes", "1 0", [1], "nan", "1e400"], ids=repr
)
def test_what_is_no_whole_number_is_no_class(value: object) -> None:
    assert refusal(SST2.type.label_parser(SST2), value).startswith(("unknown label", "label '1e400' is out of range"))


@pytest.mark.parametrize("value", [None, "", "  ", float("nan"), np.float64("nan")], ids=repr)
def test_a_gap_is_a_missing_label(value: object) -> None:
    assert refusal(SST2.type.label_parser(SST2), value) == "the label is missing; fill it in or remove the row"


def test_a_name_that_is_a_number_is_meant_however_the_number_is_written() -> None:
    stars, signs = of("1", "2", "3"), of("-1", "1")
    assert [stars(value) for value in ("1", 3, "2.0", Decimal(3))] == [0, 2, 1, 2]
    assert [signs(value) for value in (-1, "+1", "-1.0", True)] == [0, 1, 0, 1]
    assert of("0.5", "1.0")(1) == 1


def test_a_number_is_no_index_where_names_are_other_numbers() -> None:
    assert "label '0' is no name, and no index either" in refusal(of("1", "2", "3"), 0)
    assert "write one of -1, 1" in refusal(of("-1", "1"), 0)
    assert [of("none", "1", "2")(value) for value in (0, 1, "2")] == [0, 1, 2]  # both readings agree


def test_names_that_differ_in_case_alone_must_be_written_exactly() -> None:
    parse = of("US", "us", "UK")
    assert [parse(value) for value in ("US", "us", "uk")] == [0, 1, 2]
    assert refusal(parse, "Us") == "label 'Us' fits US, us; write one of them exactly"


@pytest.mark.parametrize("labels", [("yes", "no"), ("true", "false"), ("same", "not_same"), ("1", "0"), ("T", "F")])
def test_booleans_are_refused_where_the_names_say_the_contrary(labels: tuple[str, str]) -> None:
    if labels == ("true", "false"):
        assert [of(*labels)(value) for value in (True, "False")] == [0, 1]  # they are the names
        assert "label '1' could be index 1, 'false', or its contrary" in refusal(of(*labels), 1)
    else:
        assert "could be index 1" in refusal(of(*labels), True)
    assert "unknown label 'True'" in refusal(of("a", "b", "c"), True)


def test_a_score_takes_every_number_and_no_boolean() -> None:
    parse = of(kind=TASK_KINDS["regression"])
    values = ["+1.5", "15e-1", ".15e1", Decimal("1.50"), np.float32(1.5), 1.5]
    assert [parse(value) for value in values] == [1.5] * 6
    for value in (True, "1_5", "1,5", "\u0661"):
        assert "is not a number" in refusal(parse, value)


# ---- lists of labels ----


def test_multilabel_forms() -> None:
    parse = TOPICS.type.label_parser(TOPICS)
    for value in (
        "sport|art",
        " art | 0 ",
        '["art", 0]',
        "['art', 'Sport']",
        [2, "sport"],
        (2.0, 0),
        "[2 0]",
        "[2, 0]",
    ):
        assert parse(value) == (0, 2)
    assert parse("") == parse("[]") == parse([]) == ()
    assert parse("politics") == parse(["politics"]) == parse([1]) == (1,)


@pytest.mark.parametrize(
    "value",
    [
        *([0, 1, 1], [0.0, 1.0, 1.0], [False, True, True], ["0", "1", "1"], (0, 1, True)),
        *(
            "0|1|1",
            "[0, 1, 1]",
            "[0.0, 1.0, 1.0]",
            "[0. 1. 1.]",
            "[0 1 1]",
            "[false, true, true]",
            "[False, True, True]",
        ),
        *(np.array([0, 1, 1]), np.array([0.0, 1.0, 1.0]), np.array([False, True, True]), [Decimal("0.0"), 1, 1]),
    ],
    ids=repr,
)
def test_zeros_and_ones_as_long_as_the_labels_say_which_apply(value: object) -> None:
    assert TOPICS.type.label_parser(TOPICS)(value) == (1, 2)


def test_all_and_none_as_zeros_and_ones() -> None:
    parse = TOPICS.type.label_parser(TOPICS)
    assert (parse([0, 0, 0]), parse([1, 1, 1]), parse([0, 1])) == ((), (0, 1, 2), (0, 1))


@pytest.mark.parametrize("value", ["art|art", "art|2", [0, 0], [1, 1, 2], '["art", "Art"]'], ids=repr)
def test_a_label_twice_is_a_mistake(value: object) -> None:
    assert "is in the list twice; keep one" in refusal(TOPICS.type.label_parser(TOPICS), value)


def test_a_list_that_can_be_read_both_ways_is_refused() -> None:
    two, one = of("a", "b", kind=TASK_KINDS["multilabel"]), of("a", kind=TASK_KINDS["multilabel"])
    for parse, value in ((two, [0, 1]), (two, "1|0"), (two, [0.0, 1.0]), (one, [0]), (one, "0")):
        assert "could name labels, or say no (0) and yes (1) to each" in refusal(parse, value)
    assert (two([1, 1]), two([0, 0]), two([False, True]), two("a|b"), two([1])) == ((0, 1), (), (1,), (0, 1), (1,))
    assert (one([1]), one("1"), one([False])) == ((0,), (0,), ())


@pytest.mark.parametrize("value", ["[1", "[1, }", "[" * 9000, "[" + "1," * 40_000 + "x]", "[__import__('os')]"])
def test_a_broken_list_is_one_line(value: str) -> None:
    problem = refusal(TOPICS.type.label_parser(TOPICS), value)
    assert problem == "the label starts with [ but is not a JSON list; mend the list"


# ---- the same values in every format ----

CELLS = {"1.0": 1, "True": 1, "+1": 1, "Positive": 1, "0.": 0, "negative": 0}


def both_splits(folder: Path, suffix: str, write: Callable[[Path], object]) -> TaskData:
    (folder / "sst2").mkdir(parents=True)
    for split in ("train", "validation"):
        write(folder / "sst2" / f"{split}{suffix}")
    return load(DataRequest(SST2, "files", folder))


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".json", ".parquet"])
def test_texts_of_every_format_have_one_rule(tmp_path: Path, suffix: str) -> None:
    cells = [*CELLS]

    def write(path: Path) -> None:
        if suffix == ".parquet":
            pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            parquet.write_table(pa.table({"text": [f"{n}" for n in range(6)], "label": cells}), path)
        elif suffix == ".jsonl":
            path.write_text("".join(json.dumps({"text": f"{n}", "label": c}) + "\n" for n, c in enumerate(cells)))
        elif suffix == ".json":
            path.write_text(json.dumps([{"text": f"{n}", "label": c} for n, c in enumerate(cells)]))
        else:
            tab = "\t" if suffix == ".tsv" else ","
            path.write_text(f"text{tab}label\n" + "".join(f"{n}{tab}{c}\n" for n, c in enumerate(cells)))

    rows = both_splits(tmp_path, suffix, write).train
    assert isinstance(rows, list)
    assert {cells[int(row.text)]: row.label for row in rows} == CELLS


@pytest.mark.parametrize("kind", ["bool_", "int8", "float64", "decimal128", "string", "dictionary"])
def test_types_of_parquet(tmp_path: Path, kind: str) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values: list[object] = [True, False] if kind == "bool_" else [1, 0]
    if kind == "decimal128":
        values, made = [Decimal("1.0"), Decimal("0.0")], pa.decimal128(4, 1)
    elif kind in ("string", "dictionary"):
        values, made = ["Positive", "negative"], pa.string()
    else:
        made = getattr(pa, kind)()
    column = pa.array(values, made)
    column = column.dictionary_encode() if kind == "dictionary" else column
    table = pa.table({"text": ["a", "b"], "label": column})
    rows = both_splits(tmp_path, ".parquet", lambda path: parquet.write_table(table, path)).train
    assert isinstance(rows, list)
    assert sorted((row.text, row.label) for row in rows) == [("a", 1), ("b", 0)]


MINE = TaskDefinition("mine", TASK_KINDS["classification"], ("clutter", "Mine"), False, ("accuracy",))


@pytest.mark.parametrize(
    "labels", [[0, 1, 1, 0], [0.0, 1.0, 1.0, 0.0], [False, True, True, False], ["clutter", "mine", "MINE", "0.0"]]
)
def test_rows_of_numbers_have_the_same_rule(tmp_path: Path, labels: list[object]) -> None:
    x = np.arange(8.0).reshape(4, 2)
    np.savez(tmp_path / "mine.npz", x=x, y=np.array(labels))
    from_arrays = load(DataRequest(MINE, "files", tmp_path, inputs="numbers", encoder=MLPEncoder(2)))
    (tmp_path / "mine.npz").unlink()
    table = "".join(f"{a},{b},{label}\n" for (a, b), label in zip(x.tolist(), labels, strict=True))
    (tmp_path / "mine.csv").write_text("u,v,y\n" + table)
    from_table = load(DataRequest(MINE, "files", tmp_path, inputs="numbers", encoder=MLPEncoder(2)))
    for data in (from_arrays, from_table):
        assert isinstance(data.train, ArrayExamples)
        assert isinstance(data.validation, ArrayExamples)
        both = np.concatenate([data.train.labels, data.validation.labels])
        order = np.argsort(np.concatenate([data.train.values, data.validation.values])[:, 0])
        assert both[order].tolist() == [0, 1, 1, 0]


def test_a_bad_label_among_numbers_names_row_and_column(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("u,v,y\n1,2,0\n1,2,maybe\n")
    with pytest.raises(DataError, match=r"mine\.csv, row 2, column 'y', task mine: unknown label 'maybe'; use one of"):
        load(DataRequest(MINE, "files", tmp_path, inputs="numbers", encoder=MLPEncoder(2)))
    (tmp_path / "mine.csv").unlink()
    np.savez(tmp_path / "mine.npz", x=np.zeros((3, 2)), y=np.array([0, 1, 2]))
    with pytest.raises(DataError, match=r"mine\.npz, row 3, column 'y', task mine: label '2' is out of range"):
        load(DataRequest(MINE, "files", tmp_path, inputs="numbers", encoder=MLPEncoder(2)))
