import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.columns import ColumnNames
from client.data.example import Example
from client.data.examples import TaskData
from client.data.request import DataRequest, shard
from client.data.sources import load
from common.errors import DataError
from common.tasks import KNOWN_TASKS, TASK_KINDS, TaskDefinition

SST2, QQP, STSB = KNOWN_TASKS["sst2"], KNOWN_TASKS["qqp"], KNOWN_TASKS["stsb"]
TOPICS = TaskDefinition("topics", TASK_KINDS["multilabel"], ("sport", "politics", "art"), False, ("f1_micro",))
SUBJ = TaskDefinition("subj", TASK_KINDS["classification"], ("subjective", "objective"), False, ("accuracy",))
TREC = TaskDefinition("trec", TASK_KINDS["classification"], tuple("ABCDEF"), False, ("accuracy",))

GOOD = "sentence\tlabel\ngood\t1\n"


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def read(folder: Path, task: TaskDefinition = SST2, **request: Any) -> TaskData:
    return load(DataRequest(task, "files", folder, **request))


def rows(folder: Path, name: str, content: str | bytes, task: TaskDefinition = SST2, **request: Any) -> list[Example]:
    """The training rows of one file, which also serves as validation; back in the order of the file."""
    suffix = Path(name).suffix
    write(folder, {f"{task.name}/{split}{suffix}": content for split in ("train", "validation")})
    return sorted(read(folder, task, **request).train, key=lambda example: example.text)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in caught.value.message
    return caught.value.message


def test_tsv_takes_quotes_null_and_odd_line_ends_literally(tmp_path: Path) -> None:
    content = '\ufeffsentence\tlabel\r\n" a\t0\r\nnull\t1\r\nx\u2028y\x0b\x85 "\tnegative\r\n\r\n'
    assert rows(tmp_path, "train.tsv", content) == [
        Example('" a', None, 0),
        Example("null", None, 1),
        Example('x\u2028y\x0b\x85 "', None, 0),
    ]


def test_csv_follows_its_quotes(tmp_path: Path) -> None:
    content = 'id,text,label\n1,"a, ""b""\nc",1\n2,NA,0\n\n'
    assert rows(tmp_path, "train.csv", content) == [Example("NA", None, 0), Example('a, "b"\nc', None, 1)]


def test_jsonl_may_order_keys_freely_and_hold_more(tmp_path: Path) -> None:
    content = '{"sentence": "a", "label": 1}\n{"x": 0, "label": "negative", "sentence": "b"}\n'
    assert rows(tmp_path, "train.jsonl", content) == [Example("a", None, 1), Example("b", None, 0)]


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "topics").mkdir()
    table = pa.table({"text": ["a", "b"], "label": [[0, 2], []]})
    for split in ("train", "validation"):
        parquet.write_table(table, tmp_path / "topics" / f"{split}.parquet")
    train = sorted(read(tmp_path, TOPICS).train, key=lambda example: example.text)
    assert train == [Example("a", None, (0, 2)), Example("b", None, ())]


def test_parquet_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"sst2/train.parquet": b"PAR1"})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "extra 'parquet'" in refusal(lambda: read(tmp_path))


def test_broken_parquet_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write(tmp_path, {"sst2/train.parquet": b"no parquet"})
    assert "is not a readable Parquet file" in refusal(lambda: read(tmp_path))


@pytest.mark.parametrize("name", ["validation", "valid", "dev"])
def test_names_of_validation(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, {"sst2/train.tsv": GOOD, f"sst2/{name}.csv": "text,label\nbad,0\n"})
    assert read(folder).validation == [Example("bad", None, 0)]


