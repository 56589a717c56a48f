"""`cir evaluate`, `score` and `compare` on captioned photos."""

from __future__ import annotations

from pathlib import Path

import pytest

from cir.data import captioned_benchmarks
from cir.data.mining import MinedChange
from cir.testing.commands import Run, mistake

SAID = (("place", "grass", "snow"), ("place", "grass", "beach"), ("action", "walking", "running"))


@pytest.fixture
def captioned(folder: Path, tmp_path: Path) -> Path:
    """Twenty garments with two captions each, in the splits val and test."""
    names = [path.name for path in sorted((folder / "images").iterdir())[:20]]
    rows = [f'{name},"{words} {number} ."' for number, name in enumerate(names) for words in ("red", "blue, long")]
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption", *rows]))
    (tmp_path / "val.txt").write_text("\n".join(names[:12]))
    (tmp_path / "test.txt").write_text("\n".join(names[12:]))
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / "images" / name).write_bytes((folder / "images" / name).read_bytes())
    return tmp_path


def test_text_to_image(cli: Run, captioned: Path, tiny_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.trec"
    words = ["flickr8k", "--data-root", captioned]
    done = cli("evaluate", *words, "--model", tiny_model, "--run", run)
    assert done.code == 0, done.err
    table = done.out.splitlines()
    assert table[0].startswith("flickr8k  flickr8k-val/text-to-image, gallery 12 images, 24 queries, model tiny-1")
    assert [line.split()[0] for line in table[3:]] == ["text", "chance"]
    assert len(run.read_text().splitlines()) == 24 * 12

    report = cli("evaluate", *words, "--model", tiny_model, "--split", "test", "--json").json
    assert (report["protocol"], report["queries"]) == ("flickr8k-test/text-to-image", 16)
    assert (report["form"], list(report["baselines"])) == ("text", ["chance"])
    assert report["baselines"]["chance"]["R@1"]["value"] == 1 / 8

    scored = cli("score", "flickr8k", run, "--data-root", captioned)
    assert scored.out.splitlines()[2:] == table[2:]
    compared = cli("compare", run, run, *words, "--json").json
    assert compared["metrics"]["R@1"]["difference"] == 0


def test_mistakes(cli: Run, captioned: Path, tiny_model: Path) -> None:
    words = ["evaluate", "flickr8k", "--data-root", captioned, "--model", tiny_model]
    mistake(cli(*words, "--split", "train"), "train.txt")
    mistake(cli("evaluate", "flickr8k"), "--data-root")
    (captioned / "images" / "00001.jpg").unlink()
    mistake(cli(*words), "photos in val.txt are missing", "--allow-missing")
    done = cli(*words, "--allow-missing")
    assert "MISSING" in done.out
    assert done.code == 0


def test_mined_changes(cli: Run, captioned: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [
        MinedChange(
            reference=f"0000{number}.jpg",
            targets=(f"0000{number + 1}.jpg",),
            kind=kind,
            old=old,
            new=new,
            of="",
            subject="dog",
            several=False,
            captions=("", ""),
            negatives=(),
            agreement=1.0,
        )
        for number, (kind, old, new) in enumerate(SAID, start=1)
    ]
    monkeypatch.setattr(captioned_benchmarks, "mine", lambda captions, *, seed: changes)
    words = ["evaluate", "flickr8k-mined", "--data-root", captioned, "--model", tiny_model]
    report = cli(*words, "--json").json
    assert (report["benchmark"], report["protocol"]) == ("flickr8k-mined", "flickr8k-mined-val")
    assert (report["queries"], report["gallery"]["images"]) == (3, 12)
    assert list(report["groups"]) == ["place", "action"]
    assert list(report["baselines"]) == ["image", "text", "sum"]
    assert set(report["comparison"]) == {"R@1", "R@10", "R@50", "mAP@10"}
    assert "form" not in report
