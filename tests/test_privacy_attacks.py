"""What others learn of a client, by attacks on small federations: with noise and without, and what remains.

An attacker sees either what is published, the model before and after, or what the coordinator sees, every update as it
was sent. Noise of the coordinator hides a client from the first and not from the second; each test asserts both, so
that nobody promises more.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.agent import Agent
from client.data.examples import prepare
from client.jobs.local_client import LocalClient
from common.clock import ManualClock
from common.config import Config
from common.models.packed_tokenizer import unpack_tokenizer
from common.orders import Session, UpdateHeader
from common.parameters.encodings import ENCODINGS
from common.ports import Chunks, CoordinatorPort
from common.privacy.accounting import noise_multiplier_for
from server.runs.assembly import in_memory
from simulation.inprocess import run_together
from tests.federations import NOISE_KEY, SubmittingPort, array_config, make_client, make_model, small_config

Values = NDArray[np.float32]
Rows = Mapping[str, tuple[Values, NDArray[np.int64]]]
FEATURES, HIDDEN = 20, 64


@dataclass
class Seen:
    """What there is to see of a run."""

    before: Mapping[str, Values]
    """The first published model, by scope."""
    after: dict[str, Values] = field(default_factory=dict)
    updates: dict[tuple[str, int], dict[str, Values]] = field(default_factory=dict)
    """What the coordinator received, by client and round: the change of each scope."""

    def published(self, scope: str) -> Values:
        """What anybody can tell from the models."""
        return self.after[scope] - self.before[scope]


class Watched(SubmittingPort):
    """A coordinator that takes notes of what it is sent."""

    def __init__(self, port: CoordinatorPort, seen: Seen) -> None:
        super().__init__(port)
        self._seen = seen

    async def submit(self, session: Session, header: UpdateHeader, chunks: Chunks) -> Any:
        payload = b"".join([chunk async for chunk in chunks(0)])
        found, at = {}, 0
        for scope in header.scopes:
            size = len(self._seen.before[scope.scope])
            found[scope.scope] = np.frombuffer(payload, np.float32, size, at)
            at += 4 * size
        self._seen.updates[session.client_id, int(header.order_id.split("-")[1].split(".")[0])] = found
        return await super().submit(session, header, chunks)


def watched(config: Config, clients: Sequence[LocalClient], state: Path, key: bytes = NOISE_KEY) -> Seen:
    """A whole run."""
    assert config.federation.update_encoding in ENCODINGS and config.federation.update_encoding == "dense-float32"
    model = make_model(config)
    seen = Seen({scope: vector.numpy().copy() for scope, vector in model.vectors.items()})

    async def run() -> None:
        coordinator = in_memory(config, model, ManualClock(), key=key)
        agents = [Agent(Watched(coordinator, seen), client, state / client.request.client_id) for client in clients]
        await run_together(coordinator, agents)
        seen.after |= {scope: np.array(vector.data, np.float32) for scope, vector in coordinator.vectors.items()}

    asyncio.run(run())
    return seen


def published(config: Config, clients: Sequence[LocalClient], state: Path) -> dict[str, Values]:
    """What a whole run changes in the model that anybody gets."""
    model = make_model(config)

    async def run() -> dict[str, Values]:
        coordinator = in_memory(config, model, ManualClock(), key=NOISE_KEY)
        await run_together(coordinator, [Agent(coordinator, c, state / c.request.client_id) for c in clients])
        return {name: np.array(v.data, np.float32) - model.vectors[name].numpy()
                for name, v in coordinator.vectors.items()}  # fmt: skip

    return asyncio.run(run())


def rows_config(folder: Path, name: str, rows: int, *overrides: str) -> Config:
    """A perceptron over rows of a client's own file; a client takes one step of gradient descent in the only round."""
    return array_config(
        f"model.mlp={{features: {FEATURES}, hidden: [{HIDDEN}]}}",
        f"data.dir='{folder / name}'",
        "training.num_rounds=1",
        "training.optimizer={name: sgd, momentum: 0}",
        "training.learning_rate=10.0",
        "training.max_grad_norm=0",
        f"training.batch_size={rows}",
        f"tasks.a0.train_samples={rows}",
        "aggregation.weights=uniform",
        *overrides,
        tasks=("a0",),
    )


def noised(clients: int, z: float, clip: float = 1.0) -> tuple[str, ...]:
    return (
        "privacy.noise=coordinator",
        f"privacy.noise_multiplier={z}",
        f"privacy.clip={clip}",
        f"privacy.min_clients={clients}",
        "privacy.delta=1e-5",
    )


def crowd(folder: Path, rows: Rows, *overrides: str) -> tuple[Config, Any]:
    """The federation of clients with these rows."""
    clients = []
    for name, (x, y) in rows.items():
        (folder / name / "a0").mkdir(parents=True, exist_ok=True)
        for split in ("train", "validation"):
            np.savez(folder / name / "a0" / f"{split}.npz", x=x, y=y)
        clients.append(make_client(rows_config(folder, name, len(x), *overrides), name, ("a0",), "1/1"))
    config = rows_config(folder, next(iter(rows)), len(x), f"federation.min_clients={len(rows)}", *overrides)
    return config, clients


