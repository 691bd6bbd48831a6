"""Types of single values that several sections use, and the base of all sections."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from common.methods.choice import LARGEST
from common.methods.step_scale import MEAN, NORM
from common.names import RULE, is_id
from common.parameters.capacity import is_capacity, is_frozen
from common.plain_text import is_plain_name
from common.wire.limits import MAX_GROUP_LEVELS, NAME_CHARS, RULE_CHARS, RUN_NAME_CHARS


def closeness(name: str) -> float:
    """How alike a name is, as `difflib` counts, that was probably meant: one slip in four or five letters."""
    return 0.75 if len(name) < 5 else 0.8


class Section(BaseModel):
    """Base of all sections: strict, frozen, finite numbers, no unknown keys; an empty body means defaults."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_body(cls, body: Any) -> Any:
        return {} if body is None else body


def short(value: str, limit: int) -> str:
    """A text of at most `limit` characters."""
    if len(value) > limit:
        raise ValueError(f"'{value[:30]}...' has {len(value)} characters, more than {limit}; shorten it")
    return value


def visible(value: str) -> str:
    """A text without control, format and other characters that show nothing, which no message carries."""
    if not is_plain_name(value):
        raise ValueError(f"{value[:60]!r} holds control characters or others that show nothing; remove them")
    return value


def _address(value: str) -> str:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})", value)
    if found is None or not 1 <= int(found[2]) <= 65535:
        raise ValueError(f"'{value}' is not HOST:PORT; write e.g. 127.0.0.1:50051 or '[::1]:50051'")
    return value


def _host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+", value):
        raise ValueError(f"'{value}' is not a host name or IP address; write e.g. 127.0.0.1, 0.0.0.0 or '::'")
    return value


def _run_name(value: str) -> str:
    if not re.fullmatch(r"(?!\.)[A-Za-z0-9_.-]+", value):
        raise ValueError(f"'{value}' is not a run name; use letters, digits, _ . - and no leading dot")
    return short(value, RUN_NAME_CHARS)


def _task_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        raise ValueError(f"'{value}' is not a task name; use letters, digits, _ and -")
    return short(value, NAME_CHARS)


def _client_id(value: str) -> str:
    if not is_id(value, NAME_CHARS):
        raise ValueError(f"'{value[:60]}' is not a client id; use at most {NAME_CHARS} characters: {RULE}")
    return value


def group_tree(value: dict[str, Any], level: int = 1) -> dict[str, Any]:
    """Groups of tasks by name: leaves are lists of tasks, kept as tuples, everything else further groups."""
    if level > MAX_GROUP_LEVELS:
        raise ValueError(f"groups lie in one another {level} levels deep, more than {MAX_GROUP_LEVELS}; flatten them")
    tree: dict[str, Any] = {}
    for name, members in value.items():
        if isinstance(members, dict) and members:
            tree[_task_name(str(name))] = group_tree(members, level + 1)
        elif isinstance(members, list | tuple) and members and all(isinstance(task, str) for task in members):
            tree[_task_name(str(name))] = tuple(members)
        else:
            raise ValueError(f"'{name}' is neither a list of tasks nor further groups; write e.g. pairs: [qqp, stsb]")
    return tree


def _trains(value: str) -> str:
    if not is_capacity(value):
        raise ValueError(f"'{value}' is not all, head or top_<n>; write e.g. top_2 for heads and the top two layers")
    return value


def _frozen_layers(value: Any) -> Any:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text or not is_frozen(text):
        raise ValueError(f"'{value}' is not all or a number of layers; write e.g. 2 for embeddings and two layers")
    return text


def _max_examples(value: Any) -> Any:
    count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 2**31 - 1
    medians = re.fullmatch(r"([0-9]{1,6}(\.[0-9]{1,6})?)x", value) if isinstance(value, str) else None
    if not count and (medians is None or not float(medians[1])):
        raise ValueError(f"'{value}' is no number of rows and no multiple of the median; write e.g. 1000 or 2x")
    return value


def _step_scale(value: Any) -> Any:
    if value in (MEAN, NORM):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= LARGEST:
        raise ValueError(
            f"'{value}' is not mean, norm or a number above 0, at most {LARGEST:g}; write e.g. norm or 2.0"
        )
    return float(value)


class NormMedian(Section):
    """A multiple of the median length of updates."""

    median: Annotated[float, Field(gt=0)]


def _norm_bound(value: Any) -> Any:
    if isinstance(value, NormMedian):
        return value
    number = value.get("median") if isinstance(value, dict) and value.keys() == {"median"} else value
    if not isinstance(number, int | float) or isinstance(number, bool):
        raise ValueError(f"'{value}' is no length and no multiple of the median; write e.g. 0.5 or {{median: 3}}")
    if not 0 < number <= LARGEST:
        raise ValueError(f"{number} is out of range; write more than 0, at most {LARGEST:g}")
    return float(number) if number is value else NormMedian(median=float(number))


def _partition(value: str) -> str:
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"'{value}' is not a part i/n with 1 <= i <= n; write e.g. 2/5 for the second of five parts")
    return value


def location(value: str) -> str:
    """A path as it is, or with a home folder in place of `~` or `~name`, also where no shell has seen it.

    Raises:
        ValueError: nobody knows that folder.
    """
    try:
        return str(Path(value).expanduser()) if value.startswith("~") else value
    except RuntimeError:
        raise ValueError(f"'{value}' names a home folder that is not known here; write the whole path") from None


Text = Annotated[str, Field(min_length=1)]
RuleText = Annotated[Text, AfterValidator(visible), AfterValidator(lambda value: short(value, RULE_CHARS))]
Location = Annotated[Text, AfterValidator(location)]
"""The path of a file or a folder; `~` is the home folder."""
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
CountOrZero = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, Field(gt=0, le=365 * 86400)]
Share = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Address = Annotated[str, AfterValidator(_address)]
Host = Annotated[str, AfterValidator(_host)]
RunName = Annotated[str, AfterValidator(_run_name)]
ClientId = Annotated[str, AfterValidator(_client_id)]
TaskName = Annotated[str, AfterValidator(_task_name)]
Trains = Annotated[str, AfterValidator(_trains)]
FrozenLayers = Annotated[str, BeforeValidator(_frozen_layers)]
Scale = Annotated[str | float, BeforeValidator(_step_scale)]
NormBound = Annotated[float | NormMedian, BeforeValidator(_norm_bound)]
MaxExamples = Annotated[int | str, BeforeValidator(_max_examples)]
Partition = Annotated[str, AfterValidator(_partition)]


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
