"""`arrowquant quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arrowquant._cli.common import (
    FAILED,
    INTERRUPTED,
    OK,
    All,
    AsJson,
    Bits,
    Fallback,
    For,
    ImportanceOf,
    Include,
    Keep,
    Mmap,
    Model,
    Overwrite,
    PlanFile,
    Quiet,
    Scheme,
    StackAxis,
    Threads,
    Variant,
    app,
    check_directory,
    chosen_for,
    exits,
    not_the_source,
    planned,
    quantize_command,
    refuse_for,
    say_warnings,
    with_settings,
)

if TYPE_CHECKING:
    from arrowquant._checkpoint.request import Request
    from arrowquant._runtimes.job import RuntimeJob
    from arrowquant._scan import Scan
    from arrowquant._summary import Summary


@app.command()
@exits
@with_settings
def quantize(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A directory, for a dataset that can be stopped and resumed; or, for a small "
            "source, a .parquet file, which a stop loses. A source of several files needs a "
            "directory.",
        ),
    ] = None,
    runtime: For = None,
    bits: Bits = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="With --for, keep the dataset there; else it is removed once all is written.",
        ),
    ] = None,
    scheme: Scheme = None,
    keep: Keep = None,
    include: Include = None,
    fallback: Fallback = None,
    rules: PlanFile = None,
    importance: ImportanceOf = None,
    everything: All = False,
    continue_on_error: Annotated[
        bool,
        typer.Option("--continue-on-error", help="Write the good layers although others failed."),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Do only what failed in the dataset before, with the options given here.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    part_mib: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Larger layers are cut into parts, smaller ones share a file.",
            show_default="as the dataset has it, or 256",
        ),
    ] = None,
    mmap: Mmap = True,
    variant: Variant = None,
    stack_axis: StackAxis = None,
    threads: Threads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    settings: dict[str, Any],
) -> int:
    """Quantize a checkpoint into a dataset or a file, or for a runtime.

    With --for, the output is what the runtime loads: a directory, or a .gguf file. Without --all,
    the matrices of linear layers are quantized; embeddings, heads, routers, norms and the like are
    kept; see the plan command. Failed layers go to a file of their own. After a stop, the same
    command resumes a dataset.
    """
    from arrowquant import _report, _runtimes
    from arrowquant._checkpoint.place import known_setup
    from arrowquant._checkpoint.request import Request
    from arrowquant._runtimes.job import RuntimeJob, Setup
    from arrowquant._scan import scan

    say_warnings()
    refuse_for(runtime, bits=bits, dataset=dataset)
    if part_mib is not None and part_mib << 20 >= 1 << 63:
        raise ValueError(f"--part-mib {part_mib}: is beyond 64 bits of bytes. The default is 256.")
    usual_search = None
    if runtime is not None and scheme is None:
        usual_search = _runtimes.usual_search(runtime, bits)
    request = Request(
        scheme=scheme,
        settings=settings,
        plan=rules,
        keep=keep or (),
        include=include or (),
        fallback=fallback,
        importance=importance,
        usual_search=usual_search,
        everything=everything,
        continue_on_error=continue_on_error,
        retry_failed=retry_failed,
        overwrite=overwrite,
        threads=threads,
    )
    if runtime is not None and not dry_run:
        return _for_runtime(
            RuntimeJob(
                model,
                _output(output),
                _runtimes.find(runtime),
                bits,
                request,
                Setup(mmap, None if part_mib is None else part_mib << 20, variant, stack_axis),
                dataset=dataset,
            ),
            as_json=as_json,
            quiet=quiet,
        )
    setup = known_setup(
        output,
        overwrite=overwrite,
        mmap=mmap,
        part_bytes=None if part_mib is None else part_mib << 20,
        variant=variant,
        stack_axis=stack_axis,
    )
    source = scan(model, **setup)
    if dry_run:
        request = chosen_for(runtime, bits, model, source, request)
        table = planned(source, request)
        _report.plan(table, quantize_command(output), as_json=as_json)
        return OK
    output = _output(output)
    not_the_source(model, output)
    check_directory(output)
    shows = not (as_json or quiet)
    is_file = output.suffix.lower() == ".parquet" and not output.is_dir()
    try:
        if is_file:
            summary = _to_file(model, source, output, request, progress=shows)
        else:
            request = _found(model, output, request, progress=shows)
            summary = _to_dataset(source, output, request, progress=shows)
    except KeyboardInterrupt:
        what = "nothing was written." if is_file else _report.finished(output)
        return _interrupted(output, what)
    if not quiet:
        _report.summary(summary, model, as_json=as_json)
    return FAILED if summary.failed else OK


def _output(output: Path | None) -> Path:
    if output is None:
        raise ValueError(
            "name the file to write, or a directory: -o OUT.parquet or -o OUT (--dry-run: neither)."
        )
    return output


def _for_runtime(job: RuntimeJob, *, as_json: bool, quiet: bool) -> int:
    """Quantize and export; a failed layer leaves the dataset, to be retried."""
    import time

    from arrowquant import _report
    from arrowquant._checkpoint.summary import summary
    from arrowquant._export import formats

    started, shows = time.monotonic(), not (as_json or quiet)
    begun = job.start()
    if not job.form().is_file(job.destination):
        check_directory(job.destination)
        if job.destination.suffix.lower() == ".parquet":
            raise ValueError(f"{job.destination}: --for {job.runtime.name} writes a directory.")
    before = 0 if begun is None or job.request.retry_failed else begun.finished_layers
    try:
        job.find_importance(shows)
        source = job.source()
        prepared = job.prepare(source)
        _tell([*job.notes, *prepared.notes], quiet=quiet)
        if shows and prepared.plan is not None:
            _tell(_report.sums(prepared.plan.to_pylist()), quiet=False)
        dataset = job.quantize(source, prepared.request, shows)
    except KeyboardInterrupt:
        return _interrupted(job.place, _report.finished(job.place))
    seconds = time.monotonic() - started
    found = summary(dataset, finished_before=before, seconds=seconds)
    if found.failed or found.unfinished:
        if not quiet:
            _report.summary(found, job.model, as_json=as_json, retry=quantize_command(again=True))
        return FAILED
    try:
        written, notes = job.export(shows)
    except KeyboardInterrupt:
        return _interrupted(job.place, _report.finished(job.place))
    _tell(notes, quiet=quiet)
    if not quiet:
        _report.summary(found, job.model, as_json=as_json, written=written)
        if not as_json:
            load = formats.find(prepared.format.name).load_command(written)
            _report.exported(written, load, as_json=False)
    return OK


def _interrupted(place: Path, what: str) -> int:
    from arrowquant._checkpoint.importance import state_of

    if state_of(place).exists():
        what += " The importance of the blocks that are done is kept: run it again."
    typer.echo(f"interrupted: {what}", err=True)
    return INTERRUPTED


def _tell(notes: list[str], *, quiet: bool) -> None:
    for note in [] if quiet else notes:
        typer.echo(note, err=True)


def _found(model: Path, place: Path, request: Request, *, progress: bool) -> Request:
    """The request with the table of importance that it asks for."""
    from arrowquant._checkpoint.importance import with_table

    request, notes = with_table(request, model, place, progress)
    _tell(notes, quiet=not progress)
    return request


def _to_file(
    model: Path, source: Scan, output: Path, request: Request, *, progress: bool
) -> Summary:
    from dataclasses import replace

    from arrowquant._files import check_output
    from arrowquant._importance import weighed
    from arrowquant._job import quantize_file
    from arrowquant._parquet import SUFFIXES, failed_path
    from arrowquant._plan import answered, read_plan
    from arrowquant._scan import ManyScan

    source = answered(source, read_plan(request.plan))
    if isinstance(source, ManyScan):
        if len(source.members) > 1:
            raise ValueError(f"{model}: has several files. Name a directory to write to.")
        (source,) = source.members.values()
    if request.retry_failed:
        raise ValueError("--retry-failed is for datasets. Name a directory.")
    not_the_source(model, output, failed_path(output))
    for path in (output, failed_path(output)):
        check_output(path, SUFFIXES, overwrite=request.overwrite)
    request = _found(model, output, request, progress=progress)
    options, plan = request.options(), planned(source, request)
    if options.importance is not None:
        known = options.importance.of_model(source)
        known.say_missing(weighed(plan.to_pylist()), stacklevel=4)
        options = replace(options, importance=known)
    return quantize_file(
        source,
        output,
        plan=plan,
        options=options,
        overwrite=request.overwrite,
        progress=progress,
    )


def _to_dataset(source: Scan, output: Path, request: Request, *, progress: bool) -> Summary:
    import time

    from arrowquant._checkpoint import manifest
    from arrowquant._checkpoint.dataset import Dataset
    from arrowquant._checkpoint.quantize import run
    from arrowquant._checkpoint.summary import summary
    from arrowquant._progress import listener

    started, before = time.monotonic(), 0
    if manifest.exists(output) and not request.overwrite and not request.retry_failed:
        before = Dataset(output).finished_layers
    if request.retry_failed and not Dataset(output).failed.num_rows:
        typer.echo(f"{output}: no layer failed, so none is done again", err=True)
    with listener(progress) as callback:
        run(source, output, request, callback)
    seconds = time.monotonic() - started
    return summary(Dataset(output), finished_before=before, seconds=seconds)
