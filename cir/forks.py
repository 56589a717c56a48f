"""Searching in a process that was forked.

A fork copies one thread. What the others held stays held in the child: locks that nobody opens any more, and the
threads that OpenMP shares its loops among, for which the next loop would wait without end.

So a fork waits until no other thread is at work in `no_fork`, and the child computes in one thread per search. That is
what a pool of processes wants anyway: they share the cores among them.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from functools import cache
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")

# Seconds after which work begins although a fork is due. Only work that other work waits for comes to that.
PATIENCE = 10.0

_state = threading.Condition()  # guards the two counts; replaced in a child
_working = 0  # threads in `no_fork`
_forking = 0  # threads that wait to fork; no work begins meanwhile
_own = threading.local()  # .depth: how often this thread has entered `no_fork`


class _NoFork(ContextDecorator):
    """Entered around native code and whatever takes locks: other threads do not fork meanwhile.

    It may be nested. A thread that is in it may fork. Also a decorator.
    """

    def __enter__(self) -> None:
        global _working
        _register()
        if not _depth():
            with _state:
                _state.wait_for(lambda: not _forking, PATIENCE)
                _working += 1
        _own.depth = _depth() + 1

    def __exit__(self, *_: object) -> None:
        global _working
        _own.depth -= 1
        if not _own.depth:
            with _state:
                _working -= 1
                _state.notify_all()


no_fork = _NoFork()


def inherited(work: Callable[[A], R]) -> Callable[[A], R]:
    """The same work for other threads, in `no_fork` if the calling thread is, which waits for them."""
    depth = _depth()

    def run(argument: A) -> R:
        before, _own.depth = _depth(), max(_depth(), depth)
        try:
            return work(argument)
        finally:
            _own.depth = before

    return run


def _depth() -> int:
    return getattr(_own, "depth", 0)


@cache
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


def _before() -> None:
    global _forking
    _state.acquire()
    _forking += 1
    if not _depth():  # it would wait for itself
        _state.wait_for(lambda: not _working)


def _in_parent() -> None:
    global _forking
    _forking -= 1
    _state.notify_all()
    _state.release()


def _in_child() -> None:
    global _state, _working, _forking
    _state, _working, _forking = threading.Condition(), int(_depth() > 0), 0
    for library, name in (("torch", "set_num_threads"), ("faiss", "omp_set_num_threads")):
        set_threads = getattr(sys.modules.get(library), name, None)
        if set_threads is not None:
            set_threads(1)
