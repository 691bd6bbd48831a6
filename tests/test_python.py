"""FedMTL from Python: rows in, scores and predictions out."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedmtl
from federated_main import main
from fedmtl import FedMTLError, FinishedRun
from fedmtl.background import completed
from server.runs.saved import load_run
from tests.federations import write_model
from tests.pages import Block, blocks
from tests.processes import log_given_back

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, width)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(rows))
"""
TASKS = {"cough": fedmtl.classification(["no", "yes"], metrics=["accuracy"]), "age": fedmtl.regression()}
FAST = {"training.num_rounds": 4, "training.learning_rate": 1e-2, "training.batch_size": 16}


class Local(nn.Module):
    """Passed where a description belongs."""


def rows(seed: int, count: int = 120) -> tuple[Any, Any, Any]:
    """Numbers, the answer to a cough, and an age."""
    x = np.random.Generator(np.random.PCG64(seed)).normal(size=(count, 4))
    return x, np.where(x[:, 0] + x[:, 1] > 0, "yes", "no"), 40 + 10 * x[:, 2]


def sites() -> dict[str, dict[str, Any]]:
    (x1, y1, a1), (x2, y2, _) = rows(1), rows(2)
    return {"ward-1": {"cough": (x1, y1), "age": (x1, a1)}, "ward-2": {"cough": (torch.from_numpy(x2), y2, x1, y1)}}


def net(folder: Path, monkeypatch: pytest.MonkeyPatch) -> type[nn.Module]:
    """A class in a file of a person's own."""
    (folder / "wards_net.py").write_text(NET)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("wards_net", None)
    import wards_net  # type: ignore[import-not-found]

    found: type[nn.Module] = wards_net.Net
    return found


def test_every_promised_name_is_there() -> None:
    assert [name for name in fedmtl.__all__ if not callable(getattr(fedmtl, name))] == []
    with pytest.raises(AttributeError, match="has no attribute 'simulator'; it has FedMTLError, FinishedRun"):
        _ = fedmtl.simulator


@pytest.mark.parametrize("plan", ["hard", "adaptive"])
def test_a_module_of_ones_own_learns_two_tasks_and_predicts(
    plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = fedmtl.module(net(tmp_path, monkeypatch), width=16)
    settings = FAST | {"sharing.plan": plan}
    torch.set_num_threads(2)
    run = fedmtl.simulate(TASKS, sites(), encoder, settings, tmp_path / "run")
    assert torch.get_num_threads() == 2
    assert (run.report.status, run.report.data, {*run.report.clients}) == ("finished", "given", {"ward-1", "ward-2"})
    x, y, a = rows(3)
    answers, ages = run.predict("cough", x), run.predict("age", x)
    assert (np.array(answers) == y).mean() > 0.9 and np.abs(np.asarray(ages) - a).mean() < 3
    heads = {task: run.model(task)(torch.from_numpy(x)).detach().double().numpy() for task in TASKS}
    np.testing.assert_allclose(heads["age"][:, 0], ages, rtol=1e-5)
    assert [("no", "yes")[best] for best in heads["cough"].argmax(axis=1)] == answers
    last = [s for s in run.scores if (s.version, s.task, s.client, s.metric) == (4, "cough", "", "accuracy")]
    assert [score.value for score in last] == [run.report.tasks["cough"].metrics["accuracy"]]
    with log_given_back():
        assert main(["verify", "--run_dir", str(run.folder)]) == 0
    again = fedmtl.simulate(TASKS, sites(), encoder, settings)
    assert again.report.model_digest == run.report.model_digest and again.folder != run.folder


@pytest.mark.parametrize("block", [block for block in blocks() if block.language == "python"], ids=lambda b: b.section)
def test_the_python_of_a_page_works(block: Block) -> None:
    names: dict[str, Any] = {}
    exec(block.text, names)
    assert {score.task for score in names["run"].scores} == {*names["tasks"]}


def test_it_runs_where_a_loop_runs_already() -> None:
    async def cell() -> FinishedRun:
        return fedmtl.simulate(TASKS, sites(), {"mlp": {"hidden": [8]}}, {"training.num_rounds": 1})

    assert asyncio.run(cell()).report.model_digest == asyncio.run(cell()).report.model_digest


def test_an_interruption_in_a_notebook_ends_the_run() -> None:
    ended = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)  # as a terminal does: to the process, not to this thread
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def cell() -> None:
        completed(work())

    loop, before = asyncio.new_event_loop(), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(cell())
    finally:
        signal.signal(signal.SIGINT, before)
    loop.close()
    assert ended == [True]


@pytest.mark.parametrize(("statistics", "client"), [("none", None), ("site", "a")])
def test_bytes_are_images(statistics: str, client: str | None) -> None:
    images = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (40, 1, 6, 6)).astype(np.uint8)
    images[::2] //= 8
    given = {"a": {"dark": (images, [1, 0] * 20)}, "b": {"dark": (images, [1, 0] * 20)}}
    settings = FAST | {"data.statistics": statistics}
    run = fedmtl.simulate({"dark": fedmtl.classification(2)}, given, {"conv2d": {"filters": [4]}}, settings)
    predicted = run.predict("dark", images, client=client)
    model = run.model("dark", client=client)
    outputs = model(torch.from_numpy(images))
    assert [str(best) for best in outputs.argmax(1).tolist()] == predicted
    torch.testing.assert_close(model(torch.from_numpy(images).double() / 255), outputs)


