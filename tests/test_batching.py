import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from client.data.batching import PIECE_COST, epoch_batches, interleave, length_pieces

lengths_of_rows = st.lists(st.integers(1, 128), max_size=300).map(np.array)


@given(lengths=lengths_of_rows, batch_size=st.integers(1, 9), seed=st.integers(0, 2**63 - 1))
def test_every_row_exactly_once(lengths: np.ndarray, batch_size: int, seed: int) -> None:
    batches = epoch_batches(lengths, batch_size, seed)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert sum(len(batch) != batch_size for batch in batches) <= 1
    again = epoch_batches(lengths, batch_size, seed)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))


def padded(lengths: np.ndarray, batches: list[np.ndarray]) -> float:
    return sum(int(lengths[batch].max()) * len(batch) for batch in batches) / int(lengths.sum())


def test_bucketing_saves_nearly_all_padding() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    lengths = rng.integers(4, 60, size=20_000)
    shuffled = np.array_split(rng.permutation(len(lengths)), len(lengths) // 32)
    assert padded(lengths, shuffled) > 1.7
    assert padded(lengths, epoch_batches(lengths, 32, seed=1)) < 1.05


def test_epochs_differ_in_the_rows_that_meet_and_batches_come_in_random_order() -> None:
    lengths = np.arange(2_000) % 40
    one, other = epoch_batches(lengths, 10, seed=1), epoch_batches(lengths, 10, seed=2)
    assert {frozenset(batch.tolist()) for batch in one}.isdisjoint(frozenset(batch.tolist()) for batch in other)
    widths = [int(lengths[batch].max()) for batch in one]
    assert abs(np.corrcoef(widths, np.arange(len(widths)))[0, 1]) < 0.2


@given(counts=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 40), max_size=5))
def test_interleave_uses_every_batch_once_and_evenly(counts: dict[str, int]) -> None:
    schedule = interleave(counts)
    steps = max(counts.values(), default=0)
    assert len(schedule) == steps
    for task, count in counts.items():
        at = [step for step, tasks in enumerate(schedule) if task in tasks]
        assert at == [batch * steps // count for batch in range(count)]
        assert sum(tasks.count(task) for tasks in schedule) == count
    order = list(counts)
    assert all(tasks and [*tasks] == sorted(tasks, key=order.index) for tasks in schedule)


def test_interleave_by_hand() -> None:
    assert interleave({"a": 4, "b": 2, "c": 3}) == [("a", "b", "c"), ("a", "c"), ("a", "b", "c"), ("a",)]
    assert interleave({}) == []


@given(lengths=lengths_of_rows, most=st.integers(1, 40))
def test_pieces_have_every_row_once_and_little_padding(lengths: np.ndarray, most: int) -> None:
    pieces = length_pieces(lengths, most)
    assert sorted(row for piece in pieces for row in piece) == list(range(len(lengths)))
    assert all(0 < len(piece) <= most for piece in pieces)
    for piece in pieces:
        sizes = lengths[piece]
        assert all((cut * (sizes[-1] - sizes[cut - 1])) <= PIECE_COST for cut in range(1, len(sizes)))


def test_rows_of_one_length_stay_together() -> None:
    assert [len(piece) for piece in length_pieces(np.ones(30, dtype=np.int64), 16)] == [15, 15]
    assert length_pieces(np.empty(0, dtype=np.int64), 16) == []