def first_layer(shared: Values) -> tuple[Values, Values]:
    """What was added to weights, (hidden, features), and biases, (hidden,), of the first layer."""
    size = HIDDEN * FEATURES
    assert len(shared) == size + HIDDEN
    return shared[:size].reshape(HIDDEN, FEATURES), shared[size:]


def candidates(shared: Values) -> Values:
    """Rows that a step of a layer was made of: each weight's gradient is its bias's times the row that passed.

    A unit through which one row alone passed gives this row (Phong et al. 2018); those that several passed give
    mixtures, each its own. So rows are what several units agree on.
    """
    weights, biases = first_layer(shared)
    moved = np.abs(biases) > 1e-9
    ratios = weights[moved] / biases[moved, None]
    near = np.abs(ratios[:, None] - ratios[None]).max(axis=2) < 1e-4
    return np.array([np.median(ratios[row], axis=0) for row in near if row.sum() >= 3]).reshape(-1, FEATURES)


def error(found: Values, row: Values) -> float:
    """Of the best guess at a row, the largest one of its numbers."""
    return float(np.abs(found - row).max(axis=1).min(initial=np.inf))


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """How likely a member's number is above another one's."""
    a, b = np.array(members)[:, None], np.array(others)[None]
    return float(np.mean(a > b) + np.mean(a == b) / 2)


