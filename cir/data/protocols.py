"""The official protocols as data, and the benchmarks they define over a data set's own folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cir.data.annotations import Annotated, TrainQueries, find_pictures
from cir.data.benchmark import Benchmark
from cir.data.circo import read_circo
from cir.data.cirr import read_cirr, read_cirr_train
from cir.data.fashion200k import read_fashion200k
from cir.data.fashioniq import read_fashioniq, read_fashioniq_train
from cir.data.genecis import TASKS, read_genecis
from cir.data.icir import read_icir
from cir.data.shoes import read_shoes
from cir.errors import MissingImageError
from cir.images import ImageFile
from cir.stats import Measure, parse_measure


@dataclass(frozen=True)
class Protocol:
    """How an official benchmark is measured.

    Attributes:
        name: as the command line takes it.
        protocol: the name that stands beside every figure.
        split: the data set's split; `data_manifests/SPLIT.json` describes its files.
        read: (data set's folder, whether pictures are needed) -> the content of its annotation files.
        measures: reported, in this order.
        headline: measures whose mean is the benchmark's headline figure; may be empty.
        keep_reference: whether the reference stays in the ranking.
        own_galleries: whether each query brings the gallery that it searches.
        judged: whether the targets are public.
        server: whose server takes submissions, "cirr" or "circo"; empty if there is no server.
    """

    name: str
    protocol: str
    split: str
    read: Callable[[Path, bool], Annotated]
    measures: tuple[Measure, ...]
    headline: tuple[Measure, ...] = ()
    keep_reference: bool = False
    own_galleries: bool = False
    judged: bool = True
    server: str = ""

    def benchmark(self, annotated: Annotated, images: Sequence[ImageFile] = ()) -> Benchmark:
        """The benchmark of some annotations; without images a run can still be scored. Raises as `Benchmark`."""
        return Benchmark(
            name=self.name,
            protocol=self.protocol,
            images=images,
            queries=annotated.queries,
            measures=self.measures,
            keep_reference=self.keep_reference,
            galleries=annotated.galleries,
            headline=self.headline,
            judged=self.judged,
            unlisted=annotated.unlisted,
            own_galleries=self.own_galleries,
        )


@dataclass(frozen=True)
class TrainSplit:
    """A split that models learn from; nothing is measured on it.

    Attributes:
        name: as the command line takes it, and of its file in `data_manifests/`.
        read: data set's folder -> judged queries and places of pictures.
    """

    name: str
    read: Callable[[Path], TrainQueries]


def _genecis(name: str, *tasks: str) -> Protocol:
    """Some tasks of GeneCIS; figures of several are the mean over them."""
    return Protocol(
        name=name,
        protocol=f"{name}/reference-kept",
        split="genecis",
        read=lambda root, pictures: read_genecis(root, tasks),
        measures=_measures("R@1 R@2 R@3"),
        keep_reference=True,
        own_galleries=True,
    )


def _measures(text: str) -> tuple[Measure, ...]:
    return tuple(map(parse_measure, text.split()))


_FASHIONIQ = _measures("R@10 R@50")
_CIRR = _measures("R@1 R@5 R@10 R@50 Rs@1 Rs@2 Rs@3")
_CIRR_HEADLINE = _measures("R@5 Rs@1")
_CIRCO = _measures("mAP@5 mAP@10 mAP@25 mAP@50 Recall@5 Recall@10 Recall@25 Recall@50")

_SHOES = _measures("R@1 R@10 R@50")

# The reference stays in the ranking of FashionIQ, as in its official code, and of CIRCO, whose server takes what it is
# given. CIRCO's mAP@k counts all targets, its Recall@k the one that the caption was written for. TIRG
# and VAL remove it from Fashion200K and Shoes. In GeneCIS and i-CIR nothing is removed; references lie outside there.
PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="fashioniq-val",
            protocol="fashioniq-val/split",
            split="fashioniq-val",
            read=lambda root, pictures: read_fashioniq(root),
            measures=_FASHIONIQ,
            headline=_FASHIONIQ,
            keep_reference=True,
        ),
        Protocol(
            name="fashioniq-val-union",
            protocol="fashioniq-val/val-union",
            split="fashioniq-val",
            read=lambda root, pictures: read_fashioniq(root, union=True),
            measures=_FASHIONIQ,
            headline=_FASHIONIQ,
            keep_reference=True,
        ),
        Protocol(
            name="cirr-val",
            protocol="cirr-val",
            split="cirr-val",
            read=lambda root, pictures: read_cirr(root, "val"),
            measures=_CIRR,
            headline=_CIRR_HEADLINE,
        ),
        Protocol(
            name="cirr-test1",
            protocol="cirr-test1",
            split="cirr-test1",
            read=lambda root, pictures: read_cirr(root, "test1"),
            measures=_CIRR,
            headline=_CIRR_HEADLINE,
            judged=False,
            server="cirr",
        ),
        Protocol(
            name="circo-val",
            protocol="circo-val",
            split="circo-val",
            read=lambda root, pictures: read_circo(root, "val", pictures=pictures),
            measures=_CIRCO,
            keep_reference=True,
            server="circo",
        ),
        Protocol(
            name="circo-test",
            protocol="circo-test",
            split="circo-test",
            read=lambda root, pictures: read_circo(root, "test", pictures=pictures),
            measures=_CIRCO,
            keep_reference=True,
            judged=False,
            server="circo",
        ),
        *(_genecis(f"genecis-{task}", task) for task in TASKS),
        _genecis("genecis", *TASKS),
        Protocol(
            name="shoes-eval",
            protocol="shoes-eval/reference-removed",
            split="shoes-eval",
            read=lambda root, pictures: read_shoes(root),
            measures=_SHOES,
            headline=_SHOES,
        ),
        Protocol(
            name="fashion200k-test",
            protocol="fashion200k-test/reference-removed",
            split="fashion200k-test",
            read=lambda root, pictures: read_fashion200k(root),
            measures=_measures("R@1 R@10 R@50"),
        ),
        Protocol(
            name="icir",
            protocol="icir/reference-kept",
            split="icir",
            read=lambda root, pictures: read_icir(root),
            measures=_measures("mAP R@1 R@10"),
            keep_reference=True,
        ),
    )
}
TRAIN_SPLITS: Mapping[str, TrainSplit] = {
    split.name: split
    for split in (
        TrainSplit("fashioniq-train", read_fashioniq_train),
        TrainSplit("cirr-train", read_cirr_train),
    )
}


def load_official(name: str, root: Path, *, pictures: bool = True, allow_missing: bool = False) -> Benchmark:
    """An official benchmark.

    Args:
        name: a key of PROTOCOLS.
        root: the data set's folder, in its official layout.
        pictures: look for the pictures too; without them runs can be scored.
        allow_missing: accept missing pictures; the benchmark lists them as `absent`.

    Raises:
        DataError: an annotation file is missing or malformed.
        MissingImageError: all pictures are missing, or some are and that is not allowed.
    """
    protocol = PROTOCOLS[name]
    annotated = protocol.read(root, pictures)
    if not pictures:
        return protocol.benchmark(annotated)
    images = list(find_pictures(annotated.places, annotated.boxes))
    absent = annotated.places.keys() - {image.id for image in images}
    benchmark = protocol.benchmark(annotated, images).without(absent)
    if absent and not (allow_missing and images):
        raise MissingImageError(
            f"{root}: {len(absent):,} of {len(annotated.places):,} images of {protocol.protocol} are missing,"
            f" first {annotated.places[min(absent)]} (.png or .jpg);"
            f" 'cir data check {name} --data-root {root}' says how to get them"
            + (", --allow-missing goes on without" if images else "")
        )
    return benchmark
