"""`cir replace-model`, `anchors`, `backfill` and `rollback`: another model behind an index whose vectors stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.build_index import Progress
from cir.cli.options import device_option, index_argument, json_option, kinds_of, model_dir_option, quiet_libraries

if TYPE_CHECKING:
    from cir.replacement.study import Replacement

REFUSED = 1
SLICES = 6  # that are shown


@click.command("replace-model")
@index_argument
@click.argument("model")
@click.option(
    "--anchors",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Questions about images of INDEX with known answers, one a line, as for `evaluate jsonl`; 200 at least.  "
    "[default: those that `cir anchors` keeps in INDEX]",
)
@click.option(
    "--data-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="The anchors name pictures below this folder, not ids of INDEX.",
)
@click.option(
    "--sample",
    default=2000,
    show_default=True,
    help="Images besides those that anchors name. Both are encoded by MODEL, routes are fitted on them, and every R@k "
    "is measured among them: among all of a larger index it would be lower.",
)
@click.option("--apply", "publish", is_flag=True, help="Let MODEL serve if it passes. Stored vectors stay as they are.")
@click.option(
    "--accept-noninferior",
    default=0.0,
    metavar="PP",
    help="Let pass what is certain (95 %) to be less than PP percentage points worse; noted in the index.  "
    "[default: must be better]",
)
@device_option
@model_dir_option
@json_option
@click.pass_context
def replace_model(
    context: click.Context,
    index: Path,
    model: str,
    anchors: Path | None,
    data_root: Path | None,
    sample: int,
    publish: bool,
    accept_noninferior: float,
    device: str,
    model_dirs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Measure whether MODEL may serve INDEX without encoding its gallery again, and say what to do.

    Every route from the new model's queries to the stored vectors is fitted on half of the anchors and measured on the
    other half, beside the index as it is and beside everything encoded again. Exit code 0 if there is a route to the
    vectors of every older model, else 1. Nothing is changed without --apply, or where it is refused.

    \b
    Example:
      cir replace-model my.index better-model --anchors anchors.jsonl
      cir replace-model my.index better-model --anchors anchors.jsonl --apply
    """
    quiet_libraries()
    from cir import models
    from cir.errors import StaleEvidenceError, UsageError
    from cir.replacement.questions import Kept, kept_anchors, read_anchors
    from cir.replacement.study import apply, passed, study_replacement
    from cir.search.searcher import open_index

    if sample < 0 or not 0 <= accept_noninferior <= 100:
        raise UsageError("--sample is 0 or more, --accept-noninferior between 0 and 100")
    opened = open_index(index, model_dirs=model_dirs, device=device)
    gallery = opened.gallery
    kept = Kept(read_anchors(anchors, gallery, data_root)) if anchors else kept_anchors(index, gallery)
    if kept.gone:
        click.echo(f"cir: {kept.gone:,} of the kept anchors name images that are gone; they are left out", err=True)
    if not kept.anchors:
        raise UsageError(f"{index} keeps no anchors: give --anchors FILE, or keep some with `cir anchors {index}`")
    encoder = models.load_model(model, device=device, model_dirs=model_dirs)
    found = study_replacement(
        opened,
        encoder,
        kept.anchors,
        asked=kept.sha256,
        sample=sample,
        margin=accept_noninferior / 100,
        progress=Progress("encoding the sample"),
    )
    may = passed(found)
    if not as_json:
        click.echo("\n\n".join(_render(one, encoder.card.name) for one in found))
    applied, stale = None, ""
    if publish and may:
        try:
            applied = apply(index, encoder, found, gallery.manifest.generation).generation
        except StaleEvidenceError as error:
            stale = str(error)
    if as_json:
        told = {"spaces": [one.to_json() for one in found], "passed": may, "applied": applied, "stale": stale}
        click.echo(json.dumps(told))
    elif applied:
        click.echo(f"\n{index}: generation {applied}, served by {encoder.card.name}; `cir rollback {index}` goes back")
    elif may and not publish:
        click.echo("\nnothing was changed; --apply lets it serve")
    if stale:
        click.echo(f"cir: refused: {stale}", err=True)
    if not may or stale:
        context.exit(REFUSED)


