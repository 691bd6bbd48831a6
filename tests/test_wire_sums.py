"""Sums and the stages of masked rounds on the wire: all of them survive the trip, and what breaks a rule is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.bodies import RING, Evaluate, ScopeVersion, Train, TrainingSettings
from common.errors import WireError
from common.orders import Order, PollKind, PollReply, ScopePayload, UpdateHeader, UpdateState
from common.parameters.scope import sum_scope
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
    Stage,
    Unmask,
    UnmaskPart,
)
from common.wire import messages
from common.wire import stage_parts as wire
from common.wire.codec import Codec
from common.wire.extensions import EXTENSIONS
from common.wire.limits import CONTROL_BYTES
from tests.test_wire import quick, survives
from tests.wire_sums import stage_answers, stages

CODECS: dict[type, Codec[Any]] = {
    kind: codec
    for row in EXTENSIONS.values()
    if issubclass(row.body, Stage)
    for kind, codec in ((row.body, row.body_codec), (row.content, row.content_codec))
}


@quick
@given(stages | stage_answers, st.data())
def test_every_stage_and_answer_survives_the_trip_and_mutated_ones_do_no_harm(value: Any, data: st.DataObject) -> None:
    codec = CODECS[type(value)]
    raw = bytearray(codec.encode(value))
    assert codec.decode(bytes(raw)) == value
    at = data.draw(st.integers(0, len(raw)))
    raw[at : data.draw(st.integers(at, min(at + 8, len(raw))))] = data.draw(st.binary(max_size=8))
    survives(codec, bytes(raw))


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
def test_random_bytes_do_no_harm(codec: Codec[Any]) -> None:
    @quick
    @given(st.binary(max_size=200))
    def check(data: bytes) -> None:
        survives(codec, data)

    check()


def test_there_are_four_stages_with_an_answer_each() -> None:
    assert len(CODECS) == 8


KEY, DIGEST, SIGNATURE, SHARE = b"k" * 32, b"d" * 32, b"s" * 64, b"x" * 33
TERMS = SumTerms()
CIRCLE = Circle("0", (SumCell("shared"), SumCell("task/a")), ("a",), 3, 20)
SAID = Announcement("m", KEY, KEY, DIGEST)
SUMS = SumOrder(TERMS, 1, (SumPart(CIRCLE, ("m", "n"), (("m", b"x" * 94),)),), (("a", 1), ("b", 2)), (("a", 7),))
TRAINING = TrainingSettings(1, 8, 0.1, 0.2, 0.0, 1.0, 8)


def with_sums(sums: SumOrder, evaluates: bool = False) -> PollReply:
    body = Evaluate(TRAINING, 5, sums=sums) if evaluates else Train(TRAINING, 5, RING, sums=sums)
    scopes = ScopeVersion("shared", 1), ScopeVersion("task/a", 1)
    return PollReply(PollKind.ORDER, UpdateState.NONE, order=Order("o", 1, 1, scopes, 60.0, body, ("a", "b")))


def part(**changes: Any) -> PollReply:
    return with_sums(replace(SUMS, parts=(replace(SUMS.parts[0], **changes),)))


def circle(**changes: Any) -> Keys:
    return Keys(1, False, TERMS, (replace(CIRCLE, **changes),))


def circles(*more: Circle) -> Keys:
    return Keys(1, False, TERMS, (CIRCLE, *more))


def terms(**changes: Any) -> Keys:
    return Keys(1, False, replace(TERMS, **changes), (CIRCLE,))


def said(**changes: Any) -> AnnouncedKeys:
    return AnnouncedKeys((("0", replace(SAID, **changes)),))


def letter(text: bytes) -> SealedShares:
    return SealedShares((("0", (("m", text),)),))


BROKEN: tuple[tuple[Any, str], ...] = (
    (terms(min_clients=0), "min_clients: 0"),
    (terms(largest_change=0.0), "largest_change: it is 0"),
    (terms(largest_change=-1.0), "largest_change: -1.0"),
    (terms(largest_change=float("inf")), "largest_change: inf"),
    (terms(largest_weight=0), "largest_weight: 0"),
    (terms(largest_weight=1 << 31), "largest_weight: 2147483648"),
    (with_sums(replace(SUMS, clip=Clip(0.0))), "clip: a number is 0"),
    (with_sums(replace(SUMS, clip=Clip(1.0, 0.0))), "clip: a number is 0"),
    (with_sums(replace(SUMS, clip=Clip(float("inf")))), "length: inf"),
    (terms(corrupt=1.0), "corrupt: 1.0"),
    (terms(dropouts=float("nan")), "dropouts: nan"),
    (circle(name="a.b"), "circle: 'a.b'"),
    (circle(name=""), "circle: ''"),
    (circle(name="x" * 65), "circle: 'xxx"),
    (circle(members=0), "members: 0"),
    (circle(bits=132), "bits: 132"),
    (circle(cells=(), tasks=()), "circles: '0' has no sum"),
    (circle(cells=(SumCell("../x"),)), "scope: '../x'"),
    (circle(cells=(SumCell("shared", "a b"),)), "task: 'a b'"),
    (circle(tasks=("a/b",)), "tasks: 'a/b'"),
    (circle(tasks=("a", "a")), "tasks: the same name comes twice"),
    (circle(cells=CIRCLE.cells * 2), "cells: the same name comes twice"),
    (circles(replace(CIRCLE, cells=(), tasks=("b",))), "circles: the same name comes twice"),
    (circles(replace(CIRCLE, name="1", tasks=())), "cells: the same name comes twice"),
    (circles(replace(CIRCLE, name="1", cells=())), "tasks: the same name comes twice"),
    (said(member="a/b"), "member: 'a/b'"),
    (said(mask_key=b"k"), "bytes of mask_key: 1"),
    (said(letter_key=b""), "bytes of letter_key: 0"),
    (said(seed_digest=b"d" * 33), "bytes of seed_digest: 33"),
    (said(signature=b"s"), "bytes of signature: 1"),
    (AnnouncedKeys((("0", SAID),) * 2), "circles: the same name comes twice"),
    (Shares(1, False, (("0", (SAID, SAID)),)), "members: the same name comes twice"),
    (Shares(1, False, (("0", ()), ("0", ()))), "circles: the same name comes twice"),
    (letter(b""), "bytes of letters: 0"),
    (letter(bytes(1025)), "bytes of letters: 1025"),
    (SealedShares((("0", (("m", b"x"), ("m", b"x"))),)), "letters: the same name comes twice"),
    (Confirm(1, False, (("0", ("m", "m")),)), "survivors: the same name comes twice"),
    (Confirm(1, False, (("0", ("..",)),)), "survivors: '..'"),
    (SignedSurvivors((("0", b""),)), "bytes of signature: 0"),
    (Unmask(1, False, (UnmaskPart("0", ("m",), (("m", b"s"),)),)), "bytes of signatures: 1"),
    (Unmask(1, False, (UnmaskPart("0", ()), UnmaskPart("0", ()))), "circles: the same name comes twice"),
    (OpenedShares((CircleShares("0", (("m", b"x" * 32),), ()),)), "bytes of seeds: 32"),
    (OpenedShares((CircleShares("0", (("m", SHARE),), (("m", SHARE),)),)), "seeds and mask_keys: the same name"),
    (part(circle=replace(CIRCLE, cells=(SumCell("task/b"),))), "cells: 'task/b' is not the order's"),
    (part(circle=replace(CIRCLE, cells=(SumCell("shared", "c"),))), "cells: 'shared (c)' is not the order's"),
    (part(circle=replace(CIRCLE, tasks=("c",))), "task 'c' is not the order's"),
    (part(sharers=("m", "m")), "sharers: the same name comes twice"),
    (part(letters=(("m", bytes(1025)),)), "bytes of letters: 1025"),
    (with_sums(replace(SUMS, factors=(("c", 1),))), "task 'c' is not the order's"),
    (with_sums(replace(SUMS, factors=(("a", 1), ("a", 1)))), "factors: the same name comes twice"),
    (with_sums(replace(SUMS, factors=(("a", 1 << 30),))), "factors: 1073741824000"),
    (with_sums(replace(SUMS, caps=(("c", 1),))), "task 'c' is not the order's"),
    (with_sums(SUMS, evaluates=True), "cells: 'shared' is not the order's"),
)


@pytest.mark.parametrize(("value", "why"), BROKEN, ids=[why for _, why in BROKEN])
def test_what_breaks_a_rule_is_refused_by_name(value: Any, why: str) -> None:
    codec = CODECS.get(type(value), messages.POLL_REPLY)
    with pytest.raises(WireError, match=re.escape(why)):
        codec.decode(codec.encode(value))


@pytest.mark.parametrize("evaluates", [False, True])
def test_orders_carry_sums(evaluates: bool) -> None:
    found = replace(
        SUMS, parts=(replace(SUMS.parts[0], circle=replace(CIRCLE, cells=() if evaluates else CIRCLE.cells)),)
    )
    value = with_sums(found, evaluates)
    assert messages.POLL_REPLY.decode(messages.POLL_REPLY.encode(value)) == value


def test_answers_in_the_ring_are_updates_of_circles() -> None:
    header = UpdateHeader("o", RING, (ScopePayload(sum_scope("0"), 1, "ab" * 32, 400),), "ef" * 16, (), 1.0)
    assert messages.PENDING_ANSWER.decode(messages.PENDING_ANSWER.encode(header)) == header


def test_terms_must_be_there() -> None:
    for codec in (wire.KEYS, CODECS[Keys]):
        with pytest.raises(WireError, match="terms: missing"):
            codec.decode(b"")


def test_a_roster_of_a_thousand_signed_members_and_the_letters_of_one_fit_into_a_message() -> None:
    names = [f"hospital-{number:04}" for number in range(1000)]
    rosters = (("0", tuple(Announcement(name, KEY, KEY, DIGEST, SIGNATURE) for name in names)),)
    order = Shares(1, False, rosters)
    sealed = SealedShares((("0", tuple((name, b"x" * 94) for name in names[:70])),))
    assert len(wire.SHARES.encode(order)) < CONTROL_BYTES / 4 and wire.SHARES.decode(wire.SHARES.encode(order)) == order
    assert len(wire.SEALED_SHARES.encode(sealed)) < 1 << 14


def test_whoever_reads_messages_loads_nothing_that_masks() -> None:
    program = "import sys; sys.modules['cryptography'] = None; import common.wire.messages; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert {name for name in loaded if name.startswith("common.secure.")} == {
        "common.secure.shamir",
        "common.secure.terms",
    }
