"""How the configuration reads YAML, and in which words it refuses a value."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import load_config
from common.config.yaml_text import dump, parse
from common.errors import ConfigError


def refused(override: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["tasks.sst2=", override])
    assert all("\n" not in line for line in caught.value.problems)
    return caught.value.problems


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e3", 1000.0),
            ("yes", "yes"),
            ("no", "no"),
            ("true", True),
            ("010", "010"),
            ("0x1F", "0x1F"),
            ("1_000", "1_000"),
            ("1:30", "1:30"),
            ("2024-01-01", "2024-01-01"),
            ("<<", "<<"),
            ("-7", -7),
            ("~", None),
            ("'3'", "3"),
            ("", None),
        ],
    )
    def test_scalars_are_not_guessed(self, text: str, value: object) -> None:
        result = parse(f"key: {text}")[0]["key"]
        assert (result, type(result)) == (value, type(value))

    def test_keys_are_text(self) -> None:
        assert parse("{1: a, null: b, true: c}")[0] == {"1": "a", "null": "b", "true": "c"}

    def test_aliases_are_copies(self) -> None:
        value = parse("a: &x {n: 1}\nb: *x")[0]
        value["a"]["n"] = 2
        assert value["b"] == {"n": 1}

    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    texts = st.from_regex(r"[-+.0-9eE_:xon]{0,8}", fullmatch=True)

    @given(st.recursive(scalars | texts, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
    def test_what_is_dumped_is_read_back(self, value: object) -> None:
        assert parse(dump(value)) == (value, [])

    @given(st.text())
    def test_any_text_gives_a_value_or_a_value_error(self, text: str) -> None:
        try:
            parse(text)
        except ValueError as error:
            assert str(error)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("run: {name: [", "line 1, column 14: expected the node content"),
            ("a: 1\nb: c: d", "line 2, column 5: mapping values are not allowed here"),
            ('a: "b', "line 1, column 6: found unexpected end of stream"),
            ("a: !!python/name:os.system", "line 1, column 4: the tag !!python/name:os.system is not supported"),
            ("a: !!set {b}", "line 1, column 4: the tag !!set is not supported"),
            ("a: !!int b", "line 1, column 4: 'b' does not fit its type"),
            ("? [a]\n: b", "line 1, column 3: a key must be plain text"),
            ("a: &x [*x]", "nested too deeply"),
            ("[" * 3000, "nested too deeply"),
            ("a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
            ("a: \x01", "character 4: special characters are not allowed"),
            ("- sst2", "not a mapping of sections"),
        ],
    )
    def test_broken_files_name_the_place(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=re.escape(f"{path}: {message}")):
            load_config(path)

    def test_unreadable_files(self, tmp_path: Path) -> None:
        latin = tmp_path / "latin.yaml"
        latin.write_bytes(b"run: {name: \xff}")
        for path, message in [
            (tmp_path / "none.yaml", "No such file"),
            (tmp_path, "Is a directory"),
            (latin, "byte 13 is not UTF-8"),
        ]:
            with pytest.raises(ConfigError, match=re.escape(f"{path}: ") + f".*{message}"):
                load_config(path)


class TestMessages:
    @pytest.mark.parametrize(
        ("override", "problem"),
        [
            ('training.num_rounds="3"', "training.num_rounds: '3' is not a whole number (got text); write 3"),
            ("training.num_rounds=3.0", "training.num_rounds: 3 is not a whole number (got a number); write 3"),
            ("training.num_rounds=true", "training.num_rounds: true is not a whole number (got true or false);"),
            ("training.num_rounds=", "training.num_rounds: no value given; write e.g. 10 or leave the key out"),
            ("client.threads=2147483648", "client.threads: 2147483648 is out of range; write at most 2147483647"),
            ("training.learning_rate=abc", "training.learning_rate: 'abc' is not a number (got text); write e.g. 0.00"),
            ('training.learning_rate="2e-5"', "training.learning_rate: '2e-5' is not a number (got text); write 2e-05"),
            ("training.learning_rate=true", "training.learning_rate: true is not a number (got true or false);"),
            ("training.learning_rate=0", "training.learning_rate: 0 is out of range; write more than 0"),
            ("training.learning_rate=.nan", "training.learning_rate: nan is not a finite number; write e.g. 0.0002"),
            ("federation.lease_seconds=.inf", "federation.lease_seconds: inf is not a finite number; write e.g. 60"),
            ("federation.quorum=1e999", "federation.quorum: inf is not a finite number"),
            ("federation.quorum=[1]", "federation.quorum: a list is not a number; write e.g. 0.5"),
            ("federation.client_fraction=1.5", "federation.client_fraction: 1.5 is out of range; write at most 1"),
            ("tasks.sst2.weight=-.inf", "tasks.sst2.weight: -inf is not a finite number"),
            ("tasks.sst2.weight=0.0005", "tasks.sst2.weight: 0.0005 has more than 3 decimals; write whole thousandths"),
            ("run.seed=-1", "run.seed: -1 is out of range; write at least 0"),
            ("run.seed=9223372036854775808", "run.seed: 9223372036854775808 is out of range; write at most"),
            ("run={name: 7}", "run.name: 7 is not text (got a whole number); write it in quotes: '7'"),
            ("run.name=a b", "run.name: 'a b' is not a run name;"),
            ("run.name=..", "run.name: '..' is not a run name;"),
            ("run.run_dir=''", "run.run_dir: is empty; write a value or leave the key out"),
            ("model.pair_mode=both", "model.pair_mode: 'both' is not a choice; write siamese or cross"),
            ("model.max_length=7", "model.max_length: 7 is out of range; write at least 8"),
            ("data.partition=3/2", "data.partition: '3/2' is not a part i/n with 1 <= i <= n; write e.g. 2/5"),
            ("data.partition=0/2", "data.partition: '0/2' is not a part i/n"),
            ("server.port=65536", "server.port: 65536 is out of range; write at most 65535"),
            ("server.host=a b", "server.host: 'a b' is not a host name or IP address;"),
            ("server.insecure=yes", "server.insecure: 'yes' is not true or false (got text); write e.g. false"),
            ("client.server=localhost", "client.server: 'localhost' is not HOST:PORT;"),
            ("client.server=localhost:0", "client.server: 'localhost:0' is not HOST:PORT;"),
            ("client.threads=0", "client.threads: 0 is out of range; write at least 1"),
            ("training=3", "training: 3 is not a section (got a whole number); write e.g. key: value lines"),
            ("tasks=[sst2]", "tasks: a list is not a section; write e.g. key: value lines"),
            ("tasks={a b: }", "tasks.a b: 'a b' is not a task name;"),
            ("tasks.sst2.metrics=accuracy", "tasks.sst2.metrics: 'accuracy' is not a list (got text); write e.g. ["),
            ("tasks.sst2.metrics=[]", "tasks.sst2.metrics: is empty;"),
            ("tasks.sst2.metrics=[f1, f1]", "tasks.sst2.metrics: 'f1' is given twice; keep one"),
            ("tasks.sst2.columns={text: a, label: a}", "tasks.sst2.columns: 'a' is named for two things; keep one"),
            ("tasks.qqp.columns={text_pair: a}", "tasks.qqp.columns.text: missing, where text_pair is named; name bo"),
            ("tasks.sst2.columns={features: [a]}", "tasks.sst2.columns.features: not read by server_model prajjwal1"),
            ("tasks.sst2.labels=[no, true]", "tasks.sst2.labels.1: true is not text (got true or false); write it"),
            ("tasks.sst2.labels={a: b}", "tasks.sst2.labels: a mapping is not a list;"),
            ("tasks.sst2.labels=0", "tasks.sst2.labels: 0 is not a number of labels;"),
            ("tasks.sst2.train_samples=0", "tasks.sst2.train_samples: 0 is out of range; write at least 1"),
        ],
    )  # fmt: skip
    def test_wrong_values(self, override: str, problem: str) -> None:
        (line,) = refused(override)
        assert line.startswith(problem)

    @pytest.mark.parametrize(
        ("override", "suggestion"),
        [
            ("training.rounds=3", "training.rounds: unknown key; did you mean 'num_rounds'?"),
            ("federation.secure_aggregation=true", "federation.secure_aggregation: unknown key; known here are c"),
            ("secure_agregation=true", "secure_agregation: unknown key; did you mean 'secure_aggregation'?"),
            ("federation.dropout=1", "federation.dropout: unknown key; known here are"),
            ("tasks={sst2: , secure: }", "tasks.secure: not a known task; known are"),
            ("training.num_round=3", "training.num_round: unknown key; did you mean 'num_rounds'?"),
            ("trainning.num_rounds=3", "trainning: unknown key; did you mean 'training'?"),
            ("num_rounds=3", "num_rounds: unknown key; did you mean 'training.num_rounds'?"),
            ("model.batch_size=3", "model.batch_size: unknown key; did you mean 'training.batch_size'?"),
            ("tasks.sst2.train_sample=3", "tasks.sst2.train_sample: unknown key; did you mean 'train_samples'?"),
            ("server.tls.cert=x", "server.tls.cert: unknown key; did you mean"),
            ("client.tls.zzz=x", "client.tls.zzz: unknown key; known here are ca, certificate, key"),
            ("tasks.sst2.columns={text: a, label: b, text_par: c}", "tasks.sst2.columns.text_par: unknown key; did"),
            ("sharing.rules=[{match: a, scop: b}]", "sharing.rules.0.scop: unknown key; did you mean 'scope'?"),
        ],
    )  # fmt: skip
    def test_unknown_keys_come_with_a_suggestion(self, override: str, suggestion: str) -> None:
        assert any(line.startswith(suggestion) for line in refused(override))


class TestTexts:
    @pytest.mark.parametrize(
        ("override", "key", "value"),
        [
            ("data.dir=2024", "data.dir", "2024"),
            ("run.run_dir=2026", "run.run_dir", "2026"),
            ("client.state_dir=007", "client.state_dir", "007"),
            ("data.dir=1e5", "data.dir", "1e5"),
            ("data.dir= +7.50", "data.dir", "+7.50"),
            ("model.tokenizer=true", "model.tokenizer", "true"),
            ("model.tokenizer=null", "model.tokenizer", None),
            ("data.dir='2024'", "data.dir", "2024"),
            ("run.name=7", "run.name", "7"),
            ("run.seed=7", "run.seed", 7),
        ],
    )
    def test_what_looks_like_a_number_is_a_text_where_a_text_is_wanted(
        self, override: str, key: str, value: object
    ) -> None:
        section, name = key.split(".")
        found = getattr(getattr(load_config(None, ["tasks.sst2=", override]), section), name)
        assert (found, type(found)) == (value, type(value))

    def test_columns_may_have_numbers_as_names(self) -> None:
        names = ["tasks.x.columns.text=1", "tasks.x.columns.label=2"]
        columns = load_config(None, ["tasks.x={type: regression}", "data.dir=2024", *names])
        section = columns.tasks["x"].columns
        assert section is not None and (section.text, section.label) == ("1", "2")

    PATHS = (
        "run.run_dir data.dir client.state_dir model.server_model model.tokenizer model.warm_start "
        "server.tls.certificate server.tls.key server.tls.client_ca client.tls.ca client.tls.certificate client.tls.key"
    )

    @pytest.mark.parametrize("key", PATHS.split())
    def test_a_tilde_is_the_home_folder_in_every_path(
        self, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        start = key.rsplit(".", 1)[0]
        files = {"server.tls": ("certificate", "key"), "client.tls": ("ca", "certificate", "key")}.get(start, ())
        needed = [f"{start}.{name}=x" for name in files]
        found: object = load_config(None, ["tasks.sst2=", *needed, f"{key}=~/a/b"])
        for name in key.split("."):
            found = getattr(found, name)
        assert found == str(tmp_path / "a/b")

    def test_an_unknown_home_folder_is_refused(self) -> None:
        (line,) = refused("data.dir=~nobody-of-that-name/x")
        assert line.startswith("data.dir: '~nobody-of-that-name/x' names a home folder that is not known here; write")
