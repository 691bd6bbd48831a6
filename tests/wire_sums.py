"""Strategies that make sums, the stages of masked rounds and what answers them."""

from __future__ import annotations

import string
from collections.abc import Sequence

from hypothesis import strategies as st

from common.orders import Order
from common.privacy.clipping import Clip
from common.secure.terms import Announcement, Circle, SumCell, SumOrder, SumPart, SumTerms
from common.stages import (
    AnnouncedKeys,
    CircleShares,
    Confirm,
    Keys,
    OpenedShares,
    SealedShares,
    Shares,
    SignedSurvivors,
    Unmask,
    UnmaskPart,
)
from tests.wire_basics import client_ids, counts, few, first, ids, positive, seconds, task_names

circle_names = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)
keys = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)
shares = st.binary(min_size=33, max_size=33)
letters = few(st.tuples(client_ids, st.binary(min_size=1, max_size=1024)), first)
survivors = few(client_ids, str)
below_one = st.floats(0, 1, exclude_max=True)
terms = st.builds(
    SumTerms,
    *(positive, st.booleans(), st.floats(0, 1e300, exclude_min=True), st.integers(1, 1 << 20)),
    *(below_one, below_one, st.booleans()),
)

clips = st.none() | st.builds(Clip, *(st.floats(0, 1e300, exclude_min=True),) * 2)


@st.composite
def circle_lists(draw: st.DrawFn, scopes: Sequence[str], tasks: Sequence[str]) -> tuple[Circle, ...]:
    """Circles that deal out some cells and tasks among themselves."""
    names = draw(few(circle_names, str, least=1))
    cells: dict[str, list[SumCell]] = {name: [] for name in names}
    counted: dict[str, list[str]] = {name: [] for name in names}
    for scope in scopes:
        cells[draw(st.sampled_from(names))].append(SumCell(scope, draw(st.sampled_from(["", *tasks]))))
    for task in tasks:
        counted[draw(st.sampled_from(names))].append(task)
    return tuple(
        Circle(name, tuple(cells[name]), tuple(counted[name]), draw(st.integers(1, 1 << 16)), draw(st.integers(0, 131)))
        for name in names
        if cells[name] or counted[name]
    )


@st.composite
def sum_orders(draw: st.DrawFn, scopes: Sequence[str], tasks: Sequence[str]) -> SumOrder:
    parts = tuple(
        SumPart(circle, draw(few(client_ids, str)), draw(letters)) for circle in draw(circle_lists(scopes, tasks))
    )
    factors = tuple((task, draw(st.integers(1, 1 << 10))) for task in tasks)
    caps = tuple((t, draw(counts)) for t in tasks[1:])
    return SumOrder(draw(terms), draw(counts), parts, factors, caps, draw(st.booleans()), draw(clips))


announcements = st.builds(Announcement, client_ids, keys, keys, keys, st.just(b"") | signatures)
rosters = few(announcements, lambda found: found.member)
stages = st.one_of(
    st.builds(Keys, counts, st.booleans(), terms, circle_lists(("shared", "task/a"), ("a", "b"))),
    st.builds(Shares, counts, st.booleans(), few(st.tuples(circle_names, rosters), first)),
    st.builds(Confirm, counts, st.booleans(), few(st.tuples(circle_names, survivors), first)),
    st.builds(
        Unmask,
        *(counts, st.booleans()),
        few(
            st.builds(UnmaskPart, circle_names, survivors, few(st.tuples(client_ids, signatures), first)),
            lambda part: part.circle,
        ),
    ),
)
stage_orders = st.builds(Order, ids, counts, counts, st.just(()), seconds, stages, few(task_names, str))


@st.composite
def circle_shares(draw: st.DrawFn) -> CircleShares:
    opened = draw(few(st.tuples(client_ids, shares), first))
    at = draw(st.integers(0, len(opened)))
    return CircleShares(draw(circle_names), opened[:at], opened[at:])


stage_answers = st.one_of(
    st.builds(AnnouncedKeys, few(st.tuples(circle_names, announcements), first)),
    st.builds(SealedShares, few(st.tuples(circle_names, letters), first)),
    st.builds(SignedSurvivors, few(st.tuples(circle_names, signatures), first)),
    st.builds(OpenedShares, few(circle_shares(), lambda part: part.circle)),
)
