"""Mode init: a folder to start from, with a configuration, generated rows for three sites, and the commands to type."""

from __future__ import annotations

import argparse

from cli.options import Parser, path_of
from cli.output import say
from cli.templates import TEMPLATES
from common.errors import ConfigError

CONFIG = "federation.yaml"
README = "README.md"
SITES = ("north", "east", "south")
ROWS = 120
"""Of each task at each site."""


def options(parser: Parser) -> None:
    """The options of this mode."""
    parser.add_argument("--template", choices=TEMPLATES, required=True, help="what rows are made of")
    parser.add_argument("folder", metavar="DIR", help="folder to write; must not exist or be empty")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from client.data.samples import write_rows
    from common.config import load_config

    folder, template = path_of("folder", options.folder), TEMPLATES[options.template]
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"folder: '{folder}' holds files already; name a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(template.config(SITES), encoding="utf-8")
        config = load_config(folder / CONFIG)
        for number, site in enumerate(SITES):
            for task in config.definitions():
                write_rows(folder / "sites" / site, task, config.model.array_encoder, ROWS, number, len(SITES))
        (folder / README).write_text(template.readme(CONFIG, list(config.tasks), SITES), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"folder: '{folder}' cannot be written: {error.strerror}; choose another place") from None
    say(f"written to {folder}: {CONFIG}, generated rows of {', '.join(SITES)} in sites/, and what to type in {README}")