@click.command()
@index_argument
@click.option(
    "--from",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help='Keep the anchors of this file, one a line, as for `evaluate jsonl`: {"id": "q1", "reference": "shoes/1.jpg", '
    '"caption": "in red", "targets": ["shoes/7.jpg"]}; "reference" may be "".',
)
@click.option(
    "--data-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="The file names pictures below this folder, not ids of INDEX.",
)
@click.option(
    "--metadata",
    "kinds",
    multiple=True,
    metavar="KIND=COLUMN",
    help="Make anchors of metadata: colour=baseColour says that the column baseColour holds colours. KIND is colour, "
    "type, gender, pattern, sleeves, neckline, usage, season or material. May be repeated.",
)
@click.option("--count", type=click.IntRange(min=1), help="How many to make of metadata.  [default: 1000]")
def anchors(index: Path, file: Path | None, data_root: Path | None, kinds: tuple[str, ...], count: int | None) -> None:
    """Keep anchors in INDEX, with their photos: questions with known answers, by which a new model is judged.

    Without options it says what is kept; new ones replace them. Photos are copied, so that the anchors outlive them.
    A replacement needs 200 about the images of each older model.

    \b
    Example:
      cir anchors my.index --from anchors.jsonl
      cir anchors my.index --metadata colour=baseColour --metadata type=articleType
    """
    from cir.errors import UsageError
    from cir.indexer.reading.gallery import Gallery
    from cir.replacement.questions import MADE, anchors_from_metadata, keep_anchors, kept_anchors, read_anchors
    from cir.replacement.gate import ANCHORS

    if file and kinds:
        raise UsageError("--from and --metadata exclude each other; give one")
    if count is not None and not kinds:
        raise UsageError("--count says how many to make of --metadata; give that too")
    gallery = Gallery.open(index)
    before = len(kept_anchors(index, gallery).anchors)
    if file:
        keep_anchors(index, gallery, read_anchors(file, gallery, data_root))
    elif kinds:
        columns = kinds_of(kinds, "--metadata")
        keep_anchors(index, gallery, anchors_from_metadata(gallery, columns, count or MADE))
    kept = kept_anchors(index, gallery)
    images = {name for one in kept.anchors for name in (one.reference, *one.targets) if name}
    said = f"{len(kept.anchors):,} anchors ({kept.sha256}) about {len(images):,} images" if images else "no anchors"
    click.echo(f"{index}: {said}")
    if before and (file or kinds):
        click.echo(f"  in place of {before:,}")
    if kinds and len(kept.anchors) < (count or MADE):
        click.echo("  the metadata give no more different questions")
    if images and len(kept.anchors) < ANCHORS:
        click.echo(f"  a replacement needs {ANCHORS}; add some with --from")
    if kept.gone:
        click.echo(f"  {kept.gone:,} more name images that are gone; keep new ones with --from or --metadata")
    for one in kept.anchors[:3]:
        click.echo(
            f"  {one.reference or 'no reference'}: {one.caption!r} -> {min(one.targets)}, {len(one.targets)} in all"
        )


