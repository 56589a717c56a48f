"""A better SPRC checkpoint behind a gallery of tokens in the layout of CIRR, from building to rollback.

    python bench/replace_tokens.py PRODUCTS --work DIR --output bench/results/DATE-replace-tokens.json

The two checkpoints give tokens alone, as the official ones do: A is made of `small-lite`, B of `small`, by applying the
projection of their gallery vectors to each of the Q-Former's eight tokens. Everything after that is the command line:
A's gallery of val, its figures, `replace-model` with every route, the append of further photos by B, the figures again,
the submission of test1, and the rollback. The judged questions are about the val photos, and none has a reference of a
val query.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from cir.data.attribute_benchmarks import load_products
from cir.data.judged_query import JudgedQuery
from cir.files import make_folder, write_bytes, write_json, write_text
from cir.images import ImageFile
from cir.models import find, folder, weights
from cir.models.sprc import Sprc

MEMBERS, LATER = 6, 100  # images of a subset, photos appended by B
SEED = 0
MODELS = {"tokens-a": "small-lite", "tokens-b": "small"}


def cir(*words: object, codes: Sequence[int] = (0,)) -> str:
    """What a command prints. Raises RuntimeError for another exit code."""
    done = subprocess.run([sys.executable, "-m", "cir", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        raise RuntimeError(f"{words}: exit {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def write_data(root: Path, data: Path) -> Path:
    """Product photos as a CIRR; returns the judged questions about its val split."""
    rng = random.Random(SEED)
    train, val = load_products(root, split="train"), load_products(root)
    by_reference = sorted({query.reference for query in val.queries})
    asked = set(rng.sample(by_reference, len(by_reference) // 2))
    own = [query for query in val.queries if query.headline]
    _write_split(data, "val", "dev", val.images, [query for query in own if query.reference in asked], rng)
    hidden = [query for query in own if query.reference not in asked]
    _write_split(data, "test1", "test1", val.images, hidden[:200], rng)
    lines = [
        {
            "id": query.id,
            "reference": f"{Path(query.reference).stem}.jpg",
            "caption": query.caption,
            "targets": [f"{Path(target).stem}.jpg" for target in sorted(query.targets)],
        }
        for query in hidden
    ]
    write_text(data / "questions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    make_folder(data / "later")
    for image in train.images[:LATER]:
        write_bytes(data / "later" / f"later-{Path(image.id).stem}.jpg", image.read())
    return data / "questions.jsonl"


def _write_split(
    data: Path,
    split: str,
    place: str,
    images: Sequence[ImageFile],
    queries: Sequence[JudgedQuery],
    rng: random.Random,
) -> None:
    names = [Path(image.id).stem for image in images]
    for image in images:
        write_bytes(data / place / f"{Path(image.id).stem}.jpg", image.read())
    entries = []
    for number, query in enumerate(queries):
        reference, targets = Path(query.reference).stem, [Path(name).stem for name in sorted(query.targets)]
        entry: dict[str, Any] = {"pairid": number, "reference": reference, "caption": query.caption}
        target = rng.choice(targets)
        if split != "test1":
            entry |= {"target_hard": target, "target_soft": dict.fromkeys(targets, 1.0)}
        others = rng.sample([name for name in names if name not in {reference, *targets}], MEMBERS - 2)
        entries.append({**entry, "img_set": {"id": number, "members": [reference, target, *others]}})
    write_json(data / "cirr" / "captions" / f"cap.rc2.{split}.json", entries)
    write_json(data / "cirr" / "image_splits" / f"split.rc2.{split}.json", {n: f"./{place}/{n}.png" for n in names})


def write_model(directory: Path, packaged: str) -> None:
    """A packaged model as one that gives tokens: each token is projected as their mean was."""
    source = find(packaged)
    model, _, preprocess = weights.load(source)
    config = replace(model.config, gallery_vector=False, gallery_tokens=True, simplex=None, query_heads={})
    tokens = Sprc(config, model.tokenizer)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("query_heads.")}
    for part in ("weight", "bias"):
        state[f"vision_proj.{part}"] = state.pop(f"gallery_proj.{part}")
    tokens.load_state_dict(state)
    vocabulary = folder.vocabulary_of(source).read_bytes()
    weights.save(directory, tokens, weights.ModelDescription(directory.name, preprocess, vocabulary))


def recalls(index: Path, data: Path) -> dict[str, float]:
    """Composed figures of `cir evaluate cirr-val --index`, in percent."""
    report = json.loads(cir("evaluate", "cirr-val", "--data-root", data, "--index", index, "--json"))
    return {name: round(100 * figure["value"], 1) for name, figure in report["metrics"].items()}


@click.command()
@click.argument("root", type=click.Path(path_type=Path, exists=True))
@click.option("--work", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--output", type=click.Path(path_type=Path))
def main(root: Path, work: Path, output: Path | None) -> None:
    """Build, replace, append, evaluate, submit and roll back."""
    data, index = work / "cirr", work / "val.index"
    questions = data / "questions.jsonl"
    if not questions.is_file():
        write_data(root, data)
    models = {name: work / name for name in MODELS}
    for name, packaged in MODELS.items():
        write_model(models[name], packaged)
    figures: dict[str, Any] = {}
    cir("evaluate", "cirr-val", "--data-root", data, "--model", models["tokens-a"], "--index", index, "--json")
    figures["by A"] = recalls(index, data)
    whole = work / "b.index"
    cir("evaluate", "cirr-val", "--data-root", data, "--model", models["tokens-b"], "--index", whole, "--json")
    figures["re-indexed by B"] = recalls(whole, data)
    before = json.loads(cir("info", index, "--json"))["generation"]
    words = ["--questions", questions, "--data-root", data / "dev", "--json"]
    study = json.loads(cir("replace-model", index, models["tokens-b"], *words, "--apply", codes=(0, 1)))
    figures["study"] = study["spaces"]
    figures["passed"] = study["passed"]
    if study["passed"]:
        figures["by B over A's tokens"] = recalls(index, data)
        cir("build-index", data / "later", "-o", index)
        figures["after the append of B"] = recalls(index, data)
        figures["segments"] = json.loads(cir("info", index, "--json"))["segments"]
        words = ["--data-root", data, "--model", models["tokens-b"], "--submission", work / "submission"]
        cir("evaluate", "cirr-test1", *words, "--json")
        figures["submission"] = sorted(path.name for path in (work / "submission").iterdir())
        cir("rollback", index, "--to", before)
        figures["after the rollback"] = recalls(index, data)
    for name in ("by A", "by B over A's tokens", "after the append of B", "re-indexed by B", "after the rollback"):
        click.echo(f"{name:<24} {figures.get(name)}")
    for space in study["spaces"]:
        for route in space["routes"]:
            click.echo(f"{route['route']:<16} {route['values']}")
        click.echo(json.dumps(space["absent"]))
    if output:
        write_json(output, {"date": datetime.now(UTC).date().isoformat(), **figures})


if __name__ == "__main__":
    main()
