"""Whether this tree and an older one come to the same bits: small federations in both, by the command line alone.

The base is checked out into a temporary worktree and runs with this Python and its packages. Federations run one after
the other, each with one thread per process and a configuration in a file. Compared are the digest of the published
model and a digest of every score in the report, which tells what private parameters became. A federation that differs,
or fails on either side, gives exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.processes import ROOT
from benchmarks.same_bits_cases import FEDERATIONS, RENAMED, Client, Federation, How, Settings
from benchmarks.sheet import Sheet

COLUMNS = {
    "federation": "federation",
    "base": "model at the base",
    "here": "model here",
    "base_scores": "scores at the base",
    "here_scores": "scores here",
    "same": "equal",
    "seconds": "s in all",
}
SHOWN = 16
"""Digits of a digest that the table shows."""
LONGEST_SECONDS = 600.0
ENCODER = {
    "model_type": "bert",
    "vocab_size": 30_522,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
"""The text encoder: random weights, dropout on."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--base", required=True, metavar="REV", help="the revision to compare with")
    parser.add_argument("--only", default=",".join(FEDERATIONS), metavar="NAMES", help="some of them (default: all)")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep run folders here; finished ones of the base stay"
    )


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """One row per federation; exit code 1 if any differs."""
    sheet.columns(COLUMNS)
    names = options.only.split(",")
    if unknown := set(names) - FEDERATIONS.keys():
        raise SystemExit(f"--only: no federation {', '.join(sorted(unknown))}; there are {', '.join(FEDERATIONS)}")
    different = []
    with base_tree(options.base) as (base, commit), tempfile.TemporaryDirectory() as temporary:
        runs = options.keep or Path(temporary)
        for name in names:
            began = time.perf_counter()
            old = Tree(base, runs.resolve() / commit[:12], renamed_since(base)).bits(name)
            new = Tree(ROOT, Path(temporary).resolve() / "here", {}).bits(name)
            same = old == new and not old.failed
            different += [] if same else [name]
            sheet.row(
                federation=name,
                base=old.model[:SHOWN],
                here=new.model[:SHOWN],
                base_scores=old.scores[:SHOWN],
                here_scores=new.scores[:SHOWN],
                same="yes" if same else "NO",
                seconds=time.perf_counter() - began,
            )
    sheet.note(f"{len(names) - len(different)} of {len(names)} are equal; different: {', '.join(different) or 'none'}")
    if different:
        raise SystemExit(1)


def renamed_since(base: Path) -> dict[str, tuple[str, Mapping[object, object]]]:
    """What of `RENAMED` a tree still calls by its old name: its own complete configuration has no such key."""
    body = yaml.safe_load((base / "federated_config.yaml").read_text(encoding="utf-8"))
    return {path: old for path, old in RENAMED.items() if not _is_known(body, path.split("."))}


def _is_known(body: Any, path: list[str]) -> bool:
    """Whether a key is there, or may be: what a row of a choice reads is a comment beside the row's name."""
    *sections, key = path
    for section in sections:
        body = body.get(section) if isinstance(body, dict) else None
    return isinstance(body, dict) and (key in body or "name" in body)


@contextlib.contextmanager
def base_tree(revision: str) -> Iterator[tuple[Path, str]]:
    """A worktree of a revision, for a while, and the name of its commit."""
    commit = _git("rev-parse", "--verify", f"{revision}^{{commit}}")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "base"
        _git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree, commit
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


@dataclass(frozen=True)
class Bits:
    """What a run came to; a run that failed has its last line in place of a digest."""

    model: str
    scores: str
    failed: bool = False


@dataclass(frozen=True)
class Tree:
    """One checkout of the project, where its runs go, and what its configuration calls things."""

    root: Path
    runs: Path
    renamed: Mapping[str, tuple[str, Mapping[object, object]]]

    def bits(self, name: str) -> Bits:
        """Run a federation, unless it has a report already, and read what it came to."""
        federation = FEDERATIONS[name]
        clients = [
            (client.name, client.tasks, client.partition, self.translated(client.settings))
            for client in federation.clients
        ]
        whole = repr((federation.how, self.translated(federation.settings), clients))
        folder = self.runs / f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
        report = folder / "run" / "report.json"
        try:
            if not report.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                Run(self, folder, federation).play()
            return read(report)
        except RunFailed as error:
            return Bits(f"{error}", "-", failed=True)

    def translated(self, settings: Settings) -> dict[str, object]:
        """Settings in this tree's words."""
        found: dict[str, object] = {}
        for path, value in settings.items():
            ours = next((old for old in self.renamed if path == old or path.startswith(f"{old}.")), None)
            if ours is None:
                found[path] = value
            elif theirs := self.renamed[ours][0]:
                values = self.renamed[ours][1]
                found[theirs + path.removeprefix(ours)] = values.get(value, value) if _plain(value) else value
        return found


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool | None)


