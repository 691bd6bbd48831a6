"""An instance of a person's own torch module as the encoder: it stays in this process, and is where a run starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor, nn

import fedmtl
from common.encoders import given
from common.models.given_module import give
from federated_main import main
from fedmtl import FedMTLError, FinishedRun
from tests.processes import log_given_back


class Net(nn.Module):
    def __init__(self, width: int, rate: float = 0.0) -> None:
        super().__init__()
        self.linear, self.rate = nn.Linear(4, width), rate

    def forward(self, rows: Tensor) -> Tensor:
        return torch.relu(self.linear(rows))


def seeded(seed: int, **args: Any) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(**{"width": 64, **args})


def rows(seed: int, count: int = 80) -> tuple[Any, Any, Any]:
    """Numbers, the answer to a cough, and an age."""
    x = np.random.Generator(np.random.PCG64(seed)).normal(size=(count, 4)).astype(np.float32)
    return x, np.where(x[:, 0] + x[:, 1] > 0, "yes", "no"), 40 + 10 * x[:, 2]


BLOCK = """
import fedmtl
tasks = {"cough": fedmtl.classification(["no", "yes"], class_weights="balanced"), "age": fedmtl.regression()}
run = fedmtl.simulate(tasks, sites={"ward-1": {"cough": (x1, y1), "age": (x1, a1)}, "ward-2": {...}}, encoder=Net(width=64), settings={"sharing.plan": "adaptive", "training.num_rounds": 5})
run.history                      # rows: time, version, task, client, metric, value, bytes; a DataFrame where pandas is there
run.model("cough")(x)            # a torch module: encoder and head, best version; run.predict("cough", x); run.plot()
"""  # noqa: E501


def test_the_first_lines_that_a_person_types_work_as_they_are() -> None:
    (x1, y1, a1), (x2, y2, a2) = rows(1), rows(2)
    names: dict[str, Any] = {"Net": Net, "x1": x1, "y1": y1, "a1": a1, "x": torch.from_numpy(x2)}
    names["ward_2"] = {"cough": (x2, y2), "age": (x2, a2)}
    exec(BLOCK.replace("{...}", "ward_2"), names)  # the dots stand for rows
    run = names["run"]
    assert run.model("cough")(names["x"]).shape == (80, 2)
    assert (np.array(run.predict("cough", x2)) == y2).mean() > 0.7
    history = run.history
    assert [*history.columns] == ["time", "version", "task", "client", "metric", "value", "bytes"]
    assert isinstance(history, pandas.DataFrame) and {*history["version"]} == {*range(6)}
    pooled = history[(history["task"] == "cough") & (history["metric"] == "accuracy") & (history["client"] == "")]
    assert pooled["value"].tolist() == [entry.scores["accuracy"] for entry in run.report.tasks["cough"].history]
    assert run.plot()._repr_png_().startswith(b"\x89PNG")


def test_the_history_has_every_client_and_what_it_sent() -> None:
    (x1, y1, _), (x2, y2, _) = rows(1), rows(2, count=40)
    tasks = {"cough": fedmtl.classification(["no", "yes"], metrics=["accuracy"])}
    sites = {"a": {"cough": (x1, y1)}, "b": {"cough": (x2, y2)}}
    run = fedmtl.simulate(tasks, sites, seeded(1), {"training.num_rounds": 2})
    found = {(score.version, score.client): score for score in run.scores if score.metric == "accuracy"}
    assert {*found} == {(version, client) for version in range(3) for client in ("", "a", "b")}
    values = 4 * (64 * 4 + 64 + 2 * 64 + 2)  # float32: the linear layer and the head
    assert [found[version, ""].bytes for version in range(3)] == [0, 2 * values, 2 * values]
    assert found[2, "a"].bytes == values and found[2, ""].time.endswith("Z")
    for version in range(3):  # 20 and 10 rows to score on
        each = [found[version, client].value for client in ("", "a", "b")]
        assert each[0] is not None and each[0] == pytest.approx(
            (20 * (each[1] or 0) + 10 * (each[2] or 0)) / 30, abs=1e-6
        )


def trained(net: nn.Module, run_dir: Path | None = None, **settings: object) -> FinishedRun:
    (x1, _, a1), (x2, _, a2) = rows(1), rows(2)
    sites = {"a": {"age": (x1, a1)}, "b": {"age": (x2, a2)}}
    chosen = {"training.num_rounds": 1, **{key.replace("__", "."): value for key, value in settings.items()}}
    return fedmtl.simulate({"age": fedmtl.regression()}, sites, net, chosen, run_dir)


def test_a_run_starts_from_the_values_of_the_instance_and_leaves_it_alone() -> None:
    net = seeded(3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    untrained = trained(net, training__local_epochs=0).model("age").model.encoder.net
    assert all(torch.equal(untrained.state_dict()[name], value) for name, value in before.items())
    first = trained(net)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert first.report.encoder_init == "values of the given Net"
    assert trained(seeded(3)).report.model_digest == first.report.model_digest
    assert trained(seeded(4)).report.model_digest != first.report.model_digest


def test_what_an_instance_is_does_not_depend_on_its_values() -> None:
    def digest(net: nn.Module) -> str:
        return give(net, "numbers", (4,)).sha256

    assert digest(seeded(1)) == digest(seeded(2))
    others = [seeded(1, width=63), seeded(1, rate=0.5), nn.Sequential(seeded(1)), nn.Linear(4, 64)]
    assert len({digest(net) for net in [seeded(1), *others]}) == 5
    changed = {"__module__": "elsewhere", "forward": lambda self, rows: self.linear(rows)}
    assert digest(type("Net", (Net,), changed)(64)) != digest(seeded(1))


CELL = """
from torch import nn
class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)
    def forward(self, rows):
        return self.linear(rows).tanh()
