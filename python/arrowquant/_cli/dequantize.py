"""`arrowquant dequantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from arrowquant._cli.common import (
    FAILED,
    OK,
    AsJson,
    Quantized,
    Threads,
    app,
    exits,
    not_the_source,
)


@app.command()
@exits
def dequantize(
    path: Quantized,
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")],
    dtype: Annotated[str, typer.Option(help="source: each layer's own; or F32.")] = "source",
    threads: Threads = None,
    as_json: AsJson = False,
) -> int:
    """Write the checkpoint that a dataset or file stands for. Failed layers are left out."""
    from arrowquant import _report
    from arrowquant._safetensors import dequantize_to_safetensors
    from arrowquant._scan import scan

    not_the_source(path, output)
    left_out = dequantize_to_safetensors(scan(path), output, dtype=dtype, threads=threads)
    missing = _report.missing(path) + left_out
    _report.left_out(output, missing, as_json=as_json)
    return FAILED if missing else OK
