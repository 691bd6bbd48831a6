"""Sums that nobody can open: what masks cost members and the coordinator, in turns with plain sums of floats.

One circle with one cell, one thread, no network: members draw keys, deal shares, mask a vector, and those that are left
open their shares. `--gone` of them go after they masked the others' streams in, which is what costs the coordinator
most. A plain member makes no pass over its update; the plain coordinator folds it into a float64 sum.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil

import numpy as np
from numpy.typing import NDArray

from benchmarks.sheet import Sheet, ratio
from benchmarks.spread import Spread
from common.parameters.encodings import ENCODINGS, EncodedDelta
from common.parameters.schema import ParameterSchema
from common.secure.layout import COUNTS, CircleLayout
from common.secure.masking import (
    Dealt,
    Gathering,
    Holding,
    MemberSecrets,
    Terms,
    announce,
    answer,
    deal,
    mask,
    receive,
)
from common.secure.ring import Cell, fraction_bits, quantise, quantise_counts
from common.secure.roster import roster_of
from common.secure.terms import Circle, SumCell, SumTerms, session_label
from common.stages import CircleShares
from server.aggregation.ring_sums import RingSums
from server.aggregation.streaming import StreamingMean
from server.core.effects import ClosedCircle, OpenSums

COLUMNS = {
    "members": "members",
    "neighbours": "neighbours",
    "gone": "gone",
    "deal": "keys and shares, ms",
    "mask": "one member masks, s",
    "unpack": "shares opened, ms",
    "fold": "coordinator folds all, s",
    "open": "coordinator unmasks, s",
    "plain": "plain: folds all, s",
    "ratio": "coordinator / plain",
    "kilobytes": "more bytes per member, kB",
}
SHARED, WEIGHT, LARGEST = "shared", 100, 0.5
MEASURED = 3
"""Members whose steps are timed; all take them."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    parser.add_argument("--members", default="3,10,100", help="default: %(default)s")
    parser.add_argument("--parameters", type=int, default=4_385_920, help="BERT-tiny's (default: %(default)s)")
    parser.add_argument("--gone", type=float, default=0.05, help="share of members (default: %(default)s)")


def run(options: argparse.Namespace, sheet: Sheet) -> None:
    """One row per number of members."""
    sheet.columns(COLUMNS)
    for members in map(int, options.members.split(",")):
        sheet.row(**_Session(members, options.parameters, options.gone).play())


def _timed(work: Callable[[], object], into: list[float]) -> object:
    started = time.perf_counter()
    found = work()
    into.append(time.perf_counter() - started)
    return found


class _Session:
    """One masked session; members' vectors are made again where they are needed, so that memory stays small."""

    def __init__(self, members: int, parameters: int, gone: float) -> None:
        self.names = [f"member-{number:04d}" for number in range(members)]
        self.gone = frozenset(self.names[: ceil(gone * members) if members > len("abc") else 0])
        self.size, self.label = parameters, session_label("run", 1, 1, "0")
        bits = fraction_bits(members, WEIGHT, LARGEST)
        circle = Circle("0", (SumCell(SHARED),), (), members, bits)
        self.layout = CircleLayout(circle, 1, (parameters,), "")
        self.times: dict[str, list[float]] = {name: [] for name in ("deal", "mask", "unpack", "fold", "open", "plain")}

    def play(self) -> dict[str, int | float | Spread]:
        """All of it, and what it took."""
        secrets = {name: MemberSecrets() for name in self.names}
        roster = roster_of(self.label, [announce(name, self.label, secrets[name]) for name in self.names])
        gathering = Gathering(Terms(3), roster)
        dealt = {name: self._dealt(gathering, name, secrets[name]) for name in self.names}
        sums, holdings = self._masked(gathering, dealt)
        openings = {name: self._opened(holdings[name]) for name in self.names if name not in self.gone}
        closed = ClosedCircle(
            self.layout, self.label, tuple(openings), roster.announcements, tuple(self.names), openings
        )
        _timed(lambda: sums.open(OpenSums("", SumTerms(), (closed,))), self.times["open"])
        near = len(gathering.neighbours[self.names[0]])
        letters = sum(map(len, dealt[self.names[0]].letters.values()))
        told = len(self.names) * (len(self.names[0]) + 96) + 2 * letters + 33 * (near + 1)
        spent = Spread.of([sum(self.times["fold"]) + self.times["open"][0]])
        return {
            "members": len(self.names),
            "neighbours": near,
            "gone": len(self.gone),
            "deal": Spread.of(self.times["deal"][:MEASURED]).scaled(1e3),
            "mask": Spread.of(self.times["mask"][:MEASURED]),
            "unpack": Spread.of(self.times["unpack"][:MEASURED]).scaled(1e3),
            "fold": sum(self.times["fold"]),
            "open": self.times["open"][0],
            "plain": sum(self.times["plain"]),
            "ratio": ratio(spent, Spread.of([sum(self.times["plain"])])),
            "kilobytes": told / 1e3,
        }

    def _dealt(self, gathering: Gathering, name: str, secrets: MemberSecrets) -> Dealt:
        found = _timed(lambda: deal(gathering, name, secrets), self.times["deal"])
        assert isinstance(found, Dealt)
        return found

    def _masked(self, gathering: Gathering, dealt: dict[str, Dealt]) -> tuple[RingSums, dict[str, Holding]]:
        sums, plain, holdings = RingSums(), StreamingMean(), dict[str, Holding]()
        schema = ParameterSchema.of({"values": (self.size,)})
        for number, name in enumerate(self.names):
            letters = {sender: dealt[sender].letters[name] for sender in gathering.neighbours[name]}
            holding = receive(dealt[name], self.names, letters)
            delta = _delta(number, self.size)
            cells: dict[str, Cell] = {}
            holdings[name] = self._mask(holding, delta, cells)
            if name in self.gone:
                continue
            payload = np.concatenate([cells[cell].view(np.uint8) for cell in (COUNTS, SHARED)])
            _timed(partial(sums.add, [self.layout], payload), self.times["fold"])
            encoded = EncodedDelta(ENCODINGS["dense-float32"], schema, delta.view(np.uint8))
            _timed(partial(plain.add, "", [(SHARED, encoded)], {SHARED: WEIGHT}), self.times["plain"])
        return sums, holdings

    def _mask(self, holding: Holding, delta: NDArray[np.float32], cells: dict[str, Cell]) -> Holding:
        """Fill the cells with what a member hands in."""
        circle = self.layout.circle

        def work() -> Holding:
            cells[COUNTS] = quantise_counts([float(WEIGHT)], circle.members)
            cells[SHARED] = quantise(delta, WEIGHT, circle.bits, LARGEST)
            return mask(holding, cells)

        found = _timed(work, self.times["mask"])
        assert isinstance(found, Holding)
        return found

    def _opened(self, holding: Holding) -> CircleShares:
        survivors: Sequence[str] = [name for name in self.names if name not in self.gone]

        def work() -> CircleShares:
            _, opening = answer(holding, survivors)
            return CircleShares("0", tuple(opening.seeds.items()), tuple(opening.mask_keys.items()))

        found = _timed(work, self.times["unpack"])
        assert isinstance(found, CircleShares)
        return found


def _delta(seed: int, size: int) -> NDArray[np.float32]:
    found = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
    found *= np.float32(LARGEST / 10)
    return np.clip(found, -LARGEST, LARGEST)
