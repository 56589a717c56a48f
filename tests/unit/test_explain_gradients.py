"""Maps by gradients: they explain the score of the search, and reach the picture by every path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cir import Query, build_index, load_model, open_index
from cir.arrays import Floats
from cir.explain import HeatMap, explain, explain_many, gradients
from cir.explain.torch_twin import gives_gradients, torch_twin
from cir.images import Preprocess, scan
from cir.models.config import SprcConfig
from cir.models.encoder import SprcEncoder
from cir.models.sprc import Sprc
from cir.search import Searcher
from cir.types import ModelCard


@pytest.fixture(scope="module")
def searcher(tiny_model: Path, wardrobe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    out = tmp_path_factory.mktemp("gradients") / "x.index"
    build_index(scan([wardrobe_folder]), out, load_model(tiny_model))
    return open_index(out, model=tiny_model)


QUERIES = [
    Query("images/00001.jpg", "red with long sleeves"),
    Query(("images/00001.jpg", "images/00002.jpg"), "red", negatives=("blue", "long")),
    Query("images/00001.jpg", negatives="blue"),
    Query("images/00001.jpg"),
    Query(text="red"),
    Query("images/00001.jpg", " "),
]


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_the_score_is_that_of_the_search(searcher: Searcher, query: Query) -> None:
    explained = explain(searcher, query, "images/00007.jpg")
    assert explained.method == "gradients"  # of a model on torch
    assert explained.notes == ()
    heats = [heat for heat in (explained.hit, *explained.references) if heat is not None]
    assert len(heats) == 1 + len(query.references)
    for heat in heats:
        assert heat.score == pytest.approx(explained.measured.score, abs=2e-3)
        assert heat.values.shape == (gradients.FINE, gradients.FINE)
        assert heat.values.dtype == np.float32
        assert heat.values.min() >= 0
        assert heat.values.max() == 1


def test_parts_add_up_to_what_the_picture_does(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Integrated gradients: the score with the picture less that with a blank one."""
    monkeypatch.setattr(gradients, "STEPS", 256)
    sums, kept = [], gradients.integrated

    def parts_of(score: gradients.Score, blank: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
        parts = kept(score, blank, actual)
        with torch.no_grad():
            sums.append((float(parts.sum()), float(score(actual[None]) - score(blank[None]))))
        return parts

    image = searcher.gallery.image("images/00007.jpg")
    way = gradients.Gradients(searcher, parts_of)
    way.over_references(QUERIES[1], {}, [image])
    way.over_hit(image, searcher.picture("images/00007.jpg"), searcher.encode([QUERIES[0]]))
    assert len(sums) == 2
    for total, expected in sums:
        assert total == pytest.approx(expected, abs=5e-3)


def test_several_hits_have_each_their_own_map(searcher: Searcher) -> None:
    one, other = explain_many(searcher, QUERIES[0], ["images/00007.jpg", "images/00009.jpg"])
    assert one.references[0] is not None
    assert other.references[0] is not None
    assert not np.array_equal(one.references[0].values, other.references[0].values)


def summarising(seed: int = 0) -> SprcEncoder:
    """A small model whose pictures are read by cross-attention, and pooled beside it."""
    torch.manual_seed(seed)
    whole = {"hidden": 8}
    config = SprcConfig(
        vision={"type": "efficientnet-lite0", "stages": [2, 6], "whole": whole},
        width=32,
        layers=2,
        heads=2,
        intermediate=64,
        query_tokens=4,
        dims=16,
        vocabulary=128,
        positions=64,
        gallery_vector=True,
        gallery_tokens=False,
    )
    card = ModelCard("whole-1", f"{seed:064x}", *["0" * 64] * 3, dims=16, tokens=0, vector=True)
    sprc = Sprc(config)
    for parameter in sprc.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return SprcEncoder(sprc, card, Preprocess(size=64, flatten=True, target_ratio=1.0), device=torch.device("cpu"))


@pytest.mark.parametrize("left_out", ["attention", "summary"])
def test_gradients_reach_the_picture_by_both_paths(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = summarising()
    sprc = encoder.sprc
    assert sprc.whole is not None
    if left_out == "attention":
        monkeypatch.setattr(sprc, "map_states", lambda features: torch.zeros(len(features), 4, 32))
    else:
        last = sprc.whole.summary[-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), dtype=np.uint8))
    blank, actual = gradients._features(encoder, [picture])

    def score(features: torch.Tensor) -> torch.Tensor:
        return sprc.project_vector(sprc.target_states(features.flatten(0, 1)))[:, 0]

    parts = gradients.integrated(score, blank, actual)
    assert parts.shape == (1, 49)
    assert (parts.abs() > 0).sum() > 20


