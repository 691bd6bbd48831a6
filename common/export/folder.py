"""Writes an export aside, reads it again, compares, and only then puts it in its place."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from common.errors import ModelError, foreign_errors
from common.export.card import CardFacts, card
from common.export.format import ExportFormat, Outputs
from common.export.graph import drawn
from common.export.hugging_face import write_tokenizer
from common.export.table import FORMATS
from common.models.trained import TrainedTask

TOLERANCE = 1e-5
COMPARED = ((4, 12), (1, 5), (3, 2))
"""Rows, and length where that varies, of the random examples that are compared."""


def export_task(trained: TrainedTask, out: Path, name: str | None = None, facts: CardFacts | None = None) -> list[str]:
    """Write one task of a trained model to a new folder.

    Args:
        trained: what to write.
        out: the folder, which must not exist or be empty.
        name: one of `FORMATS`; None for the first that can hold the model.
        facts: what the model card tells beside.

    Returns:
        The names of the files written, sorted.

    Raises:
        ModelError: no format can hold the model, or this one cannot; `out` is not empty, or cannot be written; what is
            read again from there computes something else.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"--out: {out} exists and is not an empty folder; choose another")
    if trained.lacks:
        parts = ", ".join(trained.lacks)
        raise ModelError(f"--state_dir: this client has no encoder of {parts}; export the coordinator's: --run_dir")
    name, chosen = _format(trained, name)
    aside = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    trained.model.cpu().eval()
    try:
        aside.mkdir(parents=True)
        with foreign_errors(lambda error: _unwritten(name, out, error)):
            chosen.write(trained, aside)
            if trained.tokenizer:
                write_tokenizer(trained, aside)
            outputs = chosen.load(trained, aside)
            _compare(trained, name, outputs)
        text = card(trained, facts or CardFacts(), chosen.use(trained))
        (aside / "README.md").write_text(text, encoding="utf-8")
        names = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
        if out.exists():
            out.rmdir()
        aside.rename(out)
    except OSError as error:
        raise ModelError(f"--out: cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return names


def _format(trained: TrainedTask, name: str | None) -> tuple[str, ExportFormat]:
    refusals: Mapping[str, str] = {key: found.refusal(trained) for key, found in FORMATS.items()}
    if name is not None:
        if refusals[name]:
            raise ModelError(f"--format {name}: {refusals[name]}; use {_others(refusals)}")
        return name, FORMATS[name]
    first = next((key for key, refusal in refusals.items() if not refusal), None)
    if first is None:
        raise ModelError(f"--task: '{trained.task.name}' cannot be exported: {next(iter(refusals.values()))}")
    return first, FORMATS[first]


def _others(refusals: Mapping[str, str]) -> str:
    return " or ".join(key for key, refusal in refusals.items() if not refusal) or "another task"


@torch.inference_mode()
def _compare(trained: TrainedTask, name: str, outputs: Outputs) -> None:
    """Check that an export says of random examples what the model says.

    Raises:
        ModelError: it does not.
    """
    for seed, (rows, length) in enumerate(COMPARED):
        tensors = drawn(trained, rows, length, seed)
        expected, found = _expected(trained, tensors), outputs(tensors).double()
        if expected.shape != found.shape:
            raise _different(name, f"outputs have shape {tuple(found.shape)}, not {tuple(expected.shape)}")
        allowed = TOLERANCE * (trained.units.scale + expected.abs())
        difference = (expected - found).abs()
        if not bool((difference <= allowed).all()):
            raise _different(name, f"outputs differ by up to {difference.max().item():.1e}")


def _expected(trained: TrainedTask, tensors: tuple[Tensor, ...]) -> Tensor:
    """What the trained model says, in the units of the data."""
    model, task, scale = trained.model, trained.task.name, trained.row_scale
    if scale is not None:
        tensors = tuple(torch.from_numpy(scale.scaled(tensor.numpy())) for tensor in tensors)
    batch = model.inputs.batch_of(model.head(task).form, tensors)
    return trained.units.mean + trained.units.scale * batch.shaped(model(task, batch)).double()


def _different(name: str, what: str) -> ModelError:
    return ModelError(
        f"--format {name}: what was written computes something else than the model ({what}); nothing is kept"
    )


def _unwritten(name: str, out: Path, error: Exception) -> ModelError:
    if isinstance(error, OSError):
        return ModelError(f"--out: cannot write {out}: {error.strerror or error}")
    line = (str(error).strip().splitlines() or [""])[0][:200]
    return ModelError(f"--format {name}: this model cannot be written so ({type(error).__name__}: {line})")
