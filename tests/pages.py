"""The pages that a user reads, and the blocks in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from cli import modes

ROOT = Path(__file__).resolve().parent.parent
USE = ROOT / "docs" / "use"
READ_IN_ORDER = ("data", "tasks", "experiments", "operations", "privacy", "report", "configuration")
PAGES = (ROOT / "README.md", *(USE / f"{name}.md" for name in READ_IN_ORDER))
"""What a user reads, in an order in which no page needs a later one."""


@dataclass(frozen=True)
class Block:
    page: str
    section: str
    language: str
    text: str

    def commands(self) -> list[list[str]]:
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        section = ""
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^## ([^\n]+)$|^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if match[1]:
                section = match[1]
            else:
                found.append(Block(page.stem, section, match[2], match[3]))
    return found


def check_compose(path: Path) -> None:
    compose = yaml.safe_load(path.read_text(encoding="utf-8"))
    built = [service["build"] for service in compose["services"].values() if "build" in service]
    assert built
    for build in built:
        context = (path.parent / build["context"]).resolve()
        for line in (context / build["dockerfile"]).read_text(encoding="utf-8").splitlines():
            if line.startswith("COPY "):
                assert all((context / name).exists() for name in line.split()[1:-1]), line
    for service in compose["services"].values():
        modes.parse(shlex.split(service["command"]), "fedmtl")
        assert all(volume.split(":")[0] in compose["volumes"] for volume in service["volumes"])