class Twin:
    """Counts how often a model is loaded on torch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from cir.explain import torch_twin as module

        module._loaded.cache_clear()
        self.loads = 0
        load = module.load_model

        def counted(*given: object, **options: object) -> object:
            self.loads += 1
            return load(*given, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "load_model", counted)


@pytest.mark.slow
def test_a_model_on_onnx_runtime_is_loaded_on_torch_once(
    tiny_graphs: Path, wardrobe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = Twin(monkeypatch)
    build_index(scan([wardrobe_folder]), tmp_path / "x.index", load_model(tiny_graphs))
    searcher = open_index(tmp_path / "x.index", model=tiny_graphs)
    query = QUERIES[0]
    assert explain(searcher, query, "images/00007.jpg").method == "occlusion"  # gradients are not at hand
    assert twin.loads == 0
    for _ in range(2):
        explained = explain(searcher, query, "images/00007.jpg", method="gradients")
        assert explained.method == "gradients"
        assert explained.notes == ()
    assert twin.loads == 1
    assert not gives_gradients(searcher.encoder)
    assert isinstance(torch_twin(searcher.encoder), SprcEncoder)


FRAMES = [
    (Preprocess(size=32, target_ratio=1.25, flatten=True), (100, 40)),
    (Preprocess(size=32, target_ratio=1.25, flatten=True), (40, 100)),
    (Preprocess(size=32, target_ratio=1.25, flatten=True), (50, 45)),
    (Preprocess(size=32, target_ratio=1.0, flatten=True), (90, 60)),
    (Preprocess(size=32, target_ratio=1000, flatten=True), (90, 60)),
]


@pytest.mark.parametrize(("preprocess", "size"), FRAMES, ids=range(len(FRAMES)))
def test_the_frame_is_where_the_pixels_are_from(preprocess: Preprocess, size: tuple[int, int]) -> None:
    """A light spot is found in the pixels where the frame says that it is."""
    width, height = size
    left, top, right, bottom = preprocess.frame(width, height)
    assert right - left == pytest.approx(bottom - top)
    for x, y in ((width // 2, height // 2), (width // 3, height // 2), (width // 2, height // 4)):
        values = np.zeros((height, width, 3), np.uint8)
        values[y - 2 : y + 3, x - 2 : x + 3] = 255
        seen = preprocess(Image.fromarray(values))[0]
        weights = seen - seen.min()
        rows, columns = np.mgrid[:32, :32] + 0.5
        found = (columns * weights).sum() / weights.sum(), (rows * weights).sum() / weights.sum()
        expected = (x + 0.5 - left) / (right - left) * 32, (y + 0.5 - top) / (bottom - top) * 32
        assert found == pytest.approx(expected, abs=0.8)


def _map_of(parts: Floats, size: tuple[int, int], encoder: SprcEncoder) -> HeatMap:
    return gradients._heat(encoder, Image.new("RGB", size), parts, 0.5)


def test_places_are_laid_over_the_picture() -> None:
    """A place of the feature map of a padded picture, and a class token that is none."""
    encoder = summarising()
    parts = np.zeros((7, 7), np.float32)
    parts[3, 3] = 1
    for given in (parts.ravel(), np.append([9], parts.ravel()).astype(np.float32)):
        heat = _map_of(given, (200, 100), encoder)
        rows, columns = (axis.mean() for axis in np.nonzero(heat.values > 0.5))
        assert (rows, columns) == pytest.approx((13.5, 13.5))
        wide = np.ptp(np.nonzero(heat.values > 0.5)[1])
        high = np.ptp(np.nonzero(heat.values > 0.5)[0])
        assert high > wide  # the picture is wide, so that a place is a larger share of its height
    corner = np.zeros((7, 7), np.float32)
    corner[0, 0] = 1
    assert not _map_of(corner.ravel(), (200, 20), encoder).values.any()  # in the padding


def test_a_random_model_and_another_seed(make_model: Callable[..., Path], tmp_path: Path) -> None:
    """The twin of a torch model is the model itself."""
    encoder = load_model(make_model(tmp_path / "tiny-2", seed=5))
    assert torch_twin(encoder) is encoder
