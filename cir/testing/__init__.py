"""Fakes and conformance suites, for people who write their own encoder or gallery and for this project's tests.

    fakes        a deterministic encoder, folders of small pictures, indexes made by hand
    two_models   an index of one fake model, served by another through a hand-made mapping
    gallery      `GalleryTests`: what every gallery must do
    encoder      `EncoderTests`: what every encoder must do
    commands     what a command of the command line left behind

`gallery` and `encoder` import pytest and hypothesis, which only the extra `dev` installs; no other package of this
project may import the two. A suite is used by a subclass in a test module:

    from cir.testing.encoder import EncoderTests

    class TestMyEncoder(EncoderTests):
        @pytest.fixture(scope="class")
        @classmethod
        def encoder(cls) -> Encoder:
            return MyEncoder()
"""

import sys

if "pytest" in sys.modules:  # so that a failed assertion of a suite shows its values
    sys.modules["pytest"].register_assert_rewrite("cir.testing.gallery", "cir.testing.encoder", "cir.testing.commands")
