"""`arrowquant export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from arrowquant._cli.common import (
    OK,
    AsJson,
    Overwrite,
    Quantized,
    Quiet,
    Threads,
    app,
    check_directory,
    choices,
    exits,
    say_warnings,
)

if TYPE_CHECKING:
    from arrowquant._options import Target


@app.command()
@exits
def export(
    quantized: Quantized,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The directory to make.")
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="compressed-tensors|safetensors",
            help="For vLLM and transformers; or with every layer decoded.",
            autocompletion=choices("compressed-tensors", "safetensors"),
        ),
    ] = "compressed-tensors",
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where config.json and the tokenizer are. Default: where the dataset came from.",
        ),
    ] = None,
    decode: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Write layers decoded that are quantized. Repeat."),
    ] = None,
    shard_mb: Annotated[
        int, typer.Option(metavar="N", min=1, help="Megabytes of tensors in a file.")
    ] = 5000,
    overwrite: Overwrite = False,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Write a directory that a runtime loads.

    The dataset must be finished, and no layer may have failed.
    """
    import arrowquant as aq
    from arrowquant import _report

    say_warnings()
    check_directory(output)
    folder = aq.export(
        quantized,
        output,
        to=cast("Target", to),
        source=source,
        decode=decode or (),
        shard_bytes=shard_mb * 1_000_000,
        overwrite=overwrite,
        threads=threads,
        progress=not (as_json or quiet),
    )
    if not quiet:
        _report.exported(folder, to, as_json=as_json)
    return OK
