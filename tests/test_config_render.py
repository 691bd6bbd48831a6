"""Configurations shown to people: rendered, with advice, and the reference file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from common.config import Config, load_config, notes, protection, render
from common.config.schema import BlendSection
from common.config.task_section import TaskSection
from common.config.yaml_text import parse
from common.parameters.plan import PLANS
from common.tasks import TASK_KINDS, TaskDefinition

REFERENCE = Path(__file__).parent.parent / "federated_config.yaml"


def load(*overrides: str) -> Config:
    return load_config(None, ["tasks.sst2=", *overrides])


class TestRender:
    @pytest.mark.parametrize(
        "overrides",
        [
            [],
            ["run.name='2e-5'", "run.run_dir='null'", "client.state_dir='yes'"],
            ["training.learning_rate=1e-300", "training.weight_decay=123456789.125", "run.seed=9223372036854775807"],
            ["tasks.own={type: classification, labels: 12}", "data.dir='C:\\a: #b'"],
            ["tasks.own={type: regression, columns: {text: 'no', text_pair: 'ü', label: '1'}}", "data.dir=d"],
            ["sharing={plan: rules, rules: [{'heads.{task}.*': 'task/{task}'}, {'*': shared}]}"],
            ["tasks={'1': {type: multilabel, labels: ['a', '~'], weight: 0.001}}", "data.dir=d"],
        ],
    )  # fmt: skip
    def test_loads_back_to_an_equal_configuration(self, tmp_path: Path, overrides: Sequence[str]) -> None:
        config = load(*overrides)
        path = tmp_path / "config.yaml"
        path.write_text(render(config), encoding="utf-8")
        assert load_config(path) == config

    @given(
        st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        st.text(min_size=1).filter(lambda text: not text.startswith("~")),
    )
    def test_any_number_and_text_survive(self, rate: float, folder: str) -> None:
        config = Config.model_validate({"training": {"learning_rate": rate}, "data": {"dir": folder}})
        assert Config.model_validate(parse(render(config))[0]) == config

    def test_every_section_is_shown(self) -> None:
        assert list(parse(render(load()))[0]) == list(Config.model_fields)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ((), "plain text; a client is whom it says"),
        (("certificate", "key"), "TLS; a client is whom it says"),
        (("certificate", "key", "client_ca"), "mutual TLS; a client is whom its certificate names"),
    ],
)
def test_what_protects_connections(keys: Sequence[str], said: str) -> None:
    assert protection(load(*(f"server.tls.{key}=x" for key in keys))) == said


class TestNotes:
    def test_the_reference_needs_no_advice(self) -> None:
        assert notes(load_config(REFERENCE)) == []

    @pytest.mark.parametrize(
        ("overrides", "note"),
        [
            (["training.learning_rate=2e-5"], "training.learning_rate: a model this small learns little at 2e-05"),
            (["model.weights=random", "model.server_model=x", "training.learning_rate=9e-5"], "training.learning"),
            (["training.local_epochs=0"], "training.local_epochs: 0 trains nothing"),
            (["federation.lease_seconds=1800"], "federation.lease_seconds: 1800 is not below"),
            (["aggregation.optimizer=adam"], "federation.server_learning_rate: 1 is large for adam"),
            (["server.host=0.0.0.0", "server.insecure=true"], "server.insecure: everyone on the way"),
        ],
    )  # fmt: skip
    def test_advice(self, overrides: Sequence[str], note: str) -> None:
        (line,) = notes(load(*overrides))
        assert line.startswith(note)

    def test_a_larger_model_may_learn_slowly(self) -> None:
        assert not notes(load("model.server_model=bert-base", "training.learning_rate=2e-5"))


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _keys(inner)


class TestReference:
    def test_equals_the_defaults(self) -> None:
        task = TaskSection(train_samples=1000, val_samples=200)
        tasks = {"sst2": task, "qqp": task, "stsb": task}
        assert load_config(REFERENCE) == Config(tasks=tasks, blend=BlendSection(enabled=True))
        assert load_config(REFERENCE, role="server") == load_config(REFERENCE, role="client")

    def test_shows_every_key(self) -> None:
        text = REFERENCE.read_text(encoding="utf-8")
        shown = set(re.findall(r"^[ #-]*(\w+):", text, re.MULTILINE)) | {"match", "scope", "one", "other"}
        keys = set(_keys(Config))
        assert {"text_pair", "client_ca", "num_rounds", "metrics"} <= keys
        assert keys <= shown

    def test_every_key_has_a_comment(self) -> None:
        for line in REFERENCE.read_text(encoding="utf-8").splitlines():
            assert len(line) <= 120
            if re.match(r" +(#  +)?\w+: \S", line) and "_samples" not in line:
                assert re.search(r" # |^ +# ", line), line

    def test_examples_in_comments_are_valid(self, tmp_path: Path) -> None:
        lines = REFERENCE.read_text(encoding="utf-8").splitlines()
        section, shown = "", []
        for line in lines:
            section = line.partition(":")[0] if re.match(r"\w+:", line) else section
            if section in ("tasks", "sharing", "compare"):  # what is commented elsewhere is read by other rows
                line = "" if re.match("  (rules: \\[]|methods: {})", line) else re.sub("^  # ", "  ", line)
            shown.append(line)
        text = "\n".join(shown)
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        config = load_config(path, ["data.dir=d", "sharing.plan=rules"])
        assert config.sharing_plan().rules == PLANS["hard"]
        assert list(config.compare.methods) == ["bold_cagrad"]
        assert config.definitions()[-1] == TaskDefinition(
            "topics", TASK_KINDS["classification"], ("world", "sport", "science"), True, ("accuracy", "f1")
        )
