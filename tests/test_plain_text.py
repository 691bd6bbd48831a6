"""Text from outside is plain text wherever it is shown or written down."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cli.output import complain, say
from common.errors import WireError
from common.log_fields import about
from common.logs import set_up_logging
from common.orders import ClientStatus, FederationStatus, Progress
from common.plain_text import blanked, is_plain, is_plain_name, plain
from common.wire import checks, parts
from server.reporting.progress import RunProgress
from tests.processes import log_given_back

NASTY = "[/x][red]\x1b[2J\x07\u202eevil\u2066\u200b\u200d\ufeff\ud800\ue000\u2028\u2029\x85\x9b31m\r\n[link=x]:smile:"
SHOWN_NOTHING = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    with log_given_back():
        yield


def hidden(text: str) -> list[str]:
    """Characters that show nothing; a line end is no such thing here."""
    return [char for char in text if category(char) in SHOWN_NOTHING and char != "\n"]


@given(st.text())
def test_nothing_hidden_is_left_and_plain_text_stays(text: str) -> None:
    shown = plain(text)
    assert not hidden(shown) and "\n" not in shown
    assert is_plain(shown) and is_plain(text) == (shown == text)
    assert is_plain(blanked(text)) and "  " not in blanked(text)
    assert is_plain(checks.as_line(text))
    assert checks.line(checks.as_line(text), "phase") == checks.as_line(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ärger, 日本語, עברית, 🙂", "Ärger, 日本語, עברית, 🙂"),
        ("a\u3000b\u00a0c", "a\u3000b\u00a0c"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\u202eb\u200dc", "a\\u202eb\\u200dc"),
        ("two\nlines", "two\\nlines"),
        ("\ud800\U000e0041", "\\ud800\\U000e0041"),
    ],
)
def test_what_shows_nothing_is_written_out(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize("char", ["\x1b", "\u202e", "\u2066", "\u200b", "\ufeff", "\ud800", "\ue000", "\u2028", "\x85"])
def test_the_wire_takes_no_character_that_shows_nothing(char: str) -> None:
    with pytest.raises(WireError, match="others that show nothing"):
        checks.line(f"a{char}b", "phase")
    with pytest.raises(WireError, match="others that show nothing"):
        checks.label(f"a{char}b", "labels", 100)
    assert parts.pack_progress(Progress("o", f"a{char}b", 0.5)).phase == "a b"


def test_names_of_labels_may_hold_the_joiners_that_scripts_need() -> None:
    name = "\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645"  # Persian
    assert is_plain_name(name) and checks.label(name, "labels", 100) == name
    assert plain(name) == name.replace("\u200c", "\\u200c")
    with pytest.raises(WireError):
        checks.line(name, "phase")


def status(nasty: str) -> FederationStatus:
    client = ClientStatus(client_id=nasty, tasks=(nasty, "b"), present=True, activity=nasty)
    return FederationStatus(
        run_name=nasty, run_id="r", phase=nasty, round=1, num_rounds=2, waiting_for=nasty,
        clients=(client, replace(client, present=False)),
    )  # fmt: skip


def test_the_live_view_shows_markup_as_it_is() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=2000, color_system=None)
    with RunProgress((), 2, None, console) as progress:
        progress.changed(True, lambda: status(NASTY))
    seen = screen.getvalue()
    assert seen.count(plain(NASTY)) >= 6
    for sent in ("\x1b[2J", "\u202e", "\u2066", "\u200b", "\x07", "\x9b"):
        assert sent not in seen


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_log_is_one_plain_line_per_record(style: str) -> None:
    stream = io.StringIO()
    set_up_logging("json" if style == "json" else "text", stream)
    log = logging.getLogger("fedmtl.server")
    log.info("client %s", NASTY, extra=about(event="client_joined", client=NASTY, reason=NASTY * 99))
    (line,) = stream.getvalue().splitlines()
    assert not hidden(line)
    if style == "json":
        value = json.loads(line)
        assert value["message"] == f"client {plain(NASTY)}" and value["client"] == plain(NASTY)
        assert not any(hidden(text) for text in value.values() if isinstance(text, str))
    try:
        raise ValueError(f"{NASTY}\n2026-01-01T00:00:00Z I forged")
    except ValueError:
        log.exception("a defect")
    written = stream.getvalue()
    assert not hidden(written)
    assert not any(line.startswith("2026-01-01") for line in written.splitlines())


def test_what_modes_print_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    say(NASTY, "second")
    complain(f"error: {NASTY}")
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [plain(NASTY), "second"] and shown.err == f"error: {plain(NASTY)}\n"


def test_a_file_name_with_markup_is_only_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from federated_main import main

    name = "[/x]\x1b[2J\u202e"
    assert main(["--mode", "check", "--config", str(tmp_path / name)]) == 2
    shown = capsys.readouterr().err
    assert "[/x]\\x1b[2J\\u202e: cannot be read" in shown and not hidden(shown)
