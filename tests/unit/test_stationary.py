"""A stationary gallery: product simplex, class maps that only grow, and replacements refused without measuring."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cir.arrays import Floats, unit
from cir.errors import UsageError
from cir.models.stationary import assemble_blocks, product, simplex
from cir.replacement import routes
from cir.replacement.paired_sample import PairedSample, similarities
from cir.replacement.precheck import incompatibilities
from cir.training import losses
from cir.training.class_map import VertexLoss, class_map, inherited
from cir.training.triplet_sampling import AttributeTable
from cir.typed_json import from_json
from cir.types import ModelCard, Simplex, SimplexBlock, Space

BLOCKS = (SimplexBlock("colour", 4, 3), SimplexBlock("type", 3, 1))
SIMPLEX = product(BLOCKS, free_weight=1)


def card(**values: object) -> ModelCard:
    known = {"simplex": SIMPLEX, "classes": {"colour": ["blue", "red"], "type": ["dress"]}}
    plain = {"name": "a-1", "weights_sha256": "a" * 64, "preprocess_sha256": "b" * 64, "dims": 8}
    plain |= {"config_sha256": "d" * 64, "vocabulary_sha256": "e" * 64}
    return ModelCard(**{**plain, "tokens": 0, "vector": True, **known, **values})  # type: ignore[arg-type]


def test_a_space_is_named_by_its_simplex() -> None:
    plain = Space(256, "5cb68f7abeacac80")
    assert plain.id == "87be1a35a8e37146"  # query heads are stored under such names: the form may not change
    assert Space(256, "5cb68f7abeacac80", simplex=SIMPLEX).id != plain.id
    others = [product(BLOCKS[::-1], 1), product(BLOCKS, 2), product((SimplexBlock("colour", 5, 3), BLOCKS[1]), 1)]
    assert len({Space(8, "x", simplex=other).id for other in [SIMPLEX, *others]}) == 4
    assert (SIMPLEX.dims, SIMPLEX.offsets) == (5, {"colour": 0, "type": 3})
    assert from_json(Simplex, ModelCard.from_json(card().to_json()).to_json()["simplex"]) == SIMPLEX


def test_a_card_keeps_its_classes_and_their_digest() -> None:
    told = card().to_json()
    again = ModelCard.from_json(told)
    assert again == replace(card(), classes=again.classes)
    for forged in ({"digest": "0" * 16}, {"classes_sha256": "0" * 16}):
        with pytest.raises(ValueError, match="contradicts the other fields"):
            ModelCard.from_json({**told, **forged})
    assert told["classes_sha256"] == card().classes_sha256 != ""
    assert card(classes={"colour": ["red", "blue"], "type": ["dress"]}).classes_sha256 != card().classes_sha256
    assert card(simplex=None, classes={}).classes_sha256 == ""


@pytest.mark.parametrize(
    ("blocks", "free"),
    [
        ((), 0),
        ((SimplexBlock("a", 1, 1),), 0),
        ((SimplexBlock("a", 2, 0),), 0),
        ((SimplexBlock("a", 2, 1), SimplexBlock("a", 3, 1)), 0),
    ],
)
def test_what_is_no_product(blocks: tuple[SimplexBlock, ...], free: int) -> None:
    with pytest.raises(ValueError, match="different names"):
        product(blocks, free)


def test_blocks_have_their_weights_and_detached_blocks_do_not_move() -> None:
    raw = torch.randn(6, 8, requires_grad=True)
    made = assemble_blocks(raw, SIMPLEX)
    assert torch.allclose(made.norm(dim=1), torch.ones(6))
    shares = made[:, :3].square().sum(1), made[:, 3:5].square().sum(1), made[:, 5:].square().sum(1)
    assert torch.allclose(torch.stack(shares), torch.tensor([[0.6], [0.2], [0.2]]).expand(3, 6))
    assert torch.allclose(F.normalize(made[:, :3], dim=1), F.normalize(raw[:, :3], dim=1))
    detached = assemble_blocks(raw, SIMPLEX, detach_simplex=True)
    assert torch.equal(detached, made)
    (detached @ torch.randn(8)).sum().backward()
    assert raw.grad is not None
    assert raw.grad[:, :5].abs().max() == 0
    assert raw.grad[:, 5:].abs().max() > 0


def test_vertices_pull_items_of_known_classes() -> None:
    vertices = simplex(4)
    features = torch.randn(5, 3, requires_grad=True)
    labels = torch.tensor([2, -1, 0, -1, 3])
    known = labels >= 0
    wanted = F.cross_entropy(features[known] @ vertices.T, labels[known])
    loss = losses.simplex_cross_entropy(features, vertices, labels)
    assert torch.allclose(loss, wanted)
    loss.backward()
    assert features.grad is not None
    assert features.grad[~known].abs().max() == 0
    assert losses.simplex_cross_entropy(features, vertices, torch.full((5,), -1)) == 0


def table(*colours: str) -> AttributeTable:
    items = [{"colour": colour, "type": "dress"} for colour in colours]
    return AttributeTable("toy", items, ("colour", "type"))


def test_classes_are_appended_and_never_moved() -> None:
    first = class_map(SIMPLEX, [table("Red", "blue", "NA", "")], {})
    assert first == {"colour": ("blue", "red"), "type": ("dress",)}
    second = class_map(SIMPLEX, [table("amber", "red")], first)
    assert second["colour"] == ("blue", "red", "amber")
    with pytest.raises(UsageError, match="5 classes of 'colour' exceed its capacity of 4"):
        class_map(SIMPLEX, [table("a", "b", "c")], first)
    with pytest.raises(UsageError, match="has no values of 'neckline'"):
        class_map(product((SimplexBlock("neckline", 3, 1),)), [table("red")], {})


def test_a_successor_inherits_the_longest_map() -> None:
    longer = card(name="a-2", classes={"colour": ["blue", "red", "amber"], "type": ["dress"]})
    assert inherited(SIMPLEX, [card(), longer, card(simplex=None, classes={})])["colour"] == ("blue", "red", "amber")
    with pytest.raises(UsageError, match="a-1 is trained against another simplex"):
        inherited(product((SimplexBlock("colour", 4, 2), BLOCKS[1]), 1), [card()])
    assert inherited(product(BLOCKS, 9), [card()])["type"] == ("dress",)  # only the free dims weigh more
    with pytest.raises(UsageError, match="a-3 puts other classes on the vertices of 'colour'"):
        inherited(SIMPLEX, [card(), card(name="a-3", classes={"colour": ["red", "blue"]})])


def test_the_loss_knows_which_class_an_item_is() -> None:
    items = table("red", "blue", "unheard")
    loss = VertexLoss(SIMPLEX, {"colour": ("blue", "red"), "type": ("dress",)}, [items])
    at = torch.zeros(3, 8)
    at[:, :3] = 9 * simplex(4)[torch.tensor([1, 0, 3])]
    at[:, 3:5] = 9 * simplex(3)[0]
    right = loss(at, [(items, 0), (items, 1), (items, 2)])
    wrong = loss(at[[1, 0, 2]], [(items, 0), (items, 1), (items, 2)])
    assert right < 0.01 < 5 < wrong


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"simplex": product((SimplexBlock("colour", 4, 2), BLOCKS[1]), 1)}, "other blocks or weights"),
        ({"simplex": product((SimplexBlock("colour", 5, 3), BLOCKS[1]), 1)}, "its vertices .* are not those of a-1"),
        ({"classes": {"colour": ["red", "blue"], "type": ["dress"]}}, "vertex 0 of colour is 'red', not 'blue'"),
        ({"classes": {"colour": ["blue"], "type": ["dress"]}}, "vertex 1 of colour is nothing, not 'red'"),
        ({"weights_sha256": "a" * 64, "preprocess_sha256": "c" * 64}, "the weights of a-1 with other preprocessing"),
        ({"weights_sha256": "a" * 64, "config_sha256": "c" * 64}, "the weights of a-1 with another configuration"),
        ({"weights_sha256": "a" * 64, "vocabulary_sha256": "c" * 64}, "the weights of a-1 with another vocabulary"),
    ],
)
def test_structural_incompatibilities(values: dict[str, object], says: str) -> None:
    new = card(**{"name": "a-2", "weights_sha256": "c" * 64, **values})
    (problem,) = incompatibilities(card(), new)
    assert re.search(says, problem), problem


def test_a_true_successor_and_a_stranger_are_measured() -> None:
    grown = {"colour": ["blue", "red", "amber"], "type": ["dress", "shirt"]}
    assert incompatibilities(card(), card(name="a-2", weights_sha256="c" * 64, classes=grown)) == []
    assert incompatibilities(card(), card(name="a-2", weights_sha256="c" * 64, dims=9)) == []  # one more free dim
    heavier = card(name="a-2", weights_sha256="c" * 64, simplex=product(BLOCKS, 9))  # free dims that weigh more
    assert incompatibilities(card(), heavier) == []
    assert incompatibilities(card(), card(name="b-1", weights_sha256="c" * 64, dims=5, simplex=None, classes={})) == []


def test_two_models_that_never_met_share_the_vertices() -> None:
    """Each puts classes near the shared vertices, and its own noise on the free dims; only the simplex dims answer."""
    rng = np.random.default_rng(0)
    vertices = simplex(33).numpy()
    classes = np.arange(320) % 33

    def encoded(noise: float) -> Floats:
        blocks = vertices[classes] + noise * rng.standard_normal((320, 32)) / 6
        return unit(np.concatenate([blocks, rng.standard_normal((320, 16)) / 2], axis=1).astype(np.float32))

    old, new = encoded(1.0), encoded(0.5)
    references = np.roll(np.arange(320), 1)
    relevant = classes[:, None] == classes[None]
    relevant[np.arange(320), references] = False
    sample = PairedSample(
        old_gallery=old,
        new_gallery=new,
        old_queries=old,
        new_queries=new,
        head_queries=None,
        current=similarities(old, old),
        references=references,
        relevant=relevant,
        fit_mask=rng.random(320) < 0.5,
        slices={},
        simplex_dims=32,
    )
    fitted = routes.simplex(sample)
    assert isinstance(fitted, routes.FittedRoute)
    assert fitted.mapping.matrix is not None
    assert np.array_equal(fitted.mapping.matrix, np.diag(np.arange(48) < 32).astype(np.float32))
    assert sample.hits(fitted.scores, 1).mean() > sample.hits(similarities(new, old), 1).mean() + 0.2
    wider = np.pad(new, ((0, 0), (0, 7)))  # more free dims than the predecessor has
    again = routes.simplex(replace(sample, new_gallery=wider, new_queries=wider))
    assert isinstance(again, routes.FittedRoute)
    np.testing.assert_allclose(again.scores, fitted.scores, atol=1e-6)
    assert "do not share a simplex" in str(routes.simplex(replace(sample, simplex_dims=0)))


@pytest.mark.slow
def test_a_head_is_fitted_on_the_states_of_a_finished_model() -> None:
    rng = np.random.default_rng(0)
    traits = rng.standard_normal((400, 24))
    old = unit(((traits + 0.5 * rng.standard_normal(traits.shape)) @ rng.standard_normal((24, 32))).astype(np.float32))
    states = (5 * traits @ rng.standard_normal((24, 40))).astype(np.float32)
    seen = traits + rng.standard_normal(traits.shape)  # the traits as the old model encodes them
    queries = unit((seen @ np.linalg.lstsq(traits, old, rcond=None)[0]).astype(np.float32))
    sample = PairedSample(
        old_gallery=old,
        new_gallery=old,
        old_queries=queries,
        new_queries=queries,
        head_queries=None,
        current=similarities(queries, old),
        references=np.full(400, -1),
        relevant=np.eye(400, dtype=bool),
        fit_mask=rng.random(400) < 0.7,
        slices={},
    )
    assert "does not expose its query states" in str(routes.fitted_head(sample))
    fitted = routes.fitted_head(replace(sample, new_states=states))
    assert isinstance(fitted, routes.FittedRoute)
    assert fitted.mapping.matrix is not None
    assert fitted.mapping.matrix.shape == (32, 40)
    assert fitted.mapping.matrix.dtype == np.float32
    assert sample.hits(fitted.scores, 10).mean() > sample.hits(sample.current, 10).mean() + 0.1
