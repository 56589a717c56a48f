"""The task that trains `small`: composed queries made from attributes, over feature maps of a frozen trunk.

SPRC's three losses (contrast of composed queries, contrast of pass D, alignment of the prompt) with what attributes
allow: a caption is written for a pair of items, and every other item that answers it too is left out of the negatives.
Pass D learns from descriptions of the target ("men's navy t-shirt") instead of the relative caption: that is what
people type who have no reference.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from cir.training import losses
from cir.data import captions
from cir.images import Preprocess
from cir.models import weights
from cir.models.sprc import Sprc, scores
from cir.training.sources import HELD_OUT_SEED, HeldOut, Settings, Source
from cir.training.class_map import Classes, VertexLoss, class_map
from cir.training.triplet_sampling import Wish

# Share of answerable held-out queries that may be told "nothing fits": it sets the min_scores in the card.
FALSE_ALARMS = 0.05
POOL_BATCH = 128
OLD_TEMPERATURE = 0.07  # fixed: the scores it divides are of vectors that do not move
SUM_WEIGHTS = tuple(round(0.05 * i, 2) for i in range(21))


class AttributeTask:
    """`cir.training.loop.Task` over product photos and the wardrobe.

    Args:
        model: what to train; its trunk is frozen.
        name: of the model, as its card says it.
        settings: batches.
        seed: of every random choice.
        sources, held_out: see `gather`.
        preprocess, vocabulary: stored with the weights.
        before: the predecessors' class map, where the gallery is anchored to a simplex.
        heads_only: train the heads for older spaces on a finished model, which stays as it is.
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
        before: Classes | None = None,
        heads_only: bool = False,
    ) -> None:
        # MiniLM's words stay as they are: they are stored in int8, and unseen words keep their place among the seen.
        model.embeddings.word_embeddings.requires_grad_(False)
        model.vision.requires_grad_(False)
        if heads_only or settings.pool:
            model.requires_grad_(False)
            model.query_heads.requires_grad_(True)
        if settings.pool and not heads_only:
            for part in (model.text_proj, model.gallery_proj, model.temp):
                assert part is not None  # `make_task` has seen to it
                part.requires_grad_(True)
        self._heads_only = heads_only
        self.model, self.name, self.settings, self.seed = model, name, settings, seed
        self.sources, self.held_out = sources, held_out
        self.preprocess, self.vocabulary = preprocess, vocabulary
        self._tables = list({id(source.table): source.table for source in sources}.values())
        self._anchors = model.config.simplex
        self.classes = class_map(self._anchors, self._tables, before or {}) if self._anchors else {}
        self._vertex_loss = VertexLoss(self._anchors, self.classes, self._tables) if self._anchors else None

    @property
    def module(self) -> nn.Module:
        return self.model

    @property
    def left_out(self) -> int:
        return 0  # a picture that cannot be read stops `gather`

    def losses(self, step: int) -> dict[str, Tensor]:
        """SPRC's losses on the batch of a step."""
        rng, numbers = random.Random(f"{self.seed} {step}"), np.random.default_rng([self.seed, step])
        if self.settings.pool:
            chosen = numbers.choice(len(self._pool.pairs), self.settings.batch, replace=False)
            batch = self._pool.some(chosen)
        else:
            batch = self._encode(self._pairs(self.settings.batch, rng), numbers)
        model, pairs = self.model, batch.pairs
        items = [(s, w.target) for s, w in pairs] + [(s, w.reference) for s, w in pairs]
        wishes, count = [wish for _, wish in pairs], len(pairs)
        tables = [self._tables.index(source.table) for source, _ in items]
        rows = torch.tensor([*zip(tables, (row for _, row in items), strict=True)])
        answered = self._equal(wishes, rows, described=False).to(batch.states.device)
        older = self._older(batch.states, items, answered)
        if self._heads_only:
            return older
        composed = model.project_query(batch.states)
        # The references are negatives too: they are what the answer must differ from.
        assert batch.pictures is not None
        features = model.gallery_features(batch.pictures[:, None])
        vectors = model.arranged(features, settled=self.settings.settled)
        temperature = model.temp.clamp(0.01, 0.5)
        terms = {"itc": losses.contrast(losses.cosines(composed, vectors), temperature, answered)} | older
        terms |= self._stationary(batch.states, features, vectors, items, answered)
        told = sorted(rng.sample(range(count), min(self.settings.described, count)))
        if told:
            prompted = model.project_query(self._told(batch, told))
            # Each description against its own target first, then all others.
            order = told + [i for i in range(count) if i not in set(told)]
            equal = self._equal([wishes[i] for i in told], rows[order], described=True).to(vectors.device)
            contrast = losses.contrast(losses.cosines(prompted, vectors[order]), temperature, equal)
            terms["rtc"] = self.settings.rtc_weight * contrast
        if batch.prompt is not None:
            terms["align"] = self.settings.align_weight * model.alignment(batch.prompt.float())
        return terms

    def _pairs(self, count: int, rng: random.Random) -> list[tuple[Source, Wish]]:
        shares = self.settings.sources
        return [
            (source, wish) for source in self.sources for wish in source.wishes(round(shares[source.name] * count), rng)
        ]

    def _encode(self, pairs: Sequence[tuple[Source, Wish]], numbers: np.random.Generator | None) -> _Batch:
        """What the model says of triplets, before any projection."""
        model = self.model
        reference = self._maps([(source, wish.reference) for source, wish in pairs], numbers)
        ids, mask = model.tokenize([wish.caption for _, wish in pairs])
        prompt = model.sentence_prompt(reference, ids, mask)
        states = model.sentence_state(prompt, ids, mask)
        if self._heads_only:
            return _Batch(list(pairs), states)
        target = self._maps([(source, wish.target) for source, wish in pairs], numbers)
        pictures = model.target_states(torch.cat([target, reference])).mean(dim=1)
        return _Batch(list(pairs), states, pictures, prompt=prompt)

    def _told(self, batch: _Batch, rows: Sequence[int]) -> Tensor:
        """(B, width) of the descriptions of these targets, by pass D."""
        if batch.told is not None:
            return batch.told[rows]
        return self.model.prompted_text_state(*self.model.tokenize([batch.pairs[i][1].told for i in rows]))

    @cached_property
    @torch.no_grad()
    def _pool(self) -> _Batch:
        """Triplets that the frozen Q-Former is asked once."""
        pairs = self._pairs(self.settings.pool, random.Random(f"{self.seed} pool"))
        order = list(range(len(pairs)))
        random.Random(self.seed).shuffle(order)  # so that every part is of all sources
        parts, training = [], self.model.training
        self.model.eval()  # what stays as it is drops nothing out
        for start in tqdm(range(0, len(order), POOL_BATCH), desc="asking once", unit="batch", mininterval=10):
            part = self._encode([pairs[i] for i in order[start : start + POOL_BATCH]], None)
            told = None if self._heads_only else self._told(part, range(len(part.pairs)))
            parts.append(replace(part, told=told, prompt=None))
        self.model.train(training)
        return _Batch.joined(parts)

    def _stationary(
        self,
        states: Tensor,
        features: Tensor,
        vectors: Tensor,
        items: Sequence[tuple[Source, int]],
        answered: Tensor,
    ) -> dict[str, Tensor]:
        """What keeps a gallery in its place; nothing for one without a simplex."""
        if self._anchors is None or self._vertex_loss is None:
            return {}
        how, inside, count = self.settings, self._anchors.dims, len(states)
        placed = [(source.table, row) for source, row in items]
        terms = {"vertex": how.vertex_weight * self._vertex_loss(features, placed)}
        asked = self.model.text_proj(states)
        if how.asked_weight:
            terms["asked"] = how.asked_weight * self._vertex_loss(asked, placed[:count])
        if how.anchored_weight:
            found = losses.cosines(F.normalize(asked[:, :inside], dim=-1), F.normalize(vectors[:, :inside], dim=-1))
            temperature = self.model.temp.clamp(0.01, 0.5)
            terms["anchored"] = how.anchored_weight * losses.contrast(found, temperature, answered)
        if how.hoc_weight:
            terms["hoc"] = how.hoc_weight * self._hoc(self.model.arranged(features), items)
        return terms

    def _older(self, state: Tensor, items: Sequence[tuple[Source, int]], answered: Tensor) -> dict[str, Tensor]:
        """Each older head contrasted with what its gallery holds of the same targets and references, which stays."""
        terms = {}
        for space in self.model.query_heads:
            found = scores(self.model.project_query(state, space), self._stored(space, items).to(state.device))
            terms[f"older {space[:6]}"] = losses.contrast(found, OLD_TEMPERATURE, answered)
        return terms

    def _hoc(self, vectors: Tensor, items: Sequence[tuple[Source, int]]) -> Tensor:
        """Gallery vectors pulled towards what predecessors that store single vectors of the same dims hold."""
        terms = [vectors.new_zeros(())]
        for space, dims in self.model.config.query_heads.items():
            stored = self._stored(space, items).to(vectors.device)
            if dims == vectors.shape[1] and stored.shape[1] == 1:
                terms.append(losses.hoc(stored[:, 0], vectors))
        return torch.stack(terms).sum()

    def _stored(self, space: str, items: Sequence[tuple[Source, int]]) -> Tensor:
        """(B, T, D) float32, what the gallery of an older space holds of these items."""
        return torch.from_numpy(np.concatenate([source.old_of(space, [row]) for source, row in items])).float()

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
                if self._anchors:
                    inside = self._anchors.dims
                    bare = F.normalize(found.composed * (torch.arange(found.composed.shape[1]) < inside), dim=-1)
                    figures["anchored R@10"] = found.recall(bare, 10)
                for space, (older, answers) in found.older.items():
                    in_old = replace(found, gallery=older)
                    figures[f"older {space[:6]} R@1"] = in_old.recall(answers, 1)
                    figures[f"older {space[:6]} R@10"] = in_old.recall(answers, 10)
                    if self._anchors and older.shape[-1] == bare.shape[-1]:
                        figures[f"simplex {space[:6]} R@1"] = in_old.recall(bare, 1)
                        figures[f"simplex {space[:6]} R@10"] = in_old.recall(bare, 10)
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
        captions = [captions.change_caption(change.changes, rng, phrasing="train") for change in held_out.changes]
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
        min_scores = {name.split()[1]: round(value, 4) for name, value in figures.items() if name.startswith("floor ")}
        weights.save(
            directory,
            self.model,
            name=self.name,
            preprocess=self.preprocess,
            vocabulary=self.vocabulary,
            sum_weight=float(best),
            min_scores=min_scores,
            classes=self.classes,
            training={**training, "held-out": {name: round(value, 4) for name, value in figures.items()}},
        )


