"""What the coordinator learns from what a client hands in, by attacks: with noise of rows and without; what remains.

The coordinator sees every update as it was sent, and knows the model that it starts from. Each attack succeeds on plain
updates and fails with `privacy.noise: rows`; what the noise does not cover is told as before, and that is asserted too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from client.agent import Agent
from client.jobs.local_client import LocalClient
from common.bodies import Train
from common.clock import ManualClock
from common.config import Config
from common.orders import JoinRequest, Order, PollReply, Session, TaskResult, Update, UpdateHeader, Welcome
from common.ports import Chunks, CoordinatorPort
from server.runs.assembly import in_memory
from simulation.inprocess import run_together
from tests.federations import SubmittingPort, array_config, make_client, make_model, small_config
from tests.test_hidden_rows import give_keys
from tests.test_privacy_attacks import (
    Rows,
    Values,
    auc,
    crowd,
    first_layer,
    loss_of,
    named,
    rows_of,
    words_of,
)
from tests.test_row_ledger import charges

NAMES = "abcdefghijklmnop"
COUNT = 80
"""Of the rows of which the coordinator asks who has them."""
RATE = 10.0
"""The learning rate of `crowd`."""
ROWS = ("privacy.noise=rows", "privacy.delta=1e-5")
NOISED = (*ROWS, "privacy.noise_multiplier=1.0")


@dataclass
class HandedIn:
    """What one client gave to the coordinator in the first round, and what it was asked for."""

    request: JoinRequest
    order: Order | None = None
    header: UpdateHeader | None = None
    changes: Mapping[str, Values] | None = None

    @property
    def all_changes(self) -> Mapping[str, Values]:
        """By scope."""
        assert self.changes is not None
        return self.changes

    @property
    def shared(self) -> Values:
        """How the part changed that all clients train."""
        return self.all_changes["shared"]

    @property
    def result(self) -> TaskResult:
        """The only task's share."""
        assert self.header is not None
        (found,) = self.header.results
        return found

    @property
    def steps(self) -> int:
        """The steps over the only task, as anybody can count them who knows the order and how many rows there are."""
        assert self.order is not None and isinstance(self.order.body, Train)
        ((_, rows),) = self.request.examples
        settings = self.order.body.settings
        return settings.local_epochs * -(-rows // settings.batch_size)


class Curious(SubmittingPort):
    """A coordinator that keeps what it is told, and does its work as always."""

    def __init__(self, port: CoordinatorPort, heard: dict[str, HandedIn]) -> None:
        super().__init__(port)
        self._heard = heard

    async def join(self, request: JoinRequest) -> Welcome:
        self._heard.setdefault(request.client_id, HandedIn(request))
        return await self._port.join(request)

    async def poll(self, session: Session, pending_order: str, answer: Update | None = None) -> PollReply:
        reply: PollReply = await super().poll(session, pending_order, answer)
        mine = self._heard[session.client_id]
        mine.order = mine.order or reply.order
        return reply

    async def submit(self, session: Session, header: UpdateHeader, chunks: Chunks) -> Any:
        mine = self._heard[session.client_id]
        if mine.header is None:
            payload, at = b"".join([chunk async for chunk in chunks(0)]), 0
            mine.header, found = header, dict[str, Values]()
            for scope in header.scopes:
                found[scope.scope] = np.frombuffer(payload, np.float32, scope.nbytes // 4, at)
                at += scope.nbytes
            mine.changes = found
        return await super().submit(session, header, chunks)


def handed_in(config: Config, clients: Sequence[LocalClient], state: Path) -> dict[str, HandedIn]:
    """What each client hands in; their secrets are always the same ones, so that figures are."""
    assert config.federation.update_encoding == "dense-float32"
    names = [client.request.client_id for client in clients]
    give_keys(state, "".join(names))
    heard: dict[str, HandedIn] = {}

    async def run() -> None:
        coordinator = in_memory(config, make_model(config), ManualClock())
        agents = [
            Agent(Curious(coordinator, heard), client, state / name)
            for client, name in zip(clients, names, strict=True)
        ]
        await run_together(coordinator, agents)

    asyncio.run(run())
    assert sorted(heard) == sorted(names)
    return heard


# ---- a row of numbers ----


def guess(shared: Values) -> Values:
    """The row that one step was made of: weights changed by the outer product of the biases' change and the row.

    Of all units together, by least squares; the units through which the row did not pass say nothing.
    """
    weights, biases = (part.astype(np.float64) for part in first_layer(shared))
    return (weights.T @ biases / (biases @ biases)).astype(np.float32)


def direction(shared: Values) -> Values:
    """What the rows of the weights' change have in common, of any length: for who mistrusts the biases."""
    found: Values = np.linalg.svd(first_layer(shared)[0])[2][0].astype(np.float32)
    return found


def cosine(one: Values, other: Values) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def distance(found: Values, row: Values) -> float:
    """In lengths of the row: a guess of zeros has 1."""
    return float(np.linalg.norm(found - row) / np.linalg.norm(row))


def told_length(found: Values, row: Values) -> Values:
    """The guess of an attacker who was told how long the row is."""
    return found * np.float32(np.linalg.norm(row) / np.linalg.norm(found))


def one_row_each(folder: Path, kind: str, *settings: str) -> dict[str, tuple[Values, HandedIn]]:
    """The row of each client, and what it hands in after one step on it."""
    rows = rows_of(NAMES, 1, 1)
    heard = handed_in(*crowd(folder / "rows", rows, *settings), folder / kind)
    return {name: (x[0], heard[name]) for name, (x, _) in rows.items()}


def test_a_step_on_one_row_gives_it_back_and_not_under_noise_on_rows(tmp_path: Path) -> None:
    for row, heard in one_row_each(tmp_path, "plain").values():
        assert distance(guess(heard.shared), row) < 1e-6 and abs(cosine(direction(heard.shared), row)) > 0.999
    seen = [(row, heard.shared) for row, heard in one_row_each(tmp_path, "noise", *NOISED).values()]
    short = [distance(guess(change), row) for row, change in seen]
    assert min(short) > 0.8, "a guess of zeros has 1, and guesses from noise are short"
    assert np.mean([distance(told_length(guess(change), row), row) for row, change in seen]) > 1.0
    for how in (guess, direction):
        assert np.mean([abs(cosine(how(change), row)) for row, change in seen]) < 0.3, "0.18 is chance"


def gradient(heard: HandedIn) -> Values:
    """Of one step, all of it; it is at most 1 long under noise, but for the noise."""
    whole = np.concatenate([heard.all_changes[scope] for scope in sorted(heard.all_changes)])
    return (whole / RATE).astype(np.float32)


def clipped(found: Values) -> Values:
    return found / np.float32(max(1.0, float(np.linalg.norm(found))))


def test_who_guesses_a_row_can_check_the_guess_where_the_noise_is_short(tmp_path: Path) -> None:
    """The attacker has the rows of all clients and the step that each of them makes, and asks whose is whose."""
    known = {name: clipped(gradient(heard)) for name, (_, heard) in one_row_each(tmp_path, "plain").items()}
    found = {}
    for noise in (0.1, 1.0, 4.0):
        seen = one_row_each(tmp_path, f"noise {noise}", *ROWS, f"privacy.noise_multiplier={noise}")
        ranks = []
        for mine, (_, heard) in seen.items():
            likely = {name: float((gradient(heard) - step / 2) @ step) for name, step in known.items()}
            ranks.append(auc([likely[mine]], [fit for name, fit in likely.items() if name != mine]))
        found[noise] = float(np.mean(ranks))
    assert found[0.1] > 0.9 and found[4.0] < 0.75


# ---- words ----


def test_an_update_names_the_words_of_its_client_and_not_under_noise_on_rows(tmp_path: Path) -> None:
    """Plain gradient descent, so that the length of a row's change is that of its gradient."""
    alone = ("training.num_rounds=1", "federation.min_clients=3", "tasks.sst2.train_samples=72",
             "training.batch_size=24", "model.weights=random", "training.optimizer={name: sgd, momentum: 0}",
             "training.learning_rate=1.0", "training.weight_decay=0")  # fmt: skip
    words: list[set[int]] = []
    for kind, settings in (("plain", ()), ("noise", NOISED)):
        config = small_config(tmp_path / kind, *alone, *settings, tasks=("sst2",), dropout=0.0)
        clients = [make_client(config, name, ("sst2",), f"{part}/3") for part, name in enumerate("abc", start=1)]
        heard = handed_in(config, clients, tmp_path / kind / "state")
        words = words or [words_of(config, client) for client in clients]
        found = [named(heard[name].shared, own) for name, own in zip("abc", words, strict=True)]
        if kind == "plain":
            assert found == [1.0, 1.0, 1.0]
        else:
            assert 0.45 < np.mean(found) < 0.55


# ---- whether a row is among a client's ----


def scores(before: Mapping[str, Values], changes: Mapping[str, Values], rows: Rows) -> dict[str, list[float]]:
    """How much each of the rows looks like one that was learned, by each of two attacks."""
    after = {scope: before[scope] + change for scope, change in changes.items()}
    late = [loss_of(after, x, y) for x, y in rows.values()]
    drops = [loss_of(before, x, y) - loss for (x, y), loss in zip(rows.values(), late, strict=True)]
    return {"loss": [-loss for loss in late], "drop": drops}


def best_auc(steps: int, multiplier: float) -> float:
    """What the best of all attacks can reach on steps in which all rows take part."""
    return float(norm.cdf(np.sqrt(steps) / multiplier / np.sqrt(2)))


def test_losses_of_the_model_handed_in_tell_whose_rows_it_learned_and_not_under_noise_on_rows(
    tmp_path: Path,
) -> None:
    """The first half of the clients has half of the rows each, another half every time, and the others the rest.

    Where noise is long, the loss of a row goes down as the sum of gradients has a part along its own: that is near the
    best attack there is. So epsilon 2 leaves up to 0.64, and below 0.6 it takes epsilon 1.
    """
    x, y = rows_of("x", COUNT, 5)["x"]
    halves = [np.random.default_rng(number).permutation(COUNT).reshape(2, -1) for number in range(8)]
    members = dict(zip(NAMES, [half[0] for half in halves] + [half[1] for half in halves], strict=True))
    rows = {name: (x[places], y[places]) for name, places in members.items()}
    single = {f"{row}": (x[[row]], y[[row]]) for row in range(COUNT)}
    learning = ("training.local_epochs=30", "training.optimizer=adamw", "training.learning_rate=2e-2",
                "training.head_learning_rate=2e-2")  # fmt: skip

    def mean_auc(kind: str, *settings: str) -> dict[str, float]:
        config, clients = crowd(tmp_path / kind / "rows", rows, *learning, *settings)
        heard = handed_in(config, clients, tmp_path / kind / "state")
        before = {scope: vector.numpy().copy() for scope, vector in make_model(config).vectors.items()}
        found: dict[str, list[float]] = {"loss": [], "drop": []}
        for name, places in members.items():
            inside = np.isin(np.arange(COUNT), places)
            for attack, score in scores(before, heard[name].all_changes, single).items():
                found[attack].append(auc(np.array(score)[inside].tolist(), np.array(score)[~inside].tolist()))
        return {attack: float(np.mean(each)) for attack, each in found.items()}

    assert mean_auc("plain")["loss"] > 0.8
    for epsilon, most in ((2, 0.65), (1, 0.6)):
        means = mean_auc(f"{epsilon}", *ROWS, f"privacy.epsilon={epsilon}")
        (charge,) = charges(tmp_path / f"{epsilon}" / "state" / "a")
        assert charge["steps"] == 30 and charge["chance"] == 1.0
        assert best_auc(30, charge["noise"]) < most, "by any attack"
        assert max(means.values()) < most


# ---- what remains ----


def one_client(state: Path, *settings: str) -> HandedIn:
    config = array_config("federation.min_clients=1", "training.num_rounds=1", "training.local_epochs=3", *settings,
                          tasks=("a0",))  # fmt: skip
    return handed_in(config, [make_client(config, "a", ["a0"], "1/1")], state)["a"]


def test_numbers_of_rows_and_steps_and_names_of_tasks_are_still_told(tmp_path: Path) -> None:
    plain, noised = one_client(tmp_path / "plain"), one_client(tmp_path / "noise", *NOISED)
    assert noised.request.examples == plain.request.examples == (("a0", 40),)
    assert noised.request.validation == plain.request.validation == (("a0", 20),)
    assert noised.request.tasks == plain.request.tasks
    assert (noised.result.task, noised.result.examples) == (plain.result.task, plain.result.examples) == ("a0", 40)
    assert noised.steps == plain.steps == sum(c["steps"] for c in charges(tmp_path / "noise" / "a")) == 15
    assert plain.result.train_loss is not None and plain.result.validation is not None
    assert noised.result.train_loss is None and noised.result.validation is None


def test_who_keeps_exact_scores_tells_them_exactly(tmp_path: Path) -> None:
    """Of the received model on validation rows: the same model and rows have the same ones. The training loss stays."""
    plain = one_client(tmp_path / "plain")
    noised = one_client(tmp_path / "noise", *NOISED, "privacy.scores=exact")
    assert noised.result.validation is not None
    assert noised.result.validation == plain.result.validation
    assert plain.result.train_loss is not None and noised.result.train_loss is None
