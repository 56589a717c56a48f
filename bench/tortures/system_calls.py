"""Lets a process write only as far as it is allowed to: each of its system calls on files is seen before it happens.

Python, HDF5, FAISS and safetensors all write through the kernel, so this sees every write, sync and rename, whoever
makes it and in whatever thread. The process installs a seccomp filter that asks this one; only Linux has it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

# Name -> (number, what names its file: "fd" or the index of the argument that is a path) on x86-64 and AArch64.
_CALLS = {
    "x86_64": {
        "write": (1, "fd"),
        "pwrite": (18, "fd"),
        "writev": (20, "fd"),
        "fsync": (74, "fd"),
        "fdatasync": (75, "fd"),
        "ftruncate": (77, "fd"),
        "rename": (82, 0),
        "renameat": (264, 1),
        "fallocate": (285, "fd"),
        "renameat2": (316, 1),
        "pwritev": (296, "fd"),
        "copy_file_range": (326, "fd"),
    },
    "aarch64": {
        "ftruncate": (46, "fd"),
        "fallocate": (47, "fd"),
        "write": (64, "fd"),
        "writev": (66, "fd"),
        "pwrite": (68, "fd"),
        "pwritev": (70, "fd"),
        "fsync": (82, "fd"),
        "fdatasync": (83, "fd"),
        "renameat": (38, 1),
        "renameat2": (276, 1),
        "copy_file_range": (285, "fd"),
    },
}
CALLS = {number: (name, where) for name, (number, where) in _CALLS.get(platform.machine(), {}).items()}
SYNCS, RENAMES = ("fsync", "fdatasync"), ("rename", "renameat", "renameat2")

_SECCOMP = {"x86_64": 317, "aarch64": 277}.get(platform.machine(), -1)
_SET_FILTER, _NEW_LISTENER, _NO_NEW_PRIVS = 1, 8, 38
_ASK, _ALLOW = 0x7FC00000, 0x7FFF0000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # ioctl numbers of SECCOMP_IOCTL_NOTIF_RECV and _SEND
_NOTIFICATION, _REPLY = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_GO_ON = 1  # the call happens as if nobody had asked


@dataclass(frozen=True)
class Refusal:
    """Which calls fail.

    Attributes:
        at: the number of the call, from 1.
        error: the errno.
        lasting: whether the writes after it fail too, as on a full disk; else it alone.
        kill: the process is killed at the call instead.
    """

    at: int
    error: int = errno.EIO
    lasting: bool = False
    kill: bool = False

    def hits(self, number: int, name: str) -> bool:
        """Whether a call fails."""
        return number == self.at or (self.lasting and number > self.at and name not in (*SYNCS, *RENAMES))


@dataclass
class Watch:
    """The calls of a process on files below some folder; the process calls `begin`, its parent `see_to`.

    Attributes:
        folder: whose files are meant; and no others.
        refusal: which calls fail; none if None.
        seen: name and file of each call so far.
    """

    folder: Path
    refusal: Refusal | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._listener = -1

    def begin(self) -> None:
        """In the process that is watched: from here on its calls are asked for. Raises OSError."""
        self._ours.close()
        listener = _install()
        socket.send_fds(self._theirs, [b"x"], [listener])
        os.close(listener)

    def see_to(self, pid: int, ends: int, seconds: float) -> bool:
        """In its parent: answer until the process ends; whether it ended in time.

        Args:
            pid: the process.
            ends: a descriptor of it that becomes readable at its end.
            seconds: to wait without a call at most.
        """
        self._theirs.close()
        try:
            if not select.select([self._ours], [], [], seconds)[0]:
                return False
            _, handles, *_ = socket.recv_fds(self._ours, 1, 1)
            if not handles:  # it ended before
                return bool(select.select([ends], [], [], seconds)[0])
            (self._listener,) = handles
            while ready := select.select([self._listener, ends], [], [], seconds)[0]:
                if ends in ready:
                    return True
                with suppress(OSError):  # the process is gone
                    self._answer(pid)
            return False
        finally:
            self._ours.close()
            if self._listener >= 0:
                os.close(self._listener)

    def _answer(self, pid: int) -> None:
        asked = bytearray(_NOTIFICATION.size)
        fcntl.ioctl(self._listener, _RECEIVE, asked)
        number, thread, _, call, _, _, *arguments = _NOTIFICATION.unpack(asked)
        name, where = CALLS[call]
        path = _file_of(thread, where, arguments)
        refused = 0
        if path.startswith(str(self.folder)):
            self.seen.append((name, path))
            if self.refusal and self.refusal.hits(len(self.seen), name):
                if self.refusal.kill:
                    os.kill(pid, signal.SIGKILL)
                    return
                refused = self.refusal.error
        reply = _REPLY.pack(number, 0, -refused, 0 if refused else _GO_ON)
        fcntl.ioctl(self._listener, _SEND, reply)


def _file_of(thread: int, where: object, arguments: list[int]) -> str:
    """The file that a call means."""
    with suppress(OSError):
        if where == "fd":
            return os.readlink(f"/proc/{thread}/fd/{arguments[0]}")
        assert isinstance(where, int)
        with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
            memory.seek(arguments[where])
            return os.fsdecode(memory.read(1024).partition(b"\0")[0])
    return ""


def _install() -> int:
    """A filter that asks for `CALLS` and allows the rest; returns the descriptor to answer at. Raises OSError."""
    load, equal, end = 0x20, 0x15, 0x06  # instructions of BPF
    lines = [(load, 0, 0, 0)]  # the number of the call
    lines += [(equal, len(CALLS) - place, 0, number) for place, number in enumerate(CALLS)]
    lines += [(end, 0, 0, _ALLOW), (end, 0, 0, _ASK)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    described = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = libc.syscall(_SECCOMP, _SET_FILTER, _NEW_LISTENER, described)
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(listener)


@cache
def supported() -> bool:
    """Whether calls can be asked for here."""
    pid = os.fork() if CALLS and hasattr(os, "pidfd_open") else -1
    if pid == 0:
        with suppress(OSError):
            _install()
            os._exit(0)
        os._exit(1)
    return pid > 0 and os.waitpid(pid, 0)[1] == 0
