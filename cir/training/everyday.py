"""Photos with captions as training data: composed questions mined from the captions, and the captions themselves."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from cir.arrays import Floats, Mask, Rows
from cir.data.captioned import TABLE, Captions, read_split
from cir.data.captioned_benchmarks import find_photos
from cir.data.captions import augment
from cir.data.judged_query import JudgedQuery
from cir.data.mining import LOOSE, MinedChange, change_text, mine, to_queries
from cir.errors import DataError
from cir.files import parse_json, read_regular, sha256_bytes, sha256_file, write_json
from cir.images import ImageFile, Preprocess
from cir.training.photo_source import ComputesFeatures, HeldOut, PhotoSource, decoded
from cir.training.triplet_sampling import UNKNOWN, SampledTriplet
from cir.training.views import random_view
from cir.typed_json import from_json

NAME = "everyday"
MINED, DESCRIBED = ("mined",), ("described",)  # kinds of triplets
MENTIONS = 2  # captions of a photo that must name a class for it to count
LONGEST = 500_000_000  # bytes of a file of mined changes
HELD_OUT_QUERIES = 1000


@dataclass(frozen=True)
class CaptionTriplet(SampledTriplet):
    """A triplet of photos with captions.

    Attributes:
        answers: rows of the table that answer the query.
    """

    answers: frozenset[int] = field(default_factory=frozenset)

    def answered_by(self, rows: Rows) -> Mask:
        """(N,) rows of the same table -> (N,) bool: which of them answer."""
        return np.logical_or.reduce([rows == answer for answer in self.answers])

    def described_by(self, rows: Rows) -> Mask:
        """(N,) rows of the same table -> (N,) bool: which of them is the photo that the description was written for."""
        return rows == self.target


class CaptionTable:
    """Photos with captions, and what was mined from them.

    Args:
        captions: photo -> its captions; photos keep this order.
        changes: mined from them.
    """

    def __init__(self, captions: Captions, changes: Sequence[MinedChange]) -> None:
        self.name = NAME
        self.ids = list(captions)
        self.captions = [captions[photo] for photo in self.ids]
        self.items: Sequence[Mapping[str, str]] = [{} for _ in self.ids]
        self.row_of = {photo: row for row, photo in enumerate(self.ids)}
        self._classes = _classes()
        self.values = {block: list(words) for block, words in self._classes.items()}
        self._changes: dict[int, list[MinedChange]] = {}
        for change in changes:
            self._changes.setdefault(self.row_of[change.reference], []).append(change)

    def labels(self, kind: str, classes: Sequence[str]) -> Rows:
        """(rows, M) places of the classes that at least `MENTIONS` captions of a photo name, filled up with -1."""
        words = self._classes.get(kind, {})
        place = {name: number for number, name in enumerate(classes)}
        found = []
        for captions in self.captions:
            said = [set(re.findall("[a-z]+", caption.lower())) for caption in captions]
            named = [name for name, forms in words.items() if sum(bool(forms & each) for each in said) >= MENTIONS]
            found.append([place[name] for name in named if name in place])
        width = max([1, *map(len, found)])
        return np.array([places + [UNKNOWN] * (width - len(places)) for places in found])

    def sample(
        self, reference: int, kinds: Sequence[str], candidates: Mask, rng: random.Random
    ) -> CaptionTriplet | None:
        """A random triplet: a mined change of the reference, or the caption of any other photo.

        Args:
            reference: row of the reference.
            kinds: `MINED` or `DESCRIBED`.
            candidates: (rows,) bool, the rows that may be the target.
            rng: source of all choices.

        Returns:
            The triplet; None if nothing was mined from the reference.
        """
        if tuple(kinds) == MINED:
            if reference not in self._changes:
                return None
            change = rng.choice(self._changes[reference])
            answers = [self.row_of[photo] for photo in change.targets]
            target, caption = rng.choice(answers), augment(change_text(change, rng, phrasing="train"), rng)
        else:
            target = reference
            while target == reference:
                target = rng.randrange(len(self.ids))
            answers, caption = [target], rng.choice(self.captions[target])
        names = self.ids[reference], self.ids[target]
        query = JudgedQuery(f"{NAME} {names[0]} {names[1]}: {caption}", names[0], caption, frozenset(names[1:]))
        description = rng.choice(self.captions[target])
        return CaptionTriplet(query, self, reference, target, description, {}, frozenset(answers))


def captioned_photos(root: Path, mined: float, views: int, features: ComputesFeatures) -> tuple[PhotoSource, HeldOut]:
    """The train split of photos with captions, and its val split as a held-out gallery.

    Args:
        root: folder of `captions.csv`, `train.txt`, `val.txt`, and the photos in `images/` or one zip.
        mined: share of triplets that ask a mined question; the others describe a photo.
        views: of each photo.
        features: computes and stores the features of the photos; what was mined is stored beside them.

    Raises:
        DataError: a file or a photo is missing, or a photo cannot be read.
    """
    train, val = read_split(root, "train"), read_split(root, "val")
    images = {**find_photos(root, train, "train"), **find_photos(root, val, "val")}
    changes = _mined(features.folder, root, train) if mined else []
    table = CaptionTable({**train, **val}, changes)
    pixels = ViewPixels([images[photo] for photo in table.ids], len(train))
    count = len(table.ids) + (views - 1) * len(train)
    maps, older = features.compute(f"{NAME}-{views}", count, pixels)
    rows = np.arange(len(table.ids))
    kinds: dict[tuple[str, ...], float] = {MINED: mined, DESCRIBED: 1 - mined}
    source = PhotoSource(NAME, table, maps, rows, rows < len(train), kinds, older, views)
    queries = to_queries(mine(val, limit=HELD_OUT_QUERIES), phrasing="train")
    described = [(caption, place) for place, captions in enumerate(val.values()) for caption in captions]
    return source, HeldOut(source, list(val), rows[len(train) :], queries, described)


@dataclass(frozen=True)
class ViewPixels:
    """Reads photos by number, and behind them random views of the first ones, view by view.

    Attributes:
        images: the photos.
        trained: number of photos with further views.
    """

    images: Sequence[ImageFile]
    trained: int

    def __call__(self, preprocess: Preprocess, number: int) -> Floats:
        """The pixels of one view, (3, H, W) float32. Raises DataError for a photo that cannot be read."""
        if number < len(self.images):
            return preprocess(decoded(self.images[number], preprocess))
        place = (number - len(self.images)) % self.trained
        return preprocess(random_view(decoded(self.images[place], preprocess), random.Random(number)))


@cache
def _classes() -> Mapping[str, Mapping[str, frozenset[str]]]:
    """Block -> class -> the words that name it, in both numbers."""
    text = files("cir.training").joinpath("everyday_classes.toml").read_text(encoding="utf-8")
    return {
        block: {name: frozenset(form for word in words for form in _numbers(word)) for name, words in known.items()}
        for block, known in tomllib.loads(text).items()
    }


def _numbers(word: str) -> tuple[str, str]:
    irregular = {"man": "men", "woman": "women", "calf": "calves", "leaf": "leaves", "goose": "geese"}
    for end, many in irregular.items():
        if word.endswith(end):
            return word, word.removesuffix(end) + many
    if word.endswith("y") and word[-2] not in "aeou":
        return word, f"{word[:-1]}ies"
    return word, f"{word}es" if word.endswith(("s", "sh", "ch", "x")) else f"{word}s"


def _mined(work: Path, root: Path, captions: Captions) -> list[MinedChange]:
    """What can be mined from the captions, kept in a file, since it takes minutes."""
    decides = sha256_file(root / TABLE) + sha256_bytes(files("cir.data.mining").joinpath("recipe.toml").read_bytes())
    path = work / f"{NAME}-mined-{sha256_bytes(decides.encode())[:8]}.json"
    if not path.is_file():
        changes = mine(captions, strictness=LOOSE)
        write_json(path, [asdict(change) for change in changes])
    try:
        return [from_json(MinedChange, values) for values in parse_json(read_regular(path, LONGEST))]
    except ValueError as error:
        raise DataError(f"{path}: not a file of mined changes: {error}; delete it") from None
