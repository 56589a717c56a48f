"""Everyday photos as training data, and the parts of a model and a training that came with them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cir.data.mining import MinedChange
from cir.errors import DataError, MissingImageError, UsageError
from cir.images import Preprocess
from cir.models import pretrained, weights
from cir.models.config import SprcConfig
from cir.models.sprc import Sprc
from cir.training import everyday, losses, prefetch
from cir.training.encoded_triplets import TripletEncoder, equal
from cir.training.photo_source import PhotoSource
from cir.training.prefetch import Prefetch
from cir.training.teacher import Teacher
from cir.training.views import LEAST_SIDE, random_view
from cir.typed_json import to_json

CAPTIONS = {
    "a.jpg": ("A black dog runs on the grass .", "The dog is running in a field .", "Dogs at play"),
    "b.jpg": ("A black dog runs on the sand .", "A dog on the beach .", "Running on sand ."),
    "c.jpg": ("Two men ride bicycles .", "Men riding bikes on a road .", "Cyclists"),
    "d.jpg": ("A woman reads .", "She has a book .", "A lady and her book ."),
}
PREPROCESS = Preprocess(32, 1.0, 255, flatten=True, mean=(0.5,) * 3, std=(0.5,) * 3)


def change(reference: str, *targets: str) -> MinedChange:
    """The same place in another ground, mined from two photos."""
    pair = CAPTIONS[reference][0], CAPTIONS[targets[0]][0]
    return MinedChange(reference, targets, "place", "field", "beach", "", "dog", False, pair, (), 0.9)


@pytest.fixture
def table() -> everyday.CaptionTable:
    """Four photos, one of which has a mined change."""
    return everyday.CaptionTable(CAPTIONS, [change("a.jpg", "b.jpg")])


def test_classes_are_what_two_captions_name(table: everyday.CaptionTable) -> None:
    classes = table.values["type"]
    named = [{classes[place] for place in row if place >= 0} for row in table.labels("type", classes)]
    assert named[0] == {"dog"}
    assert "dog" in named[1]
    assert "bicycle" in named[2]
    assert named[3] == {"book"}
    men = table.labels("gender", ["men", "women"])
    assert men[2].tolist() == [0]
    assert (table.labels("neckline", ["round"]) == -1).all()


def test_a_mined_triplet_asks_and_a_described_one_tells(table: everyday.CaptionTable) -> None:
    every, rng = np.ones(4, bool), random.Random(0)
    asked = table.sample(0, everyday.MINED, every, rng)
    assert asked is not None
    assert (asked.reference, asked.target) == (0, 1)
    assert asked.answered_by(np.arange(4)).tolist() == [False, True, False, False]
    assert asked.description in CAPTIONS["b.jpg"]
    assert table.sample(2, everyday.MINED, every, rng) is None  # nothing was mined from it
    told = [table.sample(0, everyday.DESCRIBED, every, rng) for _ in range(20)]
    assert all(each is not None and each.target != 0 for each in told)
    assert all(each.query.caption in CAPTIONS[table.ids[each.target]] for each in told if each)
    assert all(each.described_by(np.arange(4)).sum() == 1 for each in told if each)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of photos with captions, two to train on and two held out."""
    root = tmp_path / "photos"
    (root / "images").mkdir(parents=True)
    for shade, name in enumerate(CAPTIONS):
        Image.new("RGB", (24, 20), (60 * shade, 10, 10)).save(root / "images" / name)
    rows = [f'{name},"{caption}"' for name, captions in CAPTIONS.items() for caption in captions]
    (root / "captions.csv").write_text("\n".join(["image,caption", *rows]))
    (root / "train.txt").write_text("a.jpg\nb.jpg\n")
    (root / "val.txt").write_text("c.jpg\nd.jpg\n")
    return root


