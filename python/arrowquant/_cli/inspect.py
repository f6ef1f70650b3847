"""`arrowquant inspect`."""

from __future__ import annotations

from arrowquant._cli.common import OK, AsJson, Quantized, app, exits


@app.command()
@exits
def inspect(path: Quantized, as_json: AsJson = False) -> int:
    """Print the layers of a dataset or file, the lowest SNR first, and those that failed."""
    from arrowquant import _report

    _report.inspect(path, as_json=as_json)
    return OK
