"""A simulated client's model, read back from the run folder; no coordinator needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from client.jobs.saved import MOST_SHOWN, SavedSlice, read_slice
from client.state.slice import DESCRIPTION
from common.errors import ModelError
from common.parameters.scope import is_private
from server.runs.run_folder import CONFIG
from server.runs.saved import SavedRun, load_run

CLIENTS = "clients"
"""The folder in a run folder with one for each client of a simulation."""


def kept_clients(run_dir: Path) -> dict[str, Path]:
    """The clients of a simulation that have something of their own, and the folder of each."""
    return {path.parent.parent.name: path.parent for path in sorted(run_dir.glob(f"{CLIENTS}/*/*/{DESCRIPTION}"))}


def load_client(run_dir: Path, client_id: str, run: SavedRun | None = None) -> SavedSlice:
    """What a client of a simulation has: its own values, and beside them the published ones of the last round.

    `run` is that of the folder, if it has been read before.

    Raises:
        RunFolderError: there is no whole run.
        ModelError: no such client is there.
        StateError: what it kept is damaged.
    """
    run = load_run(run_dir) if run is None else run
    found = kept_clients(run_dir)
    if client_id not in found:
        shown = ", ".join([*found][:MOST_SHOWN]) + (", ..." if len(found) > MOST_SHOWN else "")
        raise ModelError(
            f"--client_id: '{run_dir}' has nothing of client '{client_id:.40}' alone, only of {shown or 'none'}; leave "
            "the option out, or name the --state_dir of a client that ran by itself"
        )
    kept = read_slice(found[client_id])
    digests = {scope: digest for scope, digest in kept.description.welcome.schema_digests if not is_private(scope)}
    values = {scope: torch.tensor(run.vectors[scope]) for scope in digests}
    tokenizer = run.model.tokenizer_bytes if run.model.architecture.tokenizer_bytes else b""
    return replace(
        kept,
        config=run_dir / CONFIG,
        description=replace(kept.description, tokenizer=tokenizer),
        received=replace(kept.received, digests=digests, version=run.version, values=values),
    )