class Brightness:
    """Features of one position and one channel, the mean of the pixels; counts what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def compute(
        self, name: str, count: int, pixels: Callable[[Preprocess, int], np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        self.count = count
        values = [pixels(PREPROCESS, number)[0].mean() for number in range(count)]
        return np.array(values, np.float16).reshape(count, 1, 1), {}


def test_a_source_holds_views_of_what_it_trains_on(photos: Path, tmp_path: Path) -> None:
    store = Brightness(tmp_path / "work")
    source, held_out = everyday.captioned_photos(photos, 0.5, 3, store)
    assert store.count == 4 + 2 * 2
    assert source.trainable.tolist() == [True, True, False, False]
    assert [caption for caption, _ in held_out.descriptions] == [*CAPTIONS["c.jpg"], *CAPTIONS["d.jpg"]]
    assert held_out.rows.tolist() == [2, 3]
    at = {row: {int(source.maps_at([row], np.random.default_rng(seed))[0]) for seed in range(40)} for row in range(4)}
    assert at == {0: {0, 4, 6}, 1: {1, 5, 7}, 2: {2}, 3: {3}}
    assert source.maps_at([3, 0]).tolist() == [3, 0]
    assert list((tmp_path / "work").glob("everyday-mined-*.json"))
    again, _ = everyday.captioned_photos(photos, 0.5, 3, store)  # from the file of mined changes
    assert again.table.values == source.table.values


def test_what_is_missing_is_said(photos: Path, tmp_path: Path) -> None:
    store = Brightness(tmp_path / "work")
    (photos / "images" / "d.jpg").unlink()
    with pytest.raises(MissingImageError, match=r"1 of the 2 photos in val.txt are missing, first d.jpg"):
        everyday.captioned_photos(photos, 0.5, 1, store)
    (photos / "images").rename(photos / "elsewhere")
    with pytest.raises(DataError, match="neither images/ nor a zip of pictures"):
        everyday.captioned_photos(photos, 0.5, 1, store)


def test_a_view_is_a_crop_in_some_shape() -> None:
    image = Image.linear_gradient("L").convert("RGB")
    views = [random_view(image, random.Random(seed)) for seed in range(60)]
    assert {view.width == view.height for view in views} == {True, False}
    assert {view.width > view.height for view in views} == {True, False}
    assert all(max(view.size) == 256 for view in views)
    ranges = [np.ptp(np.asarray(view)[:, 0, 0]) for view in views]  # rows of the gradient that a view shows
    assert min(ranges) >= 255 * LEAST_SIDE - 4
    assert len(set(ranges)) > 10


def test_several_classes_count_alike() -> None:
    vertices, features = torch.eye(4), torch.randn(3, 4, generator=torch.manual_seed(0))
    one = [losses.simplex_cross_entropy(features[:1], vertices, torch.tensor([label])) for label in (0, 2)]
    both = losses.simplex_cross_entropy(features, vertices, torch.tensor([[0, 2], [-1, -1], [-1, -1]]))
    assert both.item() == pytest.approx(sum(each.item() for each in one) / 2, abs=1e-6)
    assert losses.simplex_cross_entropy(features, vertices, torch.full((3, 2), -1)).item() == 0


WHOLE = {"type": "efficientnet-lite0", "stages": [0, 6], "whole": {"hidden": 16, "dropout": 0.5}}


def small(**changes: object) -> SprcConfig:
    """A tiny model over EfficientNet's map."""
    sizes = {"width": 32, "layers": 2, "heads": 2, "intermediate": 32, "query_tokens": 3, "dims": 16}
    return SprcConfig(vision=WHOLE, vocabulary=20, gallery_vector=True, gallery_tokens=False, **{**sizes, **changes})  # type: ignore[arg-type]


def test_a_whole_picture_is_added_to_gallery_and_prompt_once_it_is_trained() -> None:
    model = Sprc(small()).eval()
    whole = model.whole
    assert whole is not None
    features, ids = torch.randn(2, 49, 336), torch.ones(2, 4, dtype=torch.long)
    with torch.inference_mode():
        prompt, states = model.sentence_prompt(features, ids, ids), model.map_states(features)
        assert torch.equal(model.target_states(features), states)
        whole.summary[5].weight.normal_()  # type: ignore[operator,union-attr]
        whole.prompt[4].bias.add_(1)  # type: ignore[operator,union-attr]
        summary = whole.summary(whole.pool(features))
        assert torch.allclose(model.target_states(features), states + summary[:, None])
        assert (summary[0] - summary[1]).abs().max() > 0.1
        assert torch.allclose(model.sentence_prompt(features, ids, ids), prompt + 1, atol=1e-6)


def test_the_mean_of_a_sentence_leaves_padding_out() -> None:
    torch.manual_seed(0)
    model = Sprc(small(sentence="mean")).eval()
    ids = torch.tensor([[1, 5, 6, 2, 0, 0]])
    mask = (ids > 0).long()
    with torch.inference_mode():
        padded, short = model.prompted_text_state(ids, mask), model.prompted_text_state(ids[:, :4], mask[:, :4])
        first = Sprc(small()).eval()
        first.load_state_dict(model.state_dict())
        assert torch.allclose(padded, short, atol=1e-5)
        assert not torch.allclose(padded, first.prompted_text_state(ids, mask), atol=1e-3)


