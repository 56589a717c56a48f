"""Runs a step in a process of its own, which may be killed, limited in memory and file size, and timed."""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tortures import steps
from tortures.steps import Step, perform
from tortures.system_calls import Watch

MEMORY = 2 << 30  # address space that a process may add to what it starts with
LIMIT = 60.0  # seconds, on a machine that may be busy
# What a process does with files, as Python tells an audit hook; HDF5 and faiss write without telling.
_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code; None if a signal ended it.
        signal: the name of that signal; empty if none did.
        hung: whether it was stopped after its time.
        out, err: what it wrote.
        cpu, wall: seconds.
        megabytes: its largest resident size.
    """

    code: int | None
    signal: str
    hung: bool
    out: str
    err: str
    cpu: float
    wall: float
    megabytes: int

    @property
    def json(self) -> Any:
        """The JSON value in its output."""
        return json.loads(self.out)

    @property
    def last(self) -> str:
        """The last line of stderr."""
        return (self.err.strip().splitlines() or [""])[-1]

    def __str__(self) -> str:
        how = "hangs" if self.hung else self.signal or f"exit {self.code}"
        return f"{how}: {self.last[:300]}"


@dataclass(frozen=True)
class Bounds:
    """What happens to a process.

    Attributes:
        kill_after: seconds after which it is killed.
        kill_at: the number of the file operation on `watched` at which it is killed.
        watched: the folder whose operations are counted.
        file_bytes: the largest file it may write.
        memory: address space that it may add.
        seconds: the time after which it counts as hung.
        watch: sees its calls of the system, and refuses some.
    """

    kill_after: float | None = None
    kill_at: int | None = None
    watched: Path | None = None
    file_bytes: int | None = None
    memory: int = MEMORY
    seconds: float = LIMIT
    watch: Watch | None = None


@dataclass
class Runner:
    """Starts processes, with their output in a scratch folder."""

    scratch: Path
    started: int = 0
    operations: int = field(default=0, init=False)

    def run(self, step: Step, bounds: Bounds | None = None, *, fresh: bool = False) -> Ended:
        """Run a step to its end.

        Args:
            step: what to do.
            bounds: what happens to it; nothing if None.
            fresh: in a new interpreter, not in a copy of this process.
        """
        return self.wait(self.start(step, bounds, fresh=fresh), bounds)

    def start(self, step: Step, bounds: Bounds | None = None, *, fresh: bool = False) -> int:
        """Start a step; returns the id of its process, for `wait`."""
        bounds = bounds or Bounds()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _become(step, bounds, self.scratch / f"{os.getpid()}", fresh)
        self.started += 1
        return pid

    def wait(self, pid: int, bounds: Bounds | None = None, *, meanwhile: Callable[[], object] | None = None) -> Ended:
        """Wait for a process, kill it when its bounds say so; `meanwhile` is called every millisecond."""
        bounds = bounds or Bounds()
        began, hung = time.monotonic(), False
        ends = os.pidfd_open(pid)
        try:
            seconds = bounds.seconds if bounds.kill_after is None else bounds.kill_after
            if bounds.watch and not bounds.watch.see_to(pid, ends, seconds):
                hung = True
                os.kill(pid, signal.SIGKILL)
            while not select.select([ends], [], [], 0.001 if meanwhile else seconds)[0]:
                if meanwhile:
                    meanwhile()
                if time.monotonic() - began >= seconds:
                    hung = bounds.kill_after is None
                    os.kill(pid, signal.SIGKILL)
                    break
        finally:
            os.close(ends)
        _, status, usage = os.wait4(pid, 0)
        wall = time.monotonic() - began
        stopped = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        name = self.scratch / f"{pid}"
        out, err, count = (_taken(name.with_suffix(suffix)) for suffix in (".out", ".err", ".count"))
        name.with_suffix(".json").unlink(missing_ok=True)
        self.operations = int(count or 0)
        return Ended(
            code=None if stopped else os.waitstatus_to_exitcode(status),
            signal=signal.Signals(stopped).name if stopped else "",
            hung=hung,
            out=out,
            err=err,
            cpu=usage.ru_utime + usage.ru_stime,
            wall=wall,
            megabytes=usage.ru_maxrss // 1024,
        )


def _taken(path: Path) -> str:
    text = path.read_text(errors="backslashreplace") if path.exists() else ""
    path.unlink(missing_ok=True)
    return text


def _become(step: Step, bounds: Bounds, name: Path, fresh: bool) -> NoReturn:
    """In the child: redirect, limit, run, and end as an interpreter does, but without the parent's clean-up."""
    code = 1
    atexit._clear()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        for suffix, handle in ((".out", 1), (".err", 2)):
            os.dup2(os.open(name.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = 0 if fresh else int(Path("/proc/self/statm").read_text().split()[0])
        memory = pages * resource.getpagesize() + bounds.memory
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        if fresh:
            name.with_suffix(".json").write_text(json.dumps(step.arguments))
        if bounds.file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (bounds.file_bytes, bounds.file_bytes))
        if fresh:
            os.execv(sys.executable, [sys.executable, steps.__file__, step.name, str(name.with_suffix(".json"))])
        counted = [0]
        if bounds.watched is not None:
            sys.addaudithook(_counting(str(bounds.watched), bounds.kill_at, counted))
        if bounds.watch is not None:
            bounds.watch.begin()
        try:
            perform(step)
        except SystemExit as end:
            code = int(end.code or 0)
        bounds.watched and name.with_suffix(".count").write_text(str(counted[0]))
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()
    finally:
        ctypes.CDLL(None).exit(code)  # runs what C libraries have left to do: HDF5 closes its files
        os._exit(code)


def _counting(folder: str, kill_at: int | None, counted: list[int]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that counts the operations on files below a folder, and kills the process at one of them."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS and arguments:
            where = os.fspath(arguments[0]) if isinstance(arguments[0], (str, os.PathLike)) else ""
            if isinstance(where, str) and (where.startswith(folder) or event == "os.remove"):
                counted[0] += 1
                if counted[0] == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

    return hook
