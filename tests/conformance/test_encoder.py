"""The encoders of this project are held to what every encoder must do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cir
from cir.arrays import Floats
from cir.testing import hub_models
from cir.testing.encoder import EncoderTests
from cir.testing.fakes import FakeEncoder
from cir.types import Encoded, Encoder


class TestFake(EncoderTests):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return FakeEncoder()


class TestFakeOfTokensAlone(EncoderTests):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return FakeEncoder(vector=False)


class TestFakeOfVectorsAlone(EncoderTests):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return FakeEncoder(tokens=0, dims=8)


class TestSprc(EncoderTests):
    """The real network, tiny, with random weights."""

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, tiny_model: Path) -> Encoder:
        return cir.load_model(tiny_model, device="cpu")


SAVED = {
    "clip": hub_models.save_clip,
    "siglip": hub_models.save_siglip,
    "siglip2": hub_models.save_siglip2,
    "qwen3_vl": hub_models.save_qwen3_vl,
}


@pytest.mark.parametrize("kind", SAVED, scope="class")
class TestHub(EncoderTests):
    """Small random models in the form of the hub."""

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, kind: str, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
        return cir.load_model(SAVED[kind](tmp_path_factory.mktemp("hub") / kind), device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "small-lite"], scope="class")
@pytest.mark.parametrize("runtime", ["onnx", "torch"], scope="class")
class TestPackagedModels(EncoderTests):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, name: str, runtime: str) -> Encoder:
        return cir.load_model(name, device="cpu", runtime=runtime)


@pytest.mark.slow
class TestGraphs(EncoderTests):
    """A model that gives vectors and tokens, on ONNX Runtime."""

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, tiny_graphs: Path) -> Encoder:
        return cir.load_model(tiny_graphs, runtime="onnx")


class Unnormalised(FakeEncoder):
    def encode_images(self, pixels: Floats) -> Encoded:
        encoded = super().encode_images(pixels)
        return Encoded(encoded.vectors * np.float32(2) if encoded.vectors is not None else None, encoded.tokens)


class Tokenless(FakeEncoder):
    def encode_images(self, pixels: Floats) -> Encoded:
        return Encoded(super().encode_images(pixels).vectors, None)


class Centred(FakeEncoder):
    """What it gives for a picture depends on the others."""

    def encode_images(self, pixels: Floats) -> Encoded:
        return super().encode_images(pixels + pixels.mean(axis=0))


@pytest.mark.parametrize(
    ("encoder", "test"),
    [
        (Unnormalised(), EncoderTests.test_images_become_vectors_and_tokens),
        (Tokenless(), EncoderTests.test_images_become_vectors_and_tokens),
        (Centred(), EncoderTests.test_images_do_not_depend_on_the_batch),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, FakeEncoder) else value.__name__,
)
def test_the_suite_finds_what_is_wrong(encoder: FakeEncoder, test: Callable[..., None]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3), dtype=np.uint8)
    pixels = np.stack([encoder.preprocess(Image.fromarray(picture)) for picture in noise])
    test(EncoderTests(), FakeEncoder(), pixels)
    with pytest.raises(AssertionError):
        test(EncoderTests(), encoder, pixels)