"""


@pytest.mark.parametrize("plan", ["hard", "adaptive", "private_heads"])
def test_a_class_of_a_notebook_or_of_the_program_itself_is_trained(plan: str) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(CELL, names)
    run = trained(names["Cell"](), sharing__plan=plan, training__num_rounds=3, training__learning_rate=1e-2)
    losses = [score.value for score in run.scores if (score.client, score.metric) == ("", "loss")]
    assert len(losses) == 4 and losses[-1] < losses[0]


def test_statistics_of_normalisation_are_part_of_it() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    run = trained(net, sharing__norm_statistics="shared", training__num_rounds=2)
    assert run.model("age", "last").model.encoder.net[1].running_mean.abs().sum() > 0
    assert not net[1].running_mean.any()


def test_a_later_process_needs_an_instance_of_the_same_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(seeded(1), tmp_path / "run")
    x = rows(3)[0]
    expected = run.predict("age", x)
    monkeypatch.setattr(given, "_GIVEN", {})
    later = fedmtl.load(tmp_path / "run")
    assert later.report.model_digest == run.report.model_digest and later.scores == run.scores
    with pytest.raises(FedMTLError, match=r"instance of class 'Net' \(.*give one: fedmtl\.load\(run_dir, encoder="):
        later.predict("age", x)
    with log_given_back():
        words = ["export", "--run_dir", str(tmp_path / "run"), "--task", "age", "--out", str(tmp_path / "out")]
        assert main(words) == 4 and main(["verify", "--run_dir", str(tmp_path / "run")]) == 0
    with pytest.raises(FedMTLError, match="encoder: 'Linear' differs in code or shapes from that of the run"):
        fedmtl.load(tmp_path / "run", nn.Linear(4, 64))
    again = fedmtl.load(tmp_path / "run", seeded(2)).predict("age", x)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(expected))


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, rows: Tensor) -> Tensor:
        return (rows * self.weight).sum(1)


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (nn.ReLU(), "encoder: class 'ReLU' has no parameters; there is nothing to train together"),
        (nn.LazyLinear(8), "encoder: class 'LazyLinear': 'weight' has no shape yet; call the module on a batch first"),
        (nn.Linear(4, 8).double(), "encoder: class 'Linear': 'weight' is torch.float64; make the module .float()"),
        (nn.Linear(5, 8), "encoder: class 'Linear': RuntimeError: mat1 and mat2 .*; mend the module, or the shape"),
        (Flat(), r"encoder: class 'Flat': ValueError: gives \(2,\) for a batch of \(2, 4\), not vectors \(2, hidden\)"),
    ],
)
def test_a_module_that_cannot_be_an_encoder_is_one_line(net: nn.Module, said: str, tmp_path: Path) -> None:
    with pytest.raises(FedMTLError, match=f"^{said}") as caught:
        trained(net, tmp_path / "run")
    assert "\n" not in caught.value.message and not (tmp_path / "run").exists()
