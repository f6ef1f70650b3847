"""`arrowquant dequantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from arrowquant._cli.common import (
    FAILED,
    OK,
    AsJson,
    Overwrite,
    Quantized,
    Quiet,
    Threads,
    app,
    choices,
    exits,
    not_the_source,
)

if TYPE_CHECKING:
    from arrowquant._options import Dtype


@app.command()
@exits
def dequantize(
    path: Quantized,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The .safetensors file to write."),
    ],
    dtype: Annotated[
        str,
        typer.Option(
            metavar="source|F32",
            help="What weights become; source: each layer's own type.",
            autocompletion=choices("source", "F32"),
        ),
    ] = "source",
    overwrite: Overwrite = False,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Write the weights back as a safetensors checkpoint.

    Failed layers are left out, and named.
    """
    from arrowquant import _report
    from arrowquant._files import check_output
    from arrowquant._safetensors import SUFFIXES, dequantize_to_safetensors
    from arrowquant._scan import scan

    source = scan(path)
    not_the_source(path, output)
    if not {"scheme", "scales"} <= set(source.schema.names):
        raise ValueError(_report.not_quantized(path, source.schema.names))
    check_output(output, SUFFIXES, overwrite=overwrite)
    left_out = dequantize_to_safetensors(
        source,
        output,
        dtype=cast("Dtype", dtype),
        threads=threads,
        overwrite=overwrite,
        progress=not (as_json or quiet),
    )
    missing = _report.missing(path) + left_out
    if not quiet:
        _report.left_out(output, missing, as_json=as_json)
    return FAILED if missing else OK
