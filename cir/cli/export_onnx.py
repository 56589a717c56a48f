"""`cir export-onnx`"""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from cir.cli.options import json_option, model_dir_option, quiet_libraries


@click.command()
@click.argument("model")
@model_dir_option
@json_option
def export_onnx(model: str, model_dirs: tuple[Path, ...], as_json: bool) -> None:
    """Write ONNX graphs of a model.

    They go into the folder of MODEL, which then runs without torch on a CPU. The graphs hold no weights; those stay in
    the model's own files. They are compared with torch before they are kept. Models in the package have their graphs
    already. Needs: pip install 'cir-engine[export]'

    \b
    Example:
      cir export-onnx runs/my-model
    """
    quiet_libraries()
    from cir.errors import UsageError
    from cir.models import PACKAGED, find
    from cir.models.export_graphs import export_graphs
    from cir.models.graphs import FOLDER

    directory = find(model, model_dirs)
    if directory.parent == PACKAGED and not os.path.isdir(model):
        raise UsageError(
            f"{model} is in the package, and has its graphs; to write them again name its folder: {directory}"
        )
    differences = export_graphs(directory)
    folder = directory / FOLDER
    if as_json:
        click.echo(json.dumps({"path": str(folder), "differences": differences}))
        return
    for path in sorted(folder.iterdir()):
        click.echo(f"{path}  {path.stat().st_size / 1e3:,.0f} kB")
    for name, difference in differences.items():
        click.echo(f"{name}: differ from torch by at most {difference:.1e} of the largest value")