@dataclass(frozen=True)
class _Batch:
    """Triplets and what the model says of them, before any projection.

    Attributes:
        pairs: each with the source of its pictures.
        states: (B, width) of passes A and B.
        pictures: (2 B, width) of pass C, the mean over T: targets, then references. None where only heads are trained.
        told: (B, width) of pass D, if that was asked already.
        prompt: (B, T, width) of pass A, where it is still in training.
    """

    pairs: list[tuple[Source, Wish]]
    states: Tensor
    pictures: Tensor | None = None
    told: Tensor | None = None
    prompt: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[_Batch]) -> _Batch:
        """One batch of many that have been asked everything."""

        def whole(tensors: Sequence[Tensor | None]) -> Tensor | None:
            there = [tensor for tensor in tensors if tensor is not None]
            return torch.cat(there) if there else None

        sides = [each.pictures.chunk(2) if each.pictures is not None else (None, None) for each in parts]
        pictures = whole([target for target, _ in sides] + [reference for _, reference in sides])
        pairs = [pair for each in parts for pair in each.pairs]
        return cls(pairs, torch.cat([each.states for each in parts]), pictures, whole([each.told for each in parts]))

    def some(self, rows: NDArray[np.int64]) -> _Batch:
        """The triplets at some places."""
        both = np.concatenate([rows, rows + len(self.pairs)])
        return _Batch(
            [self.pairs[row] for row in rows],
            self.states[rows],
            None if self.pictures is None else self.pictures[both],
            None if self.told is None else self.told[rows],
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
