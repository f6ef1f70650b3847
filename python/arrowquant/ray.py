"""A checkpoint's job on a Ray cluster, with Ray Data.

What travels is a unit, never tensor bytes: workers map the source, quantize, and write parts into
the dataset by rename, as one machine does; back come outcomes. Source and destination must be paths
that every worker sees.

    import arrowquant as aq

    aq.ray.quantize_checkpoint("/mnt/models/llama", "/mnt/quantized/llama", scheme="int4")
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa
import ray
import ray.data

from arrowquant._checkpoint import records
from arrowquant._checkpoint.dataset import Dataset
from arrowquant._checkpoint.importance import with_table
from arrowquant._checkpoint.job import Job
from arrowquant._checkpoint.place import known_setup
from arrowquant._checkpoint.quantize import run
from arrowquant._checkpoint.records import Part
from arrowquant._checkpoint.request import Request
from arrowquant._checkpoint.tasks import Progress, Task
from arrowquant._checkpoint.unit import Work
from arrowquant._errors import QuantizationError
from arrowquant._options import Scheme, Settings
from arrowquant._progress import ProgressCallback, listener
from arrowquant._scan import scan

__all__ = ["quantize_checkpoint"]


def quantize_checkpoint(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
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
    num_cpus: float = 1,
    **settings: Unpack[Settings],
) -> Dataset:
    """Quantize a checkpoint into a dataset with Ray's workers; see `aq.quantize_checkpoint`.

    The dataset is the same, byte for byte of its data, and either call goes on with what the other
    began. A unit whose worker dies is done again by Ray. Two jobs on one destination are told from
    each other where the file system has locks; the driver holds it.

    Args:
        source: A path that all workers see.
        destination: Likewise.
        scheme: As for `aq.quantize_checkpoint`, like all others but `num_cpus`.
        plan: See there; the driver reads it.
        keep: See there.
        include: See there.
        fallback: See there.
        importance: See there; the driver reads it.
        continue_on_error: See there.
        retry_failed: See there.
        overwrite: See there.
        part_bytes: See there.
        mmap: See there.
        variant: See there.
        stack_axis: See there.
        threads: Of each unit; None: ARROWQUANT_NUM_THREADS, else OMP_NUM_THREADS, which Ray sets to
            `num_cpus`.
        progress: True for a bar, or a callback, which is called once a unit.
        num_cpus: What Ray reserves for each unit.
        settings: As for `aq.quantize`.

    Returns:
        The dataset.

    Raises:
        CheckpointStoppedError, ValueError, TypeError, OSError: As `aq.quantize_checkpoint`.
        ray.exceptions.RayError: Ray gave a unit up.
    """
    request = Request(
        scheme=scheme,
        settings=settings,
        plan=plan,
        keep=keep,
        include=include,
        fallback=fallback,
        importance=importance,
        continue_on_error=continue_on_error,
        retry_failed=retry_failed,
        overwrite=overwrite,
        threads=threads,
    )
    destination = Path(destination).absolute()
    origin = scan(
        Path(source).absolute(),
        **known_setup(
            destination,
            overwrite=overwrite,
            mmap=mmap,
            part_bytes=part_bytes,
            variant=variant,
            stack_axis=stack_axis,
        ),
    )
    if isinstance(origin, Dataset):
        raise ValueError(f"{origin.path}: is quantized already. Name the checkpoint it came from.")

    class RayJob(Job):
        def _do(
            self, work: Work, tasks: Sequence[Task], parts: dict[int, Part], progress: Progress
        ) -> None:
            _distribute(work, tasks, parts, progress, num_cpus)

    request, _ = with_table(request, origin.path, destination, progress)
    with listener(progress) as callback:
        run(origin, destination, request, callback, RayJob)
    return Dataset(destination)


def _distribute(
    work: Work, tasks: Sequence[Task], parts: dict[int, Part], progress: Progress, num_cpus: float
) -> None:
    """Have the tasks done, and take in what comes back."""
    if not tasks:
        return
    shared = ray.put((work, list(tasks)))
    rows = [{"index": index} for index in range(len(tasks))]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    outcomes = dataset.map(_outcome, fn_kwargs={"shared": shared}, num_cpus=num_cpus)
    failures: dict[int, Exception] = {}
    flag = _stop_flag(tasks[0])
    try:
        # To the end, also after a failure: whoever is at work must not be when we let go.
        for outcome in outcomes.iter_rows():
            task = tasks[outcome["index"]]
            if outcome["part"] is not None:
                parts[task.unit.index] = records.part_from_json(json.loads(outcome["part"]))
                progress.finished(task.unit)
            elif outcome["error"] is not None:
                failures[outcome["index"]] = _failure(outcome)
                flag.touch()
    finally:
        flag.unlink(missing_ok=True)
    if failures:
        raise failures[min(failures)]


def _stop_flag(task: Task) -> Path:
    """A file that tells workers to begin no more tasks of this attempt."""
    return task.destination / f".stop-{task.attempt}"


def _outcome(row: dict[str, Any], shared: Any) -> dict[str, Any]:
    """Do one task, on a worker. What is wrong comes back as data: Ray retries only what dies."""
    work, tasks = _shared(shared)
    task: Task = tasks[row["index"]]
    outcome: dict[str, Any] = {"index": row["index"], "part": None, "error": None, "failed": None}
    try:
        part = task.done()
        if part is None and _stop_flag(task).exists():
            return outcome
        part = part or task.commit(task.quantize(work, None))
        outcome["part"] = json.dumps(asdict(part))
    except QuantizationError as error:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, error.failed.schema) as writer:
            writer.write_table(error.failed)
        outcome |= {"error": str(error), "failed": sink.getvalue().to_pybytes()}
    except OSError as error:
        outcome["error"] = str(error)
    return outcome


_LATEST: dict[str, Any] = {}
"""What this worker's tasks share: headers and plan are read once a worker, not once a task."""


def _shared(reference: Any) -> Any:
    key = reference.hex()
    if key not in _LATEST:
        _LATEST.clear()
        _LATEST[key] = ray.get(reference)
    return _LATEST[key]


def _failure(outcome: dict[str, Any]) -> Exception:
    if outcome["failed"] is None:
        return OSError(outcome["error"])
    failed = pa.ipc.open_stream(outcome["failed"]).read_all()
    return QuantizationError(outcome["error"], failed)
