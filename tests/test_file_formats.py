"""Files as programs really write them: line ends, long cells, names of the hub, packed files, quotes in TSV."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.data.examples import TaskData
from client.data.files import read_split
from client.data.request import DataRequest
from client.data.sources import load
from common.encoders.mlp import MLPEncoder
from common.errors import DataError
from common.tasks import KNOWN_TASKS, TASK_KINDS, TaskDefinition

SST2 = KNOWN_TASKS["sst2"]
MINE = TaskDefinition("mine", TASK_KINDS["classification"], ("clutter", "mine"), False, ("accuracy",))
GOOD = "sentence\tlabel\ngood\t1\nbad\t0\n"
LINES = '{"sentence": "good", "label": 1}\n{"sentence": "bad", "label": 0}\n'


def put(folder: Path, **files: str | bytes) -> Path:
    """Files of sst2; in their names `__` stands for a dot and `_` for a dash."""
    for name, content in files.items():
        path = folder / "sst2" / name.replace("__", ".").replace("_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / "sst2"


def train(folder: Path) -> dict[str, object]:
    """Label by text, in the file's order."""
    table = read_split(folder, "train")
    return dict(zip(map(str, table.columns["sentence"]), table.columns["label"], strict=True))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in caught.value.message
    return caught.value.message


def parquet_of(*texts: str) -> bytes:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({"sentence": list(texts), "label": [1] * len(texts)}), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"], ids=["CR", "LF", "CRLF"])
@pytest.mark.parametrize("last", [True, False])
def test_every_line_end_of_every_text_format(tmp_path: Path, end: str, last: bool) -> None:
    for suffix, content in {"tsv": GOOD, "csv": GOOD.replace("\t", ","), "jsonl": LINES, "json": LINES}.items():
        text = content if last else content.removesuffix("\n")
        folder = put(tmp_path / suffix, **{f"train__{suffix}": text.replace("\n", end)})
        assert {text: str(label) for text, label in train(folder).items()} == {"good": "1", "bad": "0"}


def test_a_cell_may_be_as_long_as_the_file(tmp_path: Path) -> None:
    assert csv.field_size_limit() >= 131_072
    long = "word " * 60_000
    folder = put(tmp_path, train__csv=f'sentence,label\n"{long}",1\n{long},0\n')
    assert [*map(len, read_split(folder, "train").columns["sentence"])] == [300_000, 300_000]  # type: ignore[arg-type]


def test_shards_of_the_hub_are_one_table_in_their_order(tmp_path: Path) -> None:
    names = ["b", "c", "a"]
    shards = {f"train_{n:05d}_of_00003__parquet": parquet_of(name) for n, name in enumerate(names)}
    assert [*train(put(tmp_path / "a", **shards))] == names
    marked = {f"train_0000{n}_of_00002_b42a775f407cee45__parquet": parquet_of(f"{n}") for n in (1, 0)}
    assert [*train(put(tmp_path / "b", **marked))] == ["0", "1"]
    assert [*train(put(tmp_path / "c", **{"data/train_00000_of_00001__parquet": parquet_of("x")}))] == ["x"]
    texts = {f"train_{n}_of_2__tsv__gz": gzip.compress(f"sentence\tlabel\n{n}\t1\n".encode()) for n in (1, 2)}
    assert [*train(put(tmp_path / "d", **texts))] == ["1", "2"]


def test_shards_may_order_their_columns_but_not_lack_any(tmp_path: Path) -> None:
    first, turned = "sentence\tlabel\na\t1\n", "label\tsentence\n0\tb\n"
    folder = put(tmp_path, train_0_of_2__tsv=first, train_1_of_2__tsv=turned)
    assert train(folder) == {"a": "1", "b": "0"}
    put(tmp_path, train_1_of_2__tsv="sentence\nb\n")
    assert "train-1-of-2.tsv: its columns are sentence, those of" in refusal(lambda: train(folder))


def test_a_bad_cell_of_a_shard_names_its_file_and_row(tmp_path: Path) -> None:
    shard = "sentence\tlabel\na\t1\nb\t0\n"
    put(tmp_path, train_0_of_2__tsv=shard, train_1_of_2__tsv=shard + "c\tmaybe\n", dev__tsv=GOOD)
    message = refusal(lambda: load(DataRequest(SST2, "files", tmp_path)))
    assert "sst2/train-1-of-2.tsv, row 3, column 'label': unknown label 'maybe'" in message


