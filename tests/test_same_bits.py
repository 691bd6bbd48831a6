"""The federations that two revisions are compared by: valid, and together they use every choice there is."""

import json
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

import pytest

from benchmarks.same_bits import Tree, nested, read
from benchmarks.same_bits_cases import FEDERATIONS, How
from common.config import Config, load_config
from common.config.choices import Chosen
from common.config.values import Section

ELSEWHERE = {
    "aggregation.mean_over": {"readers"},
    "aggregation.average": {"last_k", "ema"},
    "aggregation.robust": {"function"},
    "model.weights": {"auto", "pretrained"},
    "data.source": {"glue", "hub", "files", "given"},
    "client.device": {"auto", "cuda"},
    "client.precision": {"auto"},
    "simulation.executor": {"ray"},
    "training.procedure": {"scaffold", "sdca"},
    "sharing.norm_statistics": {"shared"},
    "data.statistics": {"federation"},
    "blend.mix": {"weights"},
    "privacy.noise": {"coordinator", "rows"},
    "privacy.sampling": {"poisson"},
    "secure_aggregation.identities": {"pinned"},
    "relation": {"bipartition", "effect", "ifca", "mocha", "parting"},
}
"""Choices that need a hub, files, a GPU, a clock, Ray or a secret; and those without earlier bits to compare with."""


def choices(section: type[Section], prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every key with a closed set of values."""
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section):
            yield from choices(type(field.default), f"{prefix}{name}.")
        elif get_origin(field.annotation) is Literal:
            yield prefix + name, set(get_args(field.annotation))
        else:
            yield from ((prefix + name, set(rows.names)) for rows in field.metadata if isinstance(rows, Chosen))


def config_of(name: str, folder) -> Config:
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(nested(FEDERATIONS[name].settings, str(folder))))
    return load_config(file)


SIMULATED = [name for name, federation in FEDERATIONS.items() if federation.how is not How.DEMO]


def test_every_choice_of_the_configuration_is_used(tmp_path):
    used: dict[str, set[str]] = {}
    for name in SIMULATED:
        config = config_of(name, tmp_path)
        for key, _ in choices(Config):
            value: object = config
            for part in key.split("."):
                value = getattr(value, part)
            used.setdefault(key, set()).add("none" if value is None else str(getattr(value, "name", value)))
    missing = {key: every - used[key] - ELSEWHERE.get(key, set()) for key, every in choices(Config)}
    assert {key: left for key, left in missing.items() if left} == {}
    assert {federation.how for federation in FEDERATIONS.values()} == {*How}


def test_settings_are_translated_for_the_base(tmp_path):
    renamed = {
        "training.method": ("training.procedure", {"fine": "plain"}),
        "relation": ("ties", {}),
        "new": ("", {}),
    }
    tree = Tree(tmp_path, tmp_path, renamed)
    ours = {"training.method": "fine", "relation.name": "mean", "relations.x": 1, "new": 2}
    assert tree.translated(ours) == {"training.procedure": "plain", "ties.name": "mean", "relations.x": 1}


@pytest.mark.parametrize(("score", "equal"), [(0.5, True), (0.25, False)])
def test_scores_are_compared_whatever_their_keys_are_called(score, equal, tmp_path):
    one = {"accuracy": 0.5, "personal": {"loss": 1.0}}
    other = {"loss": 1.0, "Accuracy": score}
    for name, entry in (("one", one), ("other", other)):
        report = {"status": "finished", "model_digest": "ab", "tasks": {"a": {"history": [entry]}}}
        (tmp_path / name).write_text(json.dumps(report))
    assert (read(tmp_path / "one") == read(tmp_path / "other")) is equal
