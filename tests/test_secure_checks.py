"""What does not go with masked sums is refused at load, each in one line with its remedy, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.disclosure import what_leaves
from common.config import load_config, render
from common.config.loader import vary
from common.errors import ConfigError, RunFolderError
from common.secure.letters import identity_key
from common.secure.members import read_members
from common.secure.terms import SumTerms
from federated_main import main
from server.core.phases import (
    MASKED,
    MASKED_PINNED,
    MASKED_PINNED_SCORING,
    MASKED_SCORING,
    PLAIN,
    SCORING,
    RoundProtocol,
)
from server.runs.extension import same_federation
from server.runs.sums import scoring_protocol, sum_rules, training_protocol
from tests.federations import array_config

SUMS = ("secure_aggregation.enabled=true", "federation.min_clients=3")
SECTION = "secure_aggregation"
NOISE = ("privacy.noise=coordinator", "privacy.epsilon=8", "aggregation.weights=uniform")
REFUSED = {
    "few clients": (("federation.min_clients=2",), "federation.min_clients", "write federation.min_clients: 3"),
    "few are asked": (
        ("federation.client_fraction=0.5",),
        "federation.min_clients",
        "write federation.min_clients: 6",
    ),
    "a sum of one": ((f"{SECTION}.min_clients=1",), f"{SECTION}.min_clients", "write 2 or more"),
    "pinned to nothing": ((f"{SECTION}.identities=pinned",), f"{SECTION}.members", "write the file with a line"),
    "members of nothing": ((f"{SECTION}.members=m",), f"{SECTION}.members", "write identities: pinned"),
    "weight": ((f"{SECTION}.largest_weight=500000",), f"{SECTION}.largest_weight", "write 429496 or less"),
    "weight and weights": (("tasks.a0.weight=0.333",), f"{SECTION}.largest_weight", "write 429 or less"),
    "weight among many": (("federation.min_clients=50000",), f"{SECTION}.largest_weight", "write 335 or less"),
    "change": (
        (f"{SECTION}.largest_change=1e6", "aggregation.weights=uniform"),
        f"{SECTION}.largest_change",
        "write a smaller one",
    ),
    "secret coins": (
        (*NOISE, "privacy.sampling=poisson", "federation.client_fraction=0.5", "federation.min_clients=6"),
        "privacy.sampling",
        "write all",
    ),
    "clip that follows": ((*NOISE, "privacy.clip_quantile=0.5"), "privacy.clip_quantile", "write null"),
    "copies of clients": (
        ("sharing.plan=soft", "sharing.members=clients"),
        "sharing.members",
        "write tasks",
    ),
    "probes": (("sharing.plan=soft", "relation=ifca"), "relation", "write another one"),
    "guard": (("guard=true",), "guard", "remove it"),
    "robust": (("aggregation.robust=median", "aggregation.weights=uniform"), "aggregation.robust", "remove it"),
    "norm_bound": (("aggregation.norm_bound=1.0",), "aggregation.norm_bound", "remove it"),
    "readers": (("aggregation.mean_over=readers",), "aggregation.mean_over", "write all"),
    "medians": (("aggregation.max_examples=2x",), "aggregation.max_examples", "write a number"),
    "encoding": (
        ("federation.update_encoding=dense-bfloat16",),
        "federation.update_encoding",
        "write dense-float32",
    ),
    "tasks by rows": (
        ("federation.tasks_per_order=1", "federation.task_choice=examples"),
        "federation.task_choice",
        "write rotate",
    ),
    "scaffold": (("training.procedure=scaffold",), "training.procedure", "write plain, fedprox or fedrep"),
    "sdca": (("training.procedure=sdca",), "training.procedure", "write plain, fedprox or fedrep"),
    "pooled statistics": (("data.statistics=federation",), "data.statistics", "write site"),
    "balanced classes": (("tasks.b1.class_weights=balanced",), "tasks.b1.class_weights", "write numbers, or none"),
    "ray": (("simulation.executor=ray",), "simulation.executor", "write thread"),
}
PASSES = {
    "plain": (),
    "without masks": (f"{SECTION}.masks=false", f"{SECTION}.min_clients=1"),
    "noise of rows": ("privacy.noise=rows", "privacy.epsilon=8"),
    "noise of the coordinator": NOISE,
    "noise of the coordinator by task": (*NOISE, "aggregation.weights=task_balanced", "privacy.scores=none"),
    "copies of tasks": ("sharing.plan=soft",),
    "task_balanced": ("aggregation.weights=task_balanced",),
    "uniform": ("aggregation.weights=uniform",),
    "conflict": ("aggregation.weights=task_balanced", "aggregation.conflict=pcgrad"),
    "capped": ("aggregation.max_examples=100",),
    "server adam": ("aggregation.optimizer=adam",),
    "private_heads": ("sharing.plan=private_heads",),
    "ditto": ("training.procedure=ditto",),
    "blend": ("blend=true",),
    "best": ("model.keep.best=mean",),
    "patience": ("training.patience=2",),
    "in turns": ("federation.tasks_per_order=1",),
    "two of three": ("federation.client_fraction=0.6", "federation.min_clients=5"),
}


def refusal(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        array_config(*SUMS, *overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(("overrides", "key", "remedy"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_go_with_sums_is_one_line_with_its_remedy(
    overrides: tuple[str, ...], key: str, remedy: str
) -> None:
    lines = [line for line in refusal(*overrides) if line.startswith(f"{key}: ") and remedy in line]
    assert len(lines) == 1 and (lines[0].endswith(f"({SECTION})") or lines[0].startswith(SECTION))


@pytest.mark.parametrize("overrides", PASSES.values(), ids=PASSES)
def test_what_goes_with_sums_passes(overrides: tuple[str, ...]) -> None:
    array_config(*SUMS, *overrides)


def test_every_contradiction_is_named_at_once() -> None:
    keys = ("guard", "aggregation.robust", "data.statistics", "tasks.a0.class_weights", f"{SECTION}.min_clients")
    lines = refusal("guard=true", "aggregation.robust=median", "data.statistics=federation",
                    "tasks.a0.class_weights=balanced", f"{SECTION}.min_clients=1")  # fmt: skip
    for key in keys:
        assert sum(line.startswith(f"{key}: ") and line.endswith(f"({SECTION})") for line in lines) == 1, key
    assert all("; " in line for line in lines)


@pytest.mark.parametrize("given", ["min_clients=9", "masks=false", "largest_change=1.0", "identities=pinned"])
def test_a_key_that_nothing_reads_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=rf"{SECTION}\.{given.partition('=')[0]}: is not read without it; write"):
        array_config(f"{SECTION}.{given}")


def test_keys_of_masks_are_not_read_without_masks() -> None:
    lines = refusal(f"{SECTION}.masks=false", f"{SECTION}.corrupt=0.2", f"{SECTION}.stage_seconds=1")
    assert [line.partition(":")[0] for line in lines] == [f"{SECTION}.corrupt", f"{SECTION}.stage_seconds"]
    assert all(f"write {SECTION}.masks: true" in line for line in lines)


def test_what_a_refusal_names_is_enough() -> None:
    array_config(*SUMS, f"{SECTION}.largest_weight=429496")
    array_config(*SUMS, f"{SECTION}.largest_weight=429", "tasks.a0.weight=0.333")
    array_config(*SUMS, f"{SECTION}.largest_weight=335", "federation.min_clients=50000")


def test_more_clients_than_are_simulated_make_no_sum(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(render(array_config(*SUMS)))
    load_config(path, ["simulation.clients=3"], role="simulate")
    with pytest.raises(ConfigError, match=rf"{SECTION}\.min_clients: 3, but 2 clients are simulated; write 2"):
        load_config(path, ["simulation.clients=2"], role="simulate")
    with pytest.raises(ConfigError, match=r"identities: pinned needs keys .*; write none"):
        load_config(path, [f"{SECTION}.identities=pinned", f"{SECTION}.members=m"], role="simulate")


def test_the_file_of_a_client_needs_no_number_of_clients(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("secure_aggregation: true\ntasks: {sst2: {}}\n")
    assert load_config(path, role="client").secure_aggregation.terms == SumTerms()
    with pytest.raises(ConfigError, match=r"write federation\.min_clients: 3"):
        load_config(path, role="server")


def test_the_short_form_and_the_terms(tmp_path: Path) -> None:
    assert array_config().secure_aggregation.terms is None
    assert array_config("secure_aggregation=true", "federation.min_clients=3").secure_aggregation.terms == SumTerms()
    keys = "{enabled: true, min_clients: 4, largest_change: 0.25, largest_weight: 50, corrupt: 0.2, dropouts: 0.1, "
    pinned = array_config(f"secure_aggregation={keys}identities: pinned, members: m.txt}}", "federation.min_clients=4")
    assert pinned.secure_aggregation.terms == SumTerms(4, True, 0.25, 50, 0.2, 0.1, True)


@pytest.mark.parametrize(
    ("more", "trains", "scores"),
    [
        ((), MASKED, MASKED_SCORING),
        ((f"{SECTION}.masks=false",), PLAIN, SCORING),
        ((f"{SECTION}.identities=pinned", f"{SECTION}.members=m"), MASKED_PINNED, MASKED_PINNED_SCORING),
    ],
)
def test_the_phases_of_rounds(more: tuple[str, ...], trains: RoundProtocol, scores: RoundProtocol) -> None:
    config = array_config(*SUMS, *more)
    assert (training_protocol(config), scoring_protocol(config)) == (trains, scores)


def test_identities_come_from_the_file_of_members(tmp_path: Path) -> None:
    path, keys = tmp_path / "members.txt", {f"c{i}": identity_key(bytes([i]) * 32) for i in range(3)}
    path.write_text("# who is who\n\n" + "".join(f"{name} {key.hex()}  # by phone\n" for name, key in keys.items()))
    config = array_config(*SUMS, f"{SECTION}.identities=pinned", f"{SECTION}.members='{path}'")
    rules = sum_rules(config)
    assert rules is not None and rules.identities == keys and rules.terms.pinned and rules.least == 3
    assert sum_rules(array_config()) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a", "line 1 has 1 words; write"),
        (f"a {'0' * 63}", "line 1: '000.* is no public key; write"),
        (f"a {'x' * 64}", "line 1: 'xxx.* is no public key"),
        (f"../a {'0' * 64}", "line 1: '../a' is no client id"),
        (f"a {'0' * 64}\n\na {'1' * 64}", "line 3: client 'a' has a line already; keep one"),
        (f"a {'0' * 64}\nb {'0' * 64}", "line 2: the key of 'b' is another client's already"),
    ],
)
def test_a_damaged_file_of_members_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "members.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_members(path)
    with pytest.raises(ConfigError, match=r"cannot be read .*; name a file"):
        read_members(tmp_path / "nothing")


def test_a_run_goes_on_with_its_terms_alone() -> None:
    before = array_config(*SUMS)
    same_federation(before, vary(before, {f"{SECTION}.stage_seconds": 5.0}), Path("config.yaml"))
    with pytest.raises(RunFolderError, match=rf"{SECTION}\.min_clients: 2 differs from the run's 3"):
        same_federation(before, vary(before, {f"{SECTION}.min_clients": 2}), Path("config.yaml"))


def test_identity_prints_a_line_of_the_file_of_members(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["--mode", "identity", "--client_id", "north", "--state_dir", str(tmp_path)]
    assert main(command) == 0
    said, secret = capsys.readouterr().out, tmp_path / "north" / "identity.key"
    assert said == f"north {identity_key(secret.read_bytes()).hex()}\n" and secret.stat().st_mode & 0o777 == 0o600
    assert main(command) == 0 and capsys.readouterr().out == said
    secret.write_bytes(b"short")
    assert main(command) == 5 and "identity.key' is damaged; bring it back" in capsys.readouterr().err
    assert main([*command[:3], "../x", *command[4:]]) == 2


def leaves(*more: str) -> str:
    return "\n".join(what_leaves(array_config(*SUMS, *more), ["a0"]))


def test_what_leaves_says_what_is_summed_and_how_exactly() -> None:
    masked = leaves()
    assert "in sums over at least 3 clients (masked), scope shared: the change of 48 parameters" in masked
    assert "in sums over at least 3 clients (masked), per task: training rows, mean training loss, and sums" in masked
    assert "whether it has training rows" in masked and "seconds" not in masked
    assert "among 3 clients: 4.8e-07 / a client's mean weight (20 bits behind the point)" in masked
    assert "a coordinator that follows the protocol" in masked and "Nothing is clipped" not in masked
    assert "that lies, too" in leaves(f"{SECTION}.identities=pinned", f"{SECTION}.members=m")


def test_what_leaves_says_that_sums_without_masks_hide_nothing() -> None:
    said = leaves(f"{SECTION}.masks=false")
    assert "(not masked, which hides nothing), scope shared" in said
    assert "Nothing is masked (secure_aggregation.masks: false): the coordinator sees every update." in said


def test_what_leaves_with_noise_of_the_coordinator_says_both() -> None:
    said = leaves(*NOISE, "privacy.clip=0.25")
    assert "in sums over at least 3 clients (masked), scope shared" in said
    assert "changes of at most 0.25 and counts 1 at most" in said and "among 3 clients: 4.7e-10" in said
    assert "Masks hide whose a change is" in said and "shortens its update to 0.25 in all" in said
    assert "The coordinator sees sums of such as they are. What others get of them is hidden in noise: updates" in said
    assert "Sums of losses, scores and row counts are not covered by that" in said and "seconds" not in said


def test_what_leaves_with_noise_of_rows_says_both() -> None:
    said = leaves("privacy.noise=rows", "privacy.epsilon=8")
    assert "Masks hide whose" in said and "Single rows are hidden" in said and "privacy.noise: rows does" not in said
