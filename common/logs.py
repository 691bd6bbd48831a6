"""Log lines for people or for machines, in UTC, so that lines of several sites can be put side by side."""

from __future__ import annotations

import json
import logging
import sys
from typing import Literal, TextIO

from common.clock import utc_text
from common.log_fields import LONGEST_VALUE
from common.plain_text import plain

LogFormat = Literal["text", "json"]


class _PlainLines(logging.Formatter):
    """A line per record. Text from outside cannot begin another one, nor drive the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{utc_text(record.created, 'seconds')} {record.levelname[0]} {plain(record.getMessage())}"
        error = self.formatException(record.exc_info) if record.exc_info else ""
        return "\n".join([line, *(f"  {plain(more)}" for more in error.splitlines())])


class _JsonLines(logging.Formatter):
    """A JSON object per record: `time`, `level`, `logger`, `message`, and the fields that the record is `about`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": utc_text(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": plain(record.getMessage()),
        }
        for name, value in getattr(record, "about", {}).items():
            line[name] = plain(value[:LONGEST_VALUE]) if isinstance(value, str) else value
        if record.exc_info:
            line["error"] = "\n".join(map(plain, self.formatException(record.exc_info).splitlines()))
        return json.dumps(line)


def set_up_logging(style: LogFormat, stream: TextIO | None = None) -> None:
    """Send this project's log to `stream` (standard error by default) and keep libraries quiet below warnings."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines() if style == "json" else _PlainLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("fedmtl").setLevel(logging.INFO)
