"""`EncoderTests`: what every encoder must do, whatever it is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from cir.arrays import Floats, unit_norm_mask
from cir.types import Encoded, Encoder, ExposesQueryStates, ModelCard, Space

CAPTIONS = ("in red, with long sleeves", "", "is blue", "has no collar")
THREADS = 4


class EncoderTests:
    """Subclass it, and override the fixture `encoder`; the fixture `pictures` as well, for pictures of another kind.

    Attributes:
        tolerance: by how much numbers may differ between batch sizes and between threads.
    """

    tolerance = 1e-5

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        """The encoder under test. Every subclass must override it."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def pictures(cls) -> list[Image.Image]:
        """Pictures of several sizes and modes."""
        rng = np.random.default_rng(0)
        sizes = ((40, 30), (30, 40), (64, 64), (224, 200), (9, 17))
        pictures = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
        return [*pictures, pictures[0].convert("L"), pictures[1].convert("RGBA"), pictures[2].convert("P")]

    @pytest.fixture(scope="class")
    @classmethod
    def pixels(cls, encoder: Encoder, pictures: Sequence[Image.Image]) -> Floats:
        """(B, 3, H, W) float32: the pictures, preprocessed."""
        return np.stack([encoder.preprocess(picture) for picture in pictures])

    @pytest.fixture(scope="class")
    @classmethod
    def captions(cls, pictures: Sequence[Image.Image]) -> list[str]:
        """One caption per picture."""
        return [CAPTIONS[number % len(CAPTIONS)] for number in range(len(pictures))]

    def test_the_card_is_consistent(self, encoder: Encoder) -> None:
        card = encoder.card
        assert card.name
        assert card.dims > 0
        assert card.tokens >= 0
        assert card.vector or card.tokens, "a model without vectors and tokens encodes no gallery"
        for digest in (card.weights_sha256, card.config_sha256, card.vocabulary_sha256, card.preprocess_sha256):
            assert len(digest) == 64
            assert int(digest, 16) >= 0
        assert 0 <= card.sum_weight <= 1
        assert set(card.min_scores) <= {"composed", "text"}
        assert all(dims > 0 for dims in card.query_heads.values())
        assert card.space.id not in card.query_heads, "the model's own space needs no head"
        if card.simplex is not None:
            assert card.simplex.dims <= card.dims
            assert {block.name: block.capacity for block in card.simplex.blocks}.keys() >= card.classes.keys()

    def test_the_card_survives_json(self, encoder: Encoder) -> None:
        read = ModelCard.from_json(json.loads(json.dumps(encoder.card.to_json())))
        assert (read.digest, read.space.id) == (encoder.card.digest, encoder.card.space.id)
        assert read.to_json() == encoder.card.to_json()

    def test_the_space_is_that_of_the_card(self, encoder: Encoder) -> None:
        card, space = encoder.card, encoder.card.space
        assert (space.dims, space.model_digest, space.simplex) == (
            card.dims,
            card.gallery_of or card.digest,
            card.simplex,
        )
        assert len(space.id) == 16
        assert int(space.id, 16) >= 0
        assert Space.from_json(json.loads(json.dumps(asdict(space)))).id == space.id

    def test_preprocess_gives_pixels_of_one_shape(self, encoder: Encoder, pictures: Sequence[Image.Image]) -> None:
        for picture in pictures:
            pixels = encoder.preprocess(picture)
            assert pixels.shape == encoder.preprocess(pictures[0]).shape
            assert pixels.ndim >= 2
            assert pixels.dtype == np.float32
            assert np.isfinite(pixels).all()
            np.testing.assert_array_equal(encoder.preprocess(picture), pixels)

    def test_images_become_vectors_and_tokens(self, encoder: Encoder, pixels: Floats) -> None:
        card, encoded = encoder.card, encoder.encode_images(pixels)
        expected = {
            "vectors": (len(pixels), card.dims) if card.vector else None,
            "tokens": (len(pixels), card.tokens, card.dims) if card.tokens else None,
        }
        for name, shape in expected.items():
            values = getattr(encoded, name)
            assert (values is None) == (shape is None), f"{name} contradict the card"
            if values is not None:
                assert values.shape == shape
                assert values.dtype == np.float32
                assert unit_norm_mask(values).all()

    def test_images_do_not_depend_on_the_batch(self, encoder: Encoder, pixels: Floats) -> None:
        together = encoder.encode_images(pixels)
        self.assert_same(_joined([encoder.encode_images(picture[None]) for picture in pixels]), together)
        reverse = encoder.encode_images(np.ascontiguousarray(pixels[::-1]))
        self.assert_same(_joined([reverse], reverse=True), together)

    def test_threads_do_not_disturb_each_other(self, encoder: Encoder, pictures: Sequence[Image.Image]) -> None:
        def encode(picture: Image.Image) -> Encoded:
            return encoder.encode_images(encoder.preprocess(picture)[None])

        expected = _joined([encode(picture) for picture in pictures])
        with encoder.shared_by(THREADS), ThreadPoolExecutor(THREADS) as pool:
            for _ in range(3):
                self.assert_same(_joined(list(pool.map(encode, [picture.copy() for picture in pictures]))), expected)
        self.assert_same(_joined([encode(picture) for picture in pictures]), expected)

    def test_queries_have_unit_norm_in_every_space(
        self, encoder: Encoder, pixels: Floats, captions: Sequence[str]
    ) -> None:
        for space, dims in _query_spaces(encoder.card):
            for vectors in (encoder.encode_queries(pixels, captions, space), encoder.encode_texts(captions, space)):
                assert vectors.shape == (len(captions), dims)
                assert vectors.dtype == np.float32
                assert unit_norm_mask(vectors).all()

    def test_queries_do_not_depend_on_the_batch(
        self, encoder: Encoder, pixels: Floats, captions: Sequence[str]
    ) -> None:
        composed, texts = encoder.encode_queries(pixels, captions), encoder.encode_texts(captions)
        for row, caption in enumerate(captions):
            alone = encoder.encode_queries(pixels[row : row + 1], [caption])
            np.testing.assert_allclose(alone[0], composed[row], atol=self.tolerance)
            np.testing.assert_allclose(encoder.encode_texts([caption])[0], texts[row], atol=self.tolerance)

    def test_query_states_lead_to_the_query_vectors(
        self, encoder: Encoder, pixels: Floats, captions: Sequence[str]
    ) -> None:
        if not isinstance(encoder, ExposesQueryStates):
            pytest.skip("the encoder does not expose its query states")
        composed, texts = encoder.query_states(pixels, captions), encoder.text_states(captions)
        assert composed.shape == texts.shape
        assert composed.shape[0] == len(captions)
        assert composed.dtype == texts.dtype == np.float32
        for space, _ in _query_spaces(encoder.card):
            for states, vectors in (
                (composed, encoder.encode_queries(pixels, captions, space)),
                (texts, encoder.encode_texts(captions, space)),
            ):
                np.testing.assert_allclose(encoder.project_states(states, space), vectors, atol=self.tolerance)

    def test_the_digests_stay(self, encoder: Encoder, pixels: Floats, captions: Sequence[str]) -> None:
        before, given = encoder.card.to_json(), hashlib.sha256(pixels.tobytes()).digest()
        encoder.encode_images(pixels)
        encoder.encode_queries(pixels, captions)
        assert encoder.card.to_json() == before
        assert hashlib.sha256(pixels.tobytes()).digest() == given, "the encoder changes the pixels that it is given"

    def assert_same(self, found: Encoded, expected: Encoded) -> None:
        """Assert equal vectors and tokens, within `tolerance`."""
        for values, wanted in ((found.vectors, expected.vectors), (found.tokens, expected.tokens)):
            if wanted is None:
                assert values is None
            else:
                assert values is not None
                np.testing.assert_allclose(values, wanted, atol=self.tolerance)


def _query_spaces(card: ModelCard) -> list[tuple[str | None, int]]:
    """Each space a query can be encoded in, None for the model's own, with its dims."""
    return [(None, card.dims), *card.query_heads.items()]


def _joined(batches: Sequence[Encoded], *, reverse: bool = False) -> Encoded:
    """Several batches as one."""
    step = -1 if reverse else 1
    vectors = [batch.vectors for batch in batches if batch.vectors is not None]
    tokens = [batch.tokens for batch in batches if batch.tokens is not None]
    return Encoded(
        np.concatenate(vectors)[::step] if vectors else None, np.concatenate(tokens)[::step] if tokens else None
    )
