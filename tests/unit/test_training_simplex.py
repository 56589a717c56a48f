"""Training with a simplex: the loss terms, heads for older spaces alone, and cached triplets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cir import load_model
from cir.arrays import Stored
from cir.models import folder, weights
from cir.models.sprc import Sprc
from cir.models.stationary import product
from cir.training import loop
from cir.training.attribute_validation import AttributeValidation
from cir.training.attributes import AttributeTask
from cir.training.encoded_triplets import TripletEncoder
from cir.training.sources import AttributeBatches, AttributeData, PhotoSource
from cir.training.triplet_sampling import AttributeTable
from cir.types import SimplexBlock

CLASSES = {"colour": ("blue", "red"), "type": ("long",)}  # of a model whose gallery stays
SIMPLEX = product((SimplexBlock("colour", 4, 3), SimplexBlock("type", 3, 1)), free_weight=1)


@pytest.fixture
def toy(tmp_path: Path, make_model: Callable[..., Path]) -> Callable[..., AttributeTask]:
    """Makes tasks over forty items whose maps show their attributes plainly."""
    numbers = np.random.default_rng(0)
    values = {"colour": ["red", "blue"], "type": ["long", "sleeves"]}
    looks = {value: numbers.standard_normal(32) for kind in values.values() for value in kind}
    items, maps = [], []
    for number in range(40):
        item = {"colour": values["colour"][number % 2], "type": values["type"][number // 2 % 2]}
        items.append({**item, "pattern": "plain"})
        maps.append(sum(looks[value] for value in item.values()) + 0.1 * numbers.standard_normal((4, 32)))
    every = np.arange(40)
    kinds: dict[tuple[str, ...], float] = {("colour",): 0.5, ("type",): 0.5}
    table = AttributeTable("toy", items, ("colour", "type"))
    source = PhotoSource("toy", table, np.array(maps, np.float16), every, every >= 0, kinds)
    start, _, preprocess = weights.load(make_model(tmp_path / "toy-1", seed=0))
    words = (tmp_path / "toy-1" / weights.VOCABULARY).read_bytes()

    def make(*, heads_only: bool = False, stored: Stored | None = None, **settings: Any) -> AttributeTask:
        older = {} if stored is None else {"0123456789abcdef": stored}
        config = replace(start.config, simplex=SIMPLEX, query_heads=dict.fromkeys(older, 16))
        torch.manual_seed(0)
        model = Sprc(config, start.tokenizer)
        model.load_state_dict(start.state_dict(), strict=False)
        batches = AttributeBatches(batch=16, sources={"toy": 1.0}, kinds={}, descriptions=4, **settings)
        description = weights.ModelDescription("toy-2", preprocess, words)
        data = AttributeData([replace(source, older=older)], [])
        return AttributeTask(
            model,
            description,
            batches,
            0,
            data,
            heads_only=heads_only,
            predecessors=settings.get("keep_gallery") and CLASSES,
        )

    return make


def stored_by_another() -> Stored:
    values = np.random.default_rng(3).standard_normal((40, 1, 16))
    stored: Stored = (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float16)
    return stored


def test_every_term_is_computed_and_the_card_holds_simplex_and_classes(
    toy: Callable[..., AttributeTask], tmp_path: Path
) -> None:
    made = toy(stored=stored_by_another(), simplex_weight=0.5)
    terms = made.losses(0)
    assert {"itc", "vertex", "simplex", "older 012345", "older texts 012345", "rtc", "align"} == set(terms)
    assert all(torch.isfinite(term) for term in terms.values())
    made.validate = lambda: AttributeValidation(1.0)  # type: ignore[method-assign]
    recipe = loop.Recipe(steps=2, learning_rate=1e-3, evaluate_every=2)
    loop.train(made, recipe, work=tmp_path / "w", out=tmp_path / "out", facts={})
    known = folder.read_card(tmp_path / "out")
    assert known.simplex == SIMPLEX
    assert known.classes == {"colour": ("blue", "red"), "type": ("long", "sleeves")}
    assert known.space.simplex == SIMPLEX
    encoder = load_model(tmp_path / "out", device="cpu")
    vectors = encoder.encode_images(np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)).vectors
    assert vectors is not None
    assert np.abs(np.square(vectors[:, :3]).sum(axis=1) - 0.6).max() < 1e-5


def test_heads_alone_leave_the_model_as_it_is(toy: Callable[..., AttributeTask], tmp_path: Path) -> None:
    made = toy(stored=stored_by_another(), heads_only=True)
    made.description = replace(made.description, sum_weight=0.35, training={"config": "of the model"})
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    assert set(made.losses(0)) == {"older 012345", "older texts 012345"}
    made.validate = lambda: AttributeValidation(1.0)  # type: ignore[method-assign]
    recipe = loop.Recipe(steps=3, learning_rate=1e-2, evaluate_every=3)
    loop.train(made, recipe, work=tmp_path / "w", out=tmp_path / "out", facts={})
    moved = {name for name, value in made.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"query_heads.0123456789abcdef.{part}" for part in ("weight", "bias")}
    card = weights.load(tmp_path / "out")[1]
    assert card.query_heads == {"0123456789abcdef": 16}
    assert card.sum_weight == 0.35  # what was measured of the model itself stays
    assert card.training["config"] == "of the model"
    assert card.training["heads"]["held-out"] == {"headline": 1.0}


def test_a_query_side_alone_learns_to_ask_another_gallery(toy: Callable[..., AttributeTask], tmp_path: Path) -> None:
    """The gallery stays bit for bit, and with it the space; queries for both galleries are trained."""
    made = toy(stored=stored_by_another(), keep_gallery=True)
    made.description = replace(made.description, gallery_of="fedcba9876543210")
    pixels = torch.rand(3, 3, 32, 32)

    def encoded() -> tuple[torch.Tensor, torch.Tensor]:
        model = made.model.eval()
        with torch.inference_mode():
            gallery = model.project_vector(model.target_states(model.image_features(pixels)))
            return gallery, model.query_vectors(pixels, ["red", "with long sleeves", ""])

    before, first = encoded(), made.losses(0)
    made.validate = lambda: AttributeValidation(1.0)  # type: ignore[method-assign]
    recipe = loop.Recipe(steps=30, learning_rate=1e-2, evaluate_every=30)
    loop.train(made, recipe, work=tmp_path / "w", out=tmp_path / "out", facts={})
    after, last = encoded(), made.losses(0)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1], atol=1e-3)
    assert all(last[name] < first[name] for name in ("itc", "older 012345", "older texts 012345"))
    card = weights.load(tmp_path / "out")[1]
    assert card.space.model_digest == "fedcba9876543210" != card.digest


def test_cached_triplets_train_the_projections_alone(toy: Callable[..., AttributeTask], tmp_path: Path) -> None:
    made = toy(stored=stored_by_another(), cached_triplets=24, query_vertex_weight=0.5, simplex_weight=0.5)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.model.train()
    terms = made.losses(0)
    assert set(terms) == {"itc", "vertex", "query vertex", "simplex", "older 012345", "older texts 012345", "rtc"}
    again = toy(stored=stored_by_another(), cached_triplets=24, query_vertex_weight=0.5, simplex_weight=0.5).losses(0)
    assert all(torch.equal(terms[name], again[name]) for name in terms)  # the seed decides the cached triplets
    made.validate = lambda: AttributeValidation(1.0)  # type: ignore[method-assign]
    recipe = loop.Recipe(steps=30, learning_rate=1e-2, evaluate_every=30)
    loop.train(made, recipe, work=tmp_path / "w", out=tmp_path / "out", facts={})
    moved = {name for name, value in made.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in moved} == {"text_proj", "gallery_proj", "query_heads", "temp"}
    after = made.losses(0)
    assert all(after[name] < terms[name] for name in ("itc", "vertex", "query vertex"))
    # The Q-Former is in the weights file all the same: only backbone and words are shared by all models of a start.
    shared = load_file(tmp_path / "out" / weights.FROZEN)
    assert {name.partition(".")[0] for name in shared} == {"vision", "embeddings"}


def test_cached_states_are_those_of_the_model(toy: Callable[..., AttributeTask]) -> None:
    """The states of a cached batch are those of the same triplets encoded again."""
    task = toy(cached_triplets=16)
    task.model.eval()
    chosen = np.random.default_rng([0, 0]).choice(16, 16, replace=False)
    batch, encoder = task._cached.select(chosen), TripletEncoder(task.model)
    fresh = encoder.encode(batch.triplets)
    assert torch.allclose(batch.states, fresh.states, atol=1e-5)
    assert batch.pictures is not None
    assert fresh.pictures is not None
    assert torch.allclose(batch.pictures, fresh.pictures, atol=1e-5)
    assert batch.description_states is not None
    assert torch.allclose(batch.description_states, encoder.description_states(fresh, range(16)), atol=1e-5)
