"""Methods side by side: a real comparison, nothing done twice, and what is refused."""

import json
import logging
import re
from pathlib import Path

import pytest

import simulation.comparison.app as app
import simulation.comparison.runs as runs
from common.config import Config, load_config
from common.errors import ConfigError, RunFolderError
from common.methods.conflict import CAGrad
from common.methods.procedures import FedProx
from simulation.comparison.app import compare_methods
from simulation.comparison.methods import METHODS, choose, extra_epochs
from simulation.comparison.result import Comparison
from simulation.comparison.runs import plan_runs
from simulation.comparison.tables import WORSE, markdown
from tests.federations import array_config

# ---- methods ----

OWN = "compare.methods={own: {training.procedure: {name: fedprox, mu: 0.5}}}"


def crowd(*overrides: str) -> Config:
    return array_config("simulation.clients=2", *overrides)


def test_every_method_makes_a_configuration_that_can_be_simulated(tmp_path):
    config = crowd(
        "aggregation={conflict: {name: cagrad, radius: 0.8}}", "sharing={plan: rules, rules: [{'*': shared}]}", OWN
    )
    fits = [name for name in METHODS if name not in ("fedper", "lg")]
    made = {run.method.name: run.parts for run in plan_runs(config, choose(config, [*fits, "own"]), [5], tmp_path)}
    plain = made["hard"][0].config
    assert (plain.sharing.plan, plain.aggregation.conflict, plain.training.procedure.name) == ("hard", None, "plain")
    assert (plain.run.seed, plain.run.folder) == (5, tmp_path / "hard" / "seed-5")
    own = made["own"][0].config
    assert (own.aggregation.conflict, own.training.procedure) == (CAGrad(radius=0.8), FedProx(0.5))
    assert own.sharing.plan == "rules"
    for name, parts in made.items():
        for part in parts:
            assert part.config.training.num_rounds == config.training.num_rounds
            assert part.config.data == config.data and part.config.simulation.clients == 2, name
    alone = made["single_task"]
    assert [[*part.config.tasks] for part in alone] == [["a0"], ["b1"]]
    assert [[(c.client_id, dict(c.shares)) for c in part.clients] for part in alone] == [
        [("client-1", {"a0": (1, 1)})],
        [("client-2", {"b1": (1, 1)})],
    ]


@pytest.mark.parametrize(
    ("chosen", "method", "path", "expected"),
    [
        ("training.procedure={name: fedprox, mu: 0.3}", "fedprox", "training.procedure", FedProx(0.3)),
        ("aggregation={conflict: {name: cagrad, radius: 0.8}}", "cagrad", "aggregation.conflict", CAGrad(radius=0.8)),
        ("guard={enabled: true, margin: 0.2}", "guard", "guard.margin", 0.2),
        ("sharing={plan: soft, members: clients}", "soft", "sharing.members", "clients"),
    ],
)
def test_a_method_that_the_file_chooses_keeps_the_files_parameters(chosen, method, path, expected):
    found = METHODS[method].configure(crowd(chosen), {})
    for key in path.split("."):
        found = getattr(found, key)
    assert found == expected


def test_a_comparison_says_which_parameters_of_the_file_a_method_keeps():
    config = crowd("training.procedure={name: fedprox, mu: 0.3}")
    assert METHODS["fedprox"].changes_to(config)["training.procedure"] == {"name": "fedprox", "mu": 0.3}
    assert METHODS["ditto"].changes_to(config) == {"training.procedure": "ditto"}


