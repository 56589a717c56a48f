"""`cir replace-model`"""

from __future__ import annotations

import json
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
from cir.errors import StaleEvidenceError, UsageError

REFUSED = 1


@click.command("replace-model")
@index_argument
@click.argument("model")
@click.option(
    "--questions",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Judged queries about images of INDEX, one per line, as for `evaluate jsonl`; at least 200.  "
    "[default: those that `cir questions` has stored in INDEX]",
)
@click.option(
    "--data-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that image names in the file are relative to; without it they are ids of INDEX.",
)
@click.option(
    "--sample",
    default=2000,
    show_default=True,
    help="Also encode this many images, drawn at random. Routes are fitted on the sample, and R@k is measured within "
    "it, so it is higher than on the whole index: compare rows, not levels.",
)
@click.option(
    "--judge-pool",
    is_flag=True,
    help="Measure nothing; ask of the first ten of both models for every marked query whether they are right, shuffled "
    "and without saying which model found them, and keep the marks in INDEX (as `cir query --judge`).",
)
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --judge-pool: draw the images to judge as a picture, anew for each query.",
)
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Without judged queries: read photos below this folder, for images whose vectors were imported or whose "
    "photos have moved. A path below it, or a file name, is an id of INDEX, with its ending or without; at least 200.",
)
@click.option("--apply", "publish", is_flag=True, help="Let MODEL serve if it passes; stored vectors do not change.")
@click.option(
    "--trust-model",
    is_flag=True,
    help="Without judged queries nothing shows that MODEL is better: --apply then needs your word for it.",
)
@click.option(
    "--accept-noninferior",
    default=0.0,
    metavar="PP",
    help="Accept a route if its loss is below PP percentage points with 95 % confidence; recorded in the index.  "
    "[default: it must be better]",
)
@device_option
@model_dir_option
@trust_roots_option
@json_option
@click.pass_context
def replace_model(
    context: click.Context,
    index: Path,
    model: str,
    file: Path | None,
    data_root: Path | None,
    sample: int,
    judge_pool: bool,
    sheet: Path | None,
    photos: Path | None,
    publish: bool,
    trust_model: bool,
    accept_noninferior: float,
    device: str,
    model_dirs: tuple[Path, ...],
    trust_roots: bool,
    as_json: bool,
) -> None:
    """Measure whether MODEL may serve INDEX without re-indexing.

    Every route from the new model's queries to the stored vectors is fitted on half of the judged queries and measured
    on the other half, beside the current index and a full re-index. Exit code 0 if, for the vectors of each
    model in INDEX, some route passes; else 1. INDEX changes only with --apply, and only if MODEL passes.

    Queries that people have marked count only if the first ten of both models are judged: --judge-pool asks. Marks on
    one model's hits alone neither pass nor refuse.

    Without judged queries the command measures how far each route answers as a full re-index would, for images, texts
    and both. That measures the mapping, not whether MODEL is better, so --apply then needs --trust-model.

    \b
    Example:
      cir replace-model my.index better-model --questions questions.jsonl
      cir replace-model my.index better-model --judge-pool --sheet pool.png
      cir replace-model my.index better-model --apply
      cir replace-model vectors.index clip-model --photos photos --apply --trust-model
    """
    quiet_libraries()
    from cir import models
    from cir.cli.judging import judge_pools
    from cir.indexer.writing.serve import serve_model
    from cir.replacement import questions
    from cir.replacement.photos import GivenPhotos
    from cir.replacement.report import render
    from cir.replacement.study import StudyOptions, may_serve, study_replacement
    from cir.search import open_index

    if sample < 0 or not 0 <= accept_noninferior <= 100:
        raise UsageError("--sample is 0 or more, --accept-noninferior between 0 and 100")
    if judge_pool and (file or publish or as_json):
        raise UsageError("--judge-pool only asks; leave out --questions, --apply and --json")
    if sheet and not judge_pool:
        raise UsageError("--sheet shows what --judge-pool asks about; give both")
    searcher = open_index(index, model_dirs=model_dirs, device=device, trust_roots=trust_roots, strict=True)
    gallery = searcher.gallery
    if judge_pool:
        encoder = models.load_model(model, device=device, model_dirs=model_dirs)
        judge_pools(searcher, encoder, StudyOptions(sample), sheet)
        return
    given = questions.Questions(questions.read_file(file, gallery, data_root)) if file else questions.stored(gallery)
    if given.gone:
        click.echo(f"cir: {given.gone:,} judged queries name images that are gone; they are left out", err=True)
    if given.queries and photos:
        raise UsageError("--photos is for a study without judged queries; leave it out")
    if publish and not given.queries and not trust_model:
        click.echo(
            f"cir: refused: without judged queries nothing shows that {model} is better; store some with "
            f"`cir questions {index}`, or take it on trust: --trust-model",
            err=True,
        )
        context.exit(REFUSED)
    matched = GivenPhotos.find(photos, gallery) if photos else None
    if matched:
        others = f", {matched.others:,} others are not" if matched.others else ""
        click.echo(f"cir: {photos}: {len(matched.by_id):,} photos are named as images of {index}{others}", err=True)
    encoder = models.load_model(model, device=device, model_dirs=model_dirs)
    studies = study_replacement(
        searcher,
        encoder,
        given.queries,
        options=StudyOptions(
            sample, accept_noninferior / 100, questions_sha256=given.sha256 if given.queries else "", photos=matched
        ),
        progress=ProgressBar("encoding the sample"),
    )
    passed, generation, stale = may_serve(studies), None, ""
    if not as_json:
        click.echo("\n\n".join(render(study, encoder.card.name) for study in studies))
    if publish and passed:
        mappings = {study.evidence.space: study.mapping for study in studies if study.mapping}
        unsearched = frozenset(study.evidence.space for study in studies if study.left_out)
        try:
            generation = serve_model(
                index, encoder, mappings, unsearched=unsearched, generation=gallery.manifest.generation
            ).generation
        except StaleEvidenceError as error:
            stale = str(error)
    if as_json:
        spaces = [{**study.evidence.to_json(), "left_out": study.left_out} for study in studies]
        click.echo(json.dumps({"spaces": spaces, "passed": passed, "applied": generation, "stale": stale}))
    elif generation:
        click.echo(f"\n{index}: generation {generation}, served by {encoder.card.name}; undo: `cir rollback {index}`")
    elif passed and not publish:
        click.echo("\nnothing has changed; --apply lets it serve")
    if stale:
        click.echo(f"cir: refused: {stale}", err=True)
    if not passed or stale:
        context.exit(REFUSED)
