"""What is private to a client occurs in no byte that leaves it, whatever the plan, the procedure and the encoding."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import simulation.codec
from client.jobs.job import Job, JobResult, run_job
from client.jobs.synchronizer import ClientModelSynchronizer
from client.training.blend import BLEND
from client.training.work import ClientState
from common.bodies import Train
from common.methods.local_optimizers import SGDOptimizer
from common.orders import Update, UpdateHeader
from common.parameters.encodings import to_bfloat16
from common.parameters.scope import is_private
from common.wire.calls import PollCall, UploadStart
from common.wire.methods import METHODS
from server.engine.coordinator import Coordinator
from tests.federations import array_config, federate
from tests.test_plans import deep_config

WAYS = [
    *(f"sharing.plan={plan}" for plan in ("private_heads", "fedper", "lg", "local")),
    *("training.procedure=ditto", "training.finetune_epochs=1", "blend=true"),
]
DENSE, ROWS = ("dense-float32", "dense-bfloat16"), ("rows-float32", "rows-bfloat16")
TEXTS = [
    ("training.procedure=ditto", ROWS[1]),
    pytest.param("sharing.plan=private_heads", ROWS[0], marks=pytest.mark.slow),
    pytest.param("sharing.plan=fedper", ROWS[1], marks=pytest.mark.slow),
    pytest.param("sharing.plan=lg", ROWS[0], marks=pytest.mark.slow),
]
"""Encodings that leave rows out are for embeddings."""

CLIENTS = (("a", ("a0",), "1/2"), ("d", ("a0", "b1"), "2/2"))

RUN = 5
"""Values other than zero in a run that is looked for. Each has at least 20 random bits, see `Leak`: that one of some
10^3 such runs occurs by chance in some 10^7 bytes has a probability of 2^-100 10^10, far below 1e-9."""
HALF_RUN = 12
"""The same for bfloat16, of which 7 bits and the sign are random: 2^-96 10^10."""


pytestmark = pytest.mark.usefixtures("one_tokenizer")


class Leak:
    """Plants random values in what clients keep, and hears everything that they send.

    A run of bytes proves a leak only where training cannot produce it by chance, so every value that is looked for has
    a random mantissa: planted values and what training made of them; weights of personal models, which begin with
    random ones; and how far private values moved under SGD, whose steps are gradients. Steps of Adam are not looked
    for: neighbours under one rate differ in a few bits or none.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rng = np.random.Generator(np.random.PCG64(17))
        self.planted: list[tuple[str, np.ndarray[Any, Any]]] = []
        self.fresh: list[tuple[str, np.ndarray[Any, Any]]] = []
        self.sent: list[bytes] = []
        self.headers: list[UpdateHeader] = []
        self.ways: set[str] = set()
        requests = [method.request for method in METHODS]
        honest = simulation.codec._through

        def recorded(codec: Any, value: Any) -> Any:
            if any(codec is request for request in requests):
                self.sent.append(codec.encode(value))
                self._look(value)
            return honest(codec, value)

        def with_sentinels(job: Job, replica: ClientModelSynchronizer, state: ClientState) -> JobResult:
            values = {scope: torch.from_numpy(self._noise(len(vector))) for scope, vector in state.items()}
            result = run_job(job, replica, values)
            for scope, after in result.state.items():
                if scope not in values:
                    self.fresh.append((scope, after.numpy()))
                    continue
                self.planted += [(scope, after.numpy()), (scope, values[scope].numpy())]
                body = job.order.body
                if isinstance(body, Train) and isinstance(body.settings.optimizer, SGDOptimizer):
                    self.planted.append((scope, after.numpy() - values[scope].numpy()))
            return result

        monkeypatch.setattr("simulation.codec._through", recorded)
        monkeypatch.setattr("client.jobs.executor.run_job", with_sentinels)

    def _look(self, value: Any) -> None:
        if isinstance(value, PollCall) and isinstance(value.answer, Update):
            self.ways.add("poll")
            self.headers.append(value.answer.header)
        elif isinstance(value, UploadStart):
            self.headers.append(value.header)
        elif isinstance(value, bytes | memoryview):
            self.ways.add("stream")

    def _noise(self, size: int) -> np.ndarray[Any, Any]:
        return self.rng.uniform(-0.1, 0.1, size).astype(np.float32)

    def check(self, coordinator: Coordinator) -> None:
        """No update holds a private scope or parameter, and no run of planted values is in the bytes."""
        schemas = coordinator._federation.schemas
        names = {e.name for scope, schema in schemas.items() if is_private(scope) for e in schema.entries}
        for part in (part for header in self.headers for part in header.scopes):
            assert not is_private(part.scope) and part.schema_digest == schemas[part.scope].digest
            assert names.isdisjoint(entry.name for entry in schemas[part.scope].entries)
        leaving = b"".join(self.sent)
        assert self.planted or self.fresh
        alone = [vector for scope, vector in self.planted + self.fresh if scope.startswith(BLEND)]
        for number in (vector for vector in alone if vector.view(np.uint32)[0] % 2**16):
            assert number.astype(np.float64).tobytes() not in leaving
            assert number.tobytes() not in leaving or len(leaving) > 10**5, "by chance in long ones"
        places = [(s, vector, [(0, len(vector))]) for s, vector in self.planted if not s.startswith(BLEND)]
        for scope, vector in ((s, vector) for s, vector in self.fresh if not s.startswith(BLEND)):
            weights = [entry for entry in schemas[scope.removeprefix("own/")].entries if len(entry.shape) > 1]
            places.append((scope, vector, [(entry.offset, entry.offset + entry.count) for entry in weights]))
        for scope, vector, spans in places:
            assert scope.startswith("own/") or is_private(scope)
            runs = self._runs(vector, spans, RUN)
            assert runs or not vector.any(), f"{scope}: nothing to look for"
            for run in runs:
                assert run.tobytes() not in leaving, scope
            for run in self._runs(vector, spans, HALF_RUN):
                assert to_bfloat16(run.copy()).tobytes() not in leaving, scope
        assert len(leaving) > sum(header.nbytes for header in self.headers)

    def _runs(self, vector: np.ndarray[Any, Any], spans: list[tuple[int, int]], length: int) -> list[Any]:
        """Some runs, each within a span, with `length` values other than zero, of which one begins and one ends it."""
        found = []
        for start, end in spans:
            at = start + np.flatnonzero(vector[start:end])
            found += [(first, last + 1) for first, last in zip(at, at[length - 1 :], strict=False)]
        chosen = self.rng.choice(len(found), size=min(8, len(found)), replace=False) if found else ()
        return [vector[slice(*found[place])] for place in chosen]


