"""Options that commands share, and what their outcome means."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pyarrow as pa

    from arrowquant._options import Options
    from arrowquant._scan import Scan

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Quantize model weights. Every layer comes out exactly once: quantized, kept, or with the "
    "reason why not. Exit status: 0 all layers quantized or kept, 1 layers failed, 2 the call was "
    "wrong.",
)

Model = Annotated[
    Path,
    typer.Argument(
        help="A safetensors, Parquet or Arrow IPC file, a directory of such files, or "
        "model.safetensors.index.json."
    ),
]
Quantized = Annotated[Path, typer.Argument(help="A dataset or a Parquet file that quantize wrote.")]
Scheme = Annotated[str | None, typer.Option(help="int8, int4, int2, or none.", show_default="int4")]
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
ScaleDtype = Annotated[
    str | None, typer.Option(help="source, F32, F16 or BF16.", show_default="source")
]
Keep = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Keep layers whose names match. Repeat.")
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="FILE",
        help="Parquet, CSV or JSON with layer_name (a glob), scheme, group_size, is_symmetric: the "
        "first row that matches a layer says what is done with it.",
    ),
]
All = Annotated[
    bool, typer.Option("--all", help="Quantize every layer: what can't be becomes a failed row.")
]
Threads = Annotated[int | None, typer.Option(help="Default: all cores.")]
Mmap = Annotated[
    bool, typer.Option("--mmap/--no-mmap", help="Map the source, or read it in blocks.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

OK, FAILED, WRONG_CALL, INTERRUPTED = 0, 1, 2, 130


def exits(command: Callable[..., int]) -> Callable[..., None]:
    """Turn what a command returns or raises into the exit status, and errors into one line."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from arrowquant._errors import CheckpointStoppedError, QuantizationError

        try:
            status = command(*args, **kwargs)
        except CheckpointStoppedError as error:
            typer.echo(error.reason, err=True)
            typer.echo(error.for_people("--continue-on-error"), err=True)
            status = FAILED
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


def say_warnings() -> None:
    """Print warnings as one line each, without where in the code they come from."""
    import warnings

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        typer.echo(f"warning: {message}", err=True)

    warnings.showwarning = show


def not_the_source(source: Path, *outputs: Path) -> None:
    """Refuse to overwrite what is read."""
    for output in outputs:
        if output.exists() and output.samefile(source):
            raise ValueError(f"{output}: is the source itself. Name another file.")


def planned(
    source: Scan, options: Options, keep: list[str], rules: Path | None, *, everything: bool
) -> pa.Table:
    """The plan that the options ask for."""
    from arrowquant._plan import resolve

    return resolve(source.without_data(), options, keep, rules, everything=everything)
