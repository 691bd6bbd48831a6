"""Federations whose clients solve quadratic problems exactly: what relations come to, without any learning rate."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.agent import Agent
from client.app import load_data, local_definitions
from client.data.examples import TaskData
from client.jobs.local_client import local_client
from client.state.store import REPEATABLE
from client.training.work import ClientState, Procedure, Trained, Work
from common.clock import ManualClock
from common.config import Config, load_config
from common.methods.relation import Couple
from server.engine.coordinator import Coordinator
from server.relations.relate import Context, relate
from server.runs.assembly import in_memory
from simulation.inprocess import run_together
from tests.federations import make_model

Vector = NDArray[np.float64]
Problems = Mapping[str, tuple[Vector, Vector]]
"""Client id -> (H, b) of F(w) = w'Hw / 2 - b'w; H is (d, d), b is (d,)."""

WEIGHT = "encoder.layers.0.weight"
SLOT = "member/{member}"


def exact(problem: tuple[Vector, Vector]) -> Procedure:
    """A local procedure that minimises F(w) + sum (mu/2) ||w - anchor||^2 in float64; everything else stays."""

    def solve(work: Work, state: ClientState) -> Trained:
        hessian, linear = problem
        for anchors, mu in work.proximal_terms:
            hessian = hessian + mu * np.eye(len(linear))
            linear = linear + mu * anchors[WEIGHT].double().numpy().ravel()
        parameter = dict(work.model.named_parameters())[WEIGHT]
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.linalg.solve(hessian, linear)).view(parameter.shape))
        return Trained(dict.fromkeys(work.examples.tasks, 0.0))

    return solve


def member_config(features: int, rounds: int, *overrides: str) -> Config:
    """Every client holds a copy of `encoder.layers.0.weight`, (1, features); all else is shared, and not trained."""
    task = "{type: regression, metrics: [rmse], train_samples: 4, val_samples: 2}"
    return load_config(
        None,
        [
            "model.server_model=mlp",
            f"model.mlp={{features: {features}, hidden: [1]}}",
            f"tasks={{a: {task}}}",
            "sharing.plan=rules",
            f"sharing.rules=[{{{WEIGHT}: '{SLOT}'}}, {{'*': shared}}]",
            "sharing.members=clients",
            f"training.num_rounds={rounds}",
            *overrides,
        ],
    )


def links(*pairs: tuple[str, str, float]) -> str:
    """`relation.links` of a command line."""
    return "relation.links=[" + ", ".join(f"[{a}, {b}, {float(w)}]" for a, b, w in pairs) + "]"


def settle(
    config: Config, problems: Problems, state: Path, rows: Mapping[str, TaskData] | None = None
) -> tuple[Coordinator, dict[str, Vector]]:
    """Run a federation of exact solvers by direct calls; every client's published copy at its end."""
    model = make_model(config)
    for vector in model.vectors.values():
        vector.zero_()
    for name, value in model.model.named_parameters():
        if name.startswith("heads.") and name.endswith("weight"):
            value.data.fill_(1.0)  # the prediction is w'x where that is positive
    config = config.model_copy(
        update={"federation": config.federation.model_copy(update={"min_clients": len(problems)})}
    )
    coordinator = in_memory(config, model, ManualClock())
    definitions = local_definitions(config, ["a"])
    own = load_data(config, definitions) if rows is None else {}
    agents = []
    for client, problem in problems.items():
        data = {"a": rows[client]} if rows is not None else own
        solver = local_client(client, copy.copy(definitions), data, torch.device("cpu"), procedure=exact(problem))
        agents.append(Agent(coordinator, solver, state / client, durability=REPEATABLE))
    asyncio.run(run_together(coordinator, agents))
    return coordinator, copies(coordinator, list(problems))


def copies(coordinator: Coordinator, clients: Sequence[str]) -> dict[str, Vector]:
    """The published copies, float64."""
    return {name: coordinator.vectors[f"member/{name}"].astype(np.float64) for name in clients}


def settle_apart(relation: Couple, problems: Problems, rounds: int) -> dict[str, Vector]:
    """The same without a federation: solvers and `server.relations.relate.relate` in turns, float32 in between."""
    vectors = {SLOT: np.zeros(len(next(iter(problems.values()))[1]), dtype=np.float32)}
    state = ""
    mus: Mapping[str, float] = {}
    for version in range(1, rounds + 1):
        fresh = {}
        for name, (hessian, linear) in problems.items():
            scope = f"member/{name}"
            mu = mus.get(scope, 0.0)
            anchor = vectors[f"anchor/{scope}"].astype(np.float64) if mu else np.zeros_like(linear)
            solution = np.linalg.solve(hessian + mu * np.eye(len(linear)), linear + mu * anchor)
            base = vectors.get(scope, vectors[SLOT])
            delta = solution.astype(np.float32) - base  # what a client sends
            fresh[scope] = (base.astype(np.float64) + delta).astype(np.float32)
        known = vectors | {scope: vectors[SLOT] for scope in fresh if scope not in vectors}
        counts, passed = dict.fromkeys(fresh, 1), version / rounds
        moved, record = relate(relation, SLOT, known, fresh, counts, version, state, Context(passed=passed))
        vectors, mus, state = known | fresh | moved, record.mu, record.state
    return {name: vectors[f"member/{name}"].astype(np.float64) for name in problems}


def quadratics(names: str, size: int, seed: int) -> Problems:
    """Well-conditioned problems drawn from a seed: H has eigenvalues from 1 to 2."""
    rng = np.random.Generator(np.random.PCG64(seed))
    problems = {}
    for name in names:
        basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
        hessian = basis @ np.diag(rng.uniform(1.0, 2.0, size)) @ basis.T
        problems[name] = (hessian, hessian @ rng.normal(size=size))
    return problems


def joint(problems: Problems, coupling: Vector) -> dict[str, Vector]:
    """The minimum of sum F_k + tr(W C W') / 2 by ONE linear solve of size d m; C is (m, m)."""
    names, size = list(problems), len(next(iter(problems.values()))[1])
    system = np.kron(coupling, np.eye(size))
    for k, name in enumerate(names):
        system[k * size : (k + 1) * size, k * size : (k + 1) * size] += problems[name][0]
    solution = np.linalg.solve(system, np.concatenate([problems[name][1] for name in names]))
    return {name: solution[k * size : (k + 1) * size] for k, name in enumerate(names)}