@pytest.mark.parametrize(
    ("encoding", "optimizer", "hidden", "way"),
    [
        *((DENSE[0], "sgd", 8, "poll"), (DENSE[0], "sgd", 150, "stream")),
        *((DENSE[0], "adamw", 8, "poll"), (DENSE[1], "adamw", 8, "poll")),
    ],
)
@pytest.mark.parametrize("choice", WAYS)
def test_private_values_occur_in_no_byte_that_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, encoding: str, optimizer: str, hidden: int, way: str
) -> None:
    """Small updates ride in polls and large ones are streams; orders are about one task of a client's two."""
    leak = Leak(monkeypatch)
    config = array_config(
        *(choice, f"model.mlp.hidden=[{hidden}, {hidden}, {hidden}]", f"federation.update_encoding={encoding}"),
        f"training.optimizer={optimizer}",
        *("federation.min_clients=2", "federation.tasks_per_order=1", "training.num_rounds=3"),
    )
    leak.check(asyncio.run(federate(config, tmp_path, CLIENTS, "codec")))
    assert leak.ways == {"poll" if choice == "sharing.plan=local" else way}


@pytest.mark.parametrize(("choice", "encoding"), TEXTS)
def test_private_values_occur_in_no_rows_that_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, encoding: str
) -> None:
    leak = Leak(monkeypatch)
    config = deep_config(tmp_path, choice, f"federation.update_encoding={encoding}", "training.num_rounds=1")
    leak.check(asyncio.run(federate(config, tmp_path / "state", how="codec")))
    assert leak.ways
