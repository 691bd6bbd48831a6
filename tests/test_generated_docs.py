"""What people read of the configuration is made from its descriptions, and is up to date."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from common.config import load_config, render
from common.config.choices import Chosen
from common.config.schema import BlendSection, Config
from common.config.task_section import TaskSection
from common.config.values import Section

ROOT = Path(__file__).parent.parent
_SPEC = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
assert _SPEC is not None and _SPEC.loader is not None
generate = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(generate)


@pytest.mark.parametrize("path", [generate.YAML, generate.PAGE], ids=lambda path: path.name)
def test_generated_documents_are_fresh(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == generate.documents()[path], "stale: run make docs"


def test_the_shipped_configuration_and_what_is_rendered_of_it_load(tmp_path: Path) -> None:
    config = load_config(generate.YAML)
    assert config.model_copy(update={"tasks": {}, "blend": BlendSection()}) == Config()
    (tmp_path / "config.yaml").write_text(render(config), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == config


def test_every_key_and_every_parameter_has_a_text() -> None:
    sections = {Config, TaskSection, *(type(value) for value in vars(Config()).values() if isinstance(value, Section))}
    missing = [(s.__name__, key) for s in sections for key in s.model_fields if not generate.texts_of(s).get(key)]
    choices: dict[str, Chosen[Any]] = {}
    list(generate.page_rows(Config, "", choices))
    for chosen in choices.values():
        missing += [(chosen.names[0], key) for key, _, text, _ in generate.parameters_in(chosen) if not text]
    assert missing == [] and len(choices) == 13
