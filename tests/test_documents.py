"""What the documents say is true: tables of keys, options and codes, configurations, links, names of files."""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from cli import modes
from common.config import Config, load_config
from common.config.schema import PLANS, BlendSection
from common.errors import EXIT_CODES
from tests.pages import PAGES, ROOT, USE, blocks, check_compose


def table(page: str, section: str = "") -> list[list[str]]:
    """The body of the first table of a page for users, or of one of its sections."""
    text = (USE / f"{page}.md").read_text(encoding="utf-8")
    if section:
        text = re.search(rf"^## {section}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
    lines = re.search(r"(?:^\|[^\n]*\n)+", text, re.MULTILINE)[0].splitlines()
    rows = [re.split(r" (?<!\\)\| ", line.strip("|")) for line in lines]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_the_shipped_configuration_has_every_key_with_its_default_and_a_blend():
    shipped = load_config(ROOT / "federated_config.yaml")
    assert shipped.model_copy(update={"tasks": {}}) == Config(blend=BlendSection(enabled=True))


def test_the_table_of_options_is_that_of_the_parsers():
    for mode, options in table("operations", "Command line"):
        parser = modes.parser_of(mode.strip("`"), "fedmtl")
        real = {name for action in parser._actions for name in action.option_strings}
        assert set(re.findall(r"--\w+", options)) == real - {"-h", "--help", "--mode", "--log_format"}, mode
    assert {row[0].strip("`") for row in table("operations", "Command line")} == {*modes.MODES}


def test_the_exit_codes_and_the_plans_are_all_there():
    text = (USE / "operations.md").read_text(encoding="utf-8")
    codes = re.search(r"^Exit codes: (.*?)\n\n", text, re.MULTILINE | re.DOTALL)[1]
    assert {int(code) for code in re.findall(r"\b(\d+) [a-z]", codes)} == {*EXIT_CODES}
    assert {row[0].strip("`") for row in table("tasks", "What is shared with whom")} == {*PLANS, "groups", "rules"}


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "yaml"], ids=lambda b: b.section)
def test_a_yaml_block_of_a_page_is_a_configuration(block, tmp_path):
    (tmp_path / "config.yaml").write_text(block.text, encoding="utf-8")
    load_config(tmp_path / "config.yaml")


def yaml_files() -> list[Path]:
    hidden = re.compile(r"(^|/)(\.|runs/|build/|__pycache__)")
    names = sorted(path.relative_to(ROOT) for end in ("yaml", "yml") for path in ROOT.rglob(f"*.{end}"))
    return [name for name in names if not hidden.search(name.as_posix())]


@pytest.mark.parametrize("path", yaml_files(), ids=str)
def test_a_yaml_file_of_the_project_is_valid(path):
    if "services" in (yaml.safe_load((ROOT / path).read_text(encoding="utf-8")) or {}):
        check_compose(ROOT / path)
    else:
        load_config(ROOT / path)


def documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def anchors(page: Path) -> set[str]:
    """What a link may name behind `#`, as GitHub makes it of headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", documents(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            to = page.parent / target if target else page
            assert to.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(to), f"{page.name}: {target}#{anchor}"


NAMED = r"`((?:common|server|client|simulation|cli|fedmtl|tests|benchmarks|protos|docker)/[\w/]*[\w.]*)`"


@pytest.mark.parametrize("page", documents(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_exist(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = {*re.findall(NAMED, text)}
    missing = {name for name in named if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()}
    assert missing == set()


FOREIGN = {"aggregate_mtl_updates", "broadcast_mtl_model_slices", "get_parameters", "set_parameters"}
"""Names of other projects, in the table that translates them."""
IDENTIFIER = r"`(?:[A-Za-z_]+\.)?([A-Z][a-z]+[A-Z]\w+|[A-Z][A-Z_]{3,}|[a-z]+_[a-z_]+)(?:\(\))?`"


@cache
def words_of_the_code() -> set[str]:
    folders = ("common", "server", "client", "simulation", "cli", "fedmtl", "protos", "tests", "benchmarks")
    files = [path for folder in folders for end in ("py", "proto") for path in (ROOT / folder).rglob(f"*.{end}")]
    return {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", documents(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_names_of_the_code_on_a_page_exist(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert {*re.findall(IDENTIFIER, text)} - words_of_the_code() - FOREIGN == set()


def test_the_readme_is_short_and_leads_to_every_page_for_users():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 12 * 1024
    assert {*USE.glob("*.md")} == {*PAGES[1:]}
    assert all(f"(docs/use/{page.name})" in text for page in PAGES[1:])