@click.command()
@index_argument
@click.option("--budget", metavar="TIME", help="Stop after so long: 90s, 30m, 2h; a part is finished first.")
@click.option("--count", type=click.IntRange(min=1), help="Encode so many images at most.")
@click.option("--part", type=click.IntRange(min=1), default=8192, show_default=True, help="Images a generation.")
@click.option(
    "--accept-noninferior",
    default=0.0,
    metavar="PP",
    help="Stop only when it is certain (95 %) that PP percentage points of the anchors are no longer answered; half "
    "encoded may be worse than not at all, and than whole.",
)
@device_option
@model_dir_option
@json_option
@click.pass_context
def backfill(
    context: click.Context,
    index: Path,
    budget: str | None,
    count: int | None,
    part: int,
    accept_noninferior: float,
    device: str,
    model_dirs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Encode images of older models again by the serving model, the most retrieved first.

    Every part is a generation: stop it when you like, and run it again to go on. Photos are read where they were
    indexed; images without one stay as they are, and are counted. Where INDEX keeps anchors, they are asked again when
    25, 50 and 75 % of it are of the serving model; if answers are certainly (95 %) worse than before, it stops with
    exit code 1.

    \b
    Example:
      cir backfill my.index --budget 2h
    """
    quiet_libraries()
    import time

    from cir.errors import UsageError
    from cir.indexer.writing.backfill import backfill as steps
    from cir.replacement.guard import Watch
    from cir.search.searcher import open_index

    limit = _seconds(budget) if budget else None
    if not 0 <= accept_noninferior <= 100:
        raise UsageError("--accept-noninferior is between 0 and 100")
    opened = open_index(index, model_dirs=model_dirs, device=device)
    watch, encoder = Watch(index, opened, margin=accept_noninferior / 100), opened.encoder
    bar, started, state = Progress("encoding again"), time.monotonic(), None
    worse = watch.worse()  # also of what was stopped before
    for state in () if worse else steps(index, encoder, count=count, part=part):
        bar(state.done, max(state.done, min(state.older, count or state.older)))
        worse = watch.worse()
        if worse or (limit is not None and time.monotonic() - started >= limit):
            break
    older = len(opened.gallery) - len(opened.gallery.ids_in(opened.gallery.space.id))
    left = state.left if state else older
    told = {
        "done": state.done if state else 0,
        "left": left,
        "skipped": [list(one) for one in state.skipped] if state else [],
        "generation": state.generation if state else opened.gallery.manifest.generation,
        "anchors": watch.seen,
        "stopped": worse,
    }
    if as_json:
        click.echo(json.dumps(told))
    else:
        click.echo(f"{index}: {told['done']:,} images encoded again, {left:,} of older models left")
        skipped = state.skipped if state else []
        if skipped:
            click.echo(f"  {len(skipped):,} skipped, which stay as they are; --json names them all")
        for name, reason in skipped[:3]:
            click.echo(f"    {reason if name in reason else f'{name}: {reason}'}")
        for share, value in watch.seen.items():
            click.echo(f"  anchors answered within 10, {share}: {100 * value:.1f} %")
    if worse:
        click.echo(
            f"cir: stopped: {worse}; go on with --accept-noninferior 5, or back: `cir info {index}` lists the "
            f"generations, `cir rollback {index} --to N`",
            err=True,
        )
        context.exit(REFUSED)


def _seconds(text: str) -> float:
    from cir.errors import UsageError

    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except (ValueError, KeyError):
        seconds = 0.0
    if not seconds > 0:
        raise UsageError(f"--budget {text!r}: write a time such as 90s, 30m or 2h")
    return seconds


@click.command()
@index_argument
@click.option("--to", type=int, metavar="N", help="Generation to go back to.  [default: the one that was live before]")
def rollback(index: Path, to: int | None) -> None:
    """Make the generation of INDEX that was live before live again. Nothing is deleted: do it twice to go forward.

    After a backfill name the generation, since each of its parts is one; `cir info` lists them. Images that were added
    since are not in an earlier generation.

    \b
    Example:
      cir rollback my.index
      cir rollback my.index --to 7
    """
    from cir.indexer.writing.history import rollback as go_back

    before, now = go_back(index, to)
    click.echo(
        f"{index}: generation {now.generation} is what {to or before.previous} was: "
        f"{now.rows:,} images, served by {now.card.name}"
    )
    if now.rows < before.rows:
        click.echo(f"{before.rows - now.rows:,} images that were added since are not in it; build-index adds them")


def _render(found: Replacement, new: str) -> str:
    """The table and the verdict, for a person."""
    old = found.made_by
    if not found.routes:
        why = "; ".join(reason for each in found.verdict.refused.values() for reason in each)
        return f"{old} -> {new}: space {found.space}: {why}\n{found.verdict.advice}"
    lines = [
        f"{old} -> {new}: {found.images:,} images of space {found.space}, {found.anchors:,} anchors "
        f"({found.measured:,} measured), {found.sample:,} images seen by both",
        "",
        *_table(found, new),
        "",
    ]
    if found.unusable:
        lines.append(f"{found.unusable:,} more anchors are left out: their photos are gone or have changed")
    lines += _slices(found)
    lines += [f"no {route}: {reason}" for route, reason in found.absent.items()]
    for route, reasons in found.verdict.refused.items():
        lines += [f"{route or 'refused'}: {reason}" for reason in reasons]
    lines += [f"note: {warning}" for warning in found.verdict.warnings]
    lines.append(f"verdict: {_verdict(found)}")
    return "\n".join(lines)


def _table(found: Replacement, new: str) -> list[str]:
    """Both measures of everything that was measured, aligned."""
    rows = [["", "R@1", "R@10", "gain R@1", "gain R@10", "of the gain", "lost", "half encoded", ""]]
    names = {
        "now": "the index as it is",
        "encoded again": f"{new}, everything encoded again",
        "naive": "mixed silently",
    }
    for name, values in found.compared.items():
        rows.append([names[name], _percent(values["R@1"]), _percent(values["R@10"]), *[""] * 6])
    against = "" in found.verdict.refused
    for one in found.routes:
        gains = [f"{100 * gain:+.1f} ({100 * low:+.1f})" for gain, low in one.gains.values()]
        shares = [f"{100 * share:.0f}" for share in one.recovered.values() if share is not None]
        rows.append(
            [
                f"by {one.route}",
                _percent(one.values["R@1"]),
                _percent(one.values["R@10"]),
                *gains,
                f"{', '.join(shares)} %" if shares else "",
                _percent(one.flips),
                f"{_percent(one.mixed['R@1'])}, {_percent(one.mixed['R@10'])}",
                "refused" if one.route in found.verdict.refused else "would pass" if against else "passes",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, "percent; in brackets what a gain is at least (95 %); of the gain and half encoded: R@1, R@10"]


def _slices(found: Replacement) -> list[str]:
    """What the chosen route, or the first, does to parts of the gallery, the worst first."""
    route = found.verdict.route or found.routes[0].route
    slices = next(one.slices for one in found.routes if one.route == route)
    if not slices:
        return []
    order = sorted(slices, key=lambda name: slices[name]["by this route"] - slices[name]["now"])
    told = [
        f"{name} {_percent(slices[name]['now'])} -> {_percent(slices[name]['by this route'])} "
        f"({slices[name]['anchors']:.0f} anchors)"
        for name in order[:SLICES]
    ]
    more = f"; {len(order) - SLICES} more" if len(order) > SLICES else ""
    return [f"R@10 by {route}, slice by slice: {', '.join(told)}{more}"]


def _verdict(found: Replacement) -> str:
    said = f"may serve by {found.verdict.route}" if found.verdict.route else "refused"
    return f"{said}; {found.verdict.advice}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
