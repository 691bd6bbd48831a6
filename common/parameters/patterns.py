"""Patterns over parameter names, matched in time that is linear in pattern and name.

A pattern comes from a configuration or from a coordinator, so it is never a regular expression, which may backtrack
for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

TASK = "{task}"


@dataclass(frozen=True)
class Glob:
    """A text in which `*` stands for any characters, cut at its stars."""

    parts: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Glob:
        """The glob that is written `text`."""
        return cls(tuple(text.split("*")))

    def matches(self, name: str) -> bool:
        """Whether it stands for the whole name."""
        first, last = self.parts[0], self.parts[-1]
        if len(self.parts) == 1:
            return name == first
        start = self._after_inner(name)
        return 0 <= start <= len(name) - len(last) and name.endswith(last)

    def _after_inner(self, name: str) -> int:
        """Where its parts but the last end at the earliest, or -1 where they do not fit."""
        if not name.startswith(self.parts[0]):
            return -1
        at = len(self.parts[0])
        for part in self.parts[1:-1]:
            found = name.find(part, at)
            if found < 0:
                return -1
            at = found + len(part)
        return at

    def ends(self, name: str) -> list[int]:
        """The lengths of all beginnings of the name that it matches, longest first."""
        last = self.parts[-1]
        if len(self.parts) == 1:
            return [len(last)] if name.startswith(last) else []
        start = self._after_inner(name)
        if start < 0:
            return []
        return [end for end in range(len(name), start + len(last) - 1, -1) if name.endswith(last, start, end)]

    def reversed(self) -> Glob:
        """The glob of all names read backwards."""
        return Glob(tuple(part[::-1] for part in reversed(self.parts)))


@dataclass(frozen=True)
class NamePattern:
    """A pattern with `*` and at most one `{task}`, which stands for one or more characters but dots."""

    before: Glob
    after: Glob | None

    @classmethod
    def of(cls, text: str) -> NamePattern:
        """The pattern that is written `text`; a second `{task}` means itself."""
        before, task, after = text.partition(TASK)
        return cls(Glob.of(before), Glob.of(after) if task else None)

    def match(self, name: str) -> str | None:
        """The task in the name ("" for a pattern without one), or None where the pattern does not match it.

        Of several readings the one with the longest text before the task counts, then that with the longest task.
        """
        if self.after is None:
            return "" if self.before.matches(name) else None
        if not (name.startswith(self.before.parts[0]) and name.endswith(self.after.parts[-1])):
            return None
        starts = sorted((len(name) - n for n in self.after.reversed().ends(name[::-1])), reverse=True)
        for end in self.before.ends(name):
            dot = name.find(".", end)
            limit = dot if dot >= 0 else len(name)
            start = next((start for start in starts if end < start <= limit), None)
            if start is not None:
                return name[end:start]
        return None
