"""L2-SP where nothing is shared: every client is held to the run's first values, over every transport."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from common.bodies import ProximalTerm, Train
from common.config import Config
from common.errors import WireError
from common.orders import Order, PollKind, PollReply, UpdateState
from common.parameters.vector import Vector
from common.wire.messages import POLL_REPLY
from tests.federations import Clients, array_config, federate, make_model
from tests.training_cases import SETTINGS

TWO: Clients = (("a", ("a0",), "1/2"), ("b", ("b1",), "2/2"))


def alone(*overrides: str) -> Config:
    return array_config("federation.min_clients=2", "sharing.plan=local", "training.num_rounds=3", *overrides)


def kept(folder: Path, client: str) -> dict[str, Vector]:
    (file,) = (folder / client).rglob("private.safetensors")
    return load_file(file)


def start(strength: float) -> str:
    return f"training.anchor={{name: start, strength: {strength}}}"


def test_a_pull_without_strength_changes_nothing_and_a_strong_one_leaves_the_encoder_where_it_began(
    tmp_path: Path,
) -> None:
    """Heads are free in any case: they learn."""
    for name, overrides in (("plain", ()), ("none", (start(0.0),)), ("strong", (start(1e6), PROXIMAL))):
        asyncio.run(federate(alone(*overrides), tmp_path / name, TWO))
    first = make_model(alone()).vectors
    for client, (task,), _ in TWO:
        plain, none, strong = (kept(tmp_path / name, client) for name in ("plain", "none", "strong"))
        assert {scope: v.tobytes() for scope, v in none.items()} == {scope: v.tobytes() for scope, v in plain.items()}
        np.testing.assert_allclose(strong["private"], first["private"].numpy(), atol=1e-4)
        assert np.abs(plain["private"] - first["private"].numpy()).max() > 1e-2
        assert np.abs(strong[f"private/{task}"] - first[f"private/{task}"].numpy()).max() > 1e-2


PROXIMAL = "training.proximal_step=proximal"


@pytest.mark.parametrize("how", ["codec", "grpc"])
def test_the_first_values_travel_as_those_of_shared_scopes_do(how: str, tmp_path: Path) -> None:
    for way in ("direct", how):
        asyncio.run(federate(alone(start(0.5)), tmp_path / way, TWO, way))
    for client, _, _ in TWO:
        np.testing.assert_equal(kept(tmp_path / how, client), kept(tmp_path / "direct", client))


def test_only_private_scopes_may_be_held_without_being_in_an_order() -> None:
    for scope, fits in (("private", True), ("shared", False), ("task/a0", False), ("nobody", False)):
        order = Order("o1", 1, 1, (), 60.0, Train(SETTINGS, 5, proximal_terms=(ProximalTerm(scope, 0.5, 0),)))
        message = POLL_REPLY.encode(PollReply(PollKind.ORDER, UpdateState.NONE, order=order))
        if fits:
            assert POLL_REPLY.decode(message).order == order
        else:
            with pytest.raises(WireError, match="proximal_terms"):
                POLL_REPLY.decode(message)
