"""A kind of task is one class and one row, a kind of inputs one of each per side. Nothing else knows them."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from torch.nn import functional

from client.data.array_examples import ArrayExamples
from client.data.examples import TaskData
from client.data.request import DataRequest
from client.data.sources import LOADERS
from client.disclosure import what_leaves
from common.config import Config, load_config
from common.inputs import INPUT_KINDS, InputKind
from common.models.encoder import EncoderSource
from common.models.mlp import MLP
from common.statistics import TaskStatistics, ratio
from common.tasks import TASK_KINDS, TaskKind
from common.tasks.labels import LabelNames
from server.core.facts import RunFacts
from server.reporting.report import build_report
from server.reporting.values import to_json
from tests.federations import array_config, digest_of, federate
from tests.test_architecture import ROOT, sources

TWO = (("a", ("t0",), "1/2"), ("b", ("t0",), "2/2"))
MIN = "federation.min_clients=2"


class Margin(TaskKind):
    """Two classes on the two sides of zero, learned by a margin instead of a probability."""

    name = "margin"
    metrics = ("right_side",)
    has_labels = True

    def outputs(self, task):
        return 1

    def label_parser(self, task):
        return LabelNames(task.labels).index

    def targets(self, task, labels):
        return np.asarray(labels, dtype=np.int64)

    def drawn(self, scores):
        return (scores[:, 0] > 0).astype(np.int64)

    def loss(self, outputs, targets, reduction="mean", units=None):
        return functional.soft_margin_loss(outputs.squeeze(-1), 2.0 * targets - 1.0, reduction=reduction)

    def measure(self, task, outputs, targets, loss_sum):
        return TaskStatistics(len(targets), loss_sum, int(((outputs[:, 0] > 0) == targets).sum()))

    def fits(self, task, statistics):
        return not statistics.labels and not statistics.moments and not statistics.means

    def summary(self, task, total):
        return {"right_side": ratio(total.right, total.examples)}


def reported(config: Config, folder: Path) -> list[dict[str, float]]:
    """The scores of every version of the first task after a federation of two clients."""
    coordinator = asyncio.run(federate(config, folder, TWO, "codec"))
    rounds, clients = coordinator.journal.rounds(), coordinator.journal.clients()
    report = to_json(
        build_report(RunFacts(), 0, coordinator.settings.tasks, rounds, clients, "finished", digest_of(coordinator))
    )
    return report["tasks"]["t0"]["history"]


def test_a_new_kind_of_task_is_trained_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASK_KINDS, "margin", Margin())
    task = "tasks={t0: {type: margin, labels: [no, yes], train_samples: 200, val_samples: 100}}"
    config = array_config(task, "training={num_rounds: 3, local_epochs: 8, learning_rate: 0.02}", MIN)
    history = reported(config, tmp_path)
    assert history[-1]["right_side"] > max(0.7, history[0]["right_side"])
    assert history[-1]["loss"] < history[0]["loss"]


class Letters(InputKind):
    """Words, of which an encoder sees how often each letter occurs."""

    name = "letters"
    encoder_types = frozenset({"letters"})
    stays = "words"

    def find_encoder(self, section, weights=None):
        return EncoderSource('{"model_type": "letters"}', None, None, "random weights")

    def build_encoder(self, encoder_config):
        return MLP(26, (8,), 0.0)


class Words(list[str]):
    inputs = "letters"

    @property
    def labels(self):
        return [int("e" in word) for word in self]

    def take(self, places):
        return Words(self[place] for place in places)

    def prepare(self, task, tokenizer, pair_mode, max_length):
        counts = np.array([[word.count(chr(97 + place)) for place in range(26)] for word in self], dtype=np.float32)
        return ArrayExamples(counts, task.type.targets(task, self.labels))


def words(request: DataRequest) -> TaskData:
    rng = np.random.Generator(np.random.PCG64(request.partition[0]))
    drawn = Words("".join(chr(97 + letter) for letter in rng.integers(26, size=9)) for _ in range(90))
    return TaskData(drawn.take(range(60)), drawn.take(range(60, 90)), "drawn")


def test_a_new_kind_of_inputs_is_trained_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INPUT_KINDS, "letters", Letters())
    monkeypatch.setitem(LOADERS, "letters", words)
    rounds = "training={num_rounds: 4, local_epochs: 4, learning_rate: 0.02, batch_size: 8}"
    task = "tasks={t0: {type: classification, labels: [no, yes]}}"
    config = load_config(None, ["model.server_model=letters", rounds, task, MIN])
    assert what_leaves(config, ["t0"])[-3].startswith("  words, labels")
    history = reported(config, tmp_path)
    assert history[-1]["accuracy"] > max(0.8, history[0]["accuracy"])


NAMED = dict.fromkeys(TASK_KINDS, "common/tasks/") | dict.fromkeys(
    (
        "Classification",
        "Multilabel",
        "Regression",
        "MaskedLM",
        "NextWord",
        "Tokens",
        "DenseClassification",
        "DenseRegression",
    ),
    "common/tasks/",
)
"""What names a kind of task, and where that may stand."""
PYTHON = ("fedmtl/__init__.py", "fedmtl/description.py")
"""Where functions bear the names of kinds, for Python code."""
OTHERWISE = {("client/limits.py", "tokens")}
"""A limit of a client is called like a kind."""


def test_no_file_but_its_own_names_a_kind_of_task() -> None:
    found = {
        (name, word)
        for name, tree in sources().items()
        for node in ast.walk(tree)
        for word in [getattr(node, "value", None) if isinstance(node, ast.Constant) else getattr(node, "id", None)]
        if isinstance(word, str) and word in NAMED and not name.startswith((NAMED[word], *PYTHON))
        if isinstance(node, ast.Constant) or word not in TASK_KINDS
    }
    assert found == OTHERWISE


def test_only_their_own_files_ask_what_examples_are_made_of() -> None:
    ours = r"(Text|Array)(Batch|Examples)|Tokenised\w+|MaskedSet|MLP\w*|GRU\w+|(Linear|Siamese|Masked)Head"
    kinds = rf"{ours}|(?<!nn\.)Conv\w+"
    asks = re.compile(rf"isinstance\(.*\b({kinds})\b|\.inputs\.name\b.*==|inputs == ")
    found = {
        (name, line.strip())
        for name in sources()
        if not name.startswith("common/inputs/")
        for line in (ROOT / name).read_text().splitlines()
        if asks.search(line)
    }
    assert found == set()
