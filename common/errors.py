"""Every error that a person may meet, with its exit code.

A message is one line that names the field, the value and the remedy. `federated_main` prints it without a
traceback and exits with the class's code; anything that is not a `FedMTLError` is a defect and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum


class FedMTLError(Exception):
    """Base of all errors that are reported to a person in one line."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(FedMTLError):
    """The command line or the configuration is wrong; `problems` holds one line each."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataError(FedMTLError):
    """A client's data is missing or unusable."""

    exit_code = 3


class ModelError(FedMTLError):
    """A model, tokenizer or export cannot be made as asked."""

    exit_code = 4


class RunFolderError(FedMTLError):
    """A run folder exists without --resume, is missing, or belongs to another run."""

    exit_code = 5


class StateError(FedMTLError):
    """What a client keeps on its disk cannot be written, or is damaged.

    `cause` says why without naming a path; `passing` whether it may pass by itself, as a full disk does.
    """

    exit_code = 5

    def __init__(self, message: str, cause: str, passing: bool = False) -> None:
        super().__init__(message)
        self.cause = cause
        self.passing = passing


class UnreachableError(FedMTLError):
    """The coordinator did not answer within the deadline."""

    exit_code = 6


class RunFailedError(FedMTLError):
    """The federation stopped before its last round, for instance because a quorum was never met."""

    exit_code = 8


class WireError(FedMTLError):
    """Bytes or values that do not follow the protocol."""

    exit_code = 9


class Reason(StrEnum):
    """Why the coordinator refused a request; travels with every refusal."""

    UNKNOWN_TASK = "unknown_task"
    TASK_MISMATCH = "task_mismatch"
    UNKNOWN_CLIENT = "unknown_client"
    SUPERSEDED = "superseded"
    OTHER_IDENTITY = "other_identity"
    NOT_ADMITTED = "not_admitted"
    UNKNOWN_ORDER = "unknown_order"
    TOO_LATE = "too_late"
    SCHEMA_MISMATCH = "schema_mismatch"
    DIFFERENT_UPDATE = "different_update"
    MALFORMED = "malformed"
    NOT_FINITE = "not_finite"
    TOO_LARGE = "too_large"
    CORRUPT = "corrupt"
    OTHER_RUN = "other_run"
    QUARANTINED = "quarantined"
    ENDED = "ended"
    WITHDRAWN = "withdrawn"
    FULL = "full"


class Refused(FedMTLError):
    """The coordinator refused a request and says why; nothing changed."""

    exit_code = 7

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[Refused], tuple[Reason, str]]:
        return Refused, (self.reason, self.message)  # an exception is copied by its one argument else


@contextmanager
def foreign_errors(tell: Callable[[Exception], FedMTLError]) -> Iterator[None]:
    """Give what a library raises on somebody's file or server as an error of our own, in one line.

    Such a library raises what it likes, and that changes between versions; only this place catches all of it.
    """
    try:
        yield
    except FedMTLError:
        raise
    except Exception as error:
        raise tell(error) from None


EXIT_CODES: dict[int, str] = {
    0: "finished",
    1: "unexpected error",
    ConfigError.exit_code: "command line or configuration",
    DataError.exit_code: "data",
    ModelError.exit_code: "model, tokenizer or export",
    RunFolderError.exit_code: "run folder, or a client's state folder",
    UnreachableError.exit_code: "coordinator not reachable",
    Refused.exit_code: "refused by the coordinator",
    RunFailedError.exit_code: "the federation stopped early",
    WireError.exit_code: "protocol violation",
    130: "interrupted",
}
