"""Work in a process of its own, which takes its libraries and its memory with it when it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from common.errors import FedMTLError, ModelError
from common.stopping import at_the_end

T = TypeVar("T")


def done_in_own_process(work: Callable[[], T]) -> T:
    """Call `work`, which must be picklable, in another process and give what it gives. It never outlives this process.

    Raises:
        FedMTLError: what `work` raises.
        ModelError: the process was killed.
        RuntimeError: `work` has a defect; its traceback is on standard error.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_do, args=(work, sending), daemon=True)
    starting = threading.Lock()
    with at_the_end(partial(_end, process, starting)), receiving:
        with starting:
            process.start()
        sending.close()
        try:
            made, error = receiving.recv()
        except EOFError:
            process.join()
            if process.exitcode == 1:
                raise RuntimeError("the process that makes the model failed; its traceback is above") from None
            raise ModelError("the process that makes the model was killed; is there memory enough? Try again") from None
        process.join()
    if error is not None:
        raise error
    result: T = made
    return result


def _do(work: Callable[[], Any], sending: Connection) -> None:
    """Run in the other process. Its group is its own: what it starts in turn ends with it, and Ctrl-C is not for it."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer = work(), None
    except FedMTLError as error:
        sending.send((None, error))
    else:
        sending.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _end(process: BaseProcess, starting: threading.Lock) -> None:
    """End it and what it started; it may have no group yet. Half started, it would die with a traceback of its own."""
    starting.acquire()  # Kept: what has not begun by now never begins
    if process.pid is not None:
        for kill in (os.killpg, os.kill):
            with suppress(OSError):
                kill(process.pid, signal.SIGKILL)
