"""A client's model, read back from its folder; no coordinator needed."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from client.jobs.synchronizer import ClientModelSynchronizer
from client.state.slice import DESCRIPTION, LastScores, ReceivedSlice, SliceDescription, SliceFiles
from client.state.store import read_private
from client.training.blend import Blend, kept_blend
from client.training.own_model import OWN
from common.config import Config
from common.errors import ModelError, StateError
from common.export.card import CardFacts, CardScore
from common.models.trained import TrainedTask
from common.parameters.scope import held_scopes, is_private
from common.targets import OWN_UNITS
from common.tasks.table import is_better

Which = Literal["received", "personal"]
MOST_SHOWN = 5


@dataclass(frozen=True)
class SavedSlice:
    """What a client kept of a run: its description, what it received last, and its private values."""

    folder: Path
    config: Path
    """The file with the configuration that it was trained with."""
    description: SliceDescription
    received: ReceivedSlice
    private: Mapping[str, Tensor]

    def choose(self, task: str, wanted: Which | None = None) -> tuple[Which, str]:
        """Which of a client's models answers for a task, and how that was decided, in a few words for a person.

        Without a wish it is the blend where there is one. Else it is the one with the better score, and the received
        one where scores do not tell.

        Raises:
            ModelError: the task is unknown, or there is no such model.
        """
        if task not in self.description.tasks:
            known = ", ".join(self.description.tasks)
            raise ModelError(f"--task: '{task}' is none that this client trained; it has {known}")
        held = held_scopes((name for name, _ in self.description.welcome.schema_digests), [task])
        personal = all(OWN + scope in self.private for scope in held)
        scores = self.received.scores.get(task, LastScores(""))
        if wanted == "personal" and not personal:
            raise ModelError(f"--model: this client has no personal model of '{task}'; leave the option out")
        if wanted is not None:
            return wanted, f"as asked for{_told(scores)}"
        if not personal:
            return "received", f"the only one{_told(scores)}"
        if self._blend(task) is not None:
            return "personal", f"the blend{_told(scores)}"
        if scores.personal is None or scores.received is None:
            return "received", "no score tells which is better"
        better = is_better(scores.metric, scores.personal, scores.received)
        return "personal" if better else "received", f"the better one{_told(scores)}"

    def trained(self, config: Config, task: str, wanted: Which | None = None) -> TrainedTask:
        """A task of the client's model, on the CPU.

        Args:
            config: the client's configuration, which names the file of a module of its own.
            task: one of the client's.
            wanted: which model, see `choose`.

        Raises:
            ModelError: see `choose`; or the encoder cannot be built here.
            StateError: what was kept does not belong together.
        """
        which, why = self.choose(task, wanted)
        config.model.allow_encoder()
        described = self.description
        replica = ClientModelSynchronizer(described.welcome, described.tasks, torch.device("cpu"), described.capacity)
        for scope, schema in replica.schemas.items():
            values = self.private if scope in replica.private_scopes else self.received.values
            found = values.get(scope)
            if found is None or len(found) < schema.size:
                raise _foreign(self.folder, scope)
            replica.load_private({scope: found[: schema.size]})
        definition, model = next(found for found in described.welcome.tasks if found.name == task), replica.model
        if which == "personal":
            blend, received = self._blend(task), deepcopy(model)
            replica.load_private(
                {scope: self.private[OWN + scope] for scope in replica.schemas if OWN + scope in self.private}
            )
            model = model if blend is None else blend.model(received, model, definition)
        return TrainedTask(
            model.eval(),
            definition,
            f"the {which} model ({why}) of client {described.welcome.session.client_id}, round {self.received.version}",
            self.received.units.get(task, OWN_UNITS),
            described.tokenizer,
            (described.headers or {}).get(task),
            (described.scales or {}).get(task),
            self.received.scales.get(task),
            described.capacity.lacks,
        )

    def _blend(self, task: str) -> Blend | None:
        return kept_blend(self.private, task)

    def facts(self, task: str, wanted: Which | None = None) -> CardFacts:
        """What the client knows of how the model was made."""
        which, _ = self.choose(task, wanted)
        welcome, version = self.description.welcome, self.received.version
        found = self.received.scores.get(task)
        value = None if found is None else getattr(found, which)
        mine = "validation rows of this client"
        scores = (CardScore(found.metric, value, version, mine),) if found is not None and value is not None else ()
        private = [scope for scope, _ in welcome.schema_digests if is_private(scope)]
        rows = (
            ("run", f"{welcome.run_name} ({welcome.session.run_id})"),
            ("client", welcome.session.client_id),
            ("round", str(version)),
            ("sharing plan", ", ".join(f"{match}: {scope}" for match, scope in welcome.rules)),
            ("parameters that never left the client", ", ".join(private) or "none"),
        )
        return CardFacts(rows, scores)


def load_slice(path: Path, client_id: str | None = None) -> SavedSlice:
    """Read what a client kept.

    Args:
        path: a client's `--state_dir`, its folder in there, or the folder of one run in that.
        client_id: whose, where several clients have their folders in `path`.

    Raises:
        StateError: there is no model, or more than one; or what is damaged.
    """
    kept = read_slice(_folder_of(path, client_id))
    if not kept.config.is_file():
        name = kept.description.welcome.session.client_id
        raise StateError(
            f"--state_dir: '{kept.folder}' is of a simulation; name its run folder: --run_dir ... --client_id {name}",
            "a client of a simulation",
        )
    return kept


def read_slice(folder: Path) -> SavedSlice:
    """The same from the folder of one run itself, where published values may be absent.

    Raises:
        StateError: there is no model, or what is damaged.
    """
    files = SliceFiles(folder)
    description, received = files.description(), files.received()
    if description is None or received is None:
        raise _nothing(folder)
    digests = dict(description.welcome.schema_digests)
    for scope, digest in received.digests.items():
        if digests.get(scope) != digest:
            raise _foreign(folder, scope)
    return SavedSlice(folder, files.config, description, received, read_private(folder))


def _folder_of(path: Path, client_id: str | None) -> Path:
    if (path / DESCRIPTION).is_file():
        return path
    places = ("*/", f"{client_id}/*/") if client_id is not None else ("*/", "*/*/")
    found = sorted({file.parent for place in places for file in path.glob(place + DESCRIPTION)})
    if not found:
        raise _nothing(path if client_id is None else path / client_id)
    if len(found) > 1:
        shown = ", ".join(f"'{folder}'" for folder in found[:MOST_SHOWN]) + (", ..." if len(found) > MOST_SHOWN else "")
        raise StateError(f"--state_dir: '{path}' holds {len(found)} models; name one of {shown}", "several models")
    return found[0]


def _nothing(path: Path) -> StateError:
    there = "holds no model of a client that was trained" if path.is_dir() else "does not exist"
    return StateError(
        f"--state_dir: '{path}' {there}; give what --state_dir was of a client that took part in a run", "no model"
    )


def _foreign(folder: Path, scope: str) -> StateError:
    return StateError(
        f"--state_dir: '{folder}' does not hold what its model's scope '{scope}' is made of: a file is of another run, "
        "or of this one before tasks joined it; start the client again or bring the folder back from a backup",
        "files of different runs",
    )


def _told(scores: LastScores) -> str:
    named = {"received": scores.received, "personal": scores.personal}
    said = [f"{name} {value:.4g}" for name, value in named.items() if value is not None]
    return f", {scores.metric}: {', '.join(said)}" if said else ""
