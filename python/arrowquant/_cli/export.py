"""`arrowquant export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

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
from arrowquant._options import Target

_FORMATS = get_args(Target)


@app.command()
@exits
def export(
    quantized: Quantized,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="The directory to make; of gguf and onnx the file.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help=f"{', '.join(_FORMATS)}; safetensors: every layer decoded.",
            autocompletion=choices(*_FORMATS),
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
    """Write a directory, or a file, that a runtime loads.

    The dataset must be finished, and no layer may have failed.
    """
    import arrowquant as aq
    from arrowquant import _report
    from arrowquant._export import formats

    say_warnings()
    if not formats.find(to).is_file(output):
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
        _report.exported(folder, formats.find(to).load_command(folder), as_json=as_json)
    return OK
