"""`cir convert`: official checkpoints into models of cir."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command()
@click.argument("checkpoint", metavar="CKPT")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Directory of the new model."
)
@click.option(
    "--vision",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The image encoder (eva_vit_g.pth, clip_vit_L.pth), for a LAVIS checkpoint without it.",
)
@click.option("--vision-heads", type=click.IntRange(min=1), help="Attention heads of the image encoder.")
@click.option("--qformer-heads", type=click.IntRange(min=1), help="Attention heads of the Q-Former.")
@click.option(
    "--vocab",
    "vocabulary",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The tokenizer's words, one per line.  [default: bert-base-uncased's and [DEC]]",
)
def convert(
    checkpoint: str,
    output: Path,
    vision: Path | None,
    vision_heads: int | None,
    qformer_heads: int | None,
    vocabulary: Path | None,
) -> None:
    """Convert an official checkpoint into a model.

    CKPT is an SPRC .pt, a LAVIS .pth, or a BLIP-2 folder or id of Hugging Face.

    Sizes are read from the tensors; attention heads are known for the published sizes and must be given for others. DIR
    can then be used wherever a model is named. No code in CKPT is run, and an existing DIR is never written to.

    \b
    Example:
      cir convert sprc_cirr.pt -o models/sprc-cirr
      cir convert blip2_pretrained.pth --vision eva_vit_g.pth -o models/blip2
      cir build-index photos/ -o my.index --model models/sprc-cirr
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # the hub stays reachable: CKPT may be an id on it
    from cir.models import convert as conversion

    done = conversion.convert(
        checkpoint,
        output,
        vision=vision,
        vision_heads=vision_heads,
        qformer_heads=qformer_heads,
        vocabulary=vocabulary,
    )
    for note in done.notes:
        click.echo(f"cir: {note}", err=True)
    card, millions = done.card, done.parameters / 1e6
    click.echo(f"{output}: {millions:,.0f} M parameters, {card.tokens} tokens of {card.dims} dims ({card.digest})")
