"""A run as one page: complete, self-contained, and safe with names from outside."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import federated_main
from common.errors import RunFolderError
from fedmtl import FinishedRun
from server.core.effects import TaskCosines
from server.core.state import Related
from server.reporting.page import page_of
from server.reporting.relations import Relations, relation_reports, relations_of
from server.reporting.values import Report, from_json
from server.runs.reading import read_run
from server.runs.saved import load_run
from simulation.app import simulate
from tests.federations import array_config

VOID = {"meta"}


class Page(HTMLParser):
    """Checks that tags are closed, and collects them with their texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "run"
    kept = ("simulation.clients=3", "guard=true", "aggregation.conflict=pcgrad", f"run.run_dir='{folder}'")
    asyncio.run(simulate(array_config(*kept), False, None))
    return folder


def test_the_page_needs_nothing_else_and_says_all(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert federated_main.main(["--mode", "report", "--run_dir", str(run)]) == 0
    text = (run / "report.html").read_text(encoding="utf-8")
    assert f"report of {run}: {run / 'report.html'}" in capsys.readouterr().out
    page = Page(text)
    assert not any(tag in ("script", "link", "img", "iframe", "object") for tag, _ in page.tags)
    assert not any(name in attributes for _, attributes in page.tags for name in ("src", "href", "onload"))
    assert "url(" not in text and "http" not in text
    assert page.count("svg") == page.count("title") - 1 == page.count("desc") == 3  # two curves, one matrix
    assert page.count("table") == page.count("caption") == 5
    report = from_json(Report, json.loads((run / "report.json").read_text(encoding="utf-8")))
    wanted = [*report.tasks, *report.clients, "finished after 2 rounds", "Shared against alone", "What leaves a client"]
    for task in report.tasks.values():
        wanted += [f"version {entry.round}: {entry.scores['auc_mean']:.4g}" for entry in task.history]
    shown = "".join(page.texts)
    assert [word for word in wanted if word not in shown] == []


def test_numbers_are_those_of_the_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert federated_main.main(["--mode", "report", "--run_dir", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert {key: found[key] for key in report if key != "model_digest"} == {
        key: value for key, value in report.items() if key != "model_digest"
    }
    assert sorted(found["matrix"]["names"]) == ["a0", "b1"] and found["leaves"]


def test_a_run_that_goes_on_has_a_page_and_a_folder_without_one_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = array_config("simulation.clients=2", f"run.run_dir='{folder}'", "training.num_rounds=1")
    asyncio.run(simulate(config, False, None))
    (folder / "report.json").unlink()
    report, relations, leaves = read_run(folder)
    assert relations is None and report.rounds_completed == 1 and "shared: 48 parameters" in leaves[0]
    Page(page_of(report, relations, leaves))
    with pytest.raises(RunFolderError, match="holds no run"):
        read_run(tmp_path)


def test_python_has_the_matrix_too(run: Path) -> None:
    report, relations, _ = read_run(run)
    assert relations is not None and FinishedRun(run, report).relations == relations


@pytest.mark.parametrize("relation", ["mean", "graph_l1", "similarity"])
def test_of_any_other_relation_the_distances_between_copies_are_shown(relation: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    coupled = ("simulation.clients=3", "sharing={plan: soft, members: clients}", f"relation={relation}")
    asyncio.run(simulate(array_config(*coupled, f"run.run_dir='{folder}'", "training.num_rounds=1"), False, None))
    report, found, _ = read_run(folder)
    vectors = load_run(folder).vectors
    assert found is not None and {*found.names} == {"client-1", "client-2", "client-3"}
    template = found.kind.split(" of ")[1].split(",")[0]
    copies = {name: vectors[template.replace("{member}", name)].astype(float) for name in found.names}
    for i, one in enumerate(found.names):
        for j, other in enumerate(found.names):
            assert found.matrix[i][j] == pytest.approx(np.linalg.norm(copies[one] - copies[other]), abs=1e-6)
    assert found.matrix[0][1] > 0
    shown = "".join(Page(page_of(report, found, [])).texts)
    sent = report.clients["client-1"].bytes
    assert sent == sum(report.uploads[codec].bytes for codec in report.uploads) / 3 > 0
    assert "sent" in shown and f"{sent / 1e3:,.1f}\N{NO-BREAK SPACE}kB" in shown and found.kind in shown


def test_names_from_outside_are_text(run: Path) -> None:
    report, relations, _ = read_run(run)
    evil = '<script>alert("x")</script>&\'</title>'
    assert relations is not None
    report = replace(report, run=evil, reason=evil, data=evil, clients={evil: next(iter(report.clients.values()))})
    page = page_of(report, Relations(evil, (evil, "b1"), relations.matrix), [evil])
    assert "<script" not in page and "alert(&quot;x&quot;)" in page
    Page(page)


def test_the_matrix_is_what_the_relation_remembers_else_mean_cosines() -> None:
    first, second = (TaskCosines(n, "shared", ("a", "b"), ((1.0, v), (v, 1.0))) for n, v in ((1, 0.5), (2, -0.1)))
    found = relations_of([first, second], [])
    assert found is not None and found.kind == "mean cosine between tasks' steps in shared, over 2 rounds"
    assert found.matrix == ((1.0, 0.2), (0.2, 1.0))
    state = {"holders": ["x", "y", "z"], "agreement": [[1, -0.5, 0.8], [-0.5, 1, -0.4], [0.8, -0.4, 1]]}
    remembered = relations_of([first], [Related(3, "member/{member}", {}, json.dumps(state), "")])
    assert remembered is not None and "after round 3" in remembered.kind
    assert remembered.names in (("x", "z", "y"), ("z", "x", "y"))  # those that agree stand together
    at = remembered.names.index
    assert remembered.matrix[at("x")][at("y")] == -0.5 and remembered.matrix[at("z")][at("x")] == 0.8
    assert relations_of([], []) is None


def test_a_learned_covariance_is_shown_as_correlations_with_clusters_together(run: Path) -> None:
    """Sigma_kj / sqrt(Sigma_kk Sigma_jj) by hand: 1.2 / (1 * 2) = 0.6 and -0.2 / (1 * 0.5) = -0.4."""
    sigma = [[1.0, -0.2, 1.2], [-0.2, 0.25, 0.0], [1.2, 0.0, 4.0]]
    state = {"members": ["x", "y", "<z>"], "covariance": sigma, "groups": [["<z>", "x"], ["y"]], "moved": [1, 2, 3]}
    records = [Related(n, "member/{member}", {}, json.dumps(state), "") for n in (1, 2)]
    found = relations_of([], records)
    assert found is not None and found.kind == "learned correlations in member/{member}, after round 2"
    assert found.names == ("x", "<z>", "y") and found.matrix == ((1.0, 0.6, -0.4), (0.6, 1.0, 0.0), (-0.4, 0.0, 1.0))
    first, last = relation_reports(records)
    assert first.correlations is None and first.groups == last.groups == [["<z>", "x"], ["y"]]
    assert (last.names, last.correlations, last.moved) == (found.names, found.matrix, {"x": 1, "y": 2, "<z>": 3})
    shown = "".join(Page(page_of(replace(read_run(run)[0], relations=[first, last]), found, [])).texts)
    for word in ("learned correlations in member/{member}", "+0.600", "-0.40", "<z>", "How far each member has moved"):
        assert word in shown
