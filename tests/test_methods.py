"""Every method as a whole: from its configuration over transports to model, journal and report."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from pathlib import Path

import pytest

from common.config import load_config
from common.errors import ConfigError
from common.methods.conflict import CONFLICT_RULES
from common.methods.robust_rules import ROBUST_RULES
from common.methods.server_optimizers import SERVER_OPTIMIZERS
from common.methods.task_weights import TASK_WEIGHTS
from server.core.facts import RunConfiguration, RunFacts
from server.reporting.report import build_report
from server.reporting.values import to_json
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.federations import CLIENTS, digest_of, federate, small_config

CONFLICTS = ("pcgrad", "mgda", "cagrad", "nash", "imtl_g", "upgrad")
METHODS = {
    "examples": (),
    "uniform": ("aggregation.weights=uniform",),
    "task_balanced": ("aggregation.weights=task_balanced",),
    "temperature": ("aggregation.weights=temperature", "aggregation.weights.temperature=3.0"),
    "dynamic": ("aggregation.weights=dynamic", "aggregation.weights.temperature=1.0"),
    "attention": ("aggregation.weights=attention", "aggregation.weights.temperature=0.2"),
    "famo": ("aggregation.weights=famo", "aggregation.weights.rate=0.5"),
    "task_optimizer": ("aggregation.task_optimizer=adam", "aggregation.task_learning_rate=1e-3"),
    **{
        name: ("aggregation.weights=task_balanced", f"aggregation.conflict={name}", "aggregation.only_conflicts=false")
        for name in CONFLICTS
    },
    **{
        name: ("aggregation.weights=uniform", f"aggregation.robust={{name: {name}, faulty_share: 0.4}}")
        for name in ("trimmed_mean", "multi_krum")
    },
    "median": ("aggregation.weights=uniform", "aggregation.robust=median"),
    "norm_bound": ("aggregation.norm_bound=0.01",),
    "momentum": ("aggregation.optimizer=momentum",),
    **{
        name: (f"aggregation.optimizer={{name: {name}, beta2: 0.5}}", "federation.server_learning_rate=1e-3")
        for name in ("adam", "yogi")
    },
    "soft": ("sharing.plan=soft",),
    "adaptive": ("sharing.plan=adaptive", "sharing.members=clients", "relation.patience=1"),
    "start": ("training.anchor=start",),
    "everything": (
        *("aggregation.weights=temperature", "aggregation.conflict=cagrad", "aggregation.norm_bound=0.05"),
        *(
            "aggregation.optimizer=yogi",
            "federation.server_learning_rate=1e-3",
            "federation.update_encoding=rows-float32",
        ),
    ),
}
UNEVEN = ("tasks.sst2.train_samples=32", "tasks.qqp.train_samples=16")


SAME = {"pcgrad", "upgrad", "imtl_g", "trimmed_mean", "multi_krum"}
"""With two tasks, without conflict, or with as few clients, these come to what another rule says."""


@pytest.fixture(autouse=True)
def one_tokenizer(monkeypatch):
    import client.jobs.executor

    monkeypatch.setattr("client.jobs.executor.unpack_tokenizer", _cached(client.jobs.executor.unpack_tokenizer))


_cached = functools.cache(functools.cache)


@pytest.fixture(scope="module")
def digests():
    return {}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_one_model_over_every_transport(name, digests, tmp_path):
    config = small_config(tmp_path, *METHODS[name], *UNEVEN)
    runs = [("direct", None), ("grpc", 5)]
    found = {
        digest_of(asyncio.run(federate(config, tmp_path / how, how=how, shuffle=shuffle))) for how, shuffle in runs
    }
    assert len(found) == 1
    digests[name] = found.pop()
    different = [digest for method, digest in digests.items() if method not in SAME]
    assert len(set(different)) == len(different), "two methods came to the same model"


def test_cosines_reach_journal_and_report(tmp_path):
    config = small_config(tmp_path, *METHODS["task_balanced"])
    coordinator = asyncio.run(federate(config, tmp_path / "state"))
    found = coordinator.journal.cosines()
    assert [(c.round, c.scope, c.tasks) for c in found] == [(n, "shared", ("sst2", "qqp")) for n in (1, 2)]
    sections = {"aggregation": json.dumps(config.aggregation.model_dump(mode="json"))}
    facts = RunFacts(settings=RunConfiguration(sections=sections))
    report = to_json(build_report(facts, 2, coordinator.settings.tasks, [], [], "finished", "d" * 64, found))
    assert report["aggregation"]["weights"] == {"name": "task_balanced"}
    first = report["task_cosines"][0]["scopes"]["shared"]
    assert report["task_cosines"][0]["round"] == 1 and first["tasks"] == ["sst2", "qqp"]
    assert first["values"][0][0] == 1.0 and -1 <= first["values"][0][1] == first["values"][1][0] <= 1
    json.dumps(report, allow_nan=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pcgrad", "dynamic", "famo", "adam", "task_optimizer", "median"])
def test_a_coordinator_that_dies_comes_to_the_same_model(name, tmp_path):
    config = small_config(tmp_path, *METHODS[name])
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, CLIENTS)
    expected, effects = asyncio.run(crash_and_recover(config, template, tmp_path / "whole", cast, None, False))
    _, first, _, second, published, _ = [n for n, e in enumerate(effects, 1) if e in ("StoreVersion", "Commit")]
    for step in (first, second, published):
        found, _ = asyncio.run(crash_and_recover(config, template, tmp_path / str(step), cast, step, False))
        assert found == expected, f"died after effect {step}, {effects[step - 1]}"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["aggregation.weights.temperature=3.0"], "aggregation.weights.temperature: not read by examples; write name:"),
        (["aggregation.conflict.radius=0.5"], "aggregation.conflict.radius: not read by none; write name: cagrad"),
        (["aggregation.conflict={name: mgda, radius: 0.5}"], "aggregation.conflict.radius: not read by mgda"),
        (["aggregation.only_conflicts=false"], "aggregation.only_conflicts: only a conflict rule reads it"),
        (["aggregation.weights=uniform", "aggregation.conflict=nash"], "aggregation.weights: uniform counts clients"),
        (["aggregation.weights=uniform", "tasks.sst2.weight=2.0"], "tasks.sst2.weight: is not read where"),
        (["aggregation.robust=median"], "aggregation.robust: median counts every update once; write weights: uniform"),
        (
            ["aggregation.robust.faulty_share=0.1"],
            "aggregation.robust.faulty_share: not read by none; write name: trimm",
        ),
        (["aggregation.optimizer.beta1=0.5"], "aggregation.optimizer.beta1: not read by sgd; write name: momentum or"),
        (["aggregation.optimizer={name: momentum, tau: 0.1}"], "aggregation.optimizer.tau: not read by momentum"),
        (["aggregation.norm_bound=0"], "aggregation.norm_bound: 0 is out of range"),
        (["aggregation.weights=majority"], "aggregation.weights: "),
        (["aggregation.weights={name: dynamic, temperature: 0}"], "aggregation.weights.temperature: 0 is out of range"),
        (["aggregation.weights={name: temperature, temperature: 0.5}"], "aggregation.weights.temperature: 0.5 is out"),
        (["aggregation.weights.rate=0.5"], "aggregation.weights.rate: not read by examples; write name: famo"),
        (["aggregation.task_optimizer={name: sgd, tau: 0.1}"], "aggregation.task_optimizer.tau: not read by sgd"),
    ],
)
def test_a_contradiction_is_refused_in_one_line(overrides, line):
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["tasks.sst2=", *overrides])
    (problem,) = caught.value.problems
    assert problem.startswith(line) and "\n" not in problem


def test_every_choice_of_the_configuration_has_a_row_in_the_documentation():
    text = (Path(__file__).parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\|.*`aggregation\.(\w+): (?:\{name: )?(\w+)", text, re.MULTILINE))
    tables = {
        "weights": TASK_WEIGHTS,
        "conflict": CONFLICT_RULES,
        "robust": ROBUST_RULES,
        "optimizer": SERVER_OPTIMIZERS,
    }
    for key, rows in tables.items():
        assert {(key, name) for name in rows} <= shown
