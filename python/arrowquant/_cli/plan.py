"""`arrowquant plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from arrowquant._cli.common import (
    OK,
    All,
    AsJson,
    GroupSize,
    Keep,
    Model,
    PlanFile,
    ScaleDtype,
    Scheme,
    Symmetric,
    app,
    exits,
    not_the_source,
    planned,
    say_warnings,
)


@app.command()
@exits
def plan(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the plan as Parquet.")
    ] = None,
    scheme: Scheme = None,
    group_size: GroupSize = None,
    symmetric: Symmetric = None,
    scale_dtype: ScaleDtype = None,
    keep: Keep = None,
    rules: PlanFile = None,
    everything: All = False,
    as_json: AsJson = False,
) -> int:
    """Print what would be done with each layer and its exact size, reading no weights."""
    import pyarrow.parquet as pq

    from arrowquant import _report
    from arrowquant._options import Options
    from arrowquant._parquet import replacing
    from arrowquant._scan import scan

    say_warnings()
    options = Options(scheme or "int4", group_size, symmetric, scale_dtype or "source")
    table = planned(scan(model), options, keep or [], rules, everything=everything)
    if output is not None:
        not_the_source(model, output)
        with replacing(output) as temporary:
            pq.write_table(table, temporary)
    _report.plan(table, as_json=as_json)
    return OK
