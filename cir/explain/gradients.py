"""Gradients: on which places of the backbone's feature map a score depends, for models of this project on torch.

The features of a picture are led in `STEPS` steps from those of a blank picture to their own, and the gradients of the
score on the way are multiplied by the difference (integrated gradients, Sundararajan et al., ICML 2017). The parts of
all places add up to the difference between the score with the picture and the score with a blank one. Everything
behind the features counts: cross-attention, and what is pooled beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image as Images
from torch import Tensor
from torch.nn import functional as F

from cir.arrays import Floats
from cir.explain.explanation import HeatMap, scaled
from cir.explain.pictures import picture_of
from cir.explain.torch_twin import torch_twin
from cir.mappings import Maps
from cir.models.computing import compute
from cir.search.encoding import NEGATIVE_WEIGHT
from cir.search.prepare import PreparedQuery, prepare

if TYPE_CHECKING:
    from PIL.Image import Image

    from cir.indexer.reading.gallery import Gallery
    from cir.indexer.reading.stored_image import StoredImage
    from cir.mappings import SpaceMapping
    from cir.models.encoder import SprcEncoder
    from cir.query_vectors import QueryVectors
    from cir.search import Searcher
    from cir.types import Query

NAME = "gradients"
STEPS = 8
FINE = 28  # cells of a map in height and width, to which the feature map is smoothed

Score = Callable[[Tensor], Tensor]  # features of R pictures, M times: (M, R, P, W) -> (M,) scores
# A score, and (R, P, W) features of blank pictures and of the pictures -> (R, P) the part of each place.
PartsOf = Callable[[Score, Tensor, Tensor], Tensor]


def integrated(score: Score, blank: Tensor, actual: Tensor) -> Tensor:
    """(R, P) the part that each place has in the difference of scores: integrated gradients."""
    steps = (torch.arange(STEPS, device=actual.device) + 0.5) / STEPS
    way = (blank + steps[:, None, None, None] * (actual - blank)).requires_grad_()
    (gradient,) = torch.autograd.grad(score(way).sum(), way)
    return ((actual - blank) * gradient.mean(dim=0)).sum(dim=-1)


@dataclass(frozen=True)
class Gradients:
    """Maps by gradients.

    Attributes:
        searcher: of one generation of the index.
        parts_of: what each place has to do with the score; another one only in `bench/explain.py`.
    """

    searcher: Searcher
    parts_of: PartsOf = integrated

    def over_references(
        self, query: Query, pictures: Mapping[int, Image], images: Sequence[StoredImage]
    ) -> list[dict[int, HeatMap]]:
        """For each of some images the maps of its score over the references; as `Occlusion.over_references`."""
        gallery = self.searcher.gallery
        (prepared,) = prepare(gallery, [query])
        encoder = torch_twin(self.searcher.encoder)
        every = [pictures.get(number) or picture_of(each, encoder) for number, each in enumerate(prepared.references)]

        def made() -> list[dict[int, HeatMap]]:
            maps = []
            blank, actual = _features(encoder, every)
            for image in images:
                score = _score_of_query(encoder, gallery, prepared, image)
                parts, value = self._parts(score, blank, actual)
                maps.append({number: _heat(encoder, every[number], parts[number], value) for number in pictures})
            return maps

        return compute(encoder.device, made)

    def over_hit(self, image: StoredImage, picture: Image, queries: QueryVectors) -> list[HeatMap]:
        """For each query the map of the image's score over its photo."""
        gallery = self.searcher.gallery
        encoder = torch_twin(self.searcher.encoder_of(gallery.manifest.maker(image.space)))

        def made() -> list[HeatMap]:
            maps = []
            blank, actual = _features(encoder, [picture])
            for vector in queries.by_space[image.query_space]:
                score = _score_of_hit(encoder, vector, image, gallery.mappings.get(image.space))
                parts, value = self._parts(score, blank, actual)
                maps.append(_heat(encoder, picture, parts[0], value))
            return maps

        return compute(encoder.device, made)

    def _parts(self, score: Score, blank: Tensor, actual: Tensor) -> tuple[Floats, float]:
        """(R, P) the part of each place, and the score of the pictures themselves."""
        with torch.enable_grad():
            parts = self.parts_of(score, blank, actual)
        with torch.no_grad():
            return parts.float().cpu().numpy(), float(score(actual[None])[0])


def _features(encoder: SprcEncoder, pictures: Sequence[Image]) -> tuple[Tensor, Tensor]:
    """(R, P, W) features of blank pictures of the same mean colours, and those of the pictures."""
    blank = [
        Images.new("RGB", each.size, each.resize((1, 1), Images.Resampling.BOX).getpixel((0, 0))) for each in pictures
    ]
    pixels = np.stack([encoder.preprocess(each) for each in (*blank, *pictures)])
    with torch.no_grad():
        features = encoder.sprc.image_features(torch.from_numpy(pixels).to(encoder.device))
    return features[: len(pictures)], features[len(pictures) :]


