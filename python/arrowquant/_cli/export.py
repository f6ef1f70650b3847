"""`arrowquant export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from arrowquant._cli.common import OK, AsJson, Quantized, Threads, app, exits, say_warnings


@app.command()
@exits
def export(
    quantized: Quantized,
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory to make.")],
    to: Annotated[
        str,
        typer.Option(
            help="compressed-tensors, for vLLM and transformers; or safetensors, with every layer "
            "decoded."
        ),
    ] = "compressed-tensors",
    source: Annotated[
        Path | None,
        typer.Option(
            help="Where config.json and the tokenizer are. Default: where the dataset came from."
        ),
    ] = None,
    decode: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Write layers decoded that are quantized. Repeat."),
    ] = None,
    shard_mb: Annotated[int, typer.Option(help="Megabytes of tensors in a file.")] = 5000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a directory that exists.")
    ] = False,
    threads: Threads = None,
    as_json: AsJson = False,
) -> int:
    """Write a directory that a runtime loads, from a dataset in which no layer failed."""
    import arrowquant as aq
    from arrowquant import _report

    say_warnings()
    folder = aq.export(
        quantized,
        output,
        to=to,
        source=source,
        decode=decode or (),
        shard_bytes=shard_mb * 1_000_000,
        overwrite=overwrite,
        threads=threads,
    )
    _report.exported(folder, as_json=as_json)
    return OK
