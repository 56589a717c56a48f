"""What several tests share: the data beside the project, a tiny model, and the command line in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data and oracles beside the checkout; tests that need it are skipped without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "oracles").is_dir():
        pytest.skip("needs ../shared, which is not here")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with random weights and a few words: the real classes in milliseconds."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-1", seed=0)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """Makes further tiny models: directory, seed -> directory."""
    return make_tiny_model


def make_tiny_model(directory: Path, *, seed: int, vector: bool = True) -> Path:
    """Write a tiny random model; another seed is another model."""
    import torch

    from cir.images import Preprocess
    from cir.models import weights
    from cir.models.sprc import Sprc, SprcConfig

    vocabulary = directory.parent / f"words-{seed}.txt"
    directory.parent.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,-'?"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "with", "long", "sleeves"]
    vocabulary.write_text("\n".join([*pieces, *letters, *(f"##{letter}" for letter in letters)]) + "\n")
    torch.manual_seed(seed)
    vision = {"type": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1}
    config = SprcConfig(
        vision={**vision, "num_attention_heads": 2, "intermediate_size": 64, "qkv_bias": True},
        width=32,
        layers=2,
        heads=2,
        intermediate=64,
        query_tokens=4,
        dims=16,
        vocabulary=128,
        positions=64,
        gallery_vector=vector,
    )
    model = Sprc(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # a fresh BLIP-2 is blind: its vision starts at 1e-10
            torch.nn.init.normal_(parameter, std=0.2)
    weights.save(
        directory,
        model,
        name=directory.name,
        preprocess=Preprocess(size=32, flatten=True, target_ratio=1.0, fill=255),
        vocabulary=vocabulary,
        sum_weight=0.5,
        training={"seed": seed},
    )
    return directory


@pytest.fixture(scope="session")
def wardrobe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty rendered garments with their table."""
    from cir import wardrobe

    folder = tmp_path_factory.mktemp("data") / "wardrobe"
    wardrobe.write(folder, 40, seed=3)
    return folder


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def cir(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command line as a shell would run it, in this process."""

    def run(*words: object) -> Outcome:
        from cir.cli import main

        capfd.readouterr()
        monkeypatch.setattr("sys.argv", ["cir", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capfd.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return run