def rows_of(names: Sequence[str], each: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return {name: (rng.normal(size=(each, FEATURES)).astype(np.float32), rng.integers(0, 2, each)) for name in names}


class TestRows:
    """A row of numbers, from what one step of gradient descent on it changes."""

    def test_a_single_update_gives_its_row_back(self, tmp_path: Path) -> None:
        rows = rows_of("a", 1, 1)
        config, clients = crowd(tmp_path, rows)
        seen = watched(config, clients, tmp_path / "state")
        assert error(candidates(seen.published("shared")), rows["a"][0]) < 1e-6

    def test_the_sum_of_three_clients_gives_all_rows_back(self, tmp_path: Path) -> None:
        """Sums alone, such as masks would give the coordinator, hide whose a row is, and not the row."""
        rows = rows_of("abc", 1, 2)
        config, clients = crowd(tmp_path, rows)
        seen = watched(config, clients, tmp_path / "state")
        assert all(error(candidates(seen.published("shared")), row) < 1e-5 for row, _ in rows.values())

    @pytest.mark.parametrize("clients", [3, 30])
    def test_a_masked_sum_of_three_gives_rows_back_and_one_of_thirty_does_not(
        self, tmp_path: Path, clients: int
    ) -> None:
        """Masks hide whose a row is; what hides the row are other rows in the sum, or noise."""
        masks = ("secure_aggregation.enabled=true", "secure_aggregation.largest_change=8",
                 "secure_aggregation.largest_weight=1", f"federation.min_clients={clients}")  # fmt: skip
        rows = rows_of([f"c{i}" for i in range(clients)], 1, 2)
        config, members = crowd(tmp_path, rows, *masks)
        shared = published(config, members, tmp_path / "state")["shared"]
        weights, biases = first_layer(shared)
        errors = [error(candidates(shared), row) for row, _ in rows.values()]
        if clients == 3:
            assert max(errors) < 1e-5
        else:
            guesses = np.vstack([candidates(shared), weights / np.where(biases == 0, 1, biases)[:, None]])
            assert min(errors) > 0.5 and min(error(guesses, row) for row, _ in rows.values()) > 0.5

    def test_noise_hides_rows_in_what_is_published_and_not_from_the_coordinator(self, tmp_path: Path) -> None:
        rows = rows_of("abc", 1, 2)
        config, clients = crowd(tmp_path, rows, *noised(3, 1.0))
        seen = watched(config, clients, tmp_path / "state")
        weights, biases = first_layer(seen.published("shared"))
        for name, (row, _) in rows.items():
            guesses = np.vstack([candidates(seen.published("shared")), weights / biases[:, None]])
            assert error(guesses, row) > 0.3  # the best of 64 guesses, and nobody knows which
            assert error(candidates(seen.updates[name, 1]["shared"]), row) < 1e-6


class TestMembership:
    """Whether a client took part: of each choice the others take part too, so that no client is one by its rows."""

    NAMES = tuple(f"c{i}" for i in range(20))
    EPSILON = 2.0

    def chosen(self, choices: int) -> Iterator[tuple[str, set[str]]]:
        for number in range(choices):
            half = set(np.random.default_rng(number).permutation(self.NAMES)[: len(self.NAMES) // 2])
            yield from ((f"{number}", half), (f"{number} without", set(self.NAMES) - half))

    def run(self, folder: Path, rows: Rows, there: set[str], *settings: str) -> Seen:
        """Of those who are there alone; the key of the noise is another one for each folder."""
        config, clients = crowd(folder.parent / "rows", {name: rows[name] for name in sorted(there)}, *settings)
        return watched(config, clients, folder, hashlib.sha256(folder.name.encode()).digest())

    def auc(self, score: Mapping[str, float], there: set[str]) -> float:
        return auc([score[n] for n in there], [score[n] for n in self.NAMES if n not in there])

    def test_who_knows_all_updates_finds_a_client_in_a_sum_and_not_under_noise(self, tmp_path: Path) -> None:
        """The attacker has the update of everybody who might be there, and asks which of them the sum is made of."""
        rows = rows_of(self.NAMES, 2, 3)
        updates = self.run(tmp_path / "all", rows, set(self.NAMES)).updates
        known = np.stack([updates[name, 1]["shared"] for name in self.NAMES]).astype(np.float64)
        z, clip = noise_multiplier_for(self.EPSILON, 1e-5, 1), float(np.median(np.linalg.norm(known, axis=1)))
        for kind, settings, (low, high) in (("plain", (), (0.99, 1.0)), ("noise", noised(10, z, clip), (0.4, 0.6))):
            found = []
            for name, there in self.chosen(3):
                seen = self.run(tmp_path / f"{kind} {name}", rows, there, *settings)
                shares = np.linalg.lstsq(known.T, seen.published("shared").astype(np.float64), rcond=None)[0]
                found.append(self.auc(dict(zip(self.NAMES, shares.tolist(), strict=True)), there))
            assert low <= np.mean(found) <= high, kind

    def test_the_loss_of_an_overfitted_model_tells_who_took_part_and_not_under_noise(self, tmp_path: Path) -> None:
        """With so few clients the noise leaves nothing to learn either: this is about what is hidden, not about use."""
        rounds = 6
        learning = (f"training.num_rounds={rounds}", "training.optimizer=adamw", "training.learning_rate=1e-2",
                    "training.local_epochs=10", "training.head_learning_rate=1e-2")  # fmt: skip
        rows = rows_of(self.NAMES, 4, 4)
        z = noise_multiplier_for(self.EPSILON, 1e-5, rounds)
        for kind, settings, (low, high) in (("plain", (), (0.8, 1.0)), ("noise", noised(10, z), (0.4, 0.6))):
            found = []
            for name, there in self.chosen(2):
                seen = self.run(tmp_path / f"{kind} {name}", rows, there, *learning, *settings)
                found.append(self.auc({n: -loss_of(seen.after, *rows[n]) for n in self.NAMES}, there))
            assert low <= np.mean(found) <= high, kind


def loss_of(values: Mapping[str, Values], x: Values, y: NDArray[np.int64]) -> float:
    """The cross-entropy of rows under a published model."""
    weights, biases = first_layer(values["shared"])
    head = values["task/a0"]
    outputs = np.maximum(x @ weights.T + biases, 0) @ head[: 2 * HIDDEN].reshape(2, HIDDEN).T + head[2 * HIDDEN :]
    return float(np.mean(np.logaddexp(*outputs.T) - outputs[np.arange(len(y)), y]))


class TestWords:
    """Which words a client has, from the rows of the embedding that its update changes: the coordinator knows them."""

    def test_an_update_names_the_words_of_its_client_and_what_is_published_under_noise_does_not(
        self, tmp_path: Path
    ) -> None:
        names = {"a": "1/3", "b": "2/3", "c": "3/3"}
        alone = ("training.num_rounds=1", "federation.min_clients=3", "tasks.sst2.train_samples=8",
                 "aggregation.weights=uniform")  # fmt: skip
        for kind, settings in (("plain", ()), ("noise", noised(3, 1.0))):
            config = small_config(tmp_path / kind, *alone, *settings, tasks=("sst2",), dropout=0.0)
            clients = [make_client(config, name, ("sst2",), part) for name, part in names.items()]
            seen = watched(config, clients, tmp_path / kind / "state")
            words = {client.request.client_id: words_of(config, client) for client in clients}
            for name, own in words.items():
                assert named(seen.updates[name, 1]["shared"], own) == 1.0
            everybody = named(seen.published("shared"), set().union(*words.values()))
            if kind == "plain":
                assert everybody == 1.0
            else:
                assert 0.4 < everybody < 0.6


def words_of(config: Config, client: LocalClient) -> set[int]:
    model = make_model(config)
    definition, tokenizer = config.definitions()[0], unpack_tokenizer(model.tokenizer_bytes)
    examples = prepare(client.data["sst2"].train, definition, model.architecture, tokenizer)
    return {int(token) for used in examples.used_tokens() for token in used.ids if token != used.padding_id}


def named(shared: Values, words: set[int]) -> float:
    """How well the length of an embedding's row tells whether the word is one of these: the AUC."""
    size, width = 30_522, 16  # the table is the first of the scope
    lengths = np.linalg.norm(shared[: size * width].reshape(size, width).astype(np.float64), axis=1)
    others = sorted(set(range(size)) - words)
    return auc(lengths[sorted(words)].tolist(), lengths[others].tolist())
