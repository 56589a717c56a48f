"""The task that trains `small`: composed queries made from attributes, over feature maps of a frozen trunk.

SPRC's three losses (contrast of composed queries, contrast of pass D, alignment of the prompt) with what attributes
allow: a caption is written for a pair of items, and every other item that answers it too is left out of the negatives.
Pass D learns from descriptions of the target ("men's navy t-shirt") instead of the relative caption: that is what
people type who have no reference.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cir import losses, phrases, products, wardrobe
from cir.catalogue import Catalogue, Change
from cir.errors import DataError
from cir.images import ImageFile, Preprocess, decode
from cir.models import weights
from cir.models.sprc import Sprc, scores
from cir.training.features import Floats16, cached
from cir.training.wishes import Table, Wish

Rows = NDArray[np.int64]

HELD_OUT_QUERIES, HELD_OUT_SEED = 1000, 7
WARDROBE = "wardrobe"
# Share of answerable held-out queries that may be told "nothing fits": it sets the floors in the card.
FALSE_ALARMS = 0.05
OLD_TEMPERATURE = 0.07  # fixed: the scores it divides are of vectors that do not move
SUM_WEIGHTS = tuple(round(0.05 * i, 2) for i in range(21))


@dataclass(frozen=True)
class Settings:
    """What decides the batches; the rest is in the `Recipe` and the `SprcConfig`.

    Attributes:
        batch: triplets a step.
        sources: name -> share of a batch: names of zips (or folders) of product photos, and "wardrobe".
        kinds: for "products" and "wardrobe", how often each kind of wish is asked; "a+b" is two in one caption.
        described: descriptions for pass D a step; at most `batch`.
        wardrobe_pictures, wardrobe_seed: what is drawn.
        rtc_weight, align_weight: of SPRC's second and third loss.
    """

    batch: int
    sources: Mapping[str, float]
    kinds: Mapping[str, Mapping[str, float]]
    described: int
    wardrobe_pictures: int = 6000
    wardrobe_seed: int = 1
    rtc_weight: float = 0.4
    align_weight: float = 0.4

    def __post_init__(self) -> None:
        """Raises ValueError for what makes no batches."""
        if self.batch < 1 or not 0 <= self.described <= self.batch or self.wardrobe_pictures < 1:
            raise ValueError("batch and wardrobe_pictures are 1 or more, described is at most batch")


@dataclass(frozen=True)
class Source:
    """Items of a table that have pictures of one origin.

    Attributes:
        name: of the origin.
        table: what is known of the items.
        maps: (N, P, W) float16 feature maps.
        places: row of the table -> row of `maps`, or -1.
        among: (rows of the table,) bool, the items to train on.
        kinds: kinds of wishes -> share.
        old: id of each older space -> (N, T, D) float16, what its model's gallery holds of these pictures.
    """

    name: str
    table: Table
    maps: Floats16
    places: Rows
    among: NDArray[np.bool_]
    kinds: Mapping[tuple[str, ...], float]
    old: Mapping[str, Floats16] = field(default_factory=dict)

    def wishes(self, count: int, rng: random.Random) -> Iterator[Wish]:
        """`count` random wishes about these items."""
        rows = np.flatnonzero(self.among)
        sets, shares = list(self.kinds), list(self.kinds.values())
        while count:
            made = self.table.wish(int(rows[rng.randrange(len(rows))]), rng.choices(sets, shares)[0], self.among, rng)
            if made is not None:
                count -= 1
                yield made

    def maps_of(self, rows: Sequence[int]) -> Floats16:
        """(B, P, W) float16 feature maps of rows of the table."""
        return self.maps[self.places[list(rows)]]

    def old_of(self, space: str, rows: Sequence[int]) -> Floats16:
        """(B, T, D) float16, what the gallery of an older space holds of rows of the table."""
        return self.old[space][self.places[list(rows)]]


@dataclass(frozen=True)
class HeldOut:
    """Products that training never sees: the gallery on which checkpoints are chosen."""

    source: Source
    order: list[str]
    rows: Rows
    changes: list[Change]


class AttributeTask:
    """`cir.training.loop.Task` over product photos and the wardrobe.

    Args:
        model: what to train; its trunk is frozen.
        name: of the model, as its card says it.
        settings: batches.
        seed: of every random choice.
        sources, held_out: see `gather`.
        preprocess, vocabulary: stored with the weights.
    """

    def __init__(
        self,
        model: Sprc,
        name: str,
        settings: Settings,
        seed: int,
        sources: Sequence[Source],
        held_out: Sequence[HeldOut],
        preprocess: Preprocess,
        vocabulary: Path,
    ) -> None:
        # MiniLM's words stay as they are: they are stored in int8, and unseen words keep their place among the seen.
        model.embeddings.word_embeddings.requires_grad_(False)
        model.vision.requires_grad_(False)
        self.model, self.name, self.settings, self.seed = model, name, settings, seed
        self.sources, self.held_out = sources, held_out
        self.preprocess, self.vocabulary = preprocess, vocabulary
        self._tables = list({id(source.table): source.table for source in sources}.values())

    @property
    def module(self) -> nn.Module:
        return self.model

    @property
    def left_out(self) -> int:
        return 0  # a picture that cannot be read stops `gather`

    def losses(self, step: int) -> dict[str, Tensor]:
        """SPRC's losses on the batch of a step."""
        rng, numbers = random.Random(f"{self.seed} {step}"), np.random.default_rng([self.seed, step])
        shares = self.settings.sources
        pairs = [
            (source, wish)
            for source in self.sources
            for wish in source.wishes(round(shares[source.name] * self.settings.batch), rng)
        ]
        wishes = [wish for _, wish in pairs]
        reference = self._maps([(source, wish.reference) for source, wish in pairs], numbers)
        target = self._maps([(source, wish.target) for source, wish in pairs], numbers)
        model, count = self.model, len(wishes)
        ids, mask = model.tokenize([wish.caption for wish in wishes])
        prompt = model.sentence_prompt(reference, ids, mask)
        state = model.sentence_state(prompt, ids, mask)
        composed = model.project_query(state)
        # The references are negatives too: they are what the answer must differ from.
        states = model.target_states(torch.cat([target, reference]))
        vectors = model.project_vector(states)
        tables = [self._tables.index(wish.table) for wish in wishes] * 2
        rows = torch.tensor([*zip(tables, [w.target for w in wishes] + [w.reference for w in wishes], strict=True)])
        temperature = model.temp.clamp(0.01, 0.5)
        answered = self._equal(wishes, rows, described=False).to(vectors.device)
        terms = {"itc": losses.contrast(losses.cosines(composed, vectors), temperature, answered)}
        terms |= self._older(state, pairs, [w.target for w in wishes] + [w.reference for w in wishes], answered)
        told = sorted(rng.sample(range(count), min(self.settings.described, count)))
        if told:
            prompted = model.prompted_text_vector(*model.tokenize([wishes[i].told for i in told]))
            # Each description against its own target first, then all others.
            order = told + [i for i in range(count) if i not in set(told)]
            equal = self._equal([wishes[i] for i in told], rows[order], described=True).to(vectors.device)
            contrast = losses.contrast(losses.cosines(prompted, vectors[order]), temperature, equal)
            terms["rtc"] = self.settings.rtc_weight * contrast
        terms["align"] = self.settings.align_weight * model.alignment(prompt.float())
        return terms

    def _older(
        self, state: Tensor, pairs: Sequence[tuple[Source, Wish]], rows: Sequence[int], answered: Tensor
    ) -> dict[str, Tensor]:
        """Each older head contrasted with what its gallery holds of the same targets and references, which stays."""
        sources = [source for source, _ in pairs] * 2
        terms = {}
        for space in self.model.query_heads:
            stored = np.concatenate([source.old_of(space, [row]) for source, row in zip(sources, rows, strict=True)])
            found = scores(self.model.project_query(state, space), torch.from_numpy(stored).float().to(state.device))
            terms[f"older {space[:6]}"] = losses.contrast(found, OLD_TEMPERATURE, answered)
        return terms

    def _maps(self, items: Sequence[tuple[Source, int]], numbers: np.random.Generator | None = None) -> Tensor:
        """(B, P, W) float32; with `numbers` half of the pictures mirrored: on a map, its columns reversed."""
        out = np.concatenate([source.maps_of([row]) for source, row in items])
        if numbers is None:
            return torch.from_numpy(out).float().to(self.model.query_tokens.device)
        mirrored = numbers.random(len(out)) < 0.5
        side = int(out.shape[1] ** 0.5)
        grid = out[mirrored].reshape(-1, side, side, out.shape[-1])[:, :, ::-1]
        out[mirrored] = grid.reshape(-1, side * side, out.shape[-1])
        return torch.from_numpy(out).float().to(self.model.query_tokens.device)

    def _equal(self, wishes: Sequence[Wish], rows: Tensor, *, described: bool) -> Tensor:
        """(B, N) bool: where item n answers wish b as well as its target does. Items of other tables never do."""
        out = np.zeros((len(wishes), len(rows)), bool)
        places, items = rows.numpy().T
        for table in self._tables:
            inside = np.flatnonzero(places == self._tables.index(table))
            for i, wish in enumerate(wishes):
                if wish.table is table:
                    same = wish.described_by if described else wish.answered_by
                    out[i, inside] = same(items[inside])
        return torch.from_numpy(out)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """R@1 and R@10 of composed queries on each held-out gallery, and R@10 of the baselines on the first."""
        figures: dict[str, float] = {}
        for place, held_out in enumerate(self.held_out):
            found = self.ask(held_out)
            name = held_out.source.name
            figures[f"{name} R@1"] = found.recall(found.composed, 1)
            figures[f"{name} R@10"] = found.recall(found.composed, 10)
            if not place:
                own = found.gallery[found.references]
                for share in SUM_WEIGHTS:
                    mixed = F.normalize(share * own + (1 - share) * found.told, dim=-1)
                    figures[f"sum {share:.2f} R@10"] = found.recall(mixed, 10)
                for space, (older, answers) in found.older.items():
                    in_old = replace(found, gallery=older)
                    figures[f"older {space[:6]} R@1"] = in_old.recall(answers, 1)
                    figures[f"older {space[:6]} R@10"] = in_old.recall(answers, 10)
                figures["floor composed"] = found.floor(found.composed)
                figures["floor text"] = found.floor(found.told)
        figures["headline"] = sum(
            figures[f"{held_out.source.name} R@{k}"] for held_out in self.held_out for k in (1, 10)
        )
        return figures

    @torch.inference_mode()
    def ask(self, held_out: HeldOut) -> Answers:
        """Encode a held-out gallery and its queries."""
        model, size = self.model.eval(), 128
        rng = random.Random(HELD_OUT_SEED)
        captions = [phrases.change_caption(change.changes, rng, phrasing="train") for change in held_out.changes]
        place = {item: i for i, item in enumerate(held_out.order)}
        references = [place[change.reference] for change in held_out.changes]
        gallery, composed, told = [], [], []
        older: dict[str, list[Tensor]] = {space: [] for space in model.query_heads}
        for start in range(0, len(held_out.order), size):
            maps = self._maps([(held_out.source, int(row)) for row in held_out.rows[start : start + size]])
            gallery.append(model.project_vector(model.target_states(maps)))
        for start in range(0, len(captions), size):
            rows = [int(held_out.rows[i]) for i in references[start : start + size]]
            maps = self._maps([(held_out.source, row) for row in rows])
            ids, mask = model.tokenize(captions[start : start + size])
            state = model.sentence_state(model.sentence_prompt(maps, ids, mask), ids, mask)
            composed.append(model.project_query(state))
            for space, parts in older.items():
                parts.append(model.project_query(state, space))
            told.append(model.prompted_text_vector(ids, mask))
        right = torch.zeros(len(captions), len(place), dtype=torch.bool)
        for row, change in enumerate(held_out.changes):
            right[row, [place[target] for target in change.targets]] = True
        return Answers(
            torch.cat(gallery).cpu(),
            torch.cat(composed).cpu(),
            torch.cat(told).cpu(),
            torch.tensor(references),
            right,
            {
                space: (
                    torch.from_numpy(held_out.source.old_of(space, [int(row) for row in held_out.rows])).float(),
                    torch.cat(parts).cpu(),
                )
                for space, parts in older.items()
            },
        )

    def save(self, directory: Path, training: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        shares = {name: value for name, value in figures.items() if name.startswith("sum ")}
        best = max(shares, key=shares.__getitem__).split()[1] if shares else "0.5"
        floors = {name.split()[1]: round(value, 4) for name, value in figures.items() if name.startswith("floor ")}
        weights.save(
            directory,
            self.model,
            name=self.name,
            preprocess=self.preprocess,
            vocabulary=self.vocabulary,
            sum_weight=float(best),
            floors=floors,
            training={**training, "held-out": {name: round(value, 4) for name, value in figures.items()}},
        )


@dataclass(frozen=True)
class Answers:
    """A held-out gallery and its queries, encoded; all unit-norm float32.

    Attributes:
        gallery: (N, D), or (N, T, D) tokens.
        composed, told: (Q, D), with the reference and by the caption alone.
        references: (Q,) place of each reference in the gallery.
        right: (Q, N) bool.
        older: id of each older space -> its gallery (N, T, D), and the queries of the head for it (Q, D).
    """

    gallery: Tensor
    composed: Tensor
    told: Tensor
    references: Tensor
    right: Tensor
    older: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def scores(self, queries: Tensor) -> Tensor:
        """(Q, D) -> (Q, N), the reference out of the way."""
        similarities = queries @ self.gallery.T if self.gallery.ndim == 2 else scores(queries, self.gallery)
        similarities[torch.arange(len(queries)), self.references] = -2
        return similarities

    def recall(self, queries: Tensor, k: int) -> float:
        """Share of queries with a right answer among the first k."""
        found = self.right.gather(1, self.scores(queries).topk(k).indices)
        return float(found.any(dim=1).float().mean())

    def floor(self, queries: Tensor) -> float:
        """The score that the best hit of all but `FALSE_ALARMS` of these queries, which have answers, reaches."""
        return float(self.scores(queries).amax(dim=1).quantile(FALSE_ALARMS))


class OldGallery(nn.Module):
    """What a model stores of pictures: (B, 3, H, W) -> (B, T, D) unit-norm, its tokens or its one vector."""

    def __init__(self, model: Sprc) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.model.target_states(self.model.image_features(pixels))
        if self.model.gallery_proj is None:
            return self.model.project_tokens(states)
        return self.model.project_vector(states)[:, None]


Old = Mapping[str, tuple[Sprc, Preprocess]]


def gather(
    settings: Settings, root: Path, work: Path, trunk: nn.Module, preprocess: Preprocess, old: Old | None = None
) -> tuple[list[Source], list[HeldOut]]:
    """Sources to train on and the held-out galleries of product photos; feature maps are kept under `work`.

    Args:
        settings: which sources.
        root: folder of the product data.
        work: keeps feature maps, and what older models store of the same pictures.
        trunk, preprocess: of the model to train.
        old: id of each older space -> the model that spans it.

    Raises:
        DataError: the product data is not there, or a picture cannot be read.
    """
    styles = products.read_styles(root)
    ids = [product for product in sorted(styles) if products.split_of(product) == "train"]
    table = Table(
        "products",
        [products.details(styles[product]) for product in ids],
        products.KINDS,
        fixed=[styles[product]["masterCategory"] for product in ids],
        names=[styles[product]["productDisplayName"] or "" for product in ids],
    )
    place = {product: row for row, product in enumerate(ids)}
    apart = np.array([products.held_out(product) for product in ids])
    kinds = _kinds(settings.kinds["products"])
    sources, held_out = [], []
    for name in settings.sources:
        if name == WARDROBE:
            sources.append(_wardrobe(settings, work, trunk, preprocess, old or {}))
            continue
        files = {product: image for product, image in products.product_images(root / name) if product in place}
        order = sorted(files)
        stem = Path(name).stem
        maps = cached(work / f"{stem}.npy", len(order), _Pixels(files, order, preprocess), trunk)
        stored = {
            space: cached(work / f"{stem}-{space}.npy", len(order), _Pixels(files, order, how), OldGallery(model))
            for space, (model, how) in (old or {}).items()
        }
        places = np.full(len(ids), -1)
        places[[place[product] for product in order]] = np.arange(len(order))
        sources.append(Source(name, table, maps, places, (places >= 0) & ~apart, kinds, stored))
        rows = np.flatnonzero((places >= 0) & apart)
        kept = [ids[row] for row in rows]
        changes = Catalogue([products.item(styles[product], product) for product in kept], products.KINDS).changes(
            HELD_OUT_QUERIES, products.CHANGE_WEIGHTS, seed=HELD_OUT_SEED
        )
        held_out.append(HeldOut(sources[-1], kept, rows, changes))
    return sources, held_out


def _wardrobe(settings: Settings, work: Path, trunk: nn.Module, preprocess: Preprocess, old: Old) -> Source:
    """Rendered garments, drawn for training alone: the benchmark's and the demo's have other seeds."""
    garments = wardrobe.garments(settings.wardrobe_pictures, seed=settings.wardrobe_seed)

    def pixels(how: Preprocess, i: int) -> NDArray[np.float32]:
        return how(wardrobe.draw(garments[i], seed=settings.wardrobe_seed * 1_000_000 + i))

    maps = cached(work / "wardrobe.npy", len(garments), partial(pixels, preprocess), trunk)
    stored = {
        space: cached(work / f"wardrobe-{space}.npy", len(garments), partial(pixels, how), OldGallery(model))
        for space, (model, how) in old.items()
    }
    every = np.arange(len(garments))
    table = Table(WARDROBE, [garment.attributes for garment in garments], wardrobe.KINDS)
    return Source(WARDROBE, table, maps, every, every >= 0, _kinds(settings.kinds[WARDROBE]), stored)


def _kinds(shares: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {tuple(kinds.split("+")): share for kinds, share in shares.items()}


@dataclass(frozen=True)
class _Pixels:
    files: Mapping[str, ImageFile]
    order: Sequence[str]
    preprocess: Preprocess

    def __call__(self, i: int) -> NDArray[np.float32]:
        image = self.files[self.order[i]]
        try:
            return self.preprocess(decode(image.read(), image.id))
        except Exception as error:
            raise DataError(f"{image.id}: cannot be read for training: {error}") from error
