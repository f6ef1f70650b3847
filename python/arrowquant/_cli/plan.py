"""`arrowquant plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from arrowquant._cli.common import (
    OK,
    All,
    AsJson,
    Bits,
    Fallback,
    For,
    Include,
    Keep,
    Model,
    Overwrite,
    PlanFile,
    Quiet,
    Scheme,
    StackAxis,
    Variant,
    app,
    chosen_for,
    exits,
    not_the_source,
    planned,
    quantize_command,
    refuse_for,
    say_warnings,
    with_settings,
)


@app.command()
@exits
@with_settings
def plan(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the plan: .parquet, .csv or .json."
        ),
    ] = None,
    runtime: For = None,
    bits: Bits = None,
    scheme: Scheme = None,
    keep: Keep = None,
    include: Include = None,
    fallback: Fallback = None,
    rules: PlanFile = None,
    everything: All = False,
    variant: Variant = None,
    stack_axis: StackAxis = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    settings: dict[str, Any],
) -> int:
    """Print what would be done, and the exact sizes.

    No weights are read. Layers that are alike share a line.
    """
    from arrowquant import _report
    from arrowquant._checkpoint.request import Request
    from arrowquant._files import check_output
    from arrowquant._plan import SUFFIXES, write_plan
    from arrowquant._scan import scan

    say_warnings()
    refuse_for(runtime, bits=bits)
    source = scan(model, variant=variant, stack_axis=stack_axis)
    if output is not None:
        not_the_source(model, output)
        check_output(output, SUFFIXES, overwrite=overwrite)
    request = Request(
        scheme=scheme,
        settings=settings,
        plan=rules,
        keep=keep or (),
        include=include or (),
        fallback=fallback,
        everything=everything,
    )
    request = chosen_for(runtime, bits, model, source, request)
    table = planned(source, request)
    if output is not None:
        write_plan(table, output, overwrite=overwrite)
    if not quiet:
        _report.plan(table, quantize_command(), as_json=as_json)
    return OK
