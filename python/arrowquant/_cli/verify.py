"""`arrowquant verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from arrowquant._cli.common import FAILED, OK, AsJson, Quiet, Threads, app, exits


@app.command()
@exits
def verify(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="A dataset that quantize wrote.")
    ],
    against: Annotated[
        Path | None,
        typer.Option(metavar="SOURCE", help="Also measure every layer's error against its source."),
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Check that a dataset is whole and true.

    Its files, that each row is there once and decodes, and, with --against, its metrics.
    Exit status 0: all is well; 1: problems were found; 2: there is no dataset or no such source.
    """
    import arrowquant as aq
    from arrowquant import _report

    shows = not (as_json or quiet)
    found = aq.verify(dataset, against, threads=threads, progress=shows)
    if not quiet:
        _report.verification(dataset, found, as_json=as_json)
    return OK if found.ok else FAILED
