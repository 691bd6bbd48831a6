"""What a process imports: libraries that take seconds come late or never. Ones that refuse stand in for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.processes import LISTENS, Programs

PATIENCE = 200.0
"""Seconds: torch alone takes half a minute to import where many processes share a core."""
pytestmark = pytest.mark.timeout(600)

CONFIG = """
run: {name: light, seed: 1}
model: {server_model: mlp, mlp: {features: 4, hidden: [8]}}
training: {num_rounds: 1, local_epochs: 1}
tasks: {a: {type: classification, labels: 2, train_samples: 32, val_samples: 16}}
"""


def refuse(folder: Path, monkeypatch: pytest.MonkeyPatch, *libraries: str) -> None:
    """Let processes that start from now on fail loudly where they import one of these."""
    for library in libraries:
        (folder / "refused" / library).mkdir(parents=True)
        text = f"import sys\nprint('IMPORTED {library}', file=sys.stderr)\nraise ImportError('{library}')\n"
        (folder / "refused" / library / "__init__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder / "refused"))


@pytest.mark.slow
def test_rows_of_numbers_never_need_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlp.yaml").write_text(CONFIG)
    refuse(tmp_path, monkeypatch, "transformers", "tokenizers", "huggingface_hub")
    with Programs(tmp_path) as programs:
        alone = programs.start("--mode", "simulate", "--config", "mlp.yaml", "--clients", "2", "--run_dir", "alone")
        assert alone.exit_code(PATIENCE) == 0, alone.output
        server = programs.start("--mode", "server", "--config", "mlp.yaml", "--port", "0", "--run_dir", "run")
        where = f"127.0.0.1:{server.wait_for(LISTENS, seconds=PATIENCE)[1]}"
        client = programs.start("--mode", "client", "--config", "mlp.yaml", "--tasks", "a", "--server", where)
        for program in (alone, server, client):
            assert program.exit_code(PATIENCE) == 0, program.output
            assert "IMPORTED" not in program.output


def test_asking_for_the_status_needs_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlp.yaml").write_text(CONFIG)
    with Programs(tmp_path) as programs:
        server = programs.start("--mode", "server", "--config", "mlp.yaml", "--port", "0", "--run_dir", "run")
        asked = (
            "--mode",
            "status",
            "--config",
            "mlp.yaml",
            "--server",
            f"127.0.0.1:{server.wait_for(LISTENS, seconds=PATIENCE)[1]}",
        )
        refuse(tmp_path, monkeypatch, "torch", "transformers", "rich")
        people, machines = programs.start(*asked), programs.start(*asked, "--format", "json")
        assert (people.exit_code(PATIENCE), machines.exit_code(PATIENCE)) == (0, 0), people.output + machines.output
    assert "run 'light'" in people.output
    status = json.loads(machines.output[machines.output.index("{") :])  # warnings come before it
    assert (status["run"], status["phase"], status["clients"]) == ("light", "waiting", [])
    assert "clients for a (0 of 1)" in status["waiting_for"]


@pytest.mark.parametrize("mode", ["server", "simulate"])
def test_a_line_is_logged_before_transformers_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    (tmp_path / "text.yaml").write_text("tasks: {sst2: {train_samples: 8, val_samples: 4}}\nserver: {port: 0}\n")
    refuse(tmp_path, monkeypatch, "transformers")
    with Programs(tmp_path) as programs:
        program = programs.start("--mode", mode, "--config", "text.yaml", "--run_dir", "run")
        program.wait_for("IMPORTED transformers", seconds=PATIENCE)
        assert "run 'fedmtl' begins in run" in program.output.partition("IMPORTED")[0]
