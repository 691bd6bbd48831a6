"""Sharing rules match as the regular expressions do that they stand for, but never backtrack."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.parameters.patterns import NamePattern

texts = st.lists(st.sampled_from(["a", "b", ".", "*", "ab"]), max_size=7).map("".join)


def as_expression(match: str) -> re.Pattern[str]:
    return re.compile(re.escape(match).replace(r"\*", ".*").replace(r"\{task\}", "(?P<task>[^.]+)"))


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(texts, texts, st.booleans(), st.text("ab.", max_size=9))
def test_a_pattern_means_what_its_expression_means(before: str, after: str, task: bool, name: str) -> None:
    match = before + ("{task}" if task else "") + after
    found = as_expression(match).fullmatch(name)
    expected = None if found is None else found.groupdict().get("task") or ""
    assert NamePattern.of(match).match(name) == expected


def test_patterns_that_would_backtrack_for_ever_are_answered() -> None:
    name = "encoder.layer.11." + "a" * 500
    for match in (
        "*a" * 250 + "b",
        "*a" * 120 + "*{task}*" + "*a" * 120 + "b",
        "*{task}*a*{x",
        "{task}" + "*" * 400 + ".",
    ):
        assert NamePattern.of(match).match(name) is None
    assert NamePattern.of("*a" * 250).match(name) == ""
