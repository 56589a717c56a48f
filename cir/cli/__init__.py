"""The command line. stdout is data, stderr is progress; `cir.cli.process` has the exit codes."""

from __future__ import annotations

import click

from cir import __version__
from cir.cli import process
from cir.cli.backfill import backfill
from cir.cli.build_index import build_index
from cir.cli.compact import compact
from cir.cli.compose import compose
from cir.cli.convert import convert
from cir.cli.data import data
from cir.cli.demo import demo
from cir.cli.evaluate import evaluate
from cir.cli.explain import explain
from cir.cli.export_onnx import export_onnx
from cir.cli.export_vectors import export_vectors
from cir.cli.import_vectors import import_vectors
from cir.cli.info import info
from cir.cli.merge import merge
from cir.cli.mine import mine
from cir.cli.models import models
from cir.cli.query import query
from cir.cli.questions import questions
from cir.cli.remove import remove
from cir.cli.repair import repair
from cir.cli.replace_model import replace_model
from cir.cli.rollback import rollback
from cir.cli.score import compare, score
from cir.cli.serve import serve
from cir.cli.train import train
from cir.cli.verify import verify


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
    explain,
    evaluate,
    score,
    compare,
    data,
    questions,
    mine,
    compose,
    replace_model,
    backfill,
    rollback,
    remove,
    compact,
    merge,
    import_vectors,
    export_vectors,
    info,
    verify,
    repair,
    models,
    train,
    convert,
    export_onnx,
    serve,
    demo,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line of this process and end the process; see `cir.cli.process`."""
    process.main(cli)
