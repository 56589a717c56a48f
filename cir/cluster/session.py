"""Joining a Ray cluster, or starting one on this machine for the time of a command."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cir.errors import DataError, MissingDependencyError, UsageError
from cir.threads import default_workers

LOCAL, AUTO = "local", "auto"
_ANSWERS = 10.0  # seconds within which the head of a cluster accepts a connection
# Ray speaks gRPC: whoever begins a connection of HTTP/2 so is answered by a frame of the same kind (RFC 9113, 3.4).
_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS
_STORE = 200_000_000  # bytes of the object store of a local cluster: tasks and results pass through it, never pictures


def ray_module() -> Any:
    """The module `ray`, which reports nothing to anybody. Raises MissingDependencyError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else every actor without a GPU warns
    try:
        import ray
    except ImportError:
        raise MissingDependencyError("--ray needs Ray; install it: pip install 'cir-engine[ray]'") from None
    return ray


@contextmanager
def joined(address: str, cpus: int | None = None) -> Iterator[Any]:
    """The module `ray`, connected; left again afterwards, unless this process was connected before.

    Args:
        address: "local" for a cluster of this machine alone, which ends with the context; "auto" for the one that this
            machine is a node of; HOST:PORT of the head of one.
        cpus: how many cores a local cluster hands out; those that there are if None.

    Raises:
        MissingDependencyError: Ray is not installed.
        UsageError: not an address.
        DataError: there is no cluster.
    """
    if address not in (LOCAL, AUTO) and not re.fullmatch(r"[\w.-]+:\d{1,5}|\[[\da-fA-F:]+\]:\d{1,5}", address):
        raise UsageError(f"--ray {address!r}: write local, auto, or HOST:PORT of a cluster's head")
    ray = ray_module()
    if address not in (LOCAL, AUTO):
        _check_listens(address)
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        options |= {"num_cpus": cpus or default_workers(), "object_store_memory": _STORE, "include_dashboard": False}
    try:
        with _own_signals():
            ray.init(address=address, **options)
    except Exception as error:  # Ray raises bare ones, such as when a node does not start in time
        if re.search(r"InvalidAuthToken|[Aa]uthentication token", _with_causes(error)):
            raise DataError(
                f"the Ray cluster at {address} asks for a token: put what `ray get-auth-token` prints on its head into "
                "~/.ray/auth_token here, and set RAY_AUTH_MODE=token"
            ) from None
        reason = " ".join(str(error).split()).partition(". ")[0][:200].rstrip(".")
        raise DataError(
            f"no Ray cluster answers at {address}: {reason}; start one with `ray start --head`, or take --ray local"
        ) from None
    except BaseException:  # stopped meanwhile
        ray.shutdown()
        raise
    _be_quiet()
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_listens(address: str) -> None:
    """See that what listens there may be Ray, which itself goes on trying for minutes. Raises DataError, UsageError."""
    host, _, port = address.rpartition(":")
    if int(port) > 65535:
        raise UsageError(f"--ray {address!r}: {port} is not a port; the highest is 65535")
    advice = "start one with `ray start --head`"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return
            connection.sendall(_HELLO)
            answer = connection.recv(len(_SETTINGS))
    except OSError as error:
        raise DataError(f"no Ray cluster answers at {address}: {error}; {advice}") from None
    if answer[3:4] != _SETTINGS[3:4]:  # the type of the frame
        raise DataError(f"what answers at {address} is no Ray cluster; give the port of the head, or {advice}")


def _with_causes(error: BaseException | None) -> str:
    """The words of an error and of those that led to it."""
    words = []
    while error is not None:
        words.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(words)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of signals: Ray would put its own in their place, which dump stacks and end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    from ray._private import utils

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    theirs, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs
        for number, handler in handlers.items():
            if handler is not None:  # it was not set by Python
                signal.signal(number, handler)


def _be_quiet() -> None:
    """Keep Ray from printing what happens to its processes to standard output, which is the command's own.

    Whoever needs a process learns of its end from the call that fails.
    """
    from ray._private import worker

    worker._worker_logs_enabled = False  # no public setting covers the messages about lost processes
