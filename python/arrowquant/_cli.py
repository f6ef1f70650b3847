"""The command line's commands and options. Imports what it needs when it needs it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pyarrow as pa

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Quantize model weights. Every layer comes out exactly once: quantized, kept, or with the "
    "reason why not. Exit status: 0 all layers quantized or kept, 1 layers failed, 2 the call was "
    "wrong.",
)

Model = Annotated[Path, typer.Argument(help="A safetensors, Parquet or Arrow IPC file.")]
Scheme = Annotated[str, typer.Option(help="int8, int4, int2, or none.")]
GroupSize = Annotated[
    int | None,
    typer.Option(help="Elements that share a scale; -1: one group a row. Default: 128."),
]
Symmetric = Annotated[
    bool | None,
    typer.Option(
        "--symmetric/--asymmetric",
        help="Whether zero is the middle code. Default: the scheme's own.",
    ),
]
ScaleDtype = Annotated[str, typer.Option(help="source, F32, F16 or BF16.")]
Keep = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Keep layers whose names match. Repeat.")
]
All = Annotated[
    bool, typer.Option("--all", help="Quantize every layer: what can't be becomes a failed row.")
]
Threads = Annotated[int | None, typer.Option(help="Default: all cores.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

OK, FAILED, WRONG_CALL, INTERRUPTED = 0, 1, 2, 130


def _exits(command: Callable[..., int]) -> Callable[..., None]:
    """Turn what a command returns or raises into the exit status, and errors into one line."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from arrowquant._errors import QuantizationError

        try:
            status = command(*args, **kwargs)
        except QuantizationError as error:
            typer.echo(f"stopped: {error}", err=True)
            typer.echo("Nothing was written. --continue-on-error keeps the good layers.", err=True)
            status = FAILED
        except KeyboardInterrupt:
            typer.echo("interrupted; nothing was written", err=True)
            status = INTERRUPTED
        except Exception as error:
            typer.echo(f"error: {error or type(error).__name__}", err=True)
            status = WRONG_CALL
        raise typer.Exit(status)

    return run


@app.command()
@_exits
def quantize(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The Parquet file to write.")
    ] = None,
    scheme: Scheme = "int4",
    group_size: GroupSize = None,
    symmetric: Symmetric = None,
    scale_dtype: ScaleDtype = "source",
    keep: Keep = None,
    everything: All = False,
    continue_on_error: Annotated[
        bool, typer.Option(help="Write the good layers although others failed.")
    ] = False,
    threads: Threads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    as_json: AsJson = False,
) -> int:
    """Quantize a checkpoint into a Parquet file, failed layers into one beside it.

    Without --all, matrices of floats are quantized and the rest is kept; see the plan command.
    """
    from arrowquant import _report
    from arrowquant._job import quantize_file
    from arrowquant._options import Options
    from arrowquant._parquet import failed_path
    from arrowquant._scan import scan

    source = scan(model)
    options = Options(scheme, group_size, symmetric, scale_dtype, threads, continue_on_error)
    plan = _plan(source, options, keep or [], everything=everything)
    if dry_run:
        _report.plan(plan, as_json=as_json)
        return OK
    if output is None:
        raise ValueError("name the file to write: -o OUT.parquet (or --dry-run).")
    _not_the_source(model, output, failed_path(output))
    summary = quantize_file(source, output, plan=plan, options=options, progress=not as_json)
    _report.summary(summary, as_json=as_json)
    return FAILED if summary.failed else OK


def _not_the_source(source: Path, *outputs: Path) -> None:
    for output in outputs:
        if output.exists() and output.samefile(source):
            raise ValueError(f"{output}: is the source itself. Name another file.")


def _plan(source: Any, options: Any, keep: list[str], *, everything: bool) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    import arrowquant as aq

    plan = aq.plan(
        source,
        scheme=options.scheme,
        group_size=options.group_size,
        symmetric=options.symmetric,
        scale_dtype=options.scale_dtype,
        keep=keep,
    )
    if not everything:
        return plan
    # What only we would keep is tried; sizes of layers that can't be quantized are not known.
    tried = pc.not_equal(pc.fill_null(plan["reason"], ""), "kept_by_user")
    wanted = pc.if_else(tried, options.scheme, plan["scheme"])
    unknown = pc.and_(tried, pc.is_valid(plan["reason"]))
    sizes = pc.if_else(unknown, pa.scalar(None, pa.int64()), plan["predicted_bytes"])
    reasons = pc.if_else(unknown, pa.scalar(None, pa.string()), plan["reason"])
    for name, column in (("scheme", wanted), ("predicted_bytes", sizes), ("reason", reasons)):
        plan = plan.set_column(plan.schema.get_field_index(name), name, column)
    return plan


@app.command()
@_exits
def plan(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the plan as Parquet.")
    ] = None,
    scheme: Scheme = "int4",
    group_size: GroupSize = None,
    symmetric: Symmetric = None,
    scale_dtype: ScaleDtype = "source",
    keep: Keep = None,
    everything: All = False,
    as_json: AsJson = False,
) -> int:
    """Print what would be done with each layer and its exact size, reading no weights."""
    import pyarrow.parquet as pq

    from arrowquant import _report
    from arrowquant._options import Options
    from arrowquant._parquet import replacing
    from arrowquant._scan import scan

    options = Options(scheme, group_size, symmetric, scale_dtype)
    table = _plan(scan(model), options, keep or [], everything=everything)
    if output is not None:
        _not_the_source(model, output)
        with replacing(output) as temporary:
            pq.write_table(table, temporary)
    _report.plan(table, as_json=as_json)
    return OK


@app.command()
@_exits
def inspect(
    path: Annotated[Path, typer.Argument(help="A Parquet file that quantize wrote.")],
    as_json: AsJson = False,
) -> int:
    """Print the layers of a quantized file, the lowest SNR first, and those that failed."""
    from arrowquant import _report

    _report.inspect(path, as_json=as_json)
    return OK


@app.command()
@_exits
def dequantize(
    path: Annotated[Path, typer.Argument(help="A Parquet file that quantize wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")],
    dtype: Annotated[str, typer.Option(help="source: each layer's own; or F32.")] = "source",
    threads: Threads = None,
    as_json: AsJson = False,
) -> int:
    """Write the checkpoint that a quantized file stands for. Failed layers are left out."""
    from arrowquant import _report
    from arrowquant._safetensors import dequantize_to_safetensors
    from arrowquant._scan import scan

    _not_the_source(path, output)
    undecodable = dequantize_to_safetensors(scan(path), output, dtype=dtype, threads=threads)
    missing = _report.missing(path) + undecodable.to_pylist()
    _report.left_out(output, missing, as_json=as_json)
    return FAILED if missing else OK
