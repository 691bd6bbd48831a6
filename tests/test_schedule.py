"""The clients' learning rate over the rounds: its numbers, who carries it, and that a restart changes nothing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.bodies import Evaluate, Train
from common.config import load_config
from common.errors import ConfigError
from common.methods.own_models import FineTunedModel
from common.methods.schedules import ConstantSchedule, CosineSchedule, LinearSchedule, Schedule
from server.core.schedule import TrainingSchedule
from tests.core_cases import SETTINGS, Table, rules
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.federations import CLIENTS, digest_of, federate, small_config

LINEAR = LinearSchedule(0.2)
COSINE = CosineSchedule(0.2)


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        (ConstantSchedule(), [1.0, 1.0, 1.0, 1.0, 1.0]),
        (LINEAR, [1.0, 0.8, 0.6, 0.4, 0.2]),
        (COSINE, [1.0, 0.8828427125, 0.6, 0.3171572875, 0.2]),
        (LinearSchedule(0.0), [1.0, 0.75, 0.5, 0.25, 0.0]),
        (CosineSchedule(1.0), [1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_shares_of_five_rounds(schedule: Schedule, shares: list[float]) -> None:
    """With p = 0, 1/4 .. 1: linear 0.2 + 0.8 (1 - p); cosine 0.2 + 0.4 (1 + cos(pi p)), and cos(pi/4) = 0.70710678."""
    assert [schedule.share(number, 5) for number in range(1, 6)] == pytest.approx(shares, abs=1e-9)


def test_one_round_has_the_whole_rate_and_none_is_beyond_the_last() -> None:
    assert LINEAR.share(1, 1) == COSINE.share(1, 1) == 1.0
    assert LINEAR.share(9, 5) == LINEAR.share(5, 5) == 0.2


def test_the_order_carries_the_rate_of_its_round() -> None:
    """Rate 1e-3 falls to 0.2 of it in the second and last round; the order to score has the whole one again."""
    tuned = replace(SETTINGS, own_model=FineTunedModel(1))
    table = Table(rules(schedule=TrainingSchedule(LINEAR), training=tuned))
    found = []
    table.join("a", "sst2")
    table.join("b", "qqp")
    while (order := table.order("a")) is not None:
        match order.body:
            case Train(settings) | Evaluate(settings):
                found.append((type(order.body), settings.learning_rate))
                assert settings.batch_size == SETTINGS.batch_size
        table.answer("a")
        table.answer("b")
    assert found == [(Train, 1e-3), (Train, 1e-3 * 0.2), (Evaluate, 1e-3)]


FALLING = ("training.num_rounds=3", "training.schedule={name: cosine, final_share: 0.05}")


@pytest.mark.slow
def test_a_schedule_gives_one_model_over_every_transport_and_another_than_none(tmp_path: Path) -> None:
    config = small_config(tmp_path, *FALLING)
    digests = {
        digest_of(asyncio.run(federate(config, tmp_path / how, how=how, shuffle=shuffle)))
        for how, shuffle in (("direct", None), ("grpc", 5))
    }
    constant = small_config(tmp_path, "training.num_rounds=3")
    assert len(digests) == 1 and digest_of(asyncio.run(federate(constant, tmp_path / "none"))) not in digests


@pytest.mark.slow
def test_a_coordinator_that_dies_goes_on_with_the_rate_of_the_round(tmp_path: Path) -> None:
    config = small_config(tmp_path, *FALLING)
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, CLIENTS)
    expected, effects = asyncio.run(crash_and_recover(config, template, tmp_path / "whole", cast, None, False))
    commit = [n for n, e in enumerate(effects, 1) if e == "Commit"][2]
    found, _ = asyncio.run(crash_and_recover(config, template, tmp_path / "died", cast, commit, False))
    assert found == expected


def test_a_share_that_nothing_reads_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["tasks.sst2=", "training.schedule.final_share=0.5"])
    (problem,) = caught.value.problems
    assert problem == "training.schedule.final_share: not read by constant; write name: linear or cosine, or remove it"


def test_metrics_tell_the_rate(tmp_path: Path) -> None:
    from server.core.effects import RoundClosed
    from server.core.open_round import OpenRound
    from server.core.phases import TRAIN
    from server.reporting.progress import RunProgress

    round_ = OpenRound(2, 1, TRAIN, 1, 0.0, {})
    RunProgress((), 2, tmp_path / "metrics.jsonl", None).closed(RoundClosed(round_, {}, 2, 2e-4))
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["learning_rate"] == 2e-4
