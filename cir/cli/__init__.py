"""The command line. stdout is data, stderr is progress; exit codes: 0 success, 1 a negative answer, 2 a mistake."""

from __future__ import annotations

import errno
import io
import sys

import click

from cir import __version__
from cir.cli.backfill import backfill
from cir.cli.build_index import build_index
from cir.cli.convert import convert
from cir.cli.data import data
from cir.cli.demo import demo
from cir.cli.evaluate import evaluate
from cir.cli.info import info
from cir.cli.models import models
from cir.cli.query import query
from cir.cli.questions import questions
from cir.cli.replace_model import replace_model
from cir.cli.rollback import rollback
from cir.cli.score import compare, score
from cir.cli.train import train
from cir.cli.verify import verify
from cir.errors import CirError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="cir")
def cli() -> None:
    """Search pictures with a picture and a sentence: "like this, but in red".

    \b
    Example:
      cir build-index photos/ -o my.index
      cir query my.index -i photos/shirt.jpg -t "in red, with long sleeves" --sheet answer.png
    """


for command in (
    build_index,
    query,
    evaluate,
    score,
    compare,
    data,
    questions,
    replace_model,
    backfill,
    rollback,
    info,
    verify,
    models,
    train,
    convert,
    demo,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line. A user's mistake is one line on stderr and exit code 2; a bug keeps its traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be readable as text
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message())
        code = 2
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context else ""
        click.echo(f"cir: {_one_line(error.format_message())}{hint}", err=True)
        code = 2
    except CirError as error:
        click.echo(f"cir: {_one_line(str(error))}", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("cir: stopped; what was finished is kept", err=True)
        code = 130
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        click.echo("cir: the output cannot be written: no space left on the device", err=True)
        code = 2
    except SystemExit:
        # click's answer to a closed pipe: the reader of the output has enough.
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _one_line(message: str) -> str:
    return " ".join(message.split())
