"""Training a compact table of word embeddings gives what training the whole table gives."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from client.training.compact import choose_rows, compact_vocabulary
from client.training.evaluation import evaluate
from client.training.loop import TaskSet, TrainingDiverged, train
from common.bodies import TrainingSettings
from common.models.multitask import MultiTaskModel
from tests.federations import CLIENTS, digest_of, federate, small_config
from tests.training_cases import CLIPPED, CONFIGS, SETTINGS, make_model, make_sets, no_progress, values_of

ids = st.sets(st.integers(0, 60), max_size=40)


@given(used=ids, fixed=st.sets(st.integers(0, 50), max_size=3))
def test_rows_are_all_that_is_wanted_and_fixed_ones_stay(used: set[int], fixed: set[int]) -> None:
    rows = choose_rows(np.array(sorted(used), dtype=np.int32), fixed)
    if rows is None:
        assert max(fixed) >= len(used | fixed)
    else:
        assert sorted(rows.tolist()) == sorted(used | fixed)
        assert all(rows[number] == number for number in fixed)


def scored(model: MultiTaskModel, sets: tuple[TaskSet, ...]) -> list[object]:
    return [evaluate(model, s.task, s.validation, 3) for s in sets]


def trained(kind: str, pair_mode: str, settings: TrainingSettings, *, compact: bool) -> tuple[object, ...]:
    """Scores before, losses, values after, scores after."""
    model = make_model(kind, pair_mode)
    sets = make_sets(CONFIGS[kind].get("pad_token_id", 0), pair_mode)
    if not compact:
        before, losses = scored(model, sets), train(model, sets, settings, 9, no_progress)
        return before, losses, values_of(model), scored(model, sets)
    vocabulary = compact_vocabulary(model, sets)
    assert vocabulary is not None and len(vocabulary) < 160
    sets = tuple(map(vocabulary.renumbered, sets))
    with vocabulary.in_place():
        assert model.encoder.get_input_embeddings().weight.shape[0] == len(vocabulary)
        before, losses = scored(model, sets), train(model, sets, settings, 9, no_progress)
    values = values_of(model)
    with vocabulary.in_place():
        return before, losses, values, scored(model, sets)


@pytest.mark.parametrize("pair_mode", ["siamese", "cross"])
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_compact_is_bit_identical_without_clipping(kind: str, pair_mode: str) -> None:
    whole, compact = (trained(kind, pair_mode, SETTINGS, compact=choice) for choice in (False, True))
    for one, other in zip(whole, compact, strict=True):
        if isinstance(one, dict) and isinstance(other, dict):
            assert list(one) == list(other)
            for name, value in one.items():
                assert np.array_equal(value, other[name]), name
        else:
            assert one == other
    start = values_of(make_model(kind, pair_mode))
    values = compact[2]
    assert isinstance(values, dict)
    assert sum(not torch.equal(value, start[name]) for name, value in values.items()) > len(values) / 2


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_clipping_differs_by_rounding_only(kind: str) -> None:
    whole, compact = (trained(kind, "siamese", CLIPPED, compact=choice)[2] for choice in (False, True))
    assert isinstance(whole, dict) and isinstance(compact, dict)
    for name, value in whole.items():
        torch.testing.assert_close(compact[name], value, rtol=0, atol=1e-6)


def test_the_whole_table_is_back_whatever_happens() -> None:
    model = make_model()
    embedding = model.encoder.get_input_embeddings()
    before, weight = values_of(model), embedding.weight
    vocabulary = compact_vocabulary(model, make_sets(0))
    assert vocabulary is not None
    with pytest.raises(TrainingDiverged), vocabulary.in_place():
        embedding.weight.detach().zero_()
        raise TrainingDiverged("nan")
    assert embedding.weight is weight
    assert all(torch.equal(value, before[name]) for name, value in values_of(model).items())


def test_tables_that_are_more_than_a_list_of_rows_stay_whole() -> None:
    model, sets = make_model(), make_sets(0)
    embeddings = model.encoder.embeddings
    plain = embeddings.word_embeddings
    model.extra = nn.Linear(16, 300, bias=False)
    model.extra.weight = plain.weight
    assert compact_vocabulary(model, sets) is None, "tied to an output"
    del model.extra
    plain.max_norm = 1.0
    assert compact_vocabulary(model, sets) is None, "rows change when they are read"
    plain.max_norm = None
    assert compact_vocabulary(model, sets) is not None


def test_a_table_stays_whole_where_its_name_gives_it_weight_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.training.compact.takes_decay", lambda name, parameter: True)
    assert compact_vocabulary(make_model(), make_sets(0)) is None


def test_a_table_stays_whole_where_little_is_saved_or_padding_does_not_fit() -> None:
    assert compact_vocabulary(make_model(vocab_size=151), make_sets(0)) is None
    assert compact_vocabulary(make_model(pad_token_id=299), make_sets(299)) is None
    assert compact_vocabulary(make_model(vocab_size=100), make_sets(0)) is None, "ids that the model does not know"


def test_a_federation_does_not_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fedmtl.client")
    digests = set()
    for choice, tables in (("true", len(CLIENTS)), ("false", 0)):
        caplog.clear()
        config = small_config(tmp_path, "training.max_grad_norm=0", f"client.compact_vocabulary={choice}")
        digests.add(digest_of(asyncio.run(federate(config, tmp_path / choice))))
        assert caplog.text.count("word embeddings") == tables
    assert len(digests) == 1
