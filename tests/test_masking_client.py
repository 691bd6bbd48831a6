"""What a client answers in masked rounds, and what it refuses."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.masking import NotMasked
from client.state.pins import Pins
from client.state.secrets import CircleSecrets, MaskedSession, Moment, SecretStore
from client.state.store import REPEATABLE
from common.bodies import Train
from common.errors import ConfigError, StateError
from common.orders import Order, Update
from common.secure.letters import identity_key
from common.secure.masking import MemberSecrets
from common.secure.terms import SumTerms
from common.stages import Confirm, Shares
from tests.sum_cases import FOUR, PINNED, TERMS, Crowd, keys_order, plain, stage_order
from tests.test_client_state import Killed, killing

SURVIVORS = ("ann", "bob", "dee")


@pytest.mark.parametrize("terms", [TERMS, PINNED])
def test_sums_of_masked_answers_are_those_of_plain_ones_bit_for_bit(terms: SumTerms, tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, terms=terms).keys().shares().trained()
    for name in FOUR:
        before, after, layouts = crowd.updates[name]
        assert after.header.scopes == before.header.scopes and after.header.digest != before.header.digest
        assert len(bytes(after.payload)) == sum(each.nbytes for each in layouts)
    for unmasked, wanted in crowd.open(SURVIVORS):
        assert unmasked.keys() == wanted.keys()
        for name, cell in unmasked.items():
            assert np.array_equal(cell, wanted[name]) and cell.any()


@pytest.mark.parametrize("terms", [TERMS, PINNED])
def test_a_repeated_order_gets_the_same_answer_after_a_restart(terms: SumTerms, tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, terms=terms).keys()  # every call opens the stores anew
    again = keys_order("ann", terms=terms)
    assert dict(crowd.answer("ann", again).content.circles) == crowd.announced["ann"]  # type: ignore[union-attr]
    crowd.shares()
    order = crowd.shares_order("ann")
    first = crowd.answer("ann", order)
    assert first == crowd.answer("ann", order) and first.digest == crowd.answer("ann", order).digest
    crowd.trained()
    signed = None
    if terms.pinned:
        confirm = crowd.confirm_order("ann", SURVIVORS)
        assert crowd.answer("ann", confirm) == crowd.answer("ann", confirm)
        signed = crowd.sign(SURVIVORS)
    unmask = crowd.unmask_order("ann", SURVIVORS, signed)
    assert crowd.answer("ann", unmask) == crowd.answer("ann", unmask)
    assert crowd.answer("ann", crowd.shares_order("ann")) == first  # late, and still the same


def test_a_second_list_of_survivors_is_refused(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path).keys().shares().trained()
    first = crowd.answer("ann", crowd.unmask_order("ann", SURVIVORS))
    with pytest.raises(NotMasked, match="a second, different list of survivors"):
        crowd.answer("ann", crowd.unmask_order("ann", FOUR))
    assert crowd.answer("ann", crowd.unmask_order("ann", SURVIVORS)) == first


def test_one_list_is_signed_and_another_one_is_not_opened(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, terms=PINNED).keys().shares().trained()
    signed = crowd.sign(FOUR)
    with pytest.raises(NotMasked, match="a second, different list of survivors"):
        crowd.answer("ann", crowd.unmask_order("ann", SURVIVORS, signed))
    with pytest.raises(NotMasked, match="0 signatures"):
        crowd.answer("ann", crowd.unmask_order("ann", FOUR))


def test_a_client_that_was_killed_after_it_noted_its_masks_never_masks_anew(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path).keys().shares()
    order, member = crowd.train_order("ann"), crowd.member("ann")
    assert isinstance(order.body, Train) and order.body.sums is not None
    covering = member.begin(order, order.body.sums)
    assert covering is not None
    assert crowd.member("ann").begin(order, order.body.sums) is not None  # killed while it trained: it may
    member.mark(covering)
    with pytest.raises(NotMasked, match="masked once already"):
        crowd.member("ann").begin(order, order.body.sums)


def test_a_client_that_cannot_change_the_payload_masks_a_copy(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path).keys().shares()
    order, member = crowd.train_order("ann"), crowd.member("ann")
    assert isinstance(order.body, Train) and order.body.sums is not None
    covering = member.begin(order, order.body.sums)
    assert covering is not None
    update, layouts = plain(order, "ann")
    frozen = Update(update.header, bytes(update.payload))
    masked = member.mask(covering, frozen, layouts)
    assert bytes(frozen.payload) == bytes(update.payload) != bytes(masked.payload)


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (keys_order("ann", 6), "below masked round 7, attempt 1, which is under way"),
        (keys_order("ann", 7, terms=replace(TERMS, min_clients=2)), "a second, different order for keys"),
        (keys_order("ann", 8, terms=replace(TERMS, masks=False)), "keys are for masks"),
        (stage_order("shares", "ann", Shares(1, False, ()), 8), "round 8, attempt 1 is not under way"),
        (stage_order("shares", "ann", Shares(2, False, ())), "round 7, attempt 2 is not under way"),
        (stage_order("shares", "ann", Shares(1, True, ())), "attempt 1, scoring is not under way"),
        (stage_order("shares", "ann", Shares(1, False, (("9", ()),))), "no keys for circle '9'"),
        (stage_order("confirm", "ann", Confirm(1, False, ())), "for pinned identities alone"),
    ],
)
def test_orders_that_do_not_fit_the_session_under_way_are_refused(order: Order, why: str, tmp_path: Path) -> None:
    crowd = Crowd(tmp_path).keys()
    before = (tmp_path / "ann" / "run" / "secure.bin").read_bytes()
    with pytest.raises(NotMasked, match=why):
        crowd.answer("ann", order)
    assert (tmp_path / "ann" / "run" / "secure.bin").read_bytes() == before


def test_a_round_that_is_over_is_refused_and_the_next_ones_are_not(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path).keys()
    crowd.member("ann").end()
    for order in (keys_order("ann"), keys_order("ann", 6), keys_order("ann", 6, 2, True)):
        with pytest.raises(NotMasked, match="which this client is done with"):
            crowd.answer("ann", order)
    orders = (keys_order("ann", 7, 2), keys_order("ann", 7, 1, True), keys_order("ann", 8))
    assert len({crowd.answer("ann", order).digest for order in orders}) == 3


def foreign(crowd: Crowd) -> None:
    crowd.announced["ann"] = {
        name: replace(said, mask_key=crowd.announced["bob"][name].letter_key)
        for name, said in crowd.announced["ann"].items()
    }
    del crowd.announced["bob"]


def absent(crowd: Crowd) -> None:
    del crowd.announced["ann"]


def few(crowd: Crowd) -> None:
    del crowd.announced["bob"], crowd.announced["cy"]


def twice(crowd: Crowd) -> None:
    crowd.announced["bob"] = {
        name: replace(said, mask_key=crowd.announced["cy"][name].mask_key)
        for name, said in crowd.announced["bob"].items()
    }


@pytest.mark.parametrize(
    ("bend", "why"),
    [
        (foreign, "does not have the keys of ann"),
        (absent, "does not have the keys of ann"),
        (few, "a roster of 2, at least 3"),
        (twice, "one key comes twice"),
    ],
)
def test_rosters_that_a_client_cannot_trust_are_refused(
    bend: Callable[[Crowd], None], why: str, tmp_path: Path
) -> None:
    crowd = Crowd(tmp_path).keys()
    bend(crowd)
    with pytest.raises(NotMasked, match=why):
        crowd.answer("ann", crowd.shares_order("ann"))


def test_a_second_roster_gets_no_shares(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path).keys().shares()
    del crowd.announced["cy"]
    with pytest.raises(NotMasked, match="a second, different roster"):
        crowd.answer("ann", crowd.shares_order("ann"))


def test_a_signature_of_somebody_else_is_refused(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, terms=PINNED).keys()
    signature = crowd.announced["cy"]["0"].signature
    crowd.announced["bob"]["0"] = replace(crowd.announced["bob"]["0"], signature=signature)
    with pytest.raises(NotMasked, match="the signature of bob does not fit"):
        crowd.answer("ann", crowd.shares_order("ann"))


def test_an_order_with_a_circle_twice_or_other_terms_is_refused(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path).keys().shares()
    order = crowd.train_order("ann")
    assert isinstance(order.body, Train) and order.body.sums is not None
    sums = order.body.sums
    with pytest.raises(NotMasked, match="its masks twice"):
        crowd.member("ann").begin(order, replace(sums, parts=(sums.parts[0], sums.parts[0])))
    with pytest.raises(NotMasked, match="its terms are not those of the keys"):
        crowd.member("ann").begin(order, replace(sums, terms=replace(TERMS, largest_change=1.0)))
    parts = (replace(sums.parts[0], letters=sums.parts[1].letters), sums.parts[1])
    with pytest.raises(NotMasked, match="does not open"):
        crowd.member("ann").begin(order, replace(sums, parts=parts))
    assert crowd.member("ann").begin(order, replace(sums, terms=replace(TERMS, masks=False))) is None


def test_secrets_are_for_one_account_and_nothing_is_left_of_them_after_the_end(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path).keys().shares().trained()
    folder = tmp_path / "ann" / "run"
    assert stat.S_IMODE((folder / "secure.bin").stat().st_mode) == 0o600
    session = crowd.store("ann").session
    assert session is not None
    secrets = session.circles["0"].secrets
    told = repr(session)
    texts = [value.hex() for value in (secrets.mask_key, secrets.letter_key, secrets.seed)]
    with (folder / "secure.bin").open("rb") as old:
        assert all(text.encode() in old.read() for text in texts for _ in [old.seek(0)])
        crowd.member("ann").end()
        old.seek(0)
        assert set(old.read()) == {0}  # overwritten, then gone
    assert [path.name for path in folder.iterdir()] == ["secure.bin"]
    left = (folder / "secure.bin").read_bytes()
    assert len(left) < 100 and not any(text.encode() in left for text in texts)
    assert not any(repr(value) in told for value in (secrets.mask_key, secrets.letter_key, secrets.seed))
    store = crowd.store("ann")
    assert store.session is None and store.ended == Moment(7, False, 1)
    crowd.member("bob").answer(keys_order("bob", 8))  # a newer session takes the place of one that never ended
    newer = crowd.store("bob").session
    assert newer is not None and newer.moment == Moment(8, False, 1)


def test_a_damaged_file_takes_the_client_out_of_the_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crowd = Crowd(tmp_path).keys()
    path = tmp_path / "ann" / "run" / "secure.bin"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(NotMasked, match="not under way here"):
        crowd.answer("ann", crowd.shares_order("ann"))
    assert caplog.text.count("is damaged") == 1 and not path.exists()
    crowd.answer("ann", keys_order("ann", 8))


def test_clients_in_the_coordinators_process_have_no_file(tmp_path: Path) -> None:
    store = SecretStore(tmp_path / "run", REPEATABLE)
    session = MaskedSession(Moment(1, False, 1), TERMS, {"0": CircleSecrets(MemberSecrets())})
    store.save(session)
    assert store.session is session
    store.end()
    assert store.session is None and store.ended == Moment(1, False, 1) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_client_killed_while_it_writes_has_the_old_secrets_or_the_new_ones(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [MaskedSession(Moment(n, False, 1), TERMS, {"0": CircleSecrets(MemberSecrets())}) for n in (1, 2)]
    store = SecretStore(tmp_path)
    store.save(sessions[0])
    with monkeypatch.context() as patch:
        steps = [step]
        for owner, name in ((Path, "rename"), (os, "fsync"), (os, "pwrite")):
            patch.setattr(owner, name, killing(getattr(owner, name), steps))  # type: ignore[no-untyped-call]
        with pytest.raises(Killed):
            store.save(sessions[1])
    assert SecretStore(tmp_path).session == sessions[step > 2]
    assert [path.name for path in tmp_path.iterdir()] == ["secure.bin"]


def test_what_a_crash_left_aside_is_wiped(tmp_path: Path) -> None:
    aside = tmp_path / ".secure.bin.partial"
    aside.write_bytes(b"secret")
    with aside.open("rb") as old:
        SecretStore(tmp_path)
        assert old.read() == bytes(6) and not aside.exists()


def test_an_identity_is_made_once_and_the_file_of_members_must_know_it(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "ann", "ann", tmp_path / "members")
    key = tmp_path / "ann" / "identity.key"
    assert pins.key == Pins(tmp_path / "ann", "ann").key == key.read_bytes() and len(pins.key) == 32
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    (tmp_path / "members").write_text(f"bob {'1' * 64}\n")
    with pytest.raises(ConfigError, match=f"has not the key of this client; write: ann {identity_key(pins.key).hex()}"):
        _ = pins.known
    with pytest.raises(ConfigError, match="name a file of members here, too"):
        _ = Pins(tmp_path / "ann", "ann").known
    key.write_bytes(b"short")
    with pytest.raises(StateError, match=r"identity.key' is damaged; bring"):
        _ = Pins(tmp_path / "ann", "ann").key
