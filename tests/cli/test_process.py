"""How the command line ends: exit codes, standard streams that are closed or full, signals, and our own bugs."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import pytest

from cir.cli import process
from cir.errors import DataError, MissingImageError
from cir.testing.fakes import FakeEncoder, build, folder_of

CIR = [sys.executable, "-m", "cir"]


def deep(levels: int) -> int:
    return deep(levels + 1)


def raise_(error: BaseException) -> None:
    raise error


def outcome(work: Callable[[], object], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and stderr of a command that does that."""
    capfd.readouterr()
    code = process.run(click.Command("work", callback=work), [])
    return code, capfd.readouterr().err


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: 1 // 0, "this is a bug in cir: ZeroDivisionError: integer division or modulo by zero; "),
        (lambda: deep(0), "this is a bug in cir: RecursionError: maximum recursion depth"),
        (lambda: raise_(MemoryError()), "not enough memory: MemoryError; "),
        (lambda: raise_(EOFError()), "this is a bug in cir: EOFError; "),  # click takes it for Ctrl-D
        (lambda: raise_(BrokenPipeError(errno.EPIPE, "a socket")), "BrokenPipeError"),  # click takes it for stdout
        (lambda: raise_(OSError(errno.ENOSPC, "full")), "OSError: [Errno 28] full"),
        (lambda: raise_(SystemExit(1)), "SystemExit: 1"),
        (lambda: raise_(RuntimeError("two\nlines\x1b[2J")), "RuntimeError: two lines\\x1b[2J; "),
    ],
)
def test_a_bug_is_one_line_and_exit_70(
    work: Callable[[], object],
    words: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python's own answer to an exception is exit 1, which here means "nothing found"."""
    monkeypatch.setattr("tempfile.mkstemp", partial(tempfile.mkstemp, dir=tmp_path))
    code, err = outcome(work, capfd)
    assert (code, err.count("\n")) == (70, 1)
    assert words in err
    (report,) = tmp_path.iterdir()
    assert str(report) in err
    assert "Traceback" in report.read_text()


def test_a_bug_with_cir_debug_or_without_a_temporary_folder(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.mkstemp", partial(tempfile.mkstemp, dir=tmp_path / "gone"))
    code, err = outcome(lambda: 1 // 0, capfd)
    assert (code, err.count("\n")) == (70, 1)
    assert "CIR_DEBUG=1 prints it" in err
    monkeypatch.setenv("CIR_DEBUG", "1")
    code, err = outcome(lambda: 1 // 0, capfd)
    assert code == 70
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("work", "code", "err"),
    [
        (lambda: 1, 1, ""),
        (lambda: None, 0, ""),
        (lambda: click.get_current_context().exit(1), 1, ""),
        (lambda: raise_(DataError("bad\nfile \x1b[31m")), 2, "cir: bad file \\x1b[31m\n"),
        (lambda: raise_(MissingImageError("a.jpg: gone")), 2, "cir: a.jpg: gone\n"),
        (lambda: raise_(KeyboardInterrupt()), 130, "cir: stopped; what was finished is kept\n"),
        (lambda: raise_(process.Stopped(signal.SIGHUP)), 129, "cir: stopped; what was finished is kept\n"),
        (lambda: raise_(process.OutputError(errno.EPIPE)), 0, ""),
        (lambda: raise_(process.OutputError(errno.EIO)), 2, "cir: the output cannot be written: input/output error\n"),
    ],
)
def test_exit_codes(work: Callable[[], object], code: int, err: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert outcome(work, capfd) == (code, err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("models --json >/dev/full", 2, "cir: the output cannot be written: no space left on device\n"),
        ("--help >/dev/full", 2, "cir: the output cannot be written: no space left on device\n"),
        ("--help >&-", 2, "cir: the output cannot be written: standard output is closed\n"),
        ("--help 1</dev/null", 2, "cir: the output cannot be written: bad file descriptor\n"),
        ("--help | true", 0, ""),
        ("--help <&-", 0, ""),
        ("--help >&- <&- 2>&-", 2, ""),
    ],
)
def test_a_standard_stream_that_fails_is_one_line(words: str, code: int, said: str) -> None:
    command = f"set -o pipefail; {sys.executable} -m cir {words}"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_standard_error_that_fails_changes_no_exit_code(redirection: str, tmp_path: Path) -> None:
    """With the number of a closed stderr, the next file that is opened would get what is meant for it."""
    command = f"{sys.executable} -m cir info {tmp_path}/nothing {redirection}"
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (2, "")


STOPPED_BUILD = """
import os, signal, sys
from pathlib import Path
import click
from cir.cli import process
from cir.testing.fakes import FakeEncoder, build

class Killed(FakeEncoder):
    def encode_images(self, pixels):
        if self.encoded >= 8:
            for number in map(int, sys.argv[3:]):
                os.kill(os.getpid(), number)
        return super().encode_images(pixels)

def work():
    build(*map(Path, sys.argv[1:3]), Killed(), workers=1, part_rows=1024)
    click.echo("finished")

process.handle_signals()
sys.exit(process.run(click.Command("work", callback=work), []))
"""


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((signal.SIGTERM,), 143),
        ((signal.SIGHUP,), 129),
        ((signal.SIGTERM, signal.SIGHUP, signal.SIGTERM), None),  # as a session sends that ends
    ],
)
def test_what_was_encoded_survives_a_signal(tmp_path: Path, numbers: tuple[int, ...], code: int | None) -> None:
    """SIGTERM of a scheduler and SIGHUP of a closed terminal lost up to 1,024 encoded images; Ctrl-C none."""
    photos, index = folder_of(tmp_path / "photos", 24), tmp_path / "x.index"
    command = [sys.executable, "-c", STOPPED_BUILD, photos, index, *map(str, map(int, numbers))]
    # Whoever runs the tests may have them ignore hangups (nohup), which child processes inherit.
    heard = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=heard)
    assert done.returncode in ({code} if code else {143, 129})
    assert (done.stdout, done.stderr) == ("", "cir: stopped; what was finished is kept\n")
    encoder = FakeEncoder()
    assert build(photos, index, encoder).resumed >= 4  # all but the batches that were being worked on
    assert encoder.encoded <= 20


def test_a_hangup_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    photos, index = folder_of(tmp_path / "photos", 12), tmp_path / "x.index"
    command = [sys.executable, "-c", STOPPED_BUILD, photos, index, str(int(signal.SIGHUP))]
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    assert (done.returncode, done.stdout) == (0, "finished\n")


def test_warnings_are_lines_of_ours_and_libraries_are_quiet(tmp_path: Path) -> None:
    code = (
        "import logging, warnings, click; from cir.cli import process\n"
        "def work():\n"
        "    warnings.warn('of a library'); logging.getLogger('library').warning('of a library')\n"
        "    logging.getLogger('cir.known').warning('ours,\\nin %s', 'two lines')\n"
        "import sys; sys.argv = ['cir']\n"
        "process.main(click.Command('work', callback=work))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "cir: ours, in two lines\n")
    debug = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "CIR_DEBUG": "1"}
    )
    assert debug.stderr.count("of a library") >= 2
