"""How a process of the command line ends: exit codes, standard streams, signals, and our own bugs.

0       the command worked
1       the command worked, and its answer is negative: nothing found, refused, damaged
2       a mistake in the request or its input, in one line; also an output that cannot be written
70      a bug of this program, or too little memory: one line says where its traceback is
128+n   stopped by signal n (Ctrl-C 130, SIGTERM 143, SIGHUP 129); what was finished is kept
"""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any

import click

from cir import __version__
from cir.errors import CirError
from cir.images.names import shown

MISTAKE, BUG = 2, 70
DEBUG = "CIR_DEBUG"  # set to anything: our own bugs print their traceback, and libraries may warn
LEFT_OUT = ("torch", "transformers")  # of requirements-search.txt
_TOGETHER = 5.0  # seconds within which signals are one request: a closing session sends several


class OutputError(Exception):
    """Standard output cannot be written. No OSError, so that no handler of another file's errors takes it for its own.

    Attributes:
        number: the errno.
    """

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number).lower())
        self.number = number


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which end the work as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def run(command: click.Command, words: Sequence[str]) -> int:
    """Run a command line, whatever happens in it, and return its exit code. Nothing of the process is changed."""
    try:
        code = _invoke(command, words)
        sys.stdout.flush()
        return code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context else ""
        return _say(f"{error.format_message()}{hint}", MISTAKE)
    except CirError as error:
        return _say(str(error), MISTAKE)
    except OutputError as error:
        if error.number == errno.EPIPE:  # the reader of the output has enough
            return 0
        return _say(f"the output cannot be written: {error}", MISTAKE)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        return _say("stopped; what was finished is kept", 128 + number)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in LEFT_OUT:
            return _report_bug(error)
        return _say(
            f"this needs {missing}, which an installation for searching leaves out; install all of cir: "
            "pip install 'cir-engine[cpu]'",
            MISTAKE,
        )
    except BaseException as error:
        return _report_bug(error)


def main(command: click.Command) -> None:
    """Run this process's command line and end the process."""
    handle_signals()
    take_over_streams()
    quiet_warnings()
    try:
        code = run(command, sys.argv[1:])
    except KeyboardInterrupt:  # the user does not want to wait for the last line
        code = 128 + signal.SIGINT
    sys.exit(code)


def _invoke(command: click.Command, words: Sequence[str]) -> int:
    if "_CIR_COMPLETE" in os.environ:  # click's completion for shells, which only its own `main` answers
        command.main(list(words), "cir", complete_var="_CIR_COMPLETE", standalone_mode=False)
    try:
        with command.make_context("cir", list(words)) as context:
            code = command.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return MISTAKE
    return code if isinstance(code, int) else 0


def one_line(message: str) -> str:
    """A message on one line, without anything that a terminal would take for a command."""
    return shown(" ".join(message.split()))


def _say(message: str, code: int) -> int:
    """One line on stderr; returns the exit code."""
    click.echo(f"cir: {one_line(message)}", err=True)
    return code


def _report_bug(error: BaseException) -> int:
    """One line on stderr, and the traceback in a file; with CIR_DEBUG on stderr."""
    try:
        kind = "not enough memory" if isinstance(error, MemoryError) else "this is a bug in cir"
        what = f"{kind}: {type(error).__name__}: {error}" if str(error) else f"{kind}: {type(error).__name__}"
        text = "".join(traceback.format_exception(error))
        if DEBUG in os.environ:
            click.echo(text, err=True)
        try:
            handle, name = tempfile.mkstemp(prefix="cir-bug-", suffix=".txt")
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"cir {__version__}, Python {sys.version}\n{sys.argv}\n{text}")
            where = f"the traceback is in {name}; please report it"
        except OSError:
            where = f"its traceback could not be written; {DEBUG}=1 prints it"
        return _say(f"{what[:500]}; {where}", BUG)
    except Exception:  # even that takes more memory than there is
        os.write(2, b"cir: this is a bug in cir, or too little memory; its traceback could not be written\n")
        return BUG


# What belongs to the process: signals, streams, warnings.


def handle_signals() -> None:
    """Make SIGTERM and SIGHUP end the work as Ctrl-C does. One that is ignored (`nohup`) stays ignored."""
    stopped_at = -_TOGETHER

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped_at
        if time.monotonic() - stopped_at < _TOGETHER:
            return  # what was finished is being written
        stopped_at = time.monotonic()
        raise Stopped(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


class _Output(io.FileIO):
    """Standard output, whose errors are an OutputError. Later writes go nowhere: Python flushes when it ends."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            raise OutputError(error.errno or errno.EIO) from None


class _Messages(io.FileIO):
    """Standard error. What cannot be written is lost; that is no reason to stop."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def take_over_streams() -> None:
    """Put our own streams in place of Python's, which know neither closed streams nor names that are no text."""
    closed = [number for number in (0, 1, 2) if not _is_open(number)]
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # takes the number, which else the next file would get, an index for example
    encoding = getattr(sys.stdout or sys.stderr, "encoding", "utf-8")
    messages = io.BufferedWriter(_Messages(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(messages, encoding, "backslashreplace", line_buffering=True)
    if 1 in closed:
        sys.exit(_say("the output cannot be written: standard output is closed", MISTAKE))
    output = _Output(1, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(output), encoding, "backslashreplace", line_buffering=output.isatty()
    )


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def quiet_warnings() -> None:
    """Our own warnings are lines of ours; those of libraries are for developers, and shown with CIR_DEBUG."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.getLogger("cir").addHandler(handler)
    logging.getLogger("cir").propagate = False
    if DEBUG not in os.environ:
        logging.getLogger().addHandler(logging.NullHandler())
        if not sys.warnoptions:
            warnings.simplefilter("ignore")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"cir: {one_line(record.getMessage())}"
