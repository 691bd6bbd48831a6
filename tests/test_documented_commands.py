"""Every command that README and the pages for users tell a reader to type works, at a reduced size."""

import multiprocessing
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

import federated_main
from cli import modes
from cli.options import DEFAULT_CONFIG
from common.config import load_config
from tests.federations import write_model
from tests.pages import ROOT, blocks, check_compose

TASKS = ("sst2", "qqp", "stsb")
PATIENCE = 240
PRELOADED = [
    "federated_main",
    "client.app",
    "client.disclosure",
    "server.runs.app",
    "common.export.folder",
    "simulation.comparison.app",
    "transformers.models.bert.modeling_bert",
]
"""What every mode imports; loaded once, then each command is a fork."""


def mode_of(words: list[str]) -> str:
    return words[words.index("--mode") + 1]


def value_of(words: list[str], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words else None


def check_make(words: list[str]) -> None:
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
    for line in done.stdout.splitlines():
        if "federated_main.py" in line:
            modes.parse(shlex.split(line.partition("federated_main.py")[2]), "federated_main.py --mode")


def check_pip(words: list[str]) -> None:
    assert words[1] == "install"
    if words[2:] == ["."]:
        return  # `tests/test_wheel.py` does that
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {needed for extra in project["optional-dependencies"].values() for needed in extra}
    assert {*words[2:]} <= {needed.partition(">")[0] for needed in extras}


def check_docker(words: list[str]) -> None:
    file = value_of(words, "-f")
    assert words[1] == "compose" and file is not None
    check_compose(ROOT / file)


def run_in_fork(words: list[str], folder: str, log: str) -> None:
    """The body of a forked process: `python federated_main.py WORDS` in `folder`."""
    os.chdir(folder)
    file = os.open(log, os.O_CREAT | os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.exit(federated_main.main(words))


class Process:
    """One command of a page under way: a fork of a process that has loaded everything, which saves seconds."""

    def __init__(self, words: list[str], folder: Path, log: Path) -> None:
        self.words, self.log = words, log
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._process = context.Process(target=run_in_fork, args=(words[2:], str(folder), str(log)))
        self._process.start()

    def stop(self) -> None:
        self._process.terminate()

    def wait_for(self, text: str) -> None:
        """Return when the output holds `text`."""
        deadline = time.monotonic() + PATIENCE
        while not (self.log.exists() and text in self.log.read_text(encoding="utf-8")):
            assert time.monotonic() < deadline, f"{shlex.join(self.words)}: no '{text}'"
            time.sleep(0.05)

    def finish(self) -> None:
        """Wait for the end; anything but exit code 0 fails the test."""
        self._process.join(PATIENCE)
        code = self._process.exitcode
        output = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        assert code == 0, f"{shlex.join(self.words)}\nexit code {code}\n{output}"


class Reader:
    """Somebody who follows the pages from top to bottom, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = write_model(folder / "model")
        self._logs = 0
        shutil.copy(ROOT / "federated_config.yaml", folder)
        write_data(folder / "my_data")

    def do(self, section: str, commands: list[list[str]]) -> None:
        """Type the commands of one section: a server with all its clients together, the others one by one.

        What makes their files comes first.
        """
        commands = [
            ["python", "federated_main.py", "--mode", *words[1:]] if words[0] == "fedmtl" else words
            for words in commands
        ]
        ours = [words for words in commands if words[:2] == ["python", "federated_main.py"]]
        for words in commands:
            if words not in ours:
                self._do_other(words)
        makers = [words for words in ours if mode_of(words) == "provision"]
        servers = [words for words in ours if mode_of(words) == "server"]
        clients = [words for words in ours if mode_of(words) == "client"]
        rest = [words for words in ours if mode_of(words) not in ("server", "client", "provision")]
        for words in makers:
            self._alone(words)
        if clients or servers:
            own = ["python", "federated_main.py", "--mode", "server", "--run_dir", f"runs/for {section}"]
            self._federate((servers or [own])[0], clients)
        for words in rest:
            self._alone(words)

    def _do_other(self, words: list[str]) -> None:
        match words[0]:
            case "make":
                check_make(words)
            case "docker":
                check_docker(words)
            case ".venv/bin/pip" | "pip":
                check_pip(words)
            case "mkdir" | "printf" | "openssl":
                line = " ".join(word if word == ">" else shlex.quote(word) for word in words)
                done = subprocess.run(["sh", "-c", line], cwd=self.folder, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{line}: {done.stderr}"
            case _:
                pytest.fail(f"'{shlex.join(words)}' is of a form that no test knows")

    def _federate(self, server: list[str], clients: list[list[str]]) -> None:
        port = free_port()
        held = {task for words in clients for task in (value_of(words, "--tasks") or "").split(",")}
        sizes = self._sizes(server, sorted(held) or TASKS)
        expected = [f"federation.min_clients={len(clients)}"] if clients else []
        processes = [self._start(server, port, [*sizes, *expected])]
        processes[0].wait_for("listens on")
        processes += [self._start(words, port, sizes) for words in clients]
        for process in processes:
            process.finish()

    def _alone(self, words: list[str]) -> None:
        mode = mode_of(words)
        port = free_port()
        if mode == "status":
            own = ["python", "federated_main.py", "--mode", "server", "--run_dir", "runs/for status"]
            server = self._start(own, port, self._sizes(own))
            server.wait_for("listens on")
            self._start(words, port, []).finish()
            server.stop()
            server.finish()
        elif mode == "leave":
            self._leave(words, port)
        else:
            self._start(words, port, self._sizes(words) if mode in ("check", "simulate", "compare") else []).finish()

    def _leave(self, words: list[str], port: int) -> None:
        """Have a client left out while it waits for others."""
        program, name = ["python", "federated_main.py", "--mode"], value_of(words, "--client_id") or ""
        own = [*program, "server", "--run_dir", "runs/for leave"]
        sizes = self._sizes(own)
        server = self._start(own, port, [*sizes, "federation.min_clients=9"])
        server.wait_for("listens on")
        client = self._start([*program, "client", "--tasks", "sst2", "--client_id", name], port, sizes)
        server.wait_for(f"client {name} joined")
        self._start(words, port, [f"client.server=localhost:{port}"]).finish()
        client.wait_for("asked to be left out of this run for good")
        server.stop()
        server.finish()

    def _start(self, words: list[str], port: int, overrides: list[str]) -> Process:
        words = list(words)
        for flag, value in (("--server", f"localhost:{port}"), ("--port", str(port))):
            if flag in words:
                words[words.index(flag) + 1] = value
        mode = mode_of(words)
        if mode == "server":
            overrides = [*overrides, f"server.port={port}"]
        elif mode == "client":
            overrides = [*overrides, f"client.server=localhost:{port}", f"client.connect_timeout_seconds={PATIENCE}"]
        words += [word for override in overrides for word in ("--set", override)]
        words += ["--seeds", "0"] if mode == "compare" else []
        self._logs += 1
        return Process(words, self.folder, self.folder / f"{self._logs}.log")

    def _sizes(self, words: list[str], tasks: Sequence[str] = TASKS) -> list[str]:
        """Overrides that make a run small; `tasks` are all that it has, unless its configuration is a page's."""
        rows = "{train_samples: 8, val_samples: 4}"
        shipped = value_of(words, "--config") in (None, DEFAULT_CONFIG)
        sizes = ["tasks={" + ", ".join(f"{task}: {rows}" for task in sorted(tasks)) + "}"] if shipped else []
        text = (f"model.server_model='{self.model}'", "model.max_length=32", "model.hub_timeout_seconds=1")
        named = value_of(words, "--config")
        numbers = named is not None and load_config(self.folder / named).model.inputs.name == "numbers"
        crowd = ("simulation.clients=6",) if mode_of(words) == "simulate" else ()
        return [*sizes, *crowd, *(() if numbers else text), "training.num_rounds=1", "training.local_epochs=1"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_data(folder: Path) -> None:
    """The files of which the pages speak."""
    rows = {
        "sst2": [("sentence", "label"), ("a fine film", "positive"), ("a dull film", "0")],
        "topics": [("headline", "topic"), ("a cup final", "sport"), ("a new planet", "science")],
        "tags": [("text", "tags"), ("why seven", "question|number"), ("so it is", "short")],
        "match": [("first", "second", "score"), ("a cat", "the cat", "4.5"), ("a cat", "a law", "0.2")],
    }
    for task, (header, *examples) in rows.items():
        (folder / task).mkdir(parents=True)
        for split in ("train", "validation"):
            lines = ["\t".join(cells) for cells in (header, *examples * 5)]
            (folder / task / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_the_pages_works(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    reader = Reader(tmp_path)
    for block in blocks():
        named = re.match(r"# (\S+\.yaml)\n", block.text)
        if block.language == "yaml" and named:
            (tmp_path / named[1]).write_text(block.text, encoding="utf-8")
    sections: dict[tuple[str, str], list[list[str]]] = {}
    for block in blocks():
        assert block.language in ("sh", "python", "text", "yaml", "mermaid"), (
            f"{block.page}, {block.section}: a block without a known language"
        )
        if block.language == "sh":
            sections.setdefault((block.page, block.section), []).extend(block.commands())
    assert sections
    for (page, section), commands in sections.items():
        if any(words[0] == "openssl" for words in commands) and shutil.which("openssl") is None:
            continue
        reader.do(f"{page} {section}", commands)


def test_a_command_of_an_unknown_form_is_an_error(tmp_path):
    with pytest.raises(pytest.fail.Exception, match="no test knows"):
        Reader(tmp_path).do("Somewhere", [["curl", "example.org"]])
