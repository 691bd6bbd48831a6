import os

# Before torch is imported anywhere: tests run beside other processes, and thread counts decide the last bits.
os.environ["OMP_NUM_THREADS"] = "1"

import functools
import logging
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # how long an example takes is no law
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this suite's own."""
    parser.addoption("--rewrite", action="store_true", help="write the transcripts of tests/scenarios anew")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A test that asks for more threads leaves none of them to the next one."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """A test that runs a mode in its own process leaves the next one the level that it had."""
    ours = logging.getLogger("fedmtl")
    before = ours.level
    yield
    ours.setLevel(before)


@pytest.fixture
def one_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """All clients of a test read the tokenizer once."""
    import client.jobs.executor

    monkeypatch.setattr("client.jobs.executor.unpack_tokenizer", functools.cache(client.jobs.executor.unpack_tokenizer))
