"""A client's part in the masked sums of one run: what it answers, and what it never answers twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xxhash

from client.jobs.summing import cells_in
from client.state.pins import Pins
from client.state.secrets import CircleSecrets, MaskedSession, Moment, SecretStore
from common.bodies import Evaluate
from common.errors import FedMTLError, WireError
from common.orders import Order, Reply, Update
from common.secure import masking
from common.secure.layout import CircleLayout
from common.secure.masking import Dealt, Gathering, Holding, MemberSecrets, Terms
from common.secure.roster import Roster, roster_of
from common.secure.terms import Announcement, SumOrder, SumPart, SumTerms
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
    circle_session,
)


class NotMasked(FedMTLError):
    """An order that this client refuses, since its answer could open more than a sum."""

    exit_code = WireError.exit_code


@dataclass(frozen=True)
class Covering:
    """What masks the answer to one order."""

    moment: Moment
    holdings: Mapping[str, Holding]
    """By circle, in the order of the answer's parts."""


class SumMember:
    """Answers the stages of masked rounds, and masks what this client hands in, once.

    Whatever an answer follows from is on the disk before the answer is given: after a restart the same order gets the
    same answer, and no other one a second answer.

    Args:
        run_id: of the run.
        client_id: of this client.
        store: what it keeps.
        pins: who the others are.

    Raises (every method): `StateError` where the disk fails, `ConfigError` where `cryptography` or identities are
    missing.
    """

    def __init__(self, run_id: str, client_id: str, store: SecretStore, pins: Pins) -> None:
        self._run = run_id
        self._client = client_id
        self._store = store
        self._pins = pins

    def answer(self, order: Order) -> Reply:
        """The answer to a stage's order.

        Raises:
            NotMasked: this client refuses the order; nothing has changed.
        """
        body = order.body
        assert isinstance(body, Stage)
        moment = Moment(order.round, body.is_scoring, body.attempt)
        try:
            match body:
                case Keys():
                    return Reply(order.order_id, (), 0.0, self._keys(moment, body))
                case Shares():
                    return Reply(order.order_id, (), 0.0, self._shares(moment, body))
                case Confirm():
                    return Reply(order.order_id, (), 0.0, self._confirm(moment, body))
                case Unmask():
                    return Reply(order.order_id, (), 0.0, self._unmask(moment, body))
                case _:
                    raise NotMasked(f"order {order.order_id}: this client does not know the stage {body.activity}")
        except WireError as error:
            raise NotMasked(str(error)) from None

    def begin(self, order: Order, sums: SumOrder) -> Covering | None:
        """What will mask the answer to an order to train or to score; None where it needs no masks.

        Raises:
            NotMasked: this client has not come so far, has masked before, or its letters do not open.
        """
        if not sums.terms.masks or not sums.parts:
            return None
        moment = _moment_of(order, sums)
        session = self._under_way(moment)
        if sums.terms != session.terms:
            raise NotMasked(f"order {order.order_id}: its terms are not those of the keys")
        if len({part.circle.name for part in sums.parts}) != len(sums.parts):
            raise NotMasked(f"order {order.order_id}: one circle twice would use its masks twice")
        if any(circle.masked for circle in session.circles.values()):
            raise NotMasked(f"order {order.order_id}: masked once already, and a second time would open the difference")
        try:
            return Covering(moment, {part.circle.name: self._received(session, part) for part in sums.parts})
        except WireError as error:
            raise NotMasked(str(error)) from None

    def has_masked(self, order: Order, sums: SumOrder) -> bool:
        """Whether the masks of an order's answer are noted as used."""
        session = self._store.session
        if session is None or session.moment != _moment_of(order, sums):
            return False
        return any(circle.masked for circle in session.circles.values())

    def mark(self, covering: Covering) -> None:
        """Note that the masks of an answer are used, before any of it leaves this client."""
        session = self._under_way(covering.moment)
        self._keep(session, {name: replace(held, masked=True) for name, held in covering.holdings.items()})

    def mask(self, covering: Covering, update: Update, layouts: Sequence[CircleLayout]) -> Update:
        """The masked answer, in the memory of the plain one where that can be changed; keep it, then call `mark`.

        Args:
            covering: From `begin`.
            update: In the ring.
            layouts: Of its parts.
        """
        payload = np.frombuffer(update.payload, dtype=np.uint8)
        if not payload.flags.writeable:
            payload = payload.copy()
        for layout, cells in zip(layouts, cells_in(payload, layouts), strict=True):
            masking.mask(covering.holdings[layout.circle.name], cells)
        header = replace(update.header, digest=xxhash.xxh3_128_hexdigest(payload.data))
        return Update(header, payload.data)

    def end(self) -> None:
        """The session under way is settled or void."""
        self._store.end()

    def _keys(self, moment: Moment, body: Keys) -> AnnouncedKeys:
        session, names = self._store.session, [circle.name for circle in body.circles]
        ended = self._store.ended
        if ended is not None and moment <= ended:
            raise NotMasked(f"{_said(moment)} is not above {_said(ended)}, which this client is done with")
        if session is not None and moment < session.moment:
            raise NotMasked(f"{_said(moment)} is below {_said(session.moment)}, which is under way")
        if not body.terms.masks or len(set(names)) != len(names):
            raise NotMasked(f"{_said(moment)}: keys are for masks, and for each circle once")
        identity = self._pins.key if body.terms.pinned else None
        if session is None or moment > session.moment:
            session = MaskedSession(moment, body.terms, {name: CircleSecrets(MemberSecrets()) for name in names})
            self._store.save(session)
        elif body.terms != session.terms or set(names) != set(session.circles):
            raise NotMasked(f"{_said(moment)}: a second, different order for keys")
        return AnnouncedKeys(
            tuple(
                (name, masking.announce(self._client, self._label(moment, name), circle.secrets, identity))
                for name, circle in session.circles.items()
            )
        )

    def _shares(self, moment: Moment, body: Shares) -> SealedShares:
        session = self._under_way(moment)
        fresh = {name: self._dealt(session, name, roster) for name, roster in body.rosters}
        if any(session.circles[name] is not circle for name, circle in fresh.items()):
            session = replace(session, circles={**session.circles, **fresh})
            self._store.save(session)
        return SealedShares(tuple((name, tuple(sorted(fresh[name].letters.items()))) for name, _ in body.rosters))

    def _confirm(self, moment: Moment, body: Confirm) -> SignedSurvivors:
        session = self._under_way(moment)
        if not session.terms.pinned:
            raise NotMasked(f"{_said(moment)}: signatures are for pinned identities alone")
        signed = {
            name: masking.confirm(self._held(session, name), survivors, self._pins.key)
            for name, survivors in body.survivors
        }
        self._keep(session, {name: held for name, (held, _) in signed.items()})
        return SignedSurvivors(tuple((name, signature) for name, (_, signature) in signed.items()))

    def _unmask(self, moment: Moment, body: Unmask) -> OpenedShares:
        session = self._under_way(moment)
        opened = {
            part.circle: masking.answer(self._held(session, part.circle), part.survivors, dict(part.signatures))
            for part in body.parts
        }
        self._keep(session, {name: held for name, (held, _) in opened.items()})
        return OpenedShares(
            tuple(
                CircleShares(name, tuple(sorted(found.seeds.items())), tuple(sorted(found.mask_keys.items())))
                for name, (_, found) in opened.items()
            )
        )

    def _under_way(self, moment: Moment) -> MaskedSession:
        session = self._store.session
        if session is None or session.moment != moment:
            raise NotMasked(f"{_said(moment)} is not under way here: this client has no keys for it")
        return session

    def _circle(self, session: MaskedSession, name: str) -> CircleSecrets:
        if name not in session.circles:
            raise NotMasked(f"{_said(session.moment)}: this client has no keys for circle {name[:80]!r}")
        return session.circles[name]

    def _dealt(self, session: MaskedSession, name: str, announcements: tuple[Announcement, ...]) -> CircleSecrets:
        """A circle with the letters for a roster; one roster has its letters once."""
        circle, label = self._circle(session, name), self._label(session.moment, name)
        if circle.roster:
            if tuple(sorted(announcements, key=_member)) != circle.roster:
                raise NotMasked(f"{label}: a second, different roster")
            return circle
        gathering = Gathering(self._terms(session.terms), roster_of(label, announcements))
        dealt = masking.deal(gathering, self._client, circle.secrets)
        return replace(circle, roster=gathering.roster.announcements, own=dealt.own, letters=dict(dealt.letters))

    def _received(self, session: MaskedSession, part: SumPart) -> Holding:
        """A circle with the letters to this client opened."""
        name = part.circle.name
        circle = self._circle(session, name)
        dealt = Dealt(self._gathering(session, name), self._client, circle.secrets, circle.own, circle.letters)
        if len(dict(part.letters)) != len(part.letters):
            raise NotMasked(f"{self._label(session.moment, name)}: two letters of one sender")
        return masking.receive(dealt, part.sharers, dict(part.letters))

    def _held(self, session: MaskedSession, name: str) -> Holding:
        circle = self._circle(session, name)
        survivors = None if circle.survivors is None else frozenset(circle.survivors)
        return Holding(
            self._gathering(session, name),
            self._client,
            circle.secrets,
            frozenset(circle.sharers),
            circle.shares,
            circle.masked,
            survivors,
        )

    def _keep(self, session: MaskedSession, holdings: Mapping[str, Holding]) -> None:
        """Bring what members hold to the disk, if it is new."""
        fresh = {
            name: replace(
                session.circles[name],
                sharers=tuple(sorted(held.sharers)),
                shares=dict(held.shares),
                masked=held.masked,
                survivors=None if held.survivors is None else tuple(sorted(held.survivors)),
            )
            for name, held in holdings.items()
        }
        circles = {**session.circles, **fresh}
        if circles != session.circles:
            self._store.save(replace(session, circles=circles))

    def _gathering(self, session: MaskedSession, name: str) -> Gathering:
        """A session whose roster was checked when this client wrote its letters."""
        circle, label = self._circle(session, name), self._label(session.moment, name)
        if not circle.roster:
            raise NotMasked(f"{label}: this client has no roster of it")
        return Gathering(self._terms(session.terms), Roster(label, circle.roster))

    def _terms(self, terms: SumTerms) -> Terms:
        return Terms.of(terms, self._pins.known if terms.pinned else {})

    def _label(self, moment: Moment, circle: str) -> str:
        try:
            return circle_session(self._run, moment.round, moment.attempt, moment.is_scoring, circle)
        except ValueError as error:
            raise NotMasked(str(error)) from None


def _moment_of(order: Order, sums: SumOrder) -> Moment:
    return Moment(order.round, isinstance(order.body, Evaluate), sums.attempt)


def _member(announcement: Announcement) -> str:
    return announcement.member


def _said(moment: Moment) -> str:
    scoring = ", scoring" if moment.is_scoring else ""
    return f"masked round {moment.round}, attempt {moment.attempt}{scoring}"
