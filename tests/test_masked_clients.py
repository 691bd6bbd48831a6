"""Clients as they are against the coordinator's core as it is: what one side says, the other one takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.jobs.summing import cells_in, layouts_of, summed, sums_of_order, trained_cells
from client.jobs.synchronizer import PayloadMemory
from client.masking import SumMember
from client.state.pins import Pins
from client.state.secrets import SecretStore
from common.orders import Answer, Order, Update
from common.parameters.schema import ParameterSchema
from common.secure.ring import Cell
from common.stages import Stage
from server.core.state import RunSettings
from tests.masked_cases import FIVE, MaskedTable, Member, combined, delta_of, masked_rules

SIZES = {"shared": 90, "task/sst2": 8, "task/qqp": 9}
LAYOUTS = {name: ParameterSchema.of({"w": (size,)}) for name, size in SIZES.items()}


class RealMember(Member):
    """A client with its store, which it opens anew for every order."""

    folder: Path

    def answer(self, order: Order) -> Answer:
        pins = Pins(self.folder / self.name, self.name, self.folder / "members")
        member = SumMember(self.settings.run_id, self.name, SecretStore(self.folder / self.name / "run"), pins)
        if isinstance(order.body, Stage):
            return member.answer(order)
        sums = sums_of_order(order)
        assert sums is not None
        layouts = layouts_of(order, sums, LAYOUTS, self.settings.tasks)
        covering = member.begin(order, sums)
        results = list(self.results(order).values())
        deltas = {name: delta_of(self.name, name, LAYOUTS[name].size) for name in trained_cells(sums, results)}
        update = summed(order, layouts, results, deltas, self.settings.tasks, PayloadMemory())
        self.plain = self._cells(update, order)
        if covering is not None:
            member.mark(covering)
            update = member.mask(covering, update, layouts)
        self.cells = self._cells(update, order)
        return update

    def _cells(self, update: Update, order: Order) -> dict[str, dict[str, Cell]]:
        sums = sums_of_order(order)
        assert sums is not None
        layouts = layouts_of(order, sums, LAYOUTS, self.settings.tasks)
        found = cells_in(np.frombuffer(bytearray(update.payload), dtype=np.uint8), layouts)
        return {layout.circle.name: cells for layout, cells in zip(layouts, found, strict=True)}


def table(folder: Path, masks: bool = True, pinned: bool = False) -> MaskedTable:
    keys = {name: Pins(folder / name, name).public_key for name in FIVE}
    (folder / "members").write_text("".join(f"{name} {key.hex()}\n" for name, key in keys.items()))
    schemas = {name: (schema.digest, schema.nbytes) for name, schema in LAYOUTS.items()}
    settings: RunSettings = masked_rules(masks, pinned, schemas=schemas, min_clients=len(FIVE))
    if settings.sums is not None and pinned:
        settings = replace(settings, sums=replace(settings.sums, identities=keys))
    found = MaskedTable(settings, FIVE)
    for name, examples in FIVE.items():
        member = RealMember(name, settings, examples)
        member.folder = folder
        found.members[name] = member
    return found


@pytest.mark.parametrize(("masks", "pinned"), [(False, False), (True, False), (True, True)])
def test_a_round_of_real_clients_comes_to_the_sum_of_their_plain_answers(
    masks: bool, pinned: bool, tmp_path: Path
) -> None:
    played = table(tmp_path, masks, pinned)
    for _ in ("keys", "shares") if masks else ():
        played.answers(*FIVE)
    played.answers("ann", "bob", "cy", "dee")
    played.fail("eve")  # after she masked, in rounds with masks
    for _ in ("confirm", "unmask")[not pinned :] if masks else ():
        played.answers("ann", "bob", "cy", "dee")
    assert combined(played).totals["shared"] == sum(
        rows for name in ("ann", "bob", "cy", "dee") for rows in FIVE[name].values()
    )
    for circle, cells in played.opened.items():
        holders = [name for name in ("ann", "bob", "cy", "dee") if circle in played.members[name].plain]
        for name, cell in cells.items():
            assert np.array_equal(cell, played.plain_sum(circle, name, *holders))


def test_a_version_is_scored_in_a_session_of_its_own(tmp_path: Path) -> None:
    played = table(tmp_path)
    for _ in ("keys", "shares", "train", "unmask"):
        played.answers(*FIVE)
    assert played.phase == "scorekeys"
    for _ in ("keys", "shares", "score", "unmask"):
        played.answers(*FIVE)
    assert played.phase == "finished"
