"""The command line: what people type, what they read, and the exit code."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from cli.modes import MODES, parse
from cli.options import configuration
from common.clock import ManualClock
from common.config import Config, load_config, render
from common.errors import EXIT_CODES
from federated_main import main
from server.runs.assembly import in_memory
from server.service.grpc_server import start_server
from tests.crashes import serve_here
from tests.federations import CLIENTS, make_model, small_config
from tests.grpc_cases import free_port
from tests.processes import log_given_back

FEW = ("federation.min_clients=1", "training.num_rounds=1")


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """`main` takes the log over; give it back."""
    with log_given_back():
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_config(tmp_path_factory.mktemp("small"))


def written(config: Config, folder: Path) -> str:
    path = folder / "config.yaml"
    path.write_text(render(config))
    return str(path)


def fails(capsys: pytest.CaptureFixture[str], code: int, said: str, *arguments: str) -> None:
    """`main` ends with `code`, exactly one line of error that matches `said`, and no traceback."""
    assert main(list(arguments)) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and re.search(said, errors[0]), errors


@pytest.mark.parametrize("mode", [None, *MODES])
def test_help_fits_a_screen(
    mode: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as caught:
        main([*(["--mode", mode] if mode else []), "--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    for other in MODES if mode is None else ():
        assert f"{other}: {MODES[other].says}" in text
    for code, meaning in EXIT_CODES.items() if mode else ():
        assert f"{code} {meaning}" in text


def test_options_may_be_written_with_hyphens() -> None:
    for written_as in (["--client-id", "x-y_z"], ["--client_id", "x-y_z"], ["--client-id=x-y_z"]):
        options = parse(["--mode", "client", "--tasks", "sst2", *written_as], "fedmtl")
        assert options.client_id == "x-y_z"


@pytest.mark.parametrize(
    ("mode", "flag", "key"),
    [
        *((mode, "run_dir", "run.run_dir") for mode in ("server", "demo", "simulate", "compare")),
        *((mode, "data_dir", "data.dir") for mode in ("client", "demo", "simulate", "compare", "check")),
        ("client", "state_dir", "client.state_dir"),
        ("server", "tls_client_ca", "server.tls.client_ca"),
        ("status", "tls_ca", "client.tls.ca"),
    ],
)
def test_a_folder_named_by_a_number_or_from_home_is_one_in_every_mode(
    mode: str, flag: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    needed = ["--tasks", "sst2"] if mode == "client" else []
    extra = ["--tls_cert", "1", "--tls_key", "2"] if flag == "tls_client_ca" else []
    for given, meant in {"2024": "2024", "7": "7", "1e3": "1e3", "it's": "it's", "~/x": str(tmp_path / "x")}.items():
        for written_as in ([f"--{flag}", given], [f"--{flag}={given}"]):
            found: object = configuration(parse(["--mode", mode, *needed, *extra, *written_as], "fedmtl"))
            for name in key.split("."):
                found = getattr(found, name)
            assert found == meant


def test_modes_on_a_run_take_any_folder_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, meant in (("2026", "2026"), ("~/x", str(tmp_path / "x"))):
        modes = ["evaluate"], ["verify"], ["backup", "--out", "7"], ["export", "--task", "a", "--out", "7"]
        for rest in (["--mode", *mode] for mode in modes):
            fails(capsys, 5, f"run_dir: '{meant}' holds no run", *rest, "--run_dir", given)
    fails(capsys, 2, "--run_dir: '~nobody-there' names a home folder", "--mode", "evaluate", "--run_dir=~nobody-there")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the mode is missing; one of server, client, demo"),
        (["--mode", "train"], "invalid choice: 'train'.*see --help"),
        (["train"], "invalid choice: 'train'.*see --help"),
        (["--mode", "server", "--colour", "red"], "unrecognized arguments: --colour red; see --help"),
        (["--mode", "server", "--tasks", "sst2"], "unrecognized arguments: --tasks"),
        (["--mode", "client"], "required: --tasks"),
        (["--mode", "client", "--tasks", "nosuch"], "--tasks: 'nosuch' is unknown; known are .*sst2"),
        (["--mode", "client", "--tasks", "sst2,sst2"], "must be one or more different tasks"),
        (["--mode", "check", "--tasks", "nosuch"], "--tasks: 'nosuch' is unknown"),
        (["--mode", "client", "--tasks", "sst2", "--client-id", "a/b"], "client_id: 'a/b' must be"),
        (["--mode", "server", "--host", "0.0.0.0"], "server.host: '0.0.0.0' is open to other machines"),
        (["--mode", "client", "--tasks", "sst2", "--server", "10.0.0.1:1"], "is another machine, called without enc"),
        (["--mode", "status", "--server", "10.0.0.1:1"], "is another machine, called without enc"),
        (["--mode", "check", "--set", "training.num_rounds=many"], "training.num_rounds: 'many' is not a whole"),
        (["--mode", "check", "--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--mode", "demo", "--clients_per_task", "0"], "--clients_per_task: 0 must be at least 1"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fails(capsys, 2, said, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_all_problems_of_a_configuration_are_told_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("training: {num_rounds: 0, learning_rat: 1}\ntasks: {sst2: {val_samples: no}}\nserver: {port: x}\n")
    assert main(["--mode", "check", "--config", str(path), "--set", "data.source=files"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in errors)
    for key in (
        "training.num_rounds",
        "training.learning_rat",
        "tasks.sst2.val_samples",
        "server.port",
        "data.source",
    ):
        assert sum(key in line for line in errors) == 1, (key, errors)
    assert len(errors) == 5


def test_check_prints_a_configuration_that_loads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    changes = ["--set", "training.learning_rate=2e-5", "--seed", "7", "--set", "tasks.sst2.weight=0.5"]
    assert main(["--mode", "check", *changes]) == 0
    path = tmp_path / "again.yaml"
    path.write_text(capsys.readouterr().out)
    config = load_config(path)
    assert (config.training.learning_rate, config.run.seed, config.tasks["sst2"].weight) == (2e-5, 7, 0.5)
    assert main(["--mode", "check", "--config", str(path)]) == 0
    assert capsys.readouterr().out == path.read_text()


def test_check_tells_who_protects_connections(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--mode", "check", "--set", "server.host=0.0.0.0"]) == 0
    out, err = capsys.readouterr()
    assert "# Connections to 0.0.0.0: plain text; a client is whom it says." in out
    assert "warning: --mode server refuses this: server.host: '0.0.0.0' is open to other machines" in err


def test_check_with_tasks_tells_what_leaves_this_client(
    config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = written(config, tmp_path)
    assert main(["--mode", "check", "--config", path, "--tasks", "sst2"]) == 0
    out = capsys.readouterr().out
    assert "What leaves a client with sst2:" in out and "What never leaves:" in out
    shared, head = 491_936, 34
    assert f"scope shared: the change of {shared:,} parameters" in out
    assert f"scope task/sst2: the change of {head} parameters" in out and "task/qqp" not in out
    assert main(["--mode", "check", "--config", path, "--tasks", "sst2", "--set", "sharing.plan=private_heads"]) == 0
    leaves, stays = capsys.readouterr().out.split("What never leaves:")
    assert "task/sst2" not in leaves.split("What leaves")[1] and "heads.sst2." in stays


def test_missing_data_is_exit_code_3(config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    client = ["--mode", "client", "--config", written(config, tmp_path), "--tasks", "sst2"]
    fails(capsys, 3, "nowhere", *client, "--data_dir", str(tmp_path / "nowhere"), "--state_dir", str(tmp_path / "s"))


def test_an_unreachable_coordinator_is_exit_code_6(
    config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.status.STATUS_SECONDS", 0.3)
    number = free_port()
    where = ["--config", written(config, tmp_path), "--server", f"127.0.0.1:{number}"]
    fails(capsys, 6, f"127.0.0.1:{number} not reachable .*nothing listens", "--mode", "status", *where)
    patience = ["--set", "client.connect_timeout_seconds=0.3", "--state_dir", str(tmp_path / "state")]
    fails(capsys, 6, "nothing listens there; check that", "--mode", "client", "--tasks", "sst2", *where, *patience)


@contextmanager
def coordinator_elsewhere(config: Config) -> Iterator[int]:
    """A coordinator on a port, in a thread, so that `main` may have this one."""
    loop, listening = asyncio.new_event_loop(), threading.Event()
    over, numbers = asyncio.Event(), list[int]()

    async def run() -> None:
        coordinator = in_memory(config, make_model(config), ManualClock())
        await coordinator.start()
        server = await start_server(coordinator, "127.0.0.1", 0, None)
        numbers.append(server.port_number)
        listening.set()
        await over.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        assert listening.wait(30)
        yield numbers[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
        loop.close()


def test_a_client_with_other_labels_is_refused_with_exit_code_7(
    config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def labelled(order: str) -> str:
        section = f"{{type: classification, labels: {order}, columns: {{text: text, label: label}}}}"
        return f"tasks={{mood: {section}}}"

    data = tmp_path / "data" / "mood"
    data.mkdir(parents=True)
    for name in ("train", "validation"):
        (data / f"{name}.csv").write_text("text,label\n" + "good,0\nbad,1\n" * 8)
    theirs = small_config(tmp_path, labelled("[up, down]"), f"data.dir='{data.parent}'", *FEW, tasks=())
    mine = written(small_config(tmp_path, labelled("[down, up]"), f"data.dir='{data.parent}'", tasks=()), tmp_path)
    with coordinator_elsewhere(theirs) as number:
        where = ["--server", f"127.0.0.1:{number}", "--state_dir", str(tmp_path / "state")]
        fails(capsys, 7, "task 'mood' differs.*labels", "--mode", "client", "--config", mine, "--tasks", "mood", *where)


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    changes = {"run": config.run.model_copy(update={"run_dir": str(folder / "run")})}
    changes |= {"server": config.server.model_copy(update={"port": 0})}
    changes |= {"model": config.model.model_copy(update={"pair_mode": "cross"})}
    report = asyncio.run(serve_here(config.model_copy(update=changes), False, folder / "state"))
    assert report["status"] == "finished"
    return folder / "run"


def test_an_existing_run_is_refused_without_resume_and_left_alone(
    config: Config, finished: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = (finished / "report.json").read_bytes()
    server = ["--mode", "server", "--config", written(config, tmp_path), "--port", "0", "--run_dir"]
    fails(capsys, 5, "holds a run; add --resume to go on, or choose another --run_dir", *server, str(finished))
    fails(capsys, 5, "holds no run; check the path or leave --resume out", *server, str(tmp_path / "no"), "--resume")
    fails(capsys, 5, "differs from the run's", *server, str(finished), "--resume")
    assert (finished / "report.json").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_told_in_one_line(
    config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = written(config, tmp_path)
    below = str(Path(path) / "below a file")
    server = ["--mode", "server", "--config", path, "--port", "0", "--run_dir", below]
    fails(capsys, 5, "run_dir: '.*below a file' cannot be made .*choose another", *server)
    client = ["--mode", "client", "--config", path, "--tasks", "sst2", "--state_dir", below]
    fails(capsys, 2, "client.state_dir: '.*below a file.*' cannot be used .*choose another --state_dir", *client)


def test_evaluate_scores_the_saved_model_as_the_report_does(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--mode", "evaluate", "--run_dir", str(finished)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("model of round 2 in")
    # Validation rows differ from part to part: the report's figure is the mean over the clients' parts.
    report = json.loads((finished / "report.json").read_text())
    found: dict[tuple[str, str], float] = {}
    for part in ("1/2", "2/2"):
        assert main(["--mode", "evaluate", "--run_dir", str(finished), "--partition", part]) == 0
        for line in capsys.readouterr().out.splitlines()[1:]:
            match = re.fullmatch(r"(\w+): .*accuracy ([\d.]+), .*; 12 validation rows, synthetic \(built-in\)", line)
            assert match is not None, line
            found[match[1], part] = float(match[2])
    for task in ("sst2", "qqp"):
        parts = [part for _, tasks, part in CLIENTS if task in tasks]
        mean = sum(found[task, part] for part in parts) / len(parts)
        assert report["tasks"][task]["metrics"]["accuracy"] == pytest.approx(mean, abs=1e-4)
    assert main(["--mode", "evaluate", "--run_dir", str(finished), "--tasks", "qqp"]) == 0
    assert "sst2" not in capsys.readouterr().out
    fails(capsys, 4, "'stsb' is not in this run; it has sst2, qqp", "--mode", "evaluate", "--run_dir", str(finished),
          "--tasks", "stsb", "--set", "data.source=builtin")  # fmt: skip


def test_export_is_loaded_by_hugging_face(finished: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    export = ["--mode", "export", "--run_dir", str(finished), "--out", str(tmp_path / "out"), "--task"]
    fails(capsys, 4, "'stsb' is not in this run", *export, "stsb")
    assert main([*export, "sst2"]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    model, report = AutoModelForSequenceClassification.from_pretrained(str(tmp_path / "out"), output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.config.num_labels == 2 and torch.isfinite(model.classifier.weight).all()
    fails(capsys, 4, "choose another", *export, "sst2")


def test_a_private_head_cannot_be_scored_or_exported_by_the_coordinator(
    config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    changes = [f"run.run_dir='{run}'", "sharing.plan=private_heads", "server.port=0", *FEW]
    asyncio.run(serve_here(small_config(tmp_path, *changes), False, tmp_path / "state", "d"))
    said = r"task 'sst2': 'heads.sst2\..* is private in this run \(sharing.plan: private_heads\)"
    fails(capsys, 4, said, "--mode", "evaluate", "--run_dir", str(run), "--tasks", "sst2")
    fails(capsys, 4, said, "--mode", "export", "--run_dir", str(run), "--task", "sst2", "--out", str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()
