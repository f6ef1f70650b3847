"""`arrowquant inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from arrowquant._cli.common import OK, AsJson, Quantized, app, exits


@app.command()
@exits
def inspect(
    path: Quantized,
    top: Annotated[
        int, typer.Option(metavar="N", min=0, help="How many of the layers with the lowest SNR.")
    ] = 10,
    as_json: AsJson = False,
) -> int:
    """Print the layers, their errors, and what failed.

    Layers that are alike share a line, which shows the worst of them.
    """
    from arrowquant import _report

    _report.inspect(path, top=top, as_json=as_json)
    return OK
