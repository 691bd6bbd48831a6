"""The configuration: what is accepted, what is refused and in which words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.bodies import TrainingSettings
from common.config import Config, Role, client_problems, load_config, server_problems
from common.config.task_section import TaskSection
from common.config.values import is_loopback
from common.errors import ConfigError
from common.parameters.plan import PLANS
from common.tasks import KNOWN_TASKS, TASK_KINDS, TaskDefinition

REFERENCE = Path(__file__).parent.parent / "federated_config.yaml"
LEGACY = """
model:    {server_model: "prajjwal1/bert-tiny", client_model: "prajjwal1/bert-tiny"}
training: {num_rounds: 10, local_epochs: 3, learning_rate: 2e-5}
tasks:
  sst2: {train_samples: 1000, val_samples: 200}
  qqp:  {train_samples: 1000, val_samples: 200}
  stsb: {train_samples: 1000, val_samples: 200}
"""
ONE_TASK = "tasks: {sst2: }\n"

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def from_text(text: str, *overrides: str, role: Role = "any") -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides, role)

    return from_text


@pytest.fixture
def refused(load: Load) -> Callable[..., tuple[str, ...]]:
    def problems(text: str, *overrides: str, role: Role = "any") -> tuple[str, ...]:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides, role=role)
        assert all("\n" not in line for line in caught.value.problems)
        return caught.value.problems

    return problems


Refused = Callable[..., tuple[str, ...]]


class TestForms:
    def test_legacy_form_is_valid(self, load: Load) -> None:
        config = load(LEGACY)
        assert config.training.learning_rate == 2e-5
        assert {name: task.train_samples for name, task in config.tasks.items()} == dict.fromkeys(
            ("sst2", "qqp", "stsb"), 1000
        )
        assert config.definitions() == tuple(KNOWN_TASKS[name] for name in ("sst2", "qqp", "stsb"))

    def test_empty_bodies_mean_defaults(self, load: Load) -> None:
        assert load("training:\nserver:\n  tls:\ntasks:\n  sst2:\n") == load(ONE_TASK)

    @pytest.mark.parametrize("text", ["2e-5", "2E-5", "0.00002", ".00002", "2.0e-05", "+2e-5"])
    def test_floats_are_read_as_written(self, load: Load, text: str) -> None:
        assert load(f"{ONE_TASK}training: {{learning_rate: {text}}}").training.learning_rate == 2e-5

    def test_an_integer_is_a_float(self, load: Load) -> None:
        value = load(f"{ONE_TASK}federation: {{lease_seconds: 5}}").federation.lease_seconds
        assert (value, type(value)) == (5.0, float)

    def test_byte_order_mark_and_unicode(self, load: Load) -> None:
        assert load(f"\ufeff{ONE_TASK}client: {{state_dir: zustände}}").client.state_dir == "zustände"

    def test_values_are_frozen(self, load: Load) -> None:
        with pytest.raises(ValidationError):
            load(ONE_TASK).training.num_rounds = 3

    def test_run_folder(self, load: Load) -> None:
        assert load(f"{ONE_TASK}run: {{name: a.b}}").run.folder == Path("runs/a.b")
        assert load(f"{ONE_TASK}run: {{run_dir: x/y}}").run.folder == Path("x/y")

    def test_training_settings(self, load: Load) -> None:
        settings = load(f"{ONE_TASK}training: {{local_epochs: 0, max_grad_norm: 0}}").training.settings()
        assert settings == TrainingSettings(0, 16, 2e-4, 3e-3, 0.0, 0.0, 128)


class TestAllAtOnce:
    def test_repeated_keys_are_reported_with_the_rest(self, refused: Refused) -> None:
        text = "training:\n  num_rounds: 3\n  num_rounds: 0\ntasks: {sst2: , sst2: }\n"
        assert refused(text) == (
            "training.num_rounds: given twice, in line 2 and in line 3; keep one",
            "tasks.sst2: given twice, in line 4 and in line 4; keep one",
            "training.num_rounds: 0 is out of range; write at least 1",
        )

    def test_all_problems_at_once(self, refused: Refused) -> None:
        text = """
        run: {name: a/b}
        training: {num_rounds: 0, learning_rate: abc, epochs: 3}
        model: {client_model: other}
        tasks: {sst2: {val_samples: -1}, mrpc: , topics: {type: classification, labels: 1}}
        server: {host: 0.0.0.0, tls: {key: k}}
        sharing: {rules: [{"*": shared}]}
        """
        assert [line.split(":")[0] for line in refused(text, "x", "run.seed=-1", role="server")] == [
            "override 'x'",
            "run.name",
            "run.seed",
            "training.num_rounds",
            "training.learning_rate",
            "training.epochs",
            "tasks.sst2.val_samples",
            "model.client_model",
            "tasks.topics.labels",
            "data.source",
            "data.source",
            "sharing.rules",
            "server.tls.certificate",
            "server.host",
        ]

    def test_a_refused_section_raises_no_second_problem(self, refused: Refused) -> None:
        assert len(refused("tasks: {sst2: {train_samples: 0}}")) == 1
        assert len(refused("tasks: {mrpc: }\ndata: {source: 3}")) == 1
        assert len(refused(f"{ONE_TASK}server: {{host: 0.0.0.0, insecure: 1}}", role="server")) == 1


class TestOverrides:
    def test_values_are_typed_and_later_ones_win(self, load: Load) -> None:
        config = load(LEGACY, "training.learning_rate=1e-4", "training.num_rounds=3", "training.num_rounds=4")
        assert (config.training.learning_rate, config.training.num_rounds) == (1e-4, 4)

    def test_missing_sections_are_made(self) -> None:
        config = load_config(None, ["tasks.sst2.train_samples=10", "tasks.qqp=", "server.tls.certificate=c",
                                    "server.tls.key=k"])  # fmt: skip
        assert config.tasks == {"sst2": TaskSection(train_samples=10), "qqp": TaskSection()}
        assert (config.server.tls.certificate, config.server.tls.key) == ("c", "k")

    def test_empty_bodies_are_filled(self, load: Load) -> None:
        assert load("training:\ntasks:\n  sst2:\n", "tasks.sst2.weight=2", "training.num_rounds=1").tasks[
            "sst2"
        ] == TaskSection(weight=2.0)

    def test_whole_values_and_equals_signs(self, load: Load) -> None:
        config = load(ONE_TASK, "tasks={qqp: {train_samples: 5}}", "run.run_dir=a=b", "client.server='[::1]:50051'")
        assert (list(config.tasks), config.run.run_dir, config.client.server_host) == (["qqp"], "a=b", "::1")

    @pytest.mark.parametrize(
        ("override", "problem"),
        [
            ("training.num_rounds", "not of the form path=value"),
            ("=3", "not of the form path=value"),
            ("training..num_rounds=3", "not of the form path=value"),
            ("training.num_rounds.x=3", "training.num_rounds is not a section"),
            ("client.server=[::1]:50051", "put the value in quotes"),
            ("tasks.sst2={weight: 1.0, weight: 2.0}", "weight: given twice"),
        ],
    )
    def test_broken_overrides(self, refused: Refused, override: str, problem: str) -> None:
        (line,) = refused(ONE_TASK + "training: {num_rounds: 3}", override)
        assert line.startswith(f"override '{override}': ") and problem in line


class TestTasks:
    def test_at_least_one(self, refused: Refused) -> None:
        for text in ("", "tasks:", "tasks: {}"):
            (line,) = refused(text)
            assert line.startswith("tasks: none given; name at least one")

    @pytest.mark.parametrize(
        ("body", "definition"),
        [
            (
                "{type: classification, labels: [a, b], columns: {text: x, label: y}}",
                (TASK_KINDS["classification"], ("a", "b"), False, ("accuracy", "f1", "matthews", "auc_mean")),
            ),
            (
                "{type: classification, labels: 3, columns: {text: x, text_pair: z, label: y}}",
                (TASK_KINDS["classification"], ("0", "1", "2"), True, ("accuracy", "f1", "matthews")),
            ),
            (
                "{type: multilabel, labels: [a], metrics: [f1_macro]}",
                (TASK_KINDS["multilabel"], ("a",), False, ("f1_macro",)),
            ),
            ("{type: regression}", (TASK_KINDS["regression"], (), False, ("spearman_mean", "pearson", "rmse"))),
            (
                "{type: classification, labels: [no, yes], metrics: [auc_mean]}",
                (TASK_KINDS["classification"], ("no", "yes"), False, ("auc_mean",)),
            ),
        ],
    )
    def test_own_tasks(self, load: Load, body: str, definition: tuple[object, ...]) -> None:
        (found,) = load(f"tasks: {{own: {body}}}\ndata: {{dir: d}}").definitions()
        assert (found.name, found.type, found.labels, found.pair, found.metrics) == ("own", *definition)

    def test_known_tasks_may_be_adapted(self, load: Load) -> None:
        body = "{labels: ['no', same], columns: {text: a, text_pair: b, label: c}, metrics: [auc_mean], weight: 0.25}"
        assert load(f"tasks: {{qqp: {body}}}").definitions() == (
            TaskDefinition("qqp", TASK_KINDS["classification"], ("no", "same"), True, ("auc_mean",), 0.25),
        )

    @pytest.mark.parametrize(
        ("task", "problem"),
        [
            ("sst-2: ", "tasks.sst-2: not a known task; did you mean 'sst2'?"),
            ("topics: {labels: 3}", "tasks.topics: not a known task; known are sst2, qqp,"),
            ("own: {type: classification}", "tasks.own.labels: a classification task needs them;"),
            ("own: {type: classification, labels: 1}", "tasks.own.labels: a classification needs at least 2;"),
            ("own: {type: multilabel}", "tasks.own.labels: a multilabel task needs them;"),
            ("own: {type: regression, labels: 3}", "tasks.own.labels: a regression has none; remove them"),
            ("own: {type: regression, metrics: [f1]}", "tasks.own.metrics: 'f1' is not a metric of this regression;"),
            ("mnli: {metrics: [auc_mean]}", "tasks.mnli.metrics: 'auc_mean' is not a metric of this classification;"),
            ("qqp: {type: regression}", "tasks.qqp.type: qqp is known as classification;"),
            ("stsb: {labels: 5}", "tasks.stsb.labels: a regression has none;"),
            ("qqp: {columns: {text: a, label: b}}", "tasks.qqp.columns.text_pair: qqp reads two texts; name the"),
            ("sst2: {columns: {text: a, text_pair: c, label: b}}", "tasks.sst2.columns.text_pair: sst2 reads one"),
        ],
    )  # fmt: skip
    def test_incomplete_definitions(self, refused: Refused, task: str, problem: str) -> None:
        (line,) = refused(f"tasks: {{{task}}}\ndata: {{dir: d}}")
        assert line.startswith(problem)

    def test_a_definition_is_never_guessed(self) -> None:
        with pytest.raises(ConfigError, match="not a known task"):
            Config(tasks={"own": TaskSection()}).definitions()


class TestData:
    def test_a_folder_means_files(self, load: Load) -> None:
        assert load(f"{ONE_TASK}data: {{dir: d}}").data.source == "files"
        assert load(REFERENCE.read_text(), "data.dir=d").data.source == "files"

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("tasks: {sst2: }\ndata: {source: files}", "data.source: files needs a folder; set data.dir"),
            ("tasks: {sst2: }\ndata: {source: glue, dir: d}", "data.dir: 'd' is not read by source glue;"),
            ("tasks: {mrpc: }", "data.source: builtin has no data for task 'mrpc'; set data.dir to"),
            ("tasks: {own: {type: regression}}", "data.source: builtin has no data for task 'own'; set data.dir"),
            ("tasks: {own: {type: regression}}\ndata: {source: glue}", "data.source: glue has no data for task 'own'"),
        ],
    )  # fmt: skip
    def test_every_task_needs_data(self, refused: Refused, text: str, problem: str) -> None:
        (line,) = refused(text)
        assert line.startswith(problem)

    def test_known_tasks_may_come_from_the_hub(self, load: Load, refused: Refused) -> None:
        assert load("tasks: {mrpc: }", "data.source=glue")
        assert "data.source: glue" in refused("tasks: {mrpc: }")[0]

    def test_partition(self, load: Load) -> None:
        assert load(f"{ONE_TASK}data: {{partition: 2/5}}").data.part == (2, 5)
        assert load(ONE_TASK).data.part is None


class TestSharing:
    @pytest.mark.parametrize("plan", PLANS)
    def test_named_plans(self, load: Load, plan: str) -> None:
        assert load(ONE_TASK, f"sharing.plan={plan}").sharing_plan().rules == PLANS[plan]

    @pytest.mark.parametrize(
        "rules",
        [
            '[{"heads.{task}.*": "task/{task}"}, {"*": shared}]',
            '[{match: "heads.{task}.*", scope: "task/{task}"}, {match: "*", scope: shared}]',
        ],
    )
    def test_both_forms_of_rules(self, load: Load, rules: str) -> None:
        config = load(f"{ONE_TASK}sharing: {{plan: rules, rules: {rules}}}")
        assert config.sharing_plan().rules == PLANS["hard"]

    @pytest.mark.parametrize(
        ("sharing", "problem"),
        [
            ("{plan: rules}", "sharing.rules: plan rules needs them"),
            ("{rules: [{'*': shared}]}", "sharing.rules: only plan rules reads them"),
            ("{plan: rules, rules: [{'*': shard}]}", "sharing.rules.0: scope 'shard' is not one of"),
            ("{plan: rules, rules: [{'*': 'task/{task}'}]}", "sharing.rules.0: scope 'task/{task}' needs {task}"),
            ("{plan: rules, rules: [{'*': task/qqp}]}", "sharing.rules.0.scope: 'task/qqp' is of no task"),
            ("{plan: rules, rules: [{match: x}]}", "sharing.rules.0.scope: missing; add it"),
            ("{plan: rules, rules: ['*']}", "sharing.rules.0: '*' is not a section"),
        ],
    )
    def test_wrong_rules(self, refused: Refused, sharing: str, problem: str) -> None:
        (line,) = refused(f"{ONE_TASK}sharing: {sharing}")
        assert line.startswith(problem)


class TestConnections:
    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]", "LOCALHOST"])
    def test_loopback(self, host: str) -> None:
        assert is_loopback(host)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "server", "10.0.0.1", "localhost.example.org"])
    def test_not_loopback(self, host: str) -> None:
        assert not is_loopback(host)

    def test_an_open_server_needs_protection(self, load: Load, refused: Refused) -> None:
        (line,) = refused(ONE_TASK, "server.host=0.0.0.0", role="server")
        assert line.startswith("server.host: '0.0.0.0'") and "server.tls" in line and "server.insecure" in line
        pair = ["server.tls.certificate=c", "server.tls.key=k"]
        (line,) = refused(ONE_TASK, "server.host=0.0.0.0", *pair, role="server")
        assert line.startswith("server.host: '0.0.0.0' is open to clients without a certificate")
        remedies = ["server.insecure=true"], [*pair, "server.tls.client_ca=a"], [*pair, "server.tls.any_client=true"]
        for remedy in remedies:
            assert not server_problems(load(ONE_TASK, "server.host=0.0.0.0", *remedy, role="server"))

    def test_a_distant_server_needs_protection(self, load: Load, refused: Refused) -> None:
        (line,) = refused(ONE_TASK, "client.server=server:50051", role="client")
        assert line.startswith("client.server: 'server:50051'") and "tls.ca" in line and "client.insecure" in line
        for remedy in ("client.insecure=true", "client.tls.ca=c"):
            assert not client_problems(load(ONE_TASK, "client.server=server:50051", remedy, role="client"))

    def test_each_role_only_minds_its_own_side(self, load: Load) -> None:
        assert load(ONE_TASK, "client.server=server:50051", role="server")
        assert load(ONE_TASK, "server.host=0.0.0.0", role="client")
        assert load(ONE_TASK, "server.host=0.0.0.0", "client.server=server:50051")

    @pytest.mark.parametrize(
        ("overrides", "problem"),
        [
            (["server.tls.certificate=c"], "server.tls.key: missing"),
            (["server.tls.key=k"], "server.tls.certificate: missing"),
            (["server.tls.client_ca=a"], "server.tls.client_ca: needs server.tls.certificate"),
            (
                [*(f"server.tls.{key}=x" for key in ("certificate", "key", "client_ca")), "server.tls.any_client=true"],
                "server.tls.any_client: true contradicts server.tls.client_ca",
            ),
            (["client.tls.ca=a", "client.tls.key=k"], "client.tls.certificate: missing"),
            (["client.tls.certificate=c", "client.tls.key=k"], "client.tls.certificate: needs client.tls.ca"),
            (["client.tls.ca=c", "client.insecure=true"], "client.insecure: true contradicts client.tls.ca"),
            (
                ["server.tls.certificate=c", "server.tls.key=k", "server.insecure=true"],
                "server.insecure: true contradicts server.tls.certificate",
            ),
        ],
    )
    def test_files_that_go_together(self, refused: Refused, overrides: Sequence[str], problem: str) -> None:
        (line,) = refused(ONE_TASK, *overrides)
        assert line.startswith(problem)

    def test_clients_of_another_size(self, load: Load, refused: Refused) -> None:
        assert load(ONE_TASK, "model.client_model=prajjwal1/bert-tiny")
        (line,) = refused(ONE_TASK, "model.client_model=other")
        assert line.startswith("model.client_model: 'other'") and "not supported yet" in line
