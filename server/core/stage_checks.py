"""Which answers fit the stages of a masked round. Pure questions, as in `answer_checks`."""

from __future__ import annotations

from typing import TypeVar

from common.bodies import RING
from common.errors import Reason, Refused, WireError
from common.orders import Reply, ReplyContent, ScopePayload, UpdateHeader
from common.secure.letters import LETTER_BYTES, check_survivors
from common.secure.letters import check_keys as check_signature
from common.secure.masking import Opening
from common.secure.roster import check_announcement
from common.secure.terms import SIGNATURE_BYTES
from common.secure.unmasking import check_opening
from common.stages import AnnouncedKeys, OpenedShares, SealedShares, SignedSurvivors
from server.core import circles
from server.core.open_round import OpenOrder, OpenRound, OrderState
from server.core.state import FederationState, RunSettings
from server.core.sum_facts import Stand

C = TypeVar("C", bound=ReplyContent)


def check_keys(run: RunSettings, state: FederationState, order: OpenOrder, answer: UpdateHeader | Reply) -> None:
    """Check the keys that a client announces.

    Raises:
        Refused: they are not of the order's circles, are none that others can use, or somebody has announced them.
    """
    content, round_ = _content(AnnouncedKeys, order, answer), _open(state)
    stands = circles.parts_for(run, round_, order.client_id)
    _require_circles(order, [name for name, _ in content.circles], stands)
    rules = run.sums
    assert rules is not None
    for name, said in content.circles:
        if said.member != order.client_id:
            raise Refused(Reason.MALFORMED, f"order {order.order_id}: keys of {said.member} come from another client")
        try:
            check_announcement(said)
            if rules.terms.pinned:
                if said.member not in rules.identities:
                    raise WireError(f"{said.member} has no line in secure_aggregation.members")
                check_signature(rules.identities[said.member], circles.session_of(run, round_, name), said)
        except WireError as error:
            raise Refused(Reason.MALFORMED, f"order {order.order_id}: {error}") from None
    known = {
        value
        for other in round_.orders.values()
        if other.state is OrderState.ACCEPTED and isinstance(other.content, AnnouncedKeys)
        for _, said in other.content.circles
        for value in (said.mask_key, said.letter_key, said.seed_digest)
    }
    mine = [value for _, said in content.circles for value in (said.mask_key, said.letter_key, said.seed_digest)]
    if len(set(mine)) < len(mine) or known.intersection(mine):
        raise Refused(Reason.MALFORMED, f"order {order.order_id}: a key comes twice")


def check_shares(run: RunSettings, state: FederationState, order: OpenOrder, answer: UpdateHeader | Reply) -> None:
    """Check a client's letters; what they say only their readers see.

    Raises:
        Refused: they are not one for each neighbour in the order's circles.
    """
    content, round_ = _content(SealedShares, order, answer), _open(state)
    stands = circles.parts_for(run, round_, order.client_id)
    _require_circles(order, [name for name, _ in content.letters], stands)
    letters = dict(content.letters)
    for stand in stands:
        found = letters[stand.circle.name]
        readers = [reader for reader, _ in found]
        near = stand.gathering.neighbours[order.client_id]
        if sorted(readers) != sorted(near) or any(len(text) != LETTER_BYTES for _, text in found):
            raise Refused(Reason.MALFORMED, f"order {order.order_id}: letters are not one for each neighbour")


def check_confirmation(
    run: RunSettings, state: FederationState, order: OpenOrder, answer: UpdateHeader | Reply
) -> None:
    """Check a client's signatures of who is in the sums.

    Raises:
        Refused: they are not those of its identity.
    """
    content, round_ = _content(SignedSurvivors, order, answer), _open(state)
    stands = circles.parts_for(run, round_, order.client_id)
    _require_circles(order, [name for name, _ in content.signatures], stands)
    assert run.sums is not None
    signatures = dict(content.signatures)
    for stand in stands:
        signature, session = signatures[stand.circle.name], circles.session_of(run, round_, stand.circle.name)
        if len(signature) != SIGNATURE_BYTES:
            raise Refused(Reason.MALFORMED, f"order {order.order_id}: a signature has {SIGNATURE_BYTES} bytes")
        try:
            identity = run.sums.identities[order.client_id]
            check_survivors(identity, session, stand.survivors, signature, order.client_id)
        except WireError as error:
            raise Refused(Reason.MALFORMED, f"order {order.order_id}: {error}") from None


def check_openings(run: RunSettings, state: FederationState, order: OpenOrder, answer: UpdateHeader | Reply) -> None:
    """Check the form of the shares that a client opens; whether they are right shows when they are joined.

    Raises:
        Refused: they are not just those that were asked for.
    """
    content, round_ = _content(OpenedShares, order, answer), _open(state)
    stands = circles.parts_for(run, round_, order.client_id)
    _require_circles(order, [part.circle for part in content.circles], stands)
    parts = {part.circle: part for part in content.circles}
    for stand in stands:
        part = parts[stand.circle.name]
        opening = Opening(dict(part.seeds), dict(part.mask_keys))
        try:
            check_opening(stand.gathering, stand.sharers, stand.survivors, opening, order.client_id)
        except WireError as error:
            raise Refused(Reason.MALFORMED, f"order {order.order_id}: {error}") from None


def check_summed(run: RunSettings, state: FederationState, order: OpenOrder, answer: UpdateHeader | Reply) -> None:
    """Check the header of an answer that enters sums; all bytes of the right number are integers.

    Raises:
        Refused: it is not in the ring, tells more than its sums do, or has other cells than the order's.
    """
    if not isinstance(answer, UpdateHeader) or answer.codec != RING:
        raise Refused(Reason.MALFORMED, f"order {order.order_id} asks for an answer that enters sums ({RING})")
    if answer.results:
        raise Refused(Reason.MALFORMED, f"order {order.order_id}: results travel in sums alone")
    found = _open(state)
    layouts = [circles.layout(run, stand.circle) for stand in circles.parts_for(run, found, order.client_id)]
    wanted = tuple(ScopePayload(each.circle.scope, found.version, each.digest, each.nbytes) for each in layouts)
    if answer.scopes != wanted:
        raise Refused(Reason.SCHEMA_MISMATCH, f"order {order.order_id}: its cells are not those of the order's circles")


def _open(state: FederationState) -> OpenRound:
    assert state.open is not None
    return state.open


def _content(kind: type[C], order: OpenOrder, answer: UpdateHeader | Reply) -> C:
    """What a reply brings, if it is of this kind and brings nothing else."""
    if not isinstance(answer, Reply) or not isinstance(answer.content, kind) or answer.results:
        raise Refused(Reason.MALFORMED, f"order {order.order_id} is answered by {kind.__name__} alone")
    return answer.content


def _require_circles(order: OpenOrder, names: list[str], stands: list[Stand]) -> None:
    wanted = sorted(stand.circle.name for stand in stands)
    if sorted(names) != wanted:
        raise Refused(Reason.MALFORMED, f"order {order.order_id} is about circles {wanted}, the answer about others")
