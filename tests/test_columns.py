"""Which column is what: named, or the only one with a usual name; features go by name, never by position."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.array_examples import ArrayExamples
from client.data.columns import ColumnNames, Table, to_examples
from client.data.examples import TaskData
from client.data.request import DataRequest
from client.data.sources import load
from client.data.summary import summary
from common.encoders.mlp import MLPEncoder
from common.errors import DataError
from common.inputs.header import Header
from common.tasks import KNOWN_TASKS, TASK_KINDS, TaskDefinition

SST2, STSB, QNLI = KNOWN_TASKS["sst2"], KNOWN_TASKS["stsb"], KNOWN_TASKS["qnli"]
HIDDEN = TaskDefinition("lm", TASK_KINDS["masked_lm"], (), False, ("perplexity",))
PRICE = TaskDefinition("price", TASK_KINDS["regression"], (), False, ("rmse",))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in caught.value.message
    return caught.value.message


def table(**columns: list[object]) -> Table:
    return Table("train.tsv", columns)


# ---- texts ----

TWO = {
    "two texts": (SST2, {"sentence": ["a"], "text": ["b"], "label": [1]}, "the text could be in 'sentence' or 'text'"),
    "two labels": (SST2, {"text": ["a"], "label": [1], "score": [0]}, "the label could be in 'label' or 'score'"),
    "label and target": (SST2, {"text": ["a"], "target": [1], "label": [0]}, "could be in 'label' or 'target'"),
    "label in capitals": (SST2, {"text": ["a"], "Label": [1], "score": [0]}, "could be in 'Label' or 'score'"),
    "label and its copy": (SST2, {"text": ["a"], "label": [1], "label.1": [0]}, "could be in 'label' or 'label.1'"),
    "score and label": (
        STSB,
        {"sentence1": ["a"], "sentence2": ["b"], "label": [1], "score": [0.5]},
        "the label could be in 'label' or 'score'; name the right one in tasks.stsb.columns.label",
    ),
    "two pairs": (
        QNLI,
        {"question": ["a"], "sentence": ["b"], "premise": ["c"], "hypothesis": ["d"], "label": [1]},
        "the texts could be in 'question'+'sentence' or 'premise'+'hypothesis'; name the right one in tasks.qnli.col",
    ),
    "hidden words": (HIDDEN, {"sentence": ["a"], "text": ["b"]}, "the text could be in 'sentence' or 'text'"),
}


@pytest.mark.parametrize("case", TWO)
def test_a_second_column_with_a_usual_name_is_refused(case: str) -> None:
    task, columns, said = TWO[case]
    message = refusal(lambda: to_examples(table(**columns), task, None))
    assert message.startswith("train.tsv: ")
    assert said in message
    assert f"in tasks.{task.name}.columns." in message


def test_naming_one_settles_it_and_others_are_still_found() -> None:
    columns = table(sentence=["a"], text=["b"], label=[1], score=[0])
    (row,) = to_examples(columns, SST2, ColumnNames(text="text", label="score"))
    assert (row.text, row.label) == ("b", 0)
    assert "the label could be" in refusal(lambda: to_examples(columns, SST2, ColumnNames(text="text")))
    (row,) = to_examples(table(Text=["a"], LABEL=[1], idx=[7]), SST2, None)
    assert (row.text, row.label) == ("a", 1)
    assert "named both as the label and" in refusal(
        lambda: to_examples(columns, SST2, ColumnNames("text", None, "text"))
    )


# ---- numbers ----


def save(folder: Path, name: str, header: str, *rows: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join((header, *rows)) + "\n")


def read(folder: Path, features: int = 2, names: ColumnNames | None = None, task: TaskDefinition = PRICE) -> TaskData:
    return load(DataRequest(task, "files", folder, names, inputs="numbers", encoder=MLPEncoder(features)))


def together(data: TaskData) -> dict[float, list[float]]:
    """Features by label."""
    assert isinstance(data.train, ArrayExamples)
    assert isinstance(data.validation, ArrayExamples)
    both = (data.train, data.validation)
    features, labels = (np.concatenate([getattr(rows, part) for rows in both]) for part in ("values", "labels"))
    return dict(zip(labels.tolist(), features.tolist(), strict=True))


ROWS = ("1,2,3", "4,5,6", "7,8,9")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("age,score,y", "price.csv: the label could be in 'score' or 'y'; name the right one in tasks.price.columns"),
        ("age,Score,Y", "the label could be in 'Score' or 'Y'"),
        ("y,income,target", "the label could be in 'target' or 'y'"),
        ("label,age,label", "column 'label' appears twice in the header; rename one"),
        ("age,age,y", "column 'age' appears twice in the header; rename one"),
        ("age, age,y", "column 'age' appears twice in the header; rename one"),
        ("y,age,y.1", "the label could be in 'y' or 'y.1'"),
        (",age,y", "column 1 has no name, as an index has that was saved too, and is no feature; remove it, or name"),
        ("Unnamed: 0,age,y", "column 1 is called 'Unnamed: 0', as an index has"),
        ("age,__index_level_0__,y", "column 2 is called '__index_level_0__'"),
        (",,y", "a column without a name appears twice"),
        ("age,income,price", "column missing, needed label or"),
    ],
)  # fmt: skip
def test_what_a_table_does_not_say_for_sure_is_refused(tmp_path: Path, header: str, said: str) -> None:
    save(tmp_path, "price.csv", header, *ROWS)
    assert said in refusal(lambda: read(tmp_path))


def test_the_label_of_numbers_may_be_named(tmp_path: Path) -> None:
    save(tmp_path, "price.csv", "age,score,y", *ROWS)
    data = read(tmp_path, names=ColumnNames(label="y"))
    assert together(data) == {3.0: [1.0, 2.0], 6.0: [4.0, 5.0], 9.0: [7.0, 8.0]}
    assert data.described == "label 'y', 2 features age, score"
    assert together(read(tmp_path, names=ColumnNames(label="age"))) == {
        1.0: [2.0, 3.0],
        4.0: [5.0, 6.0],
        7.0: [8.0, 9.0],
    }
    assert "needed weight; present are age, score, y" in refusal(
        lambda: read(tmp_path, names=ColumnNames(label="weight"))
    )
    save(tmp_path, "price.csv", "y,age,y.1", *ROWS)
    assert "column 'y.1' looks like a copy of the label" in refusal(
        lambda: read(tmp_path, names=ColumnNames(label="y"))
    )


def test_named_features_are_taken_by_name_in_the_order_asked(tmp_path: Path) -> None:
    names = ColumnNames(features=("age", "income"))
    headers = ("age,income,y", "income,age,y", "id,income,y,age", "Unnamed: 0,score,income,y,label2,age")
    for number, header in enumerate(headers):
        cells = {"age": "1", "income": "2", "y": "3"}
        row = ",".join(cells.get(name, "x") for name in header.split(","))
        save(tmp_path / str(number), "price.csv", header, row, row.replace("3", "4"))
        wanted = ColumnNames(label="y", features=names.features) if "score" in header else names
        data = read(tmp_path / str(number), names=wanted)
        assert together(data) == {3.0: [1.0, 2.0], 4.0: [1.0, 2.0]}
        assert data.headers == (Header.of(("age", "income")),)
    save(tmp_path, "price.csv", "age,y", "1,2", "1,2")
    assert "needed income; present are age, y; rename it or set tasks.price.columns.features" in refusal(
        lambda: read(tmp_path, names=names)
    )


def test_more_columns_than_features_names_them(tmp_path: Path) -> None:
    save(tmp_path, "price.csv", "id,age,income,y", "1,2,3,4", "1,2,3,4")
    assert (
        "rows have 3 features (id, age, income), model.mlp.features is 2; name those wanted in tasks.price.columns.feat"
    ) in refusal(lambda: read(tmp_path))


def test_validation_rows_follow_the_names_of_training_rows(tmp_path: Path) -> None:
    save(tmp_path, "price/train.csv", "age,income,y", "1,2,3")
    save(tmp_path, "price/validation.csv", "y,income,age", "4,2,1")
    assert together(read(tmp_path)) == {3.0: [1.0, 2.0], 4.0: [1.0, 2.0]}
    save(tmp_path, "price/validation.csv", "y,income,weight", "4,2,1")
    assert "validation.csv: column missing, needed age" in refusal(lambda: read(tmp_path))


def test_tables_of_numbers_come_in_every_format(tmp_path: Path) -> None:
    save(tmp_path / "tsv", "price.tsv", "age\tincome\ty", "1\t2\t3", "4\t5\t6")
    save(tmp_path / "jsonl", "price.jsonl", '{"income": 2, "age": 1.0, "y": 3}', '{"age": 4, "income": 5, "y": "6"}')
    save(tmp_path / "json", "price/train-0-of-1.json", '[{"age": 1, "income": 2, "y": 3}]')
    save(tmp_path / "json", "price/validation.csv", "y,age,income", "6,4,5")
    for form in ("tsv", "jsonl", "json"):
        names = ColumnNames(features=("age", "income"))
        assert together(read(tmp_path / form, names=names)) == {3.0: [1.0, 2.0], 6.0: [4.0, 5.0]}


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("x", "'x' is not a number"),
        ("", "the cell is empty"),
        ("1_0", "'1_0' is not a number"),
        ("nan", "nan is not a finite float32"),
        ("1e39", "1e+39 is not a finite float32"),
        ("True", "'True' is not a number"),
        ("a long secret of mine", "(a value of 21 characters) is not a number"),
    ],
)
def test_a_bad_feature_names_row_and_column(tmp_path: Path, cell: str, said: str) -> None:
    save(tmp_path, "price.csv", "age,income,y", "1,2,3", f"1,{cell},3")
    assert f"price.csv, row 2, column 'income': {said}; mend or remove the row" in refusal(lambda: read(tmp_path))


def arrays(folder: Path, **found: Any) -> Path:
    folder.mkdir(exist_ok=True)
    np.savez(folder / "price.npz", x=np.array([[1.0, 2.0], [4.0, 5.0]]), **found)
    return folder


def test_arrays_may_name_their_features(tmp_path: Path) -> None:
    y = np.array([3.0, 6.0])
    nameless = read(arrays(tmp_path / "a", y=y))
    assert (nameless.headers[0], nameless.described) == (
        Header(2),
        "label 'y', 2 features without names, taken by position",
    )
    named = arrays(tmp_path / "b", y=y, feature_names=np.array(["income", "age"]))
    assert read(named).headers[0] == Header.of(("income", "age"))
    turned = read(named, names=ColumnNames(features=("age", "income")))
    assert together(turned) == {3.0: [2.0, 1.0], 6.0: [5.0, 4.0]}
    assert "feature 'size' is missing; present are income, age" in refusal(
        lambda: read(named, names=ColumnNames(features=("age", "size")))
    )
    assert "could be in 'names' or 'columns'" in refusal(
        lambda: read(arrays(tmp_path / "c", y=y, names=np.array(["a", "b"]), columns=np.array(["c", "d"])))
    )
    assert "must name each of 2 features once" in refusal(
        lambda: read(arrays(tmp_path / "d", y=y, names=np.array(["a", "a"])))
    )


def test_the_label_of_arrays_is_refused_where_there_are_two(tmp_path: Path) -> None:
    two = arrays(tmp_path / "a", y=np.array([3.0, 6.0]), score=np.array([1.0, 2.0]))
    assert "the label could be in 'score' or 'y'" in refusal(lambda: read(two))
    assert set(together(read(two, names=ColumnNames(label="score")))) == {1.0, 2.0}


def test_a_summary_tells_columns_and_balance(tmp_path: Path) -> None:
    save(tmp_path, "sst2/train.tsv", "sentence\tlabel", "a\t1", "b\t0", "c\t1", "d\t1")
    save(tmp_path, "sst2/dev.tsv", "sentence\tlabel", "a\t1")
    assert summary(SST2, load(DataRequest(SST2, "files", tmp_path))) == [
        f"sst2: 4 training, 1 validation rows, {tmp_path / 'sst2'}",
        "  columns: text 'sentence', label 'label'",
        "  training labels: positive 3 (75%), negative 1 (25%)",
        "  validation labels: positive 1 (100%), no row of negative",
    ]
    save(tmp_path, "price/train.csv", "age,income,y", "1,2,3", "1,2,5")
    save(tmp_path, "price/validation.csv", "age,income,y", "1,2,4")
    assert summary(PRICE, read(tmp_path))[1:] == [
        "  columns: label 'y', 2 features age, income",
        "  training scores: from 3 to 5, mean 4, deviation 1",
        "  validation scores: from 4 to 4, mean 4, deviation 0",
    ]
    tags = TaskDefinition("tags", TASK_KINDS["multilabel"], ("a", "b", "c"), False, ("f1_micro",))
    save(tmp_path, "tags/train.tsv", "text\tlabel", "x\ta|b", "y\ta", "z\t[]")
    save(tmp_path, "tags/dev.tsv", "text\tlabel", "x\tc")
    assert summary(tags, load(DataRequest(tags, "files", tmp_path)))[2:] == [
        "  training labels: a 2 (67%), b 1 (33%), none 1, no row of c",
        "  validation labels: c 1 (100%), none 0, no row of a, b",
    ]