def _score_of_query(encoder: SprcEncoder, gallery: Gallery, prepared: PreparedQuery, image: StoredImage) -> Score:
    """What a stored image scores, by the features of the references: `encode_in` and `LiveSegment.scores` on torch."""
    sprc, mapping = encoder.sprc, gallery.mappings.get(image.space)
    maps = None if mapping is None else mapping.maps
    stored = torch.from_numpy(image.segment.stored(image.segment.rerank_field)[image.row].astype(np.float32))
    stored = stored.to(encoder.device)
    by_head = maps in (Maps.NOTHING, Maps.STATES)  # which encodes no pictures alone
    caption = sprc.tokenize([prepared.caption])

    def projected(states: Tensor) -> Tensor:
        if mapping is not None and maps is Maps.STATES:
            return _mapped(mapping, states)
        return sprc.project_query(states, image.space if maps is Maps.NOTHING else None)

    def vectors(features: Tensor) -> Tensor:
        if prepared.composed or by_head:
            ids, mask = (values.expand(len(features), -1) for values in caption)
            return projected(sprc.sentence_state(sprc.sentence_prompt(features, ids, mask), ids, mask))
        states = sprc.target_states(features)
        if encoder.card.vector and gallery.layout.vectors:
            return sprc.project_vector(states)
        return F.normalize(sprc.project_tokens(states).mean(dim=1), dim=-1)

    def score(features: Tensor) -> Tensor:
        query = vectors(features.flatten(0, 1)).reshape(*features.shape[:2], -1).sum(dim=1)
        if prepared.query.negatives:
            unwanted = projected(sprc.prompted_text_state(*sprc.tokenize(prepared.query.negatives))).sum(dim=0)
            query = F.normalize(query, dim=-1) - NEGATIVE_WEIGHT * unwanted
        query = F.normalize(query, dim=-1)
        if mapping is not None and maps is Maps.QUERIES:
            query = _mapped(mapping, query)
        return _calibrated(mapping, _best(query @ stored.transpose(0, -1)))

    return score


def _score_of_hit(encoder: SprcEncoder, query: Floats, image: StoredImage, mapping: SpaceMapping | None) -> Score:
    """What an image scores for a query, by the features of its photo: `LiveSegment.scores_of` on torch."""
    vector = torch.from_numpy(query).to(encoder.device)

    def score(features: Tensor) -> Tensor:
        states = encoder.sprc.target_states(features.flatten(0, 1))
        if image.segment.rerank_field == "tokens":
            return _calibrated(mapping, _best(encoder.sprc.project_tokens(states) @ vector))
        values = encoder.sprc.project_vector(states)
        if mapping is not None and mapping.maps is Maps.GALLERY:
            values = _mapped(mapping, values)
        return _calibrated(mapping, values @ vector)

    return score


def _best(products: Tensor) -> Tensor:
    """(M,) inner products as they are, or (M, T) with tokens, whose best counts."""
    return products if products.ndim == 1 else products.amax(dim=-1)


def _mapped(mapping: SpaceMapping, values: Tensor) -> Tensor:
    """`SpaceMapping.map` on torch."""
    arrays = {name: torch.from_numpy(array).to(values) for name, array in mapping.arrays.items()}
    mapped = values @ arrays["matrix"].T
    if "bias" in arrays:
        mapped = mapped + arrays["bias"]
    if "inner" in arrays:
        mapped = mapped + F.relu(values @ arrays["inner"].T + arrays["inner_bias"]) @ arrays["outer"].T
    return F.normalize(mapped, dim=-1)


def _calibrated(mapping: SpaceMapping | None, scores: Tensor) -> Tensor:
    return scores if mapping is None else scores * mapping.slope + mapping.intercept


def _heat(encoder: SprcEncoder, picture: Image, parts: Floats, score: float) -> HeatMap:
    """The map of a picture of (P,) parts of the places of its feature map."""
    side = math.isqrt(len(parts))
    places = parts[len(parts) - side * side :].reshape(side, side)  # a transformer's class token is no place
    left, top, right, bottom = encoder.frame(*picture.size)
    centres = ((np.arange(FINE) + 0.5) / FINE).astype(np.float32)
    across = (centres * picture.width - left) / (right - left)
    down = (centres * picture.height - top) / (bottom - top)
    smooth = _along(_along(places, down).T, across).T
    smooth *= np.outer((down >= 0) & (down <= 1), (across >= 0) & (across <= 1))  # what is cropped is not seen
    return scaled(smooth, NAME, score)


def _along(places: Floats, shares: Floats) -> Floats:
    """(n, m) values and k places, as shares of the first side -> (k, m), interpolated between the middles of cells."""
    at = np.clip(shares * len(places) - 0.5, 0, len(places) - 1)
    low = np.minimum(at.astype(np.int64), len(places) - 1)
    high = np.minimum(low + 1, len(places) - 1)
    weight = (at - low).astype(np.float32)[:, None]
    interpolated: Floats = places[low] * (1 - weight) + places[high] * weight
    return interpolated
