"""Everyday photos that people have captioned: `flickr8k` and `flickr8k-mined`.

Protocol (docs/protocols.md): the gallery is every photo of a split. `flickr8k` asks with each caption alone for the
photo that it describes. `flickr8k-mined` asks with a photo and a change for the photos that show the change; a program
mines the changes from the captions of the split and words them, so that it is no benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cir.data.benchmark import Benchmark
from cir.data.captioned import SPLITS as SPLITS
from cir.data.captioned import Captions, read_split
from cir.data.image_names import ImageNames
from cir.data.image_source import image_source
from cir.data.judged_query import JudgedQuery
from cir.data.mining import mine, to_queries
from cir.errors import DataError, MissingImageError
from cir.images import ImageFile, scan
from cir.stats import Measure, parse_measure

CAPTION_MEASURES = tuple(map(parse_measure, ("R@1", "R@5", "R@10", "R@50")))
MINED_MEASURES = tuple(map(parse_measure, ("R@1", "R@10", "R@50", "mAP@10")))
MINED_SEED = 0


def load_captioned(
    data_root: Path, *, split: str = "val", images: str | None = None, allow_missing: bool = False
) -> Benchmark:
    """Text to image: every caption of a split alone, and its photo as the target.

    Args:
        data_root: folder of `captions.csv` and the lists of the splits beside `images/` or zips of it.
        split: one of SPLITS.
        images: which folder or zip to use; by default the zip with the largest pictures.
        allow_missing: accept missing photos; the benchmark lists them as `absent`.

    Raises:
        DataError: a file is missing, or a listed photo has no captions or may be several.
        MissingImageError: all photos are missing, or some are and that is not allowed.
    """
    captions = read_split(data_root, split)
    queries = [
        JudgedQuery(f"{name}#{number}", "", caption, frozenset({name}))
        for name, texts in captions.items()
        for number, caption in enumerate(texts)
    ]
    photos = find_photos(data_root, captions, split, images=images, allow_missing=allow_missing)
    return _benchmark("flickr8k", f"flickr8k-{split}/text-to-image", captions, photos, queries, CAPTION_MEASURES)


def load_mined(
    data_root: Path, *, split: str = "val", images: str | None = None, allow_missing: bool = False
) -> Benchmark:
    """Composed queries mined from the captions of a split (`cir.data.mining`); arguments and errors as above.

    Raises:
        DataError: also if the captions give no queries.
    """
    captions = read_split(data_root, split)
    queries = to_queries(mine(captions, seed=MINED_SEED), phrasing="val", seed=MINED_SEED)
    if not queries:
        raise DataError(f"{data_root}: the {len(captions):,} photos of {split} give no mined queries; take more photos")
    photos = find_photos(data_root, captions, split, images=images, allow_missing=allow_missing)
    return _benchmark("flickr8k-mined", f"flickr8k-mined-{split}", captions, photos, queries, MINED_MEASURES)


def _benchmark(
    name: str,
    protocol: str,
    captions: Captions,
    photos: Mapping[str, ImageFile],
    queries: Sequence[JudgedQuery],
    measures: tuple[Measure, ...],
) -> Benchmark:
    """Queries by names of photos as queries by ids of images."""
    ids = {photo: photos[photo].id if photo in photos else photo for photo in ("", *captions)}
    by_id = [
        replace(
            query,
            reference=ids[query.reference],
            targets=frozenset(ids[target] for target in query.targets),
            first_target=ids[query.first_target],
        )
        for query in queries
    ]
    absent = frozenset(captions.keys() - photos.keys())
    return Benchmark(name, protocol, list(photos.values()), tuple(by_id), measures, absent=absent)


def find_photos(
    data_root: Path, captions: Captions, split: str, *, images: str | None = None, allow_missing: bool = False
) -> Mapping[str, ImageFile]:
    """Name of a photo of a split -> its file; arguments and errors as in `load_captioned`."""
    source = image_source(data_root, images)
    files = {file.id: file for file in scan([source])}
    names = ImageNames(list(files.values()))
    found = {name: sorted(names.find(name)) for name in captions}
    for name, ids in found.items():
        if len(ids) > 1:
            raise DataError(f"{source}: {name} in {split}.txt may be {ids[0]} or {ids[1]}; give them different names")
    photos = {name: files[ids[0]] for name, ids in found.items() if ids}
    missing = captions.keys() - photos.keys()
    if missing and not (allow_missing and photos):
        raise MissingImageError(
            f"{source}: {len(missing):,} of the {len(captions):,} photos in {split}.txt are missing,"
            f" first {min(missing)}; add them" + (", or --allow-missing goes on without" if photos else "")
        )
    return photos
