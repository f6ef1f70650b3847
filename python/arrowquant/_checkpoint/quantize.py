"""`aq.quantize_checkpoint`: a checkpoint of any size into a dataset, unit by unit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack, overload

from arrowquant._checkpoint import manifest as manifests
from arrowquant._checkpoint.dataset import Dataset
from arrowquant._checkpoint.importance import with_table
from arrowquant._checkpoint.job import Job
from arrowquant._checkpoint.place import (
    known_setup,
    locked,
    make_directory,
    remove_empty,
)
from arrowquant._checkpoint.request import Request
from arrowquant._checkpoint.rows import Report
from arrowquant._files import user_path
from arrowquant._options import RuntimeName, Scheme, Settings
from arrowquant._progress import ProgressCallback, listener
from arrowquant._scan import Scan, Source, scan


@overload
def quantize_checkpoint(
    source: Source,
    destination: str | os.PathLike[str],
    *,
    target: None = None,
    bits: None = None,
    dataset: None = None,
    scheme: Scheme | None = None,
    plan: Any = None,
    keep: Sequence[str] = (),
    include: Sequence[str] = (),
    fallback: Sequence[str] | None = None,
    importance: Any = None,
    continue_on_error: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
    part_bytes: int | None = None,
    mmap: bool = True,
    variant: str | None = None,
    stack_axis: int | None = None,
    threads: int | None = None,
    progress: bool | ProgressCallback = False,
    **settings: Unpack[Settings],
) -> Dataset: ...


@overload
def quantize_checkpoint(
    source: Source,
    destination: str | os.PathLike[str],
    *,
    target: RuntimeName,
    bits: int | None = None,
    dataset: str | os.PathLike[str] | None = None,
    scheme: Scheme | None = None,
    plan: Any = None,
    keep: Sequence[str] = (),
    include: Sequence[str] = (),
    fallback: Sequence[str] | None = None,
    importance: Any = None,
    continue_on_error: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
    part_bytes: int | None = None,
    mmap: bool = True,
    variant: str | None = None,
    stack_axis: int | None = None,
    threads: int | None = None,
    progress: bool | ProgressCallback = False,
    **settings: Unpack[Settings],
) -> Path: ...


def quantize_checkpoint(
    source: Source,
    destination: str | os.PathLike[str],
    *,
    target: RuntimeName | None = None,
    bits: int | None = None,
    dataset: str | os.PathLike[str] | None = None,
    scheme: Scheme | None = None,
    plan: Any = None,
    keep: Sequence[str] = (),
    include: Sequence[str] = (),
    fallback: Sequence[str] | None = None,
    importance: Any = None,
    continue_on_error: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
    part_bytes: int | None = None,
    mmap: bool = True,
    variant: str | None = None,
    stack_axis: int | None = None,
    threads: int | None = None,
    progress: bool | ProgressCallback = False,
    **settings: Unpack[Settings],
) -> Dataset | Path:
    """Quantize a checkpoint into a dataset directory; run again after a stop, it goes on.

    The source is done in units of about `part_bytes`, each of which becomes a file of good rows and
    one of failed rows. Whatever stops the job, finished units are kept, and the same call does the
    rest: the dataset is then the same, byte for byte of its data, as an uninterrupted run's. If the
    source's files have other times by then, the finished layers are compared with what they hold;
    where these have the same bytes, the job goes on.

    Args:
        source: What `aq.scan` takes, or a scan.
        destination: A directory, made where it does not exist; with `target`, what the runtime
            loads.
        target: A runtime, for which scheme, settings and what is kept are chosen where nothing is
            said, and the dataset is exported: `llama.cpp` (a `.gguf` file), `mlx`, `vllm`,
            `transformers`, `bitsandbytes` (a directory).
        bits: The size for it, in bits a weight; None: 4.
        dataset: Where the dataset is kept then; None: beside the destination, until it is exported.
        scheme: As for `aq.quantize`, for the layers that `aq.plan` quantizes; None: `int4`.
        plan: What to do with some layers, as for `aq.plan`: a table or a file.
        keep: Layers to keep, as for `aq.plan`: patterns of names, or roles.
        include: Layers to quantize although their role keeps them, likewise.
        fallback: Schemes for layers whose shape does not fit, as for `aq.plan`.
        importance: How much the columns of layers matter, as for `aq.quantize`. It is kept beside
            the dataset's manifest, so that failed layers can be done again with it. Names of
            Hugging Face and of llama.cpp are taken for each other (package gguf). `"auto"`:
            `aq.importance` makes it first, where it can (extra `calibrate`). `"none"`: a retry does
            without the one that the job began with.
        continue_on_error: Whether a failed row is written to `failed/` rather than raised. A layer
            in parts fails as one: its good parts get the error `incomplete_layer`.
        retry_failed: Do what failed before, and only that. Where options or a plan are given, they
            say what is done with these layers; else it is tried as before.
        overwrite: Start afresh in a destination that holds a dataset.
        part_bytes: Layers of more bytes are cut into parts of at most so many; smaller ones share
            a file. None: as the dataset has it, or 256 MiB.
        mmap: As for `aq.scan`, like the next two.
        variant: See there; None: as the dataset has it.
        stack_axis: See there, likewise.
        threads: As for `aq.quantize`.
        progress: As for `aq.quantize`.
        settings: As for `aq.quantize`.

    Returns:
        The dataset, a scan of the quantized relation, with `.failed`, a table; with `target`, the
        path of what the runtime loads.

    Raises:
        CheckpointStoppedError: A row failed and `continue_on_error` is off. A `QuantizationError`;
            what is finished is kept.
        ValueError, TypeError: The call is wrong; or the destination holds what other options, or
            another source, began, and the message says what differs.
        OSError: A file can't be read or written, or another job works on the destination.
    """
    usual_search = None
    if target is not None and scheme is None:
        from arrowquant import _runtimes

        usual_search = _runtimes.usual_search(target, bits)
    request = Request(
        scheme=scheme,
        settings=settings,
        plan=plan,
        keep=keep,
        include=include,
        fallback=fallback,
        importance=importance,
        usual_search=usual_search,
        continue_on_error=continue_on_error,
        retry_failed=retry_failed,
        overwrite=overwrite,
        threads=threads,
    )
    place = user_path(destination)
    if target is not None:
        from arrowquant import _runtimes
        from arrowquant._runtimes.job import RuntimeJob, Setup, quantize_for

        if not isinstance(source, str | os.PathLike):
            raise TypeError("a target needs the path of a checkpoint, not a scan.")
        job = RuntimeJob(
            user_path(source),
            place,
            _runtimes.find(target),
            bits,
            request,
            Setup(mmap, part_bytes, variant, stack_axis),
            dataset=None if dataset is None else user_path(dataset),
        )
        return quantize_for(job, progress)
    if bits is not None or dataset is not None:
        raise ValueError("bits and dataset are for a target. Name one, or a scheme.")
    if not isinstance(source, Scan):
        setup = known_setup(
            place,
            overwrite=overwrite,
            mmap=mmap,
            part_bytes=part_bytes,
            variant=variant,
            stack_axis=stack_axis,
        )
        source = scan(source, **setup)
    if isinstance(source, Dataset):
        raise ValueError(f"{source.path}: is quantized already. Name the checkpoint it came from.")
    request, _ = with_table(request, source.path, place, progress)
    with listener(progress) as callback:
        run(source, place, request, callback)
    return Dataset(place)


def run(
    source: Scan,
    destination: Path,
    request: Request,
    report: Report | None,
    job_type: type[Job] | None = None,
) -> None:
    """Do the job; see `quantize_checkpoint`."""
    if request.retry_failed:
        manifests.load(destination)  # Raises where there is nothing to retry.
    is_new = make_directory(destination)
    with locked(destination):
        try:
            job = (job_type or Job)(source, destination, request.read(), report)
            if request.retry_failed:
                job.retry()
            else:
                job.resume()
        except BaseException:
            if is_new:
                remove_empty(destination)
            raise
