"""`arrowquant importance`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from arrowquant._cli.common import INTERRUPTED, OK, Overwrite, Quiet, Threads, app, exits


@app.command()
@exits
def importance(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A Hugging Face directory.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The table to write: .parquet."),
    ],
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text for the model to read. Default: one that comes with arrowquant.",
        ),
    ] = None,
    tokens: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="How much it reads. 0: nothing, without torch; the weights of a model like Llama "
            "say it alone, less well.",
        ),
    ] = 1024,
    overwrite: Overwrite = False,
    threads: Threads = None,
    quiet: Quiet = False,
) -> int:
    """Find how much the columns of a model's layers matter, for quantize --importance.

    The model reads some text, block by block. It takes torch, transformers and accelerate: pip
    install 'arrowquantize[calibrate]'. After a stop, the same command goes on.
    """
    import pyarrow.parquet as pq

    import arrowquant as aq
    from arrowquant._files import check_output, replacing
    from arrowquant._importance import told

    check_output(output, (".parquet",), overwrite=overwrite)
    state = output.with_name(f".{output.name}.state")
    try:
        table = aq.importance(
            model,
            None if text is None else text.read_text("utf-8"),
            tokens=tokens,
            state=state,
            threads=threads,
            progress=not quiet,
        )
    except KeyboardInterrupt:
        typer.echo("interrupted: run the same command again, and it goes on.", err=True)
        return INTERRUPTED
    with replacing(output, overwrite=overwrite) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    if not quiet:
        typer.echo(f"{output}: {told(table)}")
        said = f"--importance {output}"
        typer.echo(f"Next: arrowquant quantize {model} -o OUT {said}")
    return OK
