"""A stationary gallery: product simplex, class maps that only grow, and what is refused without being measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cir import load_model
from cir.training import losses
from cir.errors import UsageError
from cir.models import weights
from cir.models.sprc import Sprc
from cir.models.stationary import arrange, product, simplex
from cir.replacement import routes
from cir.replacement.precheck import objections
from cir.replacement.paired_sample import Study, scores
from cir.training import loop
from cir.training.attributes import AttributeTask
from cir.training.sources import HeldOut, Settings, Source
from cir.training.class_map import VertexLoss, class_map, inherited
from cir.training.triplet_sampling import Table
from cir.types import SimplexBlock, ModelCard, Simplex, Space

BLOCKS = (SimplexBlock("colour", 4, 3), SimplexBlock("type", 3, 1))
ANCHORS = product(BLOCKS, free=1)


def card(**values: object) -> ModelCard:
    known = {"simplex": ANCHORS, "classes": {"colour": ["blue", "red"], "type": ["dress"]}}
    plain = {"name": "a-1", "weights_sha256": "a" * 64, "preprocess_sha256": "b" * 64, "dims": 8}
    return ModelCard(**{**plain, "tokens": 0, "vector": True, **known, **values})  # type: ignore[arg-type]


def test_a_space_is_named_by_its_simplex_and_old_names_stay() -> None:
    plain = Space(256, "5cb68f7abeacac80")
    assert plain.id == "4d208cd4ebcc7958"  # as small-2's indexes hold it
    assert Space(256, "5cb68f7abeacac80", simplex=ANCHORS).id != plain.id
    others = [product(BLOCKS[::-1], 1), product(BLOCKS, 2), product((SimplexBlock("colour", 5, 3), BLOCKS[1]), 1)]
    assert len({Space(8, "x", simplex=one).id for one in [ANCHORS, *others]}) == 4
    assert (ANCHORS.dims, ANCHORS.offsets) == (5, {"colour": 0, "type": 3})
    assert Simplex.from_json(ModelCard.from_json(card().to_json()).to_json()["simplex"]) == ANCHORS


def test_a_card_keeps_its_classes_and_their_digest() -> None:
    told = card().to_json()
    again = ModelCard.from_json(told)
    assert again == replace(card(), classes=again.classes)
    assert told["classes_sha256"] == card().classes_sha256 != ""
    assert card(classes={"colour": ["red", "blue"], "type": ["dress"]}).classes_sha256 != card().classes_sha256
    assert card(simplex=None, classes={}).classes_sha256 == ""


@pytest.mark.parametrize(
    ("blocks", "free"),
    [((), 0), ((SimplexBlock("a", 1, 1),), 0), ((SimplexBlock("a", 2, 0),), 0), ((SimplexBlock("a", 2, 1), SimplexBlock("a", 3, 1)), 0)],
)
def test_what_is_no_product(blocks: tuple[SimplexBlock, ...], free: int) -> None:
    with pytest.raises(ValueError, match="different names"):
        product(blocks, free)


def test_blocks_have_their_weights_and_settled_ones_do_not_move() -> None:
    raw = torch.randn(6, 8, requires_grad=True)
    made = arrange(raw, ANCHORS)
    assert torch.allclose(made.norm(dim=1), torch.ones(6))
    shares = made[:, :3].square().sum(1), made[:, 3:5].square().sum(1), made[:, 5:].square().sum(1)
    assert torch.allclose(torch.stack(shares), torch.tensor([[0.6], [0.2], [0.2]]).expand(3, 6))
    assert torch.allclose(F.normalize(made[:, :3], dim=1), F.normalize(raw[:, :3], dim=1))
    still = arrange(raw, ANCHORS, settled=True)
    assert torch.equal(still, made)
    (still @ torch.randn(8)).sum().backward()
    assert raw.grad is not None
    assert raw.grad[:, :5].abs().max() == 0
    assert raw.grad[:, 5:].abs().max() > 0


def test_vertices_pull_what_is_known() -> None:
    fixed = simplex(4)
    features = torch.randn(5, 3, requires_grad=True)
    labels = torch.tensor([2, -1, 0, -1, 3])
    known = labels >= 0
    wanted = F.cross_entropy(features[known] @ fixed.T, labels[known])
    loss = losses.vertices(features, fixed, labels)
    assert torch.allclose(loss, wanted)
    loss.backward()
    assert features.grad is not None
    assert features.grad[~known].abs().max() == 0
    assert losses.vertices(features, fixed, torch.full((5,), -1)) == 0


def table(*colours: str) -> Table:
    items = [{"colour": colour, "type": "dress"} for colour in colours]
    return Table("toy", items, ("colour", "type"))


def test_classes_are_appended_and_never_moved() -> None:
    first = class_map(ANCHORS, [table("Red", "blue", "NA", "")], {})
    assert first == {"colour": ("blue", "red"), "type": ("dress",)}
    second = class_map(ANCHORS, [table("amber", "red")], first)
    assert second["colour"] == ("blue", "red", "amber")
    with pytest.raises(UsageError, match="5 classes of 'colour' have no room on 4 vertices"):
        class_map(ANCHORS, [table("a", "b", "c")], first)
    with pytest.raises(UsageError, match="says nothing of 'neckline'"):
        class_map(product((SimplexBlock("neckline", 3, 1),)), [table("red")], {})


def test_a_successor_inherits_the_longest_map() -> None:
    longer = card(name="a-2", classes={"colour": ["blue", "red", "amber"], "type": ["dress"]})
    assert inherited(ANCHORS, [card(), longer, card(simplex=None, classes={})])["colour"] == ("blue", "red", "amber")
    with pytest.raises(UsageError, match="a-1 is anchored to another simplex"):
        inherited(product(BLOCKS, 9), [card()])
    with pytest.raises(UsageError, match="a-3 puts other classes on the vertices of 'colour'"):
        inherited(ANCHORS, [card(), card(name="a-3", classes={"colour": ["red", "blue"]})])


def test_the_loss_knows_which_class_an_item_is() -> None:
    items = table("red", "blue", "unheard")
    loss = VertexLoss(ANCHORS, {"colour": ("blue", "red"), "type": ("dress",)}, [items])
    at = torch.zeros(3, 8)
    at[:, :3] = 9 * simplex(4)[torch.tensor([1, 0, 3])]
    at[:, 3:5] = 9 * simplex(3)[0]
    right = loss(at, [(items, 0), (items, 1), (items, 2)])
    wrong = loss(at[[1, 0, 2]], [(items, 0), (items, 1), (items, 2)])
    assert right < 0.01 < 5 < wrong


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"simplex": product(BLOCKS, 2)}, "other blocks or weights"),
        ({"simplex": product((SimplexBlock("colour", 5, 3), BLOCKS[1]), 1)}, "its vertices .* are not those of a-1"),
        ({"dims": 9}, "9 dims, those of a-1 8"),
        ({"classes": {"colour": ["red", "blue"], "type": ["dress"]}}, "vertex 0 of colour is 'blue' there, 'red' here"),
        ({"classes": {"colour": ["blue"], "type": ["dress"]}}, "vertex 1 of colour is 'red' there, nothing here"),
        ({"weights_sha256": "a" * 64, "preprocess_sha256": "c" * 64}, "has the weights of a-1 and other preprocessing"),
    ],
)
def test_structural_objections(values: dict[str, object], says: str) -> None:
    import re

    new = card(**{"name": "a-2", "weights_sha256": "c" * 64, **values})
    (found,) = objections(card(), new)
    assert re.search(says, found), found


def test_a_true_successor_and_a_stranger_are_measured() -> None:
    grown = {"colour": ["blue", "red", "amber"], "type": ["dress", "shirt"]}
    assert objections(card(), card(name="a-2", weights_sha256="c" * 64, classes=grown)) == []
    assert objections(card(), card(name="b-1", weights_sha256="c" * 64, dims=5, simplex=None, classes={})) == []


def test_two_models_that_never_met_meet_on_the_vertices() -> None:
    """Each puts classes near the shared vertices and its own noise on the free dims; only the anchored dims answer."""
    rng = np.random.default_rng(0)
    fixed = simplex(33).numpy()
    classes = np.arange(320) % 33

    def seen(noise: float) -> np.ndarray:
        anchored = fixed[classes] + noise * rng.standard_normal((320, 32)) / 6
        values = np.concatenate([anchored, rng.standard_normal((320, 16)) / 2], axis=1)
        return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)

    old, new = seen(1.0), seen(0.5)
    references = np.roll(np.arange(320), 1)
    right = classes[:, None] == classes[None]
    right[np.arange(320), references] = False
    study = Study(old, new, old, new, None, scores(old, old), references, right, rng.random(320) < 0.5, {}, anchored=32)
    made = routes.simplex(study)
    assert isinstance(made, routes.Fitted)
    assert made.matrix is not None
    assert np.array_equal(made.matrix, np.diag(np.arange(48) < 32).astype(np.float32))
    assert study.found(made.scores, 1).mean() > study.found(scores(new, old), 1).mean() + 0.2
    assert "not anchored to one simplex" in str(routes.simplex(replace(study, anchored=0)))


def test_a_head_is_fitted_on_what_a_finished_model_shows() -> None:
    rng = np.random.default_rng(0)
    traits = rng.standard_normal((400, 24))
    old = (traits + 0.5 * rng.standard_normal(traits.shape)) @ rng.standard_normal((24, 32))
    old = (old / np.linalg.norm(old, axis=1, keepdims=True)).astype(np.float32)
    states = (5 * traits @ rng.standard_normal((24, 40))).astype(np.float32)
    asked = traits + rng.standard_normal(traits.shape)  # what the old model understood
    queries = asked @ np.linalg.lstsq(traits, old, rcond=None)[0]
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    none = np.full(400, -1)
    study = Study(old, old, queries, queries, None, scores(queries, old), none, np.eye(400, dtype=bool), none < 0, {})
    study = replace(study, fit=rng.random(400) < 0.7)
    assert "does not show what a head would project" in str(routes.fitted(study))
    made = routes.fitted(replace(study, new_states=states))
    assert isinstance(made, routes.Fitted)
    assert made.matrix is not None
    assert (made.matrix.shape, made.matrix.dtype) == ((32, 40), np.float32)
    assert study.found(made.scores, 10).mean() > study.found(study.current, 10).mean() + 0.1


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
    kinds = {("colour",): 0.5, ("type",): 0.5}
    source = Source(
        "toy", Table("toy", items, ("colour", "type")), np.array(maps, np.float16), every, every >= 0, kinds
    )
    start, _, preprocess = weights.load(make_model(tmp_path / "toy-1", seed=0))

    def make(*, heads_only: bool = False, stored: np.ndarray | None = None, **settings: float) -> AttributeTask:
        old = {} if stored is None else {"0123456789abcdef": stored}
        config = replace(start.config, simplex=ANCHORS, query_heads=dict.fromkeys(old, 16))
        torch.manual_seed(0)
        model = Sprc(config, start.tokenizer)
        model.load_state_dict(start.state_dict(), strict=False)
        pictures = replace(source, old=old)
        how = Settings(batch=16, sources={"toy": 1.0}, kinds={}, described=4, **settings)
        held_out = HeldOut(pictures, [str(row) for row in range(40)], every, [])
        vocabulary = tmp_path / "toy-1" / weights.VOCABULARY
        return AttributeTask(
            model, "toy-2", how, 0, [pictures], [held_out], preprocess, vocabulary, heads_only=heads_only
        )

    return make


def stored_by_another() -> np.ndarray:
    values = np.random.default_rng(3).standard_normal((40, 1, 16))
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float16)


def test_every_term_is_there_and_the_card_says_what_it_is_anchored_to(
    toy: Callable[..., AttributeTask], tmp_path: Path
) -> None:
    made = toy(stored=stored_by_another(), anchored_weight=0.5, hoc_weight=0.1)
    terms = made.losses(0)
    assert {"itc", "vertex", "anchored", "hoc", "older 012345", "rtc", "align"} == set(terms)
    assert all(torch.isfinite(term) for term in terms.values())
    made.validate = lambda: {"headline": 1.0}  # type: ignore[method-assign]
    recipe = loop.Recipe(steps=2, learning_rate=1e-3, evaluate_every=2)
    loop.train(made, recipe, work=tmp_path / "w", out=tmp_path / "out", facts={})
    known = weights.read_card(tmp_path / "out")
    assert known.simplex == ANCHORS
    assert known.classes == {"colour": ["blue", "red"], "type": ["long", "sleeves"]}
    assert known.space.simplex == ANCHORS
    encoder = load_model(tmp_path / "out", device="cpu")
    vectors = encoder.encode_images(np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)).vectors
    assert vectors is not None
    assert np.abs(np.square(vectors[:, :3]).sum(axis=1) - 0.6).max() < 1e-5


def test_heads_alone_leave_the_model_as_it_is(toy: Callable[..., AttributeTask], tmp_path: Path) -> None:
    made = toy(stored=stored_by_another(), heads_only=True)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    assert set(made.losses(0)) == {"older 012345"}
    made.validate = lambda: {"headline": 1.0}  # type: ignore[method-assign]
    recipe = loop.Recipe(steps=3, learning_rate=1e-2, evaluate_every=3)
    loop.train(made, recipe, work=tmp_path / "w", out=tmp_path / "out", facts={})
    moved = {name for name, value in made.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"query_heads.0123456789abcdef.{part}" for part in ("weight", "bias")}
    assert weights.load(tmp_path / "out")[1].query_heads == {"0123456789abcdef": 16}


def test_a_pool_trains_the_projections_alone(toy: Callable[..., AttributeTask], tmp_path: Path) -> None:
    made = toy(stored=stored_by_another(), pool=24, asked_weight=0.5, anchored_weight=0.5)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.model.train()
    terms = made.losses(0)
    assert set(terms) == {"itc", "vertex", "asked", "anchored", "older 012345", "rtc"}
    again = toy(stored=stored_by_another(), pool=24, asked_weight=0.5, anchored_weight=0.5).losses(0)
    assert all(torch.equal(terms[name], again[name]) for name in terms)  # the pool is a matter of the seed
    made.validate = lambda: {"headline": 1.0}  # type: ignore[method-assign]
    recipe = loop.Recipe(steps=30, learning_rate=1e-2, evaluate_every=30)
    loop.train(made, recipe, work=tmp_path / "w", out=tmp_path / "out", facts={})
    moved = {name for name, value in made.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in moved} == {"text_proj", "gallery_proj", "query_heads", "temp"}
    after = made.losses(0)
    assert all(after[name] < terms[name] for name in ("itc", "vertex", "asked"))
    # The Q-Former is in the weights file all the same: frozen is what every model of one start shares.
    from safetensors.torch import load_file

    shared = load_file(tmp_path / "out" / weights.FROZEN)
    assert {name.partition(".")[0] for name in shared} == {"vision", "embeddings"}


def test_what_the_pool_says_is_what_the_model_says(toy: Callable[..., AttributeTask]) -> None:
    """The terms of a pooled batch are those of the same triplets asked anew."""
    pooled = toy(pool=16)
    pooled.model.eval()
    chosen = np.random.default_rng([0, 0]).choice(16, 16, replace=False)
    batch = pooled._pool.some(chosen)
    fresh = pooled._encode(batch.pairs, None)
    assert torch.allclose(batch.states, fresh.states, atol=1e-5)
    assert batch.pictures is not None
    assert fresh.pictures is not None
    assert torch.allclose(batch.pictures, fresh.pictures, atol=1e-5)
    assert batch.told is not None
    assert torch.allclose(batch.told, pooled._told(fresh, range(16)), atol=1e-5)