def test_a_new_field_leaves_older_digests_alone() -> None:
    assert "sentence" not in to_json(small())
    assert to_json(small(sentence="mean"))["sentence"] == "mean"
    assert small().sha256 != small(sentence="mean").sha256
    with pytest.raises(ValueError, match="whole needs stage 6"):
        SprcConfig(vision={**WHOLE, "stages": [0, 2]})


def toy(table: everyday.CaptionTable, width: int) -> PhotoSource:
    """The four photos with random maps."""
    maps = np.random.default_rng(0).normal(size=(4, 4, width)).astype(np.float16)
    rows = np.arange(4)
    return PhotoSource("toy", table, maps, rows, rows >= 0, {everyday.MINED: 0.5, everyday.DESCRIBED: 0.5})


def test_workers_sample_the_triplets_that_a_step_asks_for(
    table: everyday.CaptionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = toy(table, 8)

    def sample(step: int) -> list[tuple[PhotoSource, everyday.SampledTriplet]]:
        return [(source, triplet) for triplet in source.sample(6, random.Random(step))]

    monkeypatch.setattr(prefetch, "workers", lambda: 2)
    ahead = Prefetch(sample, [source], torch.device("meta"))  # stands for an accelerator
    for step in (3, 4, 5, 9, 10):
        found, wanted = ahead(step), sample(step)
        assert [triplet.query for _, triplet in found] == [triplet.query for _, triplet in wanted]
        assert all(owner is source and triplet.table is table for owner, triplet in found)
    items = [(source, triplet.target) for _, triplet in found]
    assert equal([table], [triplet for _, triplet in found], items).diagonal().all()


def test_a_teacher_is_imitated_on_what_it_knows(
    table: everyday.CaptionTable, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    model, _, _ = weights.load(make_model(tmp_path / "toy", seed=0))
    source = toy(table, model.vision.width)  # type: ignore[arg-type]
    encoder = TripletEncoder(model)
    batch = encoder.encode([(source, triplet) for triplet in source.sample(5, random.Random(0))])
    composed = model.project_query(batch.states)
    vectors = model.normalise_gallery(model.gallery_features(encoder.picture_states(batch)[:, None]))
    alike = Teacher(model, {"toy"}).terms(batch, composed, vectors)
    assert all(value.abs().item() < 1e-5 for value in alike.values())
    other, _, _ = weights.load(make_model(tmp_path / "other", seed=1))
    unlike = Teacher(other, {"toy"}).terms(batch, composed, vectors)
    assert set(unlike) == {"imitated queries", "imitated gallery"}
    assert all(value.item() > 0.1 for value in unlike.values())
    assert Teacher(other, {"products"}).terms(batch, composed, vectors) == {}
    assert Teacher(other, {"toy"}).terms(replace(batch, features=None), composed, vectors) == {}


def test_everyday_photos_need_a_folder(tmp_path: Path) -> None:
    from cir.training.config import read_config
    from cir.training.sources import AttributeBatches, gather

    batches = read_config("small").batches
    assert isinstance(batches, AttributeBatches)
    with pytest.raises(UsageError, match="everyday needs --photos"):
        gather(replace(batches, sources={"everyday": 1.0}), tmp_path, Brightness(tmp_path))


def test_text_layers_come_back_without_moving_the_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Sprc(small()).eval()
    theirs = {
        name.removeprefix("qformer."): torch.randn_like(value)
        for name, value in model.state_dict().items()
        if "query" not in name and (".intermediate." in name or ".output." in name)
    }
    monkeypatch.setattr(pretrained, "minilm_state", lambda folder: theirs)
    features, ids = torch.randn(2, 49, 336), torch.ones(2, 4, dtype=torch.long)
    with torch.inference_mode():
        gallery, text = model.target_states(features), model.prompted_text_state(ids, ids)
        pretrained.restore_text(model, Path())
        assert torch.equal(model.target_states(features), gallery)
        assert not torch.allclose(model.prompted_text_state(ids, ids), text, atol=0.1)
    ours = model.state_dict()
    assert torch.equal(ours["qformer.encoder.layer.1.output.dense.bias"], theirs["encoder.layer.1.output.dense.bias"])
    assert not any(torch.equal(ours[f"qformer.{name}"], value) for name, value in theirs.items() if "attention" in name)
