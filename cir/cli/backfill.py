"""`cir backfill`"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from cir.cli.options import (
    device_option,
    index_argument,
    json_option,
    model_dir_option,
    quiet_libraries,
    trust_roots_option,
)
from cir.cli.progress import ProgressBar
from cir.cli.spreading import ray_options, spreading
from cir.errors import UsageError

STOPPED = 1
SHOWN = 3


@click.command()
@index_argument
@click.option("--budget", metavar="TIME", help="Stop after 90s, 30m or 2h; the current part is finished first.")
@click.option("--count", type=click.IntRange(min=1), help="Encode at most this many images.")
@click.option("--part", type=click.IntRange(min=1), default=8192, show_default=True, help="Images per generation.")
@click.option(
    "--accept-noninferior",
    default=0.0,
    metavar="PP",
    help="Stop only when recall has dropped significantly (95 %) by more than PP percentage points; a half re-indexed "
    "gallery can be worse than both the old and the re-indexed one.",
)
@ray_options
@device_option
@model_dir_option
@trust_roots_option
@json_option
@click.pass_context
def backfill(
    context: click.Context,
    index: Path,
    budget: str | None,
    count: int | None,
    part: int,
    accept_noninferior: float,
    address: str | None,
    processes: int | None,
    device: str,
    model_dirs: tuple[Path, ...],
    trust_roots: bool,
    as_json: bool,
) -> None:
    """Encode images of older models again, in parts.

    The most retrieved images come first. Every part is published as a generation: stop it at any time, and run it again
    to go on. Photos are read where they were indexed; images without a photo stay as they are, and are counted. Judged
    queries that INDEX stores are evaluated again at 25, 50 and 75 %; if recall has dropped significantly, the backfill
    stops with exit code 1. With --ray a part is encoded by many processes, so it should be larger: a few thousand
    images for each.

    \b
    Example:
      cir backfill my.index --budget 2h
    """
    quiet_libraries()
    from cir.indexer.writing.backfill import backfill as parts
    from cir.replacement.guard import RegressionGuard
    from cir.search import open_index

    limit = _seconds(budget) if budget else None
    if not 0 <= accept_noninferior <= 100:
        raise UsageError("--accept-noninferior is between 0 and 100")
    searcher = open_index(index, model_dirs=model_dirs, device=device, trust_roots=trust_roots, strict=True)
    gallery, encoder = searcher.gallery, searcher.encoder
    guard = RegressionGuard(searcher, margin=accept_noninferior / 100)
    bar, started, state = ProgressBar("encoding again"), time.monotonic(), None
    regression = guard.regression()  # also that of a backfill that was stopped
    model = encoder.directory or encoder.card.name
    with spreading(address, processes, model, device=device, model_dirs=model_dirs) as spread:
        states = parts(index, encoder, count=count, part=part, trust_roots=trust_roots, spread=spread)
        for state in () if regression else states:
            bar(state.done, max(state.done, min(state.older, count or state.older)))
            regression = guard.regression()
            if regression or (limit is not None and time.monotonic() - started >= limit):
                break
    done, skipped = (state.done, state.skipped) if state else (0, ())
    left = state.left if state else len(gallery) - gallery.count_in(gallery.space.id)
    if as_json:
        report = {
            "done": done,
            "left": left,
            "skipped": [list(image) for image in skipped],
            "generation": state.generation if state else gallery.manifest.generation,
            "questions": guard.seen,
            "stopped": regression,
        }
        click.echo(json.dumps(report))
    else:
        click.echo(f"{index}: {done:,} images encoded again, {left:,} of older models left")
        if skipped:
            click.echo(f"  {len(skipped):,} images are skipped and stay as they are; --json lists them all")
        for name, reason in skipped[:SHOWN]:
            click.echo(f"    {reason if name in reason else f'{name}: {reason}'}")
        for share, recalls in guard.seen.items():
            figures = ", ".join(f"{name} {100 * value:.1f} %" for name, value in recalls.items())
            click.echo(f"  judged queries, {share}: {figures}")
    if regression:
        click.echo(
            f"cir: stopped: {regression}; go on with --accept-noninferior 5, or go back: `cir info {index}` lists the "
            f"generations for `cir rollback {index} --to N`",
            err=True,
        )
        context.exit(STOPPED)


def _seconds(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except (ValueError, KeyError):
        seconds = 0.0
    if not seconds > 0:
        raise UsageError(f"--budget {text!r}: write a time such as 90s, 30m or 2h")
    return seconds