def read(report: Path) -> Bits:
    """The digest of the model, and one of all numbers in the tasks' scores, whatever their keys are called."""
    body = json.loads(report.read_text(encoding="utf-8"))
    if body["status"] != "finished":
        raise RunFailed(f"{body['status']}: {body['reason']}")
    scores = {name: sorted(_numbers(task["history"])) for name, task in body["tasks"].items()}
    return Bits(body["model_digest"], hashlib.sha256(json.dumps(scores, sort_keys=True).encode()).hexdigest())


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield float(value)


class RunFailed(RuntimeError):
    """A run did not come to its end."""


class Run:
    """One federation in one tree, in a folder of its own."""

    def __init__(self, tree: Tree, folder: Path, federation: Federation) -> None:
        self._tree, self._folder, self._federation = tree, folder, federation
        self._started: list[subprocess.Popen[bytes]] = []

    def play(self) -> None:
        """Run it to its end.

        Raises:
            RunFailed: with the last line of the process that failed.
        """
        try:
            match self._federation.how:
                case How.DEMO:
                    self._finish(self._start("demo", "--mode", "demo", "--run_dir", str(self._folder / "run")), "demo")
                case How.SIMULATE:
                    self._finish(
                        self._start("simulation", *self._command("simulate", {}), "--run_dir", "run"), "simulation"
                    )
                case How.DAEMONS | How.COORDINATOR_DIES | How.CLIENT_DIES:
                    self._daemons(self._federation.how)
        finally:
            for process in self._started:
                process.kill()
                process.wait()

    def _daemons(self, how: How) -> None:
        clients = self._federation.clients
        port = free_port()
        served = {"federation.min_clients": len(clients), "server.port": port}
        serve = (*self._command("server", served), "--run_dir", "run")
        server = self._start("server", *serve)
        commands = {client.name: self._client_command(client, port) for client in clients}
        running = {name: self._start(name, *command) for name, command in commands.items()}
        if how is not How.DAEMONS:
            self._first_round_closed(server)
            victim = server if how is How.COORDINATOR_DIES else running[clients[0].name]
            victim.kill()
            victim.wait()
            if (self._folder / "run" / "report.json").exists():
                raise RunFailed("the run was over before the kill; give it more rounds")
            if victim is server:
                server = self._start("server", *serve, "--resume")
            else:
                running[clients[0].name] = self._start(clients[0].name, *commands[clients[0].name])
        self._finish(server, "server")
        for name, process in running.items():
            self._finish(process, name)

    def _client_command(self, client: Client, port: int) -> tuple[str, ...]:
        settings = {"client.server": f"127.0.0.1:{port}", "client.state_dir": "clients", **client.settings}
        words = ("--client_id", client.name, "--tasks", client.tasks, "--partition", client.partition)
        return (*self._command("client", settings, client.name), *words)

    def _command(self, mode: str, settings: Settings, name: str = "config") -> tuple[str, ...]:
        """The words of a command, whose configuration is written to a file (JSON, which is YAML too)."""
        encoder = self._folder / "encoder"
        encoder.mkdir(exist_ok=True)
        (encoder / "config.json").write_text(json.dumps(ENCODER), encoding="utf-8")
        body = nested(self._tree.translated({**self._federation.settings, **settings}), str(encoder))
        (self._folder / f"{name}.yaml").write_text(json.dumps(body, indent=1), encoding="utf-8")
        return "--mode", mode, "--config", f"{name}.yaml"

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(self._tree.root / "federated_main.py"), *words],
                cwd=self._tree.root if self._federation.how is How.DEMO else self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )
        self._started.append(process)
        return process

    def _finish(self, process: subprocess.Popen[bytes], name: str) -> None:
        try:
            code = process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"{name}: still runs after {LONGEST_SECONDS:g} s") from None
        if code:
            raise RunFailed(f"{name}: exit code {code}: {self._last_line(name)}")

    def _first_round_closed(self, server: subprocess.Popen[bytes]) -> None:
        """Return when a round is on disk: the journal's reader writes a line about each."""
        lines = self._folder / "run" / "metrics.jsonl"
        limit = time.monotonic() + LONGEST_SECONDS
        while not (lines.exists() and lines.stat().st_size):
            if server.poll() is not None or time.monotonic() > limit:
                raise RunFailed(f"server: no round: {self._last_line('server')}")
            time.sleep(0.01)

    def _last_line(self, name: str) -> str:
        lines = (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no output")


def nested(settings: Settings, encoder: str) -> dict[str, object]:
    """Paths and values as a configuration file has them; `encoder` is the folder of the text encoder."""
    whole: dict[str, Any] = {}
    for path, value in settings.items():
        *above, last = path.split(".")
        place = whole
        for key in above:
            place = place.setdefault(key, {})
        place[last] = encoder if value == "{encoder}" else value
    return whole


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