def test_the_documentation_has_every_method():
    text = (Path(__file__).parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")
    section = text[text.index("## Comparing methods") :]
    assert set(METHODS) <= set(re.findall(r"`(\w+)`", section))


@pytest.mark.parametrize(
    ("name", "extra"),
    [("hard", 0), ("ditto", 2 * 3), ("per_fedavg", 2 * 3 + 1), ("fedrep", 2 * 1), ("finetune", 1), ("single_task", 0)],
)
def test_extra_epochs_are_counted(name, extra):
    """2 rounds x 3 epochs, head_epochs 1, finetune_epochs 1."""
    assert extra_epochs(METHODS[name].configure(crowd("training.local_epochs=3"), {})) == extra


@pytest.mark.parametrize(
    ("overrides", "names", "line"),
    [
        ([], ["hard", "harder"], "--methods: 'harder' is unknown; known are local, single_task, hard"),
        ([OWN], ["mine"], "--methods: 'mine' is unknown; known are .*, own$"),
        (["compare.methods={hard: {}}"], ["hard"], "compare.methods.hard: is a built-in method; choose another name"),
        (
            ["compare.methods={more: {training.num_rounds: 9}}"],
            ["more"],
            "compare.methods.more: training.num_rounds must be the same for all methods; remove it",
        ),
        (
            ["compare.methods={slow: {training: {learning_rate: 1e-5}}}"],
            ["slow"],
            "compare.methods.slow: training as a whole replaces training.num_rounds, which must be the same for all; "
            "write its keys by path, e.g. training.learning_rate$",
        ),
        (
            ["compare.methods={x: {sharing.plam: lg}}"],
            ["x"],
            "method x: sharing.plam: unknown key; did you mean 'plan'",
        ),
        (["compare.methods={x: {sharing: {plan: lag}}}"], ["x"], "method x: sharing.plan: 'lag' is not a choice"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(overrides, names, line, tmp_path):
    with pytest.raises(ConfigError) as refused:
        compare_methods(crowd(*overrides), names, [0], tmp_path, None)
    assert len(refused.value.problems) == 1 and re.match(line, refused.value.problems[0]), refused.value.problems
    assert list(tmp_path.iterdir()) == []


def test_weights_and_roles_of_tasks_may_be_methods(tmp_path):
    config = crowd("compare.methods={heavy: {tasks.a0.weight: 3.0}, aside: {tasks.b1.auxiliary: true}}")
    heavy, aside = (method.configure(config, {}) for method in choose(config, ["heavy", "aside"]))
    assert heavy.tasks["a0"].weight == 3.0 and aside.tasks["b1"].auxiliary
    for part in plan_runs(aside, choose(aside, ["single_task"]), [0], tmp_path)[0].parts:
        assert not any(task.auxiliary for task in part.config.definitions())


# ---- a whole comparison ----

NAMES, SEEDS = ["local", "single_task", "task_balanced", "ditto"], [0, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def found(folder) -> Comparison:
    return compare_methods(crowd(), NAMES, SEEDS, folder, None)


def test_the_file_holds_what_is_promised(found, folder):
    body = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert (body["seeds"], body["rounds"], body["local_epochs"], body["clients"]) == ([0, 1], 2, 1, 2)
    assert body["tasks"]["a0"] == {
        "metric": "auc_mean",
        "lower_is_better": False,
        "metrics": ["auc_mean", "accuracy"],
        "auxiliary": False,
        "weight": 1.0,
        "split": "validation",
        "rows": 20,
    }
    assert list(body["methods"]) == NAMES
    for name, method in body["methods"].items():
        assert set(method["scores"]["a0"]) == {"auc_mean", "accuracy", "loss"}
        assert len(method["scores"]["b1"]["accuracy"]["values"]) == 2
        assert set(method["against"]) == {"local", "single_task"}
        assert set(method["clients"]) == {"client-1", "client-2"} and set(method["clients"]["client-1"]) == {"a0"}
        # One client per task: its score is the task's.
        assert method["clients"]["client-1"]["a0"] == method["scores"]["a0"]
        assert [point["round"] for point in method["curves"]["a0"]] == [0, 1, 2]
        assert method["curves"]["a0"][-1]["score"] == method["scores"]["a0"]["auc_mean"]
        assert (method["affinity"] is not None) == (name == "task_balanced")
        assert (method["bytes_up"] > 0) == (name != "local")
    assert body["methods"]["ditto"]["model"] == "personal" and body["methods"]["ditto"]["extra_epochs"] == 2


def test_a_baseline_differs_from_itself_by_nothing(found):
    for base in ("local", "single_task"):
        against = found.methods[base].against[base]
        assert against.delta.values == (0.0, 0.0)
        assert all(d.gain.values == (0.0, 0.0) and not d.negative_transfer for d in against.tasks.values())


def test_all_methods_start_from_the_same_scores(found):
    """Equal initial weights and rows: for one seed, the initial model scores the same whatever the method."""
    for task in found.tasks:
        starts = {method.curves[task][0].score.values for method in found.methods.values()}
        assert len(starts) == 1
        assert len(set(starts.pop())) == 2


def test_alone_is_alone(found):
    """With one client per task, a federation of that task is its client alone, but for the rounding of the deltas."""
    for task in found.tasks:
        local, single = (found.methods[name].scores[task]["loss"].values for name in ("local", "single_task"))
        assert local == pytest.approx(single, abs=1e-5)


def test_a_personal_model_is_scored_after_the_last_round(found, folder):
    report = json.loads((folder / "ditto" / "seed-0" / "report.json").read_text(encoding="utf-8"))
    last = report["personalisation"]["client-1"]["a0"]
    assert last["round"] == 2 and last["personal"] != last["received"]
    assert found.methods["ditto"].scores["a0"]["loss"].values[0] == last["personal"]["loss"]


def test_under_the_guard_nothing_ends_below_going_alone(found, folder):
    """Isolated models are those of `local`: those that fell have its scores, none is worse by more than the margin."""
    config = crowd("compare.methods={strict: {guard: {enabled: true, margin: 0.0, rounds: 1}}}")
    both = compare_methods(config, [*NAMES, "guard", "strict"], SEEDS, folder, None)
    fell = 0
    for name, margin in (("guard", 0.01), ("strict", 0.0)):
        result = both.methods[name]
        assert result.extra_epochs == 2
        for task, difference in result.against["local"].tasks.items():
            assert min(difference.gain.values) >= -margin - 1e-6
            for seed in SEEDS:
                section = json.loads((folder / name / f"seed-{seed}" / "report.json").read_text())["tasks"][task]
                if section["guard"]["model"] == "isolated":
                    fell += 1
                    own, alone = result.scores[task], found.methods["local"].scores[task]
                    assert [own[m].values[seed] for m in own] == [alone[m].values[seed] for m in own]
    assert fell


def test_finished_runs_are_not_repeated(found, folder, monkeypatch):
    asked = []
    real = runs.simulate

    def simulate(config, *rest):
        asked.append(config.run.name)
        return real(config, *rest)

    monkeypatch.setattr(runs, "simulate", simulate)
    more = compare_methods(crowd("simulation.workers=2"), [*NAMES, "hard"], SEEDS, folder, None)
    assert asked == ["hard-0", "hard-1"]
    assert {name: more.methods[name] for name in NAMES} == found.methods


def test_an_interrupted_run_goes_on(folder, found, monkeypatch):
    (folder / "local" / "seed-1" / "report.json").unlink()
    resumed = []
    real = runs.simulate

    def simulate(config, resume, *rest):
        resumed.append(resume)
        return real(config, resume, *rest)

    monkeypatch.setattr(runs, "simulate", simulate)
    again = compare_methods(crowd(), NAMES, SEEDS, folder, None)
    assert resumed == [True]
    assert again.methods["local"].scores == found.methods["local"].scores


def test_runs_with_other_settings_are_refused(found, folder):
    with pytest.raises(RunFolderError, match=r"^training.num_rounds: 3, but 2 before; .* choose another --run_dir$"):
        compare_methods(crowd("training.num_rounds=3"), ["upgrad", *NAMES], SEEDS, folder, None)
    assert not (folder / "upgrad").exists()
    with pytest.raises(RunFolderError, match="holds a run of its own"):
        compare_methods(crowd(), NAMES, SEEDS, folder / "local" / "seed-0", None)


def test_the_markdown_has_all_tables(found):
    text = markdown(found, ["curves.png"])
    for title in ("Methods", "Scores", "Gain against local", "Gain against single_task", "Other metrics"):
        assert f"\n## {title}\n" in text
    assert "`aggregation.weights: task_balanced`" in text and "![curves.png](curves.png)" in text
    flags = sum(
        d.negative_transfer for m in found.methods.values() for a in m.against.values() for d in a.tasks.values()
    )
    assert text.count(f" {WORSE} |") == flags


def test_clients_have_rows_of_their_own_where_they_share_tasks(tmp_path):
    config = array_config("simulation={clients: 2, tasks_per_client: 2}")
    found = compare_methods(config, ["single_task", "hard"], [3], tmp_path, None)
    assert set(found.methods["single_task"].clients["client-2"]) == {"a0", "b1"}
    text = markdown(found, [])
    assert "| client-2, b1 |" in text
    assert "Not compared with local, which did not run." in text


# ---- pictures ----


def test_pictures_are_drawn(found, folder):
    matplotlib = pytest.importorskip("matplotlib.image", reason="pictures need matplotlib, an optional package")
    for name in ("curves.png", "gains.png", "affinity.png"):
        pixels = matplotlib.imread(folder / name)
        assert min(pixels.shape[:2]) > 200 and pixels[..., :3].std() > 0.01
        assert (pixels[0, 0, :3] == 1).all()
        assert f"![{name}]({name})" in (folder / "comparison.md").read_text(encoding="utf-8")


def test_labels_move_apart_as_little_as_possible():
    """0, 0, 1 with distance 0.5: the first two part around their mean; the last one is far enough."""
    pictures = pytest.importorskip("simulation.comparison.pictures", reason="pictures need matplotlib")
    assert pictures.apart([0.0, 0.0, 1.0], 0.5) == pytest.approx([-0.25, 0.25, 1.0])
    assert pictures.apart([], 0.5) == []
    styles = pictures.styles([*METHODS][:30])
    assert len({(colour, str(dash)) for colour, dash in styles.values()}) == min(len(METHODS), 30)


def test_without_matplotlib_one_line_says_what_to_install(found, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING, "fedmtl.compare"):
        app._write(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"comparison.json", "comparison.md"}
    assert [r.getMessage() for r in caplog.records] == [
        "no pictures: install matplotlib (.venv/bin/pip install matplotlib) and repeat; runs are kept"
    ]


def test_the_file_for_eight_tasks_is_complete(tmp_path):
    path = Path(__file__).parent.parent / "benchmarks" / "eight_tasks.yaml"
    config = load_config(path, [], "simulate")
    assert len(config.tasks) == config.simulation.clients == 8
    plan_runs(config, choose(config, [*METHODS]), [0], tmp_path)