def test_missing_and_doubled_files_are_refused(tmp_path: Path) -> None:
    one = {"train_00000_of_00002__tsv": GOOD}
    assert "has 1 of 2 shards: number 00001 is missing" in refusal(lambda: train(put(tmp_path / "a", **one)))
    both = {"train_00000_of_00001__tsv": GOOD, "train__tsv": GOOD}
    assert "several train files: train.tsv, train-00000-of-00001.tsv" in refusal(
        lambda: train(put(tmp_path / "b", **both))
    )
    packed = {"train__tsv": GOOD, "train__tsv__gz": gzip.compress(GOOD.encode())}
    assert "several train files: train.tsv, train.tsv.gz" in refusal(lambda: train(put(tmp_path / "c", **packed)))
    twice = {f"train_00000_of_00001_{mark * 8}__tsv": GOOD for mark in "ab"}
    assert "some are there twice" in refusal(lambda: train(put(tmp_path / "d", **twice)))


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl", "json", "parquet"])
def test_any_file_may_be_packed(tmp_path: Path, suffix: str) -> None:
    content = {"csv": GOOD.replace("\t", ","), "tsv": GOOD, "jsonl": LINES, "json": LINES}.get(suffix, "").encode()
    content = content or parquet_of("good", "bad")
    folder = put(tmp_path, **{f"train__{suffix}__gz": gzip.compress(content)})
    assert [*train(folder)] == ["good", "bad"]
    put(tmp_path, **{f"train__{suffix}__gz": gzip.compress(content)[:-9]})
    assert "is not a whole gzip file; write it again" in refusal(lambda: train(folder))
    put(tmp_path, **{f"train__{suffix}__gz": b"sentence\tlabel\n"})
    assert "is not a whole gzip file; write it again" in refusal(lambda: train(folder))


def test_json_is_a_list_of_objects_or_one_per_line(tmp_path: Path) -> None:
    listed = json.dumps([{"sentence": "a", "label": 1}, {"label": 0, "sentence": "b"}], indent=1)
    assert train(put(tmp_path / "a", train__json=listed)) == {"a": 1, "b": 0}
    for content, said in (
        ("[1]", "row 1: not a JSON object"),
        ('[{"a": 1}', "not a JSON list of objects, nor one object per line"),
        ('{"sentence": "a",\n"label": 1}', "row 1: not a JSON object; write one object per line"),
        ('{"sentence": "a", "label": 1, "label": 0}', "row 1: column 'label' appears twice in an object"),
        ('[{"sentence": "a", "sentence": "b"}]', "column 'sentence' appears twice in an object"),
    ):
        assert said in refusal(lambda content=content: train(put(tmp_path / "b", train__json=content)))


def test_folders_on_the_way_to_a_parquet_file_are_no_columns(tmp_path: Path) -> None:
    folder = put(tmp_path / "fold=1", train__parquet=parquet_of("a"))
    assert [*read_split(folder, "train").columns] == ["sentence", "label"]


def test_parquet_may_not_name_a_column_twice(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    sink = pa.BufferOutputStream()
    parquet.write_table(
        pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([0])], ["sentence", "y", "y"]), sink
    )
    assert "column 'y' appears twice" in refusal(lambda: train(put(tmp_path, train__parquet=bytes(sink.getvalue()))))


def test_quotes_in_a_tsv_are_noted(tmp_path: Path) -> None:
    def notes(content: str) -> tuple[str, ...]:
        put(tmp_path, train__tsv=content, dev__csv="sentence,label\nx,1\n")
        return load(DataRequest(SST2, "files", tmp_path)).notes

    assert notes('sentence\tlabel\n" a quote "\t0\nb\t1\n') == ()
    (note,) = notes('sentence\tlabel\n"she said ""no"""\t0\nb\t1\n')
    assert "train.tsv, column 'sentence': 1 cells stand in quotes" in note
    assert "they are part of the text" in note
    (note,) = notes('sentence\tlabel\n"a"\t0\n"b"\t1\n')
    assert "2 cells stand in quotes" in note
    message = refusal(lambda: notes('"sentence"\t"label"\na\t0\n'))
    assert "where the quotes are part of the names" in message
    assert "quotes protect nothing" in refusal(lambda: notes('sentence\tlabel\n"a\tb"\t0\n'))


def test_without_scores_no_validation_file_is_needed(tmp_path: Path) -> None:
    put(tmp_path, train__tsv=GOOD)
    data = load(DataRequest(SST2, "files", tmp_path, val_samples=0))
    assert (len(data.train), len(data.validation)) == (2, 0)
    message = refusal(lambda: load(DataRequest(SST2, "files", tmp_path)))
    assert message.endswith("or write val_samples: 0 for no scores")


def test_without_scores_rows_of_numbers_need_none_either(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    np.savez(tmp_path / "mine" / "train.npz", x=np.eye(3), y=np.array([0, 1, 1]))

    def read(samples: int | None) -> TaskData:
        return load(
            DataRequest(
                MINE, "files", tmp_path, inputs="numbers", encoder=MLPEncoder(3), val_samples=samples, statistics="site"
            )
        )

    data = read(0)
    assert (len(data.train), len(data.validation)) == (3, 0)
    assert "has no validation file; name it validation with .npz or .csv, or write val_samples: 0" in refusal(
        lambda: read(None)
    )
