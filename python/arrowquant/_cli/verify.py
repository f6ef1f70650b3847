"""`arrowquant verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from arrowquant._cli.common import FAILED, OK, AsJson, Threads, app, exits


@app.command()
@exits
def verify(
    dataset: Annotated[Path, typer.Argument(help="A dataset that quantize wrote.")],
    against: Annotated[
        Path | None,
        typer.Option(metavar="SOURCE", help="Also measure every layer's error against its source."),
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> int:
    """Check a dataset: its files, that each row is there once and decodes, and its metrics.

    Exit status 0: all is well; 1: problems were found; 2: there is no dataset or no such source.
    """
    import arrowquant as aq
    from arrowquant import _report

    found = aq.verify(dataset, against, threads=threads)
    _report.verification(dataset, found, as_json=as_json)
    return OK if found.ok else FAILED
