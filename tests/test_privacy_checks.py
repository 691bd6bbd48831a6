"""What does not go with noise of the coordinator is refused at load, each in one line with its remedy, all at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from common.config import load_config, render
from common.errors import ConfigError, RunFolderError
from common.orders import Progress
from server.core.answers import describe
from server.runs.extension import same_federation
from tests.federations import array_config
from tests.hands import Hands

NOISE = ("privacy.noise=coordinator", "privacy.epsilon=8", "aggregation.weights=uniform")
GROUPS = ("sharing.plan=groups", "sharing.groups={one: [a0], two: [b1]}")
REFUSED = {
    "no budget": (("privacy.epsilon=null",), "privacy.epsilon", "write a budget such as 8"),
    "delta": (("privacy.delta=0.2",), "privacy.delta", "write less, such as 2e-03"),
    "delta of many": (("privacy.delta=1e-2", "federation.min_clients=100"), "privacy.delta", "such as 1e-04"),
    "budget below a round": (
        ("privacy.epsilon=0.5", "privacy.noise_multiplier=1"),
        "privacy.epsilon",
        "write noise_multiplier: 7.031827 or more",
    ),
    "clip": (("privacy.clip=1e300",), "privacy.clip", "write a number between"),
    "head_scale": (("privacy.head_scale=1e-9",), "privacy.head_scale", "write a number between"),
    "noise": (("privacy.noise_multiplier=1e300",), "privacy.noise_multiplier", "write a number between"),
    "coins of chance 1": (("privacy.sampling=poisson",), "privacy.sampling", "write federation.client_fraction: 0.5"),
    "coins and least updates": (
        ("privacy.sampling=poisson", "federation.client_fraction=0.5", "federation.min_updates=2"),
        "federation.min_updates",
        "write 1",
    ),
    "tasks in turns": (("federation.tasks_per_order=1",), "federation.tasks_per_order", "remove it"),
    "soft": (("sharing.plan=soft",), "sharing.plan", "write private_heads or hard"),
    "adaptive": (("sharing.plan=adaptive",), "sharing.plan", "write private_heads or hard"),
    "copies by rules": (
        ("sharing.plan=rules", "sharing.rules=[{'encoder.*': 'member/{member}'}, {'*': 'task/{task}'}]"),
        "sharing.plan",
        "write private_heads or hard",
    ),
    "relation": (("relation=mean",), "relation", "remove it"),
    "local": (("sharing.plan=local",), "sharing.plan", "leave privacy out"),
    "all private by rules": (
        ("sharing.plan=rules", "sharing.rules=[{'*': private}]"),
        "sharing.plan",
        "leave privacy out",
    ),
    "statistics of normalisation": (("sharing.norm_statistics=shared",), "sharing.norm_statistics", "write private"),
    **{
        f"weights {name}": ((f"aggregation.weights={name}",), "aggregation.weights", "write uniform or task_balanced")
        for name in ("examples", "temperature", "dynamic", "famo")
    },
    "max_examples": (
        ("aggregation.max_examples=100", "aggregation.weights=task_balanced"),
        "aggregation.max_examples",
        "remove it",
    ),
    **{
        f"robust {name}": ((f"aggregation.robust={name}",), "aggregation.robust", "remove it")
        for name in ("median", "trimmed_mean", "multi_krum")
    },
    "norm_bound": (("aggregation.norm_bound=1.0",), "aggregation.norm_bound", "remove it"),
    "readers": (("aggregation.mean_over=readers",), "aggregation.mean_over", "write all"),
    "guard": (("guard=true",), "guard", "remove it"),
    "best by scores": (("model.keep.best=mean",), "model.keep.best", "write none"),
    "best of a task": (("model.keep.best=a0/accuracy",), "model.keep.best", "write none"),
    "patience": (("training.patience=2",), "training.patience", "write 0"),
    "scaffold": (("training.procedure=scaffold",), "training.procedure", "write plain, fedprox or fedrep"),
    "sdca": (("training.procedure=sdca",), "training.procedure", "write plain, fedprox or fedrep"),
    "pooled statistics": (("data.statistics=federation",), "data.statistics", "write site"),
    "balanced classes": (("tasks.b1.class_weights=balanced",), "tasks.b1.class_weights", "write numbers, or none"),
}
PASSES = {
    "plain": (),
    "task_balanced": ("aggregation.weights=task_balanced",),
    "conflict": ("aggregation.weights=task_balanced", "aggregation.conflict=pcgrad"),
    "attention": ("aggregation.weights=attention",),
    "scale": ("aggregation.weights=task_balanced", "aggregation.scale=norm"),
    "auxiliary": ("tasks.b1.auxiliary=true", "aggregation.weights=task_balanced"),
    "server adam": ("aggregation.optimizer=adam",),
    "average": ("aggregation.average=ema",),
    "full": ("sharing.plan=full",),
    "private_heads": ("sharing.plan=private_heads",),
    "groups": GROUPS,
    "fedprox": ("training.procedure=fedprox",),
    "fedrep": ("training.procedure=fedrep",),
    "per_fedavg": ("training.procedure=per_fedavg",),
    "ditto": ("training.procedure=ditto",),
    "anchor": ("training.anchor=start",),
    "fine-tuning": ("training.finetune_epochs=2",),
    "blend": ("blend=true",),
    "every version": ("model.keep.every=2",),
    "weights of classes": ("tasks.a0.class_weights=[1, 3]",),
    "own standardising": ("data.statistics=site",),
    "coins": ("privacy.sampling=poisson", "federation.client_fraction=0.5"),
    "half": ("federation.client_fraction=0.5",),
    "bfloat16": ("federation.update_encoding=dense-bfloat16",),
    "no scores": ("privacy.scores=none",),
    "clip follows": ("privacy.clip_quantile=0.5",),
}


def refusal(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        array_config(*NOISE, *overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(("overrides", "key", "remedy"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_go_with_noise_is_one_line_with_its_remedy(
    overrides: tuple[str, ...], key: str, remedy: str
) -> None:
    lines = [line for line in refusal(*overrides) if line.startswith(f"{key}: ") and remedy in line]
    assert len(lines) == 1


@pytest.mark.parametrize("overrides", PASSES.values(), ids=PASSES)
def test_what_goes_with_noise_passes(overrides: tuple[str, ...]) -> None:
    array_config(*NOISE, *overrides)


def test_every_contradiction_is_named_at_once() -> None:
    together = ("guard=true", "training.patience=2", "aggregation.robust=median", "data.statistics=federation",
                "tasks.a0.class_weights=balanced", "privacy.delta=0.5")  # fmt: skip
    lines = refusal(*together)
    for key in ("guard", "training.patience", "aggregation.robust", "data.statistics", "tasks.a0.class_weights",
                "privacy.delta"):  # fmt: skip
        assert sum(line.startswith(f"{key}: ") for line in lines) == 1, key
    assert all("; " in line for line in lines)


@pytest.mark.parametrize("key", ["clip=2.0", "clip_quantile=0.5", "epsilon=1", "min_clients=9", "sampling=poisson"])
def test_a_key_of_privacy_that_nothing_reads_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"privacy\.{key.partition('=')[0]}: is not read without noise"):
        array_config(f"privacy.{key}")


def test_one_in_as_many_as_a_simulation_has_clients_is_too_likely(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(render(array_config(*NOISE, "privacy.delta=1e-2")))
    load_config(path, ["simulation.clients=99"], role="simulate")
    with pytest.raises(ConfigError, match=r"privacy\.delta: 0\.01 is not below one in 2000 simulated clients"):
        load_config(path, ["simulation.clients=2000"], role="simulate")


def test_a_run_with_coins_goes_on_with_the_chance_that_it_is_charged_for() -> None:
    coins = (*NOISE, "privacy.sampling=poisson")
    before, now = (array_config(*coins, f"federation.client_fraction={chance}") for chance in (0.2, 0.8))
    with pytest.raises(RunFolderError, match=r"federation\.client_fraction: 0\.8 differs from the run's 0\.2"):
        same_federation(before, now, Path("config.yaml"))
    same_federation(before, before, Path("config.yaml"))


@pytest.mark.parametrize(("more", "said"), [((), "training 50%"), (("privacy.sampling=poisson",), "")])
def test_what_clients_do_is_not_told_where_coins_decide_who_is_asked(more: tuple[str, ...], said: str) -> None:
    async def activity() -> str:
        hands = Hands(*NOISE, "federation.client_fraction=0.5", "privacy.min_clients=1", *more)
        await hands.join()
        await hands.coordinator.heartbeat(hands.sessions["a"], Progress("", "training", 0.5))
        return describe(hands.coordinator.settings, hands.coordinator.state, "run").clients[0].activity

    assert asyncio.run(activity()) == said


def test_the_noise_that_a_refusal_names_is_enough() -> None:
    array_config(*NOISE, "privacy.epsilon=0.5", "privacy.noise_multiplier=7.031827")
