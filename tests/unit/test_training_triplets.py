"""Training on annotated triplets: batches, held-out references, and broken pictures."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cir.data.judged_query import JudgedQuery
from cir.data.protocols import TRAIN_SPLITS
from cir.errors import DataError, MissingImageError, UsageError, WeightsError
from cir.models import weights
from cir.models.folder import read_card
from cir.models.sprc import Sprc
from cir.training import triplets
from cir.training.config import read_config
from cir.training.tasks import make_task
from cir.training.triplets import (
    TripletBatches,
    TripletTask,
    TripletValidation,
    drawn_caption,
    read_triplets,
    target_of,
)

BATCHES = TripletBatches(dataset="fashioniq", batch=4, rtc_weight=0.5, align_weight=0.25, held_out=0.2, workers=2)


def task(root: Path, start: Path, *, batches: TripletBatches = BATCHES, allow_unreadable: bool = False) -> TripletTask:
    model, _, preprocess = weights.load(start)
    data = read_triplets(batches, root, allow_unreadable=allow_unreadable)
    description = weights.ModelDescription("t", preprocess, (start / weights.VOCABULARY).read_bytes())
    return TripletTask(model, description, batches, 0, data)


def test_held_out_references_are_never_trained_on(fashioniq_train: Path) -> None:
    data = read_triplets(BATCHES, fashioniq_train)
    assert len(data.train) + len(data.held_out) == 24
    assert data.held_out
    assert not {query.reference for query in data.train} & {query.reference for query in data.held_out}
    assert not read_triplets(replace(BATCHES, held_out=0.0), fashioniq_train).held_out


def test_an_epoch_sees_each_triplet_at_most_once(fashioniq_train: Path, tiny_model: Path) -> None:
    made = task(fashioniq_train, tiny_model)
    seen = [query.reference for step in range(made.steps_per_epoch) for query in made._batch(step)]
    assert len(seen) == len(set(seen)) == made.steps_per_epoch * 4
    steps = range(made.steps_per_epoch, 2 * made.steps_per_epoch)
    second = [query.reference for step in steps for query in made._batch(step)]
    assert second != seen


def test_the_processes_of_a_launch_share_a_batch(
    fashioniq_train: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = task(fashioniq_train, tiny_model)
    whole = {query.reference for query in made._batch(0)}
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        parts.append({query.reference for query in made._batch(0)})
    assert parts[0] | parts[1] == whole
    assert not parts[0] & parts[1]


def test_losses_are_weighted(fashioniq_train: Path, tiny_model: Path) -> None:
    plain = task(fashioniq_train, tiny_model, batches=replace(BATCHES, rtc_weight=1.0, align_weight=1.0))
    weighted = task(fashioniq_train, tiny_model)
    ours, theirs = weighted.losses(3), plain.losses(3)
    assert ours["itc"].item() == pytest.approx(theirs["itc"].item(), abs=1e-6)
    assert ours["rtc"].item() == pytest.approx(0.5 * theirs["rtc"].item(), abs=1e-6)
    assert ours["align"].item() == pytest.approx(0.25 * theirs["align"].item(), abs=1e-6)


def test_two_captions_are_drawn_in_four_ways() -> None:
    rng = random.Random(0)
    drawn = [drawn_caption(("is red.", " has dots?"), rng) for _ in range(400)]
    assert {caption: 60 < drawn.count(caption) < 140 for caption in drawn} == {
        "is red and has dots": True,
        "has dots and is red": True,
        "is red": True,
        "has dots": True,
    }
    assert drawn_caption(("as it is.",), rng) == "as it is."


@pytest.fixture
def damaged(fashioniq_train: Path, tmp_path: Path) -> Path:
    """A copy with one picture missing and one broken."""
    root = tmp_path / "fashioniq"
    shutil.copytree(fashioniq_train, root)
    (root / "images" / "dress1a.png").unlink()
    broken = root / "images" / "shirt2b.png"
    broken.write_bytes(broken.read_bytes()[:60])
    return root


def test_unreadable_pictures_stop_the_training(damaged: Path, tiny_model: Path) -> None:
    with pytest.raises(MissingImageError, match=r"1 of 48 training images are missing.*dress1a"):
        task(damaged, tiny_model)
    (damaged / "images" / "dress1a.png").write_bytes((damaged / "images" / "dress1b.png").read_bytes())
    made = task(damaged, tiny_model, batches=replace(BATCHES, held_out=0.0))
    broken = next(
        step for step in range(made.steps_per_epoch) if "shirt2b" in {target_of(query) for query in made._batch(step)}
    )
    with pytest.raises(DataError, match=r"shirt2b\.png: cannot be read"):
        made.losses(broken)


def test_unreadable_pictures_are_counted_where_allowed(damaged: Path, tiny_model: Path, tmp_path: Path) -> None:
    batches = replace(BATCHES, held_out=0.0)
    made = task(damaged, tiny_model, batches=batches, allow_unreadable=True)
    assert made.data.unreadable == {"dress1a", "shirt2b"}  # known before the first step
    assert made.left_out == 2
    assert len(made.data.train) == 22
    for step in range(made.steps_per_epoch):
        made.losses(step)
    assert made.validate() == TripletValidation(0.0)
    made.save(tmp_path / "out", {"seed": 0}, TripletValidation(0.0))
    assert read_card(tmp_path / "out").training["unreadable images"] == 2


def test_the_headline_is_a_mean_of_held_out_recalls(fashioniq_train: Path, tiny_model: Path) -> None:
    found = task(fashioniq_train, tiny_model).validate()
    assert 0 <= found.recalls[1] <= found.recalls[10] <= found.recalls[50] == 1
    assert found.headline == (found.recalls[10] + 1) / 2
    assert found.to_json()["held-out R@10"] == round(found.recalls[10], 4)


def test_ties_are_broken_by_id() -> None:
    level = torch.ones(3, 5)
    assert triplets.rank_of(level, torch.tensor([0, 2, 4])).tolist() == [0, 2, 4]
    assert triplets.rank_of(torch.tensor([[0.1, 0.9, 0.5, 0.9]]), torch.tensor([3])).tolist() == [1]


def test_a_model_without_tokens_cannot_learn_from_triplets(
    fashioniq_train: Path, tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    whole, _, preprocess = weights.load(make_model(tmp_path / "tokens-1", seed=0))
    start, words = tmp_path / "vector-1", (tmp_path / "tokens-1" / "vocab.txt").read_bytes()
    model = Sprc(replace(whole.config, gallery_tokens=False))
    model.load_state_dict({key: value for key, value in whole.state_dict().items() if "vision_proj" not in key})
    weights.save(start, model, weights.ModelDescription(start.name, preprocess, words))
    with pytest.raises(WeightsError, match="without gallery tokens"):
        task(fashioniq_train, start)


def test_the_real_fashioniq_trains_on_18000_triplets(shared: Path) -> None:
    queries, places = TRAIN_SPLITS["fashioniq-train"].read(shared / "data" / "annotations" / "fashioniq")
    assert len(queries) == 18_000
    assert all(len(query.captions) == 2 for query in queries)
    assert {target_of(query) for query in queries} <= places.keys()


def test_annotations_that_are_not_official_are_refused(fashioniq_train: Path, tmp_path: Path) -> None:
    root = tmp_path / "fashioniq"
    shutil.copytree(fashioniq_train, root)
    path = root / "captions" / "cap.dress.train.json"
    for captions in ([], [1, 2]):
        path.write_text(json.dumps([{"candidate": "dress0a", "target": "dress0b", "captions": captions}]))
        with pytest.raises(DataError, match="entry 0"):
            read_triplets(BATCHES, root)


def test_cirr_pools_its_targets(tmp_path: Path, make_triplet_files: Callable[[Path], None]) -> None:
    make_triplet_files(tmp_path)
    data = triplets.read_triplets(replace(BATCHES, dataset="cirr", held_out=0.0), tmp_path)
    (query,) = data.train
    assert isinstance(query, JudgedQuery)
    assert (query.reference, target_of(query)) == ("train-1-0-img0", "train-1-1-img0")
    assert query.captions == ("show it from behind",)
    assert not data.keep_reference


@pytest.fixture
def make_triplet_files() -> Callable[[Path], None]:
    """Writes one CIRR training triplet."""
    from PIL import Image

    def make(root: Path) -> None:
        names = ["train-1-0-img0", "train-1-1-img0"]
        for folder in ("cirr/captions", "cirr/image_splits", "train/0"):
            (root / folder).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (40, 40)).save(root / "train" / "0" / f"{name}.png")
        files = {name: f"./train/0/{name}.png" for name in names}
        (root / "cirr/image_splits/split.rc2.train.json").write_text(json.dumps(files))
        entry = {"pairid": 1, "reference": names[0], "target_hard": names[1], "caption": "show it from behind"}
        (root / "cirr/captions/cap.rc2.train.json").write_text(json.dumps([entry]))

    return make


def test_the_official_recipes_need_a_start(training_config: Path, fashioniq_train: Path, tmp_path: Path) -> None:
    for name in (training_config, "fashioniq", "cirr"):
        with pytest.raises(UsageError, match="--start DIR"):
            make_task(read_config(name), fashioniq_train, tmp_path)


def test_steps_follow_from_the_data(
    training_config: Path, fashioniq_train: Path, tiny_model: Path, tmp_path: Path
) -> None:
    made, recipe = make_task(read_config(training_config), fashioniq_train, tmp_path, start=tiny_model)
    assert isinstance(made, TripletTask)
    assert recipe.steps == 4 * made.steps_per_epoch
    assert recipe.evaluate_every == made.steps_per_epoch
    with pytest.raises(DataError, match="fewer than one batch"):
        task(fashioniq_train, tiny_model, batches=replace(BATCHES, batch=64))
