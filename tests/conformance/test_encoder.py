"""The encoders of this project are held to what every encoder must do."""

from __future__ import annotations

from pathlib import Path

import pytest

import cir
from cir.testing.encoder import EncoderTests
from cir.testing.fakes import FakeEncoder
from cir.types import Encoder


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "small-lite"], scope="class")
class TestPackagedModels(EncoderTests):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, name: str) -> Encoder:
        return cir.load_model(name, device="cpu")
