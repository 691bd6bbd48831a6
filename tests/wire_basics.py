"""Strategies that make what most values of the wire have in them."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import strategies as st

from common.names import is_id
from common.orders import Session
from common.ports import CHUNK_BYTES, LEAST_CHUNK_BYTES
from common.wire.checks import as_line
from common.wire.limits import MAX_COUNT, MAX_EXAMPLES, MAX_SECONDS

ids = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=20).filter(is_id)
task_names = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)
client_ids = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=64).filter(is_id)
scopes = st.one_of(
    st.sampled_from(("shared", "sum/0")),
    task_names.map(lambda t: f"task/{t}"),
    client_ids.map(lambda c: f"member/{c}"),
)
digests = st.binary(min_size=16, max_size=16).map(bytes.hex)
counts = st.integers(0, MAX_COUNT)
row_counts = st.integers(0, MAX_EXAMPLES)
sizes = st.integers(0, 1 << 40)
chunk_sizes = st.integers(LEAST_CHUNK_BYTES, CHUNK_BYTES)
positive = st.integers(1, 1 << 20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
amounts = st.floats(0, 1e300)
seconds = st.floats(0, MAX_SECONDS)
lines = st.text(max_size=50).map(as_line)
labels = st.text(string.printable.strip() + "äß漢\u200c", min_size=1, max_size=12)

sessions = st.builds(Session, ids, client_ids, ids)


def few(strategy: st.SearchStrategy[Any], key: Any = None, least: int = 0) -> st.SearchStrategy[Any]:
    return st.lists(strategy, min_size=least, max_size=4, unique_by=key).map(tuple)


def first(pair: Any) -> Any:
    return pair[0]