def test_texts_are_read_with_the_models_own_tokenizer(tmp_path: Path) -> None:
    texts, moods = ["a fine film", "a dull film"] * 10, ["good", "bad"] * 10
    tasks = {"mood": fedmtl.classification(["bad", "good"])}
    settings = {"training.num_rounds": 3, "training.learning_rate": 1e-2, "model.max_length": 16}
    given = {name: {"mood": (texts, moods)} for name in ("a", "b")}
    run = fedmtl.simulate(tasks, given, str(write_model(tmp_path / "model", dropout=0.0)), settings)
    assert run.predict("mood", ["a dull film", "a fine film"]) == ["bad", "good"]
    with pytest.raises(FedMTLError, match=r"task 'mood' reads texts.*use run\.predict"):
        run.model("mood")
    with pytest.raises(FedMTLError, match="rows to predict, task mood, row 1: int is no text"):
        run.predict("mood", [1])


X, Y, _ = rows(5, 10)
REGRESSION = {"c": fedmtl.regression()}


@pytest.mark.parametrize(
    ("tasks", "given", "encoder", "settings", "said"),
    [
        (TASKS, {}, "mlp", {}, "sites: none has rows of cough"),
        ({}, {"a": {"b": (X, Y)}}, "mlp", {}, r"sites: a has rows of \['b'\]"),
        ({"c": {}}, {"../a": {"c": (X, Y)}}, "mlp", {}, "sites: '../a' must be letters"),
        ({"c": {}}, {"a": {"c": X}}, "mlp", {}, r"site a, task c: give \(x, y\)"),
        (REGRESSION, {"a": {"c": (X, X[:, 0])}}, {"mlq": {}}, {}, r"encoder: \['mlq'\]; write one of mlp"),
        (REGRESSION, {"a": {"c": (X, X[:, 0])}}, Local(), {}, "encoder: class 'Local' has no parameters; there"),
        (REGRESSION, {"a": {"c": (X, X[:, 0])}}, Local, {}, "encoder: of class type; write one of mlp.*an instance"),
        (REGRESSION, {"a": {"c": (X, Y)}}, {"mlp": {}}, {}, "site a, row .*task c: .*number"),
        (REGRESSION, {"a": {"c": (X, X[:3, 0])}}, {"mlp": {}}, {}, "10 rows and 3 labels"),
        ({"c": fedmtl.regression(colour=1)}, {"a": {"c": (X, X[:, 0])}}, {"mlp": {}}, {}, r"tasks\.c\.colour"),
        (REGRESSION, {"a": {"c": (X, X[:, 0])}}, {"mlp": {}}, {"training.round": 1}, r"training\.round"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_before_there_is_a_run(
    tasks: Any, given: Any, encoder: Any, settings: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for folder in (tmp_path / "run", None):
        with pytest.raises(FedMTLError, match=said):
            fedmtl.simulate(tasks, given, encoder, settings, folder)
        assert not [*tmp_path.iterdir()]


def test_a_client_has_its_own_copy_of_what_is_coupled() -> None:
    settings = {"sharing.plan": "soft", "relation": {"name": "mean", "strength": 0.1}, "training.num_rounds": 2}
    run = fedmtl.simulate(TASKS, sites(), {"mlp": {"hidden": [8]}}, settings)
    own = {ward: run.model("cough", client=ward).model.encoder.layers[0].bias.detach() for ward in sites()}
    assert not torch.equal(own["ward-1"], own["ward-2"])
    vectors = load_run(run.folder).vectors
    copies = [{*vectors[name].tolist()} for name in vectors if name.startswith("member/")]
    assert all(any({*bias.tolist()} <= copy for copy in copies) for bias in own.values())


def test_one_site_may_have_all_tasks() -> None:
    (x, y, a), encoder = rows(1), {"mlp": {"hidden": [8]}}
    settings = FAST | {"training.num_rounds": 1}
    run = fedmtl.simulate(TASKS, {"ward-1": {"cough": (x, y), "age": (x, a)}}, encoder, settings)
    assert run.report.tasks.keys() == TASKS.keys() and [*run.report.clients] == ["ward-1"]


def test_a_class_without_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Local, "__module__", "__main__")
    with pytest.raises(FedMTLError, match="class 'Local' is in no file of its own; move it to one"):
        fedmtl.module(Local)


def test_rows_given_in_python_are_not_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with log_given_back():
        words = ["client", "--tasks", "sst2", "--set", "data.source=given", "--state_dir", "nowhere"]
        assert main(words) == 3
    assert "data.source: given: Python code gave the rows of sst2; name files: data.dir" in capsys.readouterr().err
