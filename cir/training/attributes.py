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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cir import losses, phrases
from cir.images import Preprocess
from cir.models import weights
from cir.models.sprc import Sprc, scores
from cir.training.sources import HELD_OUT_SEED, HeldOut, Settings, Source
from cir.training.wishes import Wish

# Share of answerable held-out queries that may be told "nothing fits": it sets the floors in the card.
FALSE_ALARMS = 0.05
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