OFFICIAL = {
    "SST-2": ("sst2", "sentence\tlabel\na\t1\n", Example("a", None, 1)),
    "QQP": (
        "qqp",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\ta\tb\t1\n",
        Example("a", "b", 1),
    ),
    "STS-B": (
        "stsb",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tg\tf\ty\t1\ts\ts\ta\tb\t2.500\n",
        Example("a", "b", 2.5),
    ),
    "MRPC": ("mrpc", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta\tb\n", Example("a", "b", 1)),
    "RTE": ("rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n", Example("a", "b", 1)),
    "CoLA": ("cola", "gj04\t1\t\ta\n", Example("a", None, 1)),
    "QNLI": ("qnli", "index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n", Example("a", "b", 0)),
    "MNLI": (
        "mnli",
        "index\tgenre\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\tg\tp\ta\tb\tneutral\tcontradiction\n",
        Example("a", "b", 2),
    ),
    "WNLI": ("wnli", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n", Example("a", "b", 1)),
}


@pytest.mark.parametrize("official", OFFICIAL)
def test_official_glue_folders(tmp_path: Path, official: str) -> None:
    task, content, expected = OFFICIAL[official]
    dev = "dev_matched.tsv" if official == "MNLI" else "dev.tsv"
    write(tmp_path, {f"{official}/train.tsv": content, f"{official}/{dev}": content})
    data = read(tmp_path, KNOWN_TASKS[task])
    assert (data.train, data.validation, data.origin) == ([expected], [expected], str(tmp_path / official))


def test_incomplete_rows_of_official_files_are_left_out_and_counted(tmp_path: Path) -> None:
    header, row = OFFICIAL["QQP"][1].splitlines(keepends=True)
    write(
        tmp_path, {"QQP/train.tsv": header + row + "1\t2\t3\ta\n" + "1\t2\t3\ta\t \t1\n", "QQP/dev.tsv": header + row}
    )
    data = read(tmp_path, QQP)
    assert data.train == data.validation
    assert data.origin.endswith("QQP, 2 incomplete rows left out")


def test_a_task_folder_comes_before_the_official_one(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"SST-2/train.tsv": "", "sst2/train.tsv": GOOD, "sst2/dev.tsv": GOOD}
    assert read(write(tmp_path, files)).origin == str(tmp_path / "sst2")


def test_cola_folder_with_a_header(tmp_path: Path) -> None:
    write(tmp_path, {"CoLA/train.tsv": GOOD, "CoLA/dev.tsv": GOOD})
    assert read(tmp_path, KNOWN_TASKS["cola"]).train == [Example("good", None, 1)]


def test_named_columns_win(tmp_path: Path) -> None:
    content = "sentence\tlabel\tbody\ty\nwrong\t0\tright\t1\n"
    names = ColumnNames(text="body", label="y")
    assert rows(tmp_path, "train.tsv", content, columns=names) == [Example("right", None, 1)]
    content = "sentence1\tsentence2\tlabel\ta\tb\nx\ty\t1\tp\tq\n"
    names = ColumnNames("a", "b")
    assert rows(tmp_path, "train.tsv", content, QQP, columns=names) == [Example("p", "q", 1)]


# Every line names file, row, column and value where there is one, and a remedy.
BAD_FILES: dict[str, tuple[TaskDefinition, str, str | bytes, str]] = {
    "unknown label": (
        SST2,
        "train.tsv",
        GOOD + "x\tgreat\n",
        "sst2/train.tsv, row 2, column 'label': unknown label 'great'; use one of negative, positive or an index 0..1",
    ),
    "label out of range": (
        SST2,
        "train.csv",
        "label,text\n2,a\n",
        "row 1, column 'label': label '2' is out of range; the task has labels 0..1",
    ),
    "label -1 of a test set": (SST2, "train.jsonl", '{"text": "a", "label": -1}', "label '-1' is out of range"),
    "half a class": (SST2, "train.jsonl", '{"text": "a", "label": 0.5}', "unknown label '0.5'"),
    "boolean of six": (TREC, "train.jsonl", '{"text": "a", "label": true}', "unknown label 'True'"),
    "missing label": (SST2, "train.tsv", "text\tlabel\na\t\n", "row 1, column 'label': the label is missing; fill"),
    "missing key": (SST2, "train.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}', "row 2, column 'label': the la"),
    "empty text": (SST2, "train.tsv", GOOD + " \t1\n", "row 2, column 'sentence': the text is empty; fill it in"),
    "null text": (SST2, "train.jsonl", '{"text": null, "label": 1}', "row 1, column 'text': the text is empty"),
    "number as text": (SST2, "train.jsonl", '{"text": 7, "label": 1}', "the text is of type int; give it as a str"),
    "empty second text": (
        QQP,
        "train.csv",
        "question1,question2,label\na,b,1\na,,1\n",
        "row 2, column 'question2': the text is empty",
    ),
    "nan score": (STSB, "train.tsv", "sentence1\tsentence2\tscore\na\tb\tnan\n", "score 'nan' is not a finite"),
    "json nan": (STSB, "train.jsonl", '{"text": "a", "text_pair": "b", "label": NaN}', "score 'nan' is not a finite"),
    "inf score": (STSB, "train.tsv", "sentence1\tsentence2\tscore\na\tb\t-inf\n", "score '-inf' is not a finite"),
    "huge score": (STSB, "train.tsv", "sentence1\tsentence2\tscore\na\tb\t1e39\n", "score '1e39' is not a finite"),
    "empty score": (STSB, "train.tsv", "sentence1\tsentence2\tscore\na\tb\t\n", "column 'score': the label is miss"),
    "text score": (STSB, "train.tsv", "sentence1\tsentence2\tscore\na\tb\t1_0\n", "'1_0' is not a number; give"),
    "broken list": (TOPICS, "train.tsv", "text\tlabel\na\t[1\n", "the label starts with [ but is not a JSON list"),
    "no list": (TOPICS, "train.jsonl", '{"text": "a", "label": 1}', "label '1' is not a list; give a list or"),
    "unknown in list": (TOPICS, "train.tsv", "text\tlabel\na\tart|math\n", "unknown label 'math'; use one of sport"),
    "missing text column": (
        SST2,
        "train.tsv",
        "body\tlabel\na\t1\n",
        "column missing, needed sentence or text; present are body, label; rename it or set tasks.sst2.columns.text",
    ),
    "missing label column": (SST2, "train.csv", "text,z\na,1\n", "needed label or labels or score or is_duplicate"),
    "missing pair column": (QQP, "train.tsv", GOOD, "needed sentence1+sentence2 or question1+question2"),
    "repeated column": (SST2, "train.tsv", "text\tlabel\tlabel\na\t1\t1\n", "column 'label' appears twice"),
    "too many columns": (SST2, "train.tsv", GOOD + "a\tb\t1\n", "row 2: columns: 3 where the header has 2; remove"),
    "blank line inside": (SST2, "train.csv", "text,label\n\na,1\n", "row 1: columns: 0 where the header has 2"),
    "open quote": (SST2, "train.csv", 'text,label\na,1\n"b,1\nc,1\n', "row 2: not CSV"),
    "no json": (SST2, "train.jsonl", '{"text": "a", "label": 1}\nnull\n', "row 2: not a JSON object; write one"),
    "deep json": (SST2, "train.jsonl", "[" * 200_000, "row 1: not a JSON object"),
    "empty file": (SST2, "train.tsv", "\ufeff\n", "sst2/train.tsv is empty; give at least one example"),
    "header only": (SST2, "train.tsv", "sentence\tlabel\n", "has no complete rows; give at least one example"),
    "latin-1 text": (SST2, "train.tsv", b"sentence\tlabel\na\t1\ncaf\xe9\t1\n", "row 2, column 'sentence': the text h"),
    "lone surrogate": (SST2, "train.jsonl", '{"text": "\\ud800", "label": 1}', "bytes that are not UTF-8; convert"),
    "utf-16": (SST2, "train.tsv", GOOD.encode("utf-16"), "the header is not UTF-8; convert"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_every_problem_is_one_clear_line(tmp_path: Path, case: str) -> None:
    task, name, content, expected = BAD_FILES[case]
    message = refusal(lambda: rows(tmp_path, name, content, task))
    assert message.startswith(str(tmp_path / task.name / name))
    assert expected in message


@pytest.mark.parametrize(
    "content",
    [
        "a secret sentence\tof mine\n",
        "sentence\tlabel\nx\tsome secret words of mine\n",
        "sentence\tlabel\nx\tsecretsecretsecretsecretsecret\n",
    ],
)
def test_messages_never_hold_sentences(tmp_path: Path, content: str) -> None:
    assert "secret" not in refusal(lambda: rows(tmp_path, "train.tsv", content))


def test_missing_folders_and_files(tmp_path: Path) -> None:
    assert "does not exist; give the folder that holds sst2/train.tsv" in refusal(lambda: read(tmp_path / "x"))
    assert "has no folder sst2 or SST-2; put the files" in refusal(lambda: read(tmp_path))
    write(tmp_path, {"sst2/train.txt": GOOD})
    assert "sst2 has no train file; name it train with .tsv" in refusal(lambda: read(tmp_path))
    write(tmp_path, {"sst2/train.tsv": GOOD})
    assert "sst2 has no validation file; name it" in refusal(lambda: read(tmp_path))
    write(tmp_path, {"sst2/dev.tsv": GOOD, "sst2/valid.csv": GOOD})
    assert "has several validation files: valid.csv, dev.tsv; keep one" in refusal(lambda: read(tmp_path))
    assert "no data folder is given" in refusal(lambda: load(DataRequest(SST2, "files")))


def test_named_columns_must_fit_the_task(tmp_path: Path) -> None:
    single, pair = ColumnNames("sentence", "other"), ColumnNames("sentence1")
    assert "remove text_pair 'other'" in refusal(lambda: rows(tmp_path, "train.tsv", GOOD, columns=single))
    assert "or neither" in refusal(lambda: rows(tmp_path, "train.tsv", GOOD, QQP, columns=pair))
    missing = ColumnNames(label="y")
    assert "needed y; present are" in refusal(lambda: rows(tmp_path, "train.tsv", GOOD, columns=missing))


@given(count=st.integers(1, 60), parts=st.integers(1, 8), seed=st.integers(0, 2**63))
def test_partitions_are_disjoint_and_complete(count: int, parts: int, seed: int) -> None:
    examples = [Example(str(row), None, 0) for row in range(count)]

    def part(number: int, samples: int | None = None) -> list[Example]:
        request = DataRequest(SST2, "files", partition=(number, parts), seed=seed)
        return [examples[place] for place in shard(len(examples), request, "train", samples)]

    if count < parts:
        assert f"{parts} of sst2 has no train rows: there are only {count};" in refusal(lambda: part(parts))
        return
    shards = [part(number) for number in range(1, parts + 1)]
    assert sorted(map(len, shards), reverse=True) == [len(part) for part in shards]
    together = [example for part in shards for example in part]
    assert sorted(together, key=lambda example: int(example.text)) == examples
    assert part(1, 3) == shards[0][:3]


def test_both_splits_are_partitioned_and_capped(tmp_path: Path) -> None:
    content = "sentence\tlabel\n" + "".join(f"{row}\t1\n" for row in range(10))
    write(tmp_path, {"sst2/train.tsv": content, "sst2/validation.tsv": content})
    data = read(tmp_path, partition=(2, 3), train_samples=2, val_samples=100, seed=5)
    assert (len(data.train), len(data.validation)) == (2, 3)
    assert data == read(tmp_path, partition=(2, 3), train_samples=2, val_samples=100, seed=5)
    assert data != read(tmp_path, partition=(2, 3), train_samples=2, val_samples=100, seed=6)
    assert "partition 4 of 3 does not exist" in refusal(lambda: read(tmp_path, partition=(4, 3)))


def test_builtin_partitions_share_one_stream() -> None:
    def part(number: int, parts: int, count: int) -> TaskData:
        return load(DataRequest(SST2, "builtin", train_samples=count, val_samples=5, partition=(number, parts)))

    whole, halves = part(1, 1, 40), [part(1, 2, 20), part(2, 2, 20)]
    assert [halves[row % 2].train[row // 2] for row in range(40)] == whole.train
    assert len(halves[0].validation) == 5
    assert whole.origin == "synthetic (built-in)"


def test_builtin_defaults() -> None:
    data = load(DataRequest(SST2, "builtin"))
    assert (len(data.train), len(data.validation)) == (1000, 200)


class HubRows(dict[str, list[object]]):
    column_names = ("question1", "question2", "label", "idx")


def install_hub(monkeypatch: pytest.MonkeyPatch, load_dataset: Callable[..., object]) -> None:
    package = ModuleType("datasets")
    package.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", package)


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str, split: str) -> HubRows:
        asked.append((path, name, split))
        return HubRows(question1=["a", "c"], question2=["b", ""], label=[1, 0], idx=[0, 1])

    install_hub(monkeypatch, load_dataset)
    data = load(DataRequest(QQP, "glue"))
    assert data.train == data.validation == [Example("a", "b", 1)]
    assert data.origin == "glue/qqp (Hugging Face hub), 2 incomplete rows left out"
    assert asked == [("glue", "qqp", "train"), ("glue", "qqp", "validation")]
    refusal(lambda: load(DataRequest(KNOWN_TASKS["mnli"], "glue", columns=ColumnNames("x", "y"))))
    assert asked[-1] == ("glue", "mnli", "validation_matched")


def test_hub_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> object:
        raise ConnectionError("first line\nsecond line")

    install_hub(monkeypatch, offline)
    assert "could not be loaded from the Hugging Face hub (ConnectionError); check the network" in refusal(
        lambda: load(DataRequest(SST2, "glue"))
    )
    assert "task trec is not in GLUE; choose one of" in refusal(lambda: load(DataRequest(TREC, "glue")))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "install the extra 'hub'" in refusal(lambda: load(DataRequest(SST2, "glue")))


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\ufeff"), min_size=1).filter(
    str.strip
)


@given(texts=st.lists(words, min_size=1, max_size=20))
def test_every_format_returns_the_texts_that_were_written(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    expected = sorted((Example(text, None, 1) for text in texts), key=lambda example: example.text)
    tsv = "sentence\tlabel\n" + "".join(f"{text}\t1\n" for text in texts)
    assert rows(folder / "1", "train.tsv", tsv) == expected
    jsonl = "\n".join(json.dumps({"text": text, "label": 1}) for text in texts)
    assert rows(folder / "2", "train.jsonl", jsonl) == expected
    with (folder / "c").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *([text, 1] for text in texts)])
    assert rows(folder / "3", "train.csv", (folder / "c").read_bytes()) == expected


REAL = os.environ.get("FEDMTL_TEST_DATA")
COUNTS = {
    "sst2": (20_000, 1_000),
    "qqp": (16_715, 1_000),
    "stsb": (4_957, 749),
    "mrpc": (3_034, 400),
    "rte": (2_237, 250),
    "cola": (7_732, 800),
    "subj": (6_423, 800),
    "trec": (4_881, 500),
}


@pytest.mark.skipif(not REAL, reason="FEDMTL_TEST_DATA names no folder with sst2/train.tsv and others")
@pytest.mark.parametrize("name", COUNTS)
def test_real_data(name: str) -> None:
    task = KNOWN_TASKS.get(name) or {"subj": SUBJ, "trec": TREC}[name]
    data = read(Path(REAL or ""), task)
    assert (len(data.train), len(data.validation)) == COUNTS[name]
    if name == "stsb":
        assert all(isinstance(example.label, float) and 0 <= example.label <= 5 for example in data.train)
