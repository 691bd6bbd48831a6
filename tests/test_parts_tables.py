"""Rows of several parts in tables: a column of whole rows for a part, or the named columns of a tabular one."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.app import data_request, local_definitions
from client.data.array_examples import ArrayExamples
from client.data.array_loader import read_rows
from client.data.examples import TaskData
from client.data.given import read_given
from client.data.sources import finished, load
from client.data.unlabelled import read_unlabelled
from common.encoders.several import SeveralEncoder
from common.errors import DataError
from tests.test_array_encoders import config_of
from tests.test_several import MINE

PARTS = {
    "image": {"conv2d": {"shape": [1, 2, 3], "filters": [2], "hidden": 3, "norm": "none"}},
    "soil": {"tabular": {"columns": {"acid": "number", "kind": ["clay", "sand"], "ph": "log"}, "hidden": [4]}},
    "wave": {"conv1d": {"shape": [4, 1], "filters": [2], "hidden": 3, "norm": "none"}},
}
FARM = SeveralEncoder(PARTS, hidden=6)


def drawn(count: int = 12) -> list[dict[str, Any]]:
    """Rows as a JSON file has them; every third lacks its image, the second has no soil."""
    rng = np.random.Generator(np.random.PCG64(3))
    rows: list[dict[str, Any]] = []
    for at in range(count):
        row: dict[str, Any] = {"wave": rng.normal(size=4).tolist(), "acid": at + 0.5, "kind": "sand", "ph": "na"}
        if at % 3:
            row["image"] = rng.normal(size=(2, 3)).tolist()
        if at == 1:
            row.update(acid=None, kind="", ph=None)
        rows.append({"farm": f"f{at // 2}", **row, "label": "yes" if at % 2 else "no"})
    return rows


def flat(row: dict[str, Any]) -> list[float]:
    """What the encoder reads of a row: image, soil, wave."""
    soil = [np.nan] * 3 if row["acid"] is None else [row["acid"], 3.0, np.nan]
    return [*np.ravel(row.get("image") or np.full(6, np.nan)), *soil, *np.ravel(row["wave"])]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in rows[1]}), path)


def same_rows(data: TaskData, rows: list[dict[str, Any]]) -> None:
    assert isinstance(data.train, ArrayExamples) and isinstance(data.validation, ArrayExamples)
    found = np.concatenate([data.train.values, data.validation.values])
    wanted = np.array([flat(row) for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(found[np.argsort(found[:, -1])], wanted[np.argsort(wanted[:, -1])])


@pytest.mark.parametrize(("ending", "write"), [("jsonl", write_jsonl), ("parquet", write_parquet)])
def test_a_table_has_a_column_for_each_part(tmp_path: Path, ending: str, write: Any) -> None:
    rows = drawn()
    write(tmp_path / f"mine.{ending}", rows)
    data = read_rows(tmp_path, MINE, FARM, seed=1)
    same_rows(data, rows)
    assert data.headers[0].names == ("image 1x2x3", "soil 3", "wave 4x1")
    found = read_unlabelled(tmp_path / f"mine.{ending}", MINE, None, FARM, None)
    np.testing.assert_array_equal(found.examples.values, np.array([flat(r) for r in rows], dtype=np.float32))
    assert found.table is not None and [*found.table.columns] == ["farm", "acid", "kind", "ph", "label"]


def test_columns_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    rows = [dict(reversed(row.items())) for row in drawn()]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    same_rows(read_rows(tmp_path, MINE, FARM, seed=1), drawn())


def test_files_of_images_are_a_part(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3)
    file = BytesIO()
    image.fromarray(pixels).save(file, "png")
    rows = drawn(6)
    for row in rows:
        row["image"] = file.getvalue() if "image" in row else None
    write_parquet(tmp_path / "mine.parquet", rows)
    for row in rows:
        row["image"] = None if row["image"] is None else (pixels / np.float32(255)).tolist()
    same_rows(read_rows(tmp_path, MINE, FARM, seed=1), rows)


def test_who_has_no_column_of_a_part_lacks_it(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a0.jsonl", [{"wave": row["wave"], "label": row["label"]} for row in drawn()])
    config = config_of(FARM, f"data.dir='{tmp_path}'")
    request = data_request(config, *local_definitions(config, ["a0"]))
    data = load(request)
    assert data.lacks == {"image", "soil"}


def test_python_gives_a_table_as_a_part() -> None:
    config = config_of(FARM)
    request = data_request(config, *local_definitions(config, ["a0"]))
    rows = drawn()
    soil = {name: [row[name] for row in rows] for name in ("kind", "ph", "acid")}
    x = {"soil": soil, "wave": np.array([row["wave"] for row in rows], dtype=np.float32)}
    data = finished(read_given(request, "north", (x, [row["label"] for row in rows])), request)
    assert data.lacks == {"image"}
    same_rows(data, [{**row, "image": None} for row in rows])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"wave": [1, 2]}, r"row 3, column 'wave': shape \(2,\), but \(4,\) in the first row"),
        ({"wave": "1 2"}, "row 3, column 'wave': str is no array of numbers; mend or remove the row"),
        ({"acid": "sour"}, "row 3, column 'acid': 'sour' is not a number"),
        ({"wave": None, "acid": None, "kind": None, "image": None}, "row 3: it has no part at all; remove it"),
    ],
)
def test_what_is_wrong_with_a_cell_is_one_line(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    rows = drawn()
    rows[2].update(change)
    write_jsonl(tmp_path / "mine.jsonl", rows)
    with pytest.raises(DataError, match=line):
        read_rows(tmp_path, MINE, FARM, seed=1)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("farm", "label"), "no column is called image, soil, wave; present are farm, label"),
        (("wave", "acid", "label"), "column missing, needed kind; .* model.several.parts.soil.tabular.columns"),
        (("wave", "farm"), "column missing, needed label or labels"),
    ],
)
def test_what_is_missing_is_one_line(tmp_path: Path, names: tuple[str, ...], line: str) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [{name: row[name] for name in names} for row in drawn()])
    with pytest.raises(DataError, match=line):
        read_rows(tmp_path, MINE, FARM, seed=1)
