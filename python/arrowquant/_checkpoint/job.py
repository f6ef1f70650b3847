"""`aq.quantize_checkpoint`: a checkpoint of any size into a dataset, unit by unit."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from arrowquant import _core
from arrowquant._checkpoint import manifest as manifests
from arrowquant._checkpoint import plan as plans
from arrowquant._checkpoint.dataset import Dataset
from arrowquant._checkpoint.manifest import Attempt, Manifest, Part, PartFile, Unit
from arrowquant._checkpoint.unit import Quantized, Report, Work, quantize_unit
from arrowquant._errors import CheckpointStoppedError, QuantizationError
from arrowquant._options import Options
from arrowquant._plan import resolve
from arrowquant._progress import ProgressCallback, listener
from arrowquant._scan import PART_BYTES, Piece, Scan, scan


@dataclass(frozen=True)
class Request:
    """The options of a job."""

    scheme: str | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    scale_dtype: str | None = None
    plan: Any = None
    keep: Sequence[str] = ()
    everything: bool = False
    continue_on_error: bool = False
    retry_failed: bool = False
    overwrite: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.retry_failed and self.overwrite:
            raise ValueError("retry_failed and overwrite contradict each other. Give one of them.")
        self.options()

    def options(self, scale_dtype: str | None = None) -> Options:
        """The options of the kernel's call."""
        return Options(
            self.scheme or "int4",
            self.group_size,
            self.symmetric,
            self.scale_dtype or scale_dtype or "source",
            self.threads,
            self.continue_on_error,
        )

    @property
    def asks_anew(self) -> bool:
        """Whether anything is said of how layers are quantized."""
        options = (self.scheme, self.group_size, self.symmetric, self.plan)
        return any(option is not None for option in options) or bool(self.keep)

    def recorded(self) -> dict[str, Any]:
        """The options as the manifest keeps them."""
        plan = self.plan
        if plan is not None:
            plan = str(plan) if isinstance(plan, (str, os.PathLike)) else "a table"
        return {
            "scheme": self.scheme,
            "group_size": self.group_size,
            "symmetric": self.symmetric,
            "scale_dtype": self.scale_dtype,
            "plan": plan,
            "keep": list(self.keep),
            "everything": self.everything,
            "continue_on_error": self.continue_on_error,
        }


def quantize_checkpoint(
    source: str | os.PathLike[str] | Scan,
    destination: str | os.PathLike[str],
    *,
    scheme: str | None = None,
    group_size: int | None = None,
    symmetric: bool | None = None,
    scale_dtype: str | None = None,
    plan: Any = None,
    keep: Sequence[str] = (),
    continue_on_error: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
    part_bytes: int | None = None,
    mmap: bool = True,
    threads: int | None = None,
    progress: bool | ProgressCallback = False,
) -> Dataset:
    """Quantize a checkpoint into a dataset directory; run again after a stop, it goes on.

    The source is done in units of about `part_bytes`, each of which becomes a file of good rows and
    one of failed rows. Whatever stops the job, finished units are kept, and the same call does the
    rest: the dataset is then the same, byte for byte of its data, as an uninterrupted run's.

    Args:
        source: What `aq.scan` takes, or a scan.
        destination: A directory, made where it does not exist.
        scheme: As for `aq.quantize`, for the layers that `aq.plan` quantizes; None: `int4`.
        group_size: See there.
        symmetric: See there.
        scale_dtype: See there; None: `source`.
        plan: What to do with some layers: `rules` of `aq.plan`, a table or a file.
        keep: Shell patterns of names of layers to keep.
        continue_on_error: Whether a failed row is written to `failed/` rather than raised. A layer
            in parts fails as one: its good parts get the error `incomplete_layer`.
        retry_failed: Do what failed before, and only that. Where options or a plan are given, they
            say what is done with these layers; else it is tried as before.
        overwrite: Start afresh in a destination that holds a dataset.
        part_bytes: Layers of more bytes are cut into parts of at most so many; smaller ones share
            a file. None: as the dataset has it, or 256 MiB.
        mmap: As for `aq.scan`.
        threads: As for `aq.quantize`.
        progress: As for `aq.quantize`.

    Returns:
        The dataset, a scan of the quantized relation, with `.failed`, a table.

    Raises:
        CheckpointStoppedError: A row failed and `continue_on_error` is off. A `QuantizationError`;
            what is finished is kept.
        ValueError, TypeError: The call is wrong; or the destination holds what other options, or
            another source, began, and the message says what differs.
        OSError: A file can't be read or written, or another job works on the destination.
    """
    request = Request(
        scheme=scheme,
        group_size=group_size,
        symmetric=symmetric,
        scale_dtype=scale_dtype,
        plan=plan,
        keep=keep,
        continue_on_error=continue_on_error,
        retry_failed=retry_failed,
        overwrite=overwrite,
        threads=threads,
    )
    if not isinstance(source, Scan):
        part_bytes = part_bytes or known_part_bytes(Path(destination), overwrite=overwrite)
        source = scan(source, mmap=mmap, part_bytes=part_bytes)
    if isinstance(source, Dataset):
        raise ValueError(f"{source.path}: is quantized already. Name the checkpoint it came from.")
    with listener(progress) as callback:
        run(source, Path(destination), request, callback)
    return Dataset(Path(destination))


def known_part_bytes(destination: Path, *, overwrite: bool) -> int:
    """The part size that a dataset was begun with, or the default."""
    if overwrite or not manifests.exists(destination):
        return PART_BYTES
    return int(manifests.load(destination).settings["part_bytes"])


def run(source: Scan, destination: Path, request: Request, report: Report | None) -> None:
    """Do the job; see `quantize_checkpoint`."""
    if request.retry_failed:
        manifests.load(destination)  # Raises where there is nothing to retry.
    _make_directory(destination)
    with _locked(destination):
        job = _Job(source, destination, request, report)
        if request.retry_failed:
            job.retry()
        else:
            job.go_on()


def _make_directory(destination: Path) -> None:
    if destination.exists() and not destination.is_dir():
        raise NotADirectoryError(f"{destination}: is a file. Name a directory.")
    if destination.is_dir() and not manifests.exists(destination):
        strange = [p.name for p in destination.iterdir() if not p.name.startswith(".")]
        if strange:
            raise ValueError(
                f"{destination}: holds {strange[0]}, but no dataset. Name an empty directory, or "
                "one that does not exist."
            )
    if not destination.parent.is_dir():
        parent = destination.parent
        raise FileNotFoundError(f"{destination}: the directory {parent} does not exist. Make it.")
    destination.mkdir(exist_ok=True)


@contextmanager
def _locked(destination: Path) -> Iterator[None]:
    """One job at a time. The operating system lets go of the lock of a process that dies."""
    lock = FileLock(destination / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"{destination}: another job works on it. Wait for its end, or name another directory."
        ) from error
    try:
        yield
    finally:
        lock.release()


def units_of(pieces: Sequence[Piece], part_bytes: int) -> list[Unit]:
    """Pieces of one file put together up to `part_bytes`; a layer in parts is never cut."""
    groups: list[list[Piece]] = []
    for piece in pieces:
        last = groups[-1] if groups else []
        same_file = bool(last) and last[0].file == piece.file
        size = sum(other.bytes for other in last) + piece.bytes if same_file else 0
        if same_file and (piece.continues or size <= part_bytes):
            last.append(piece)
        else:
            groups.append([piece])
    units, row = [], 0
    for index, group in enumerate(groups):
        rows, layers = (sum(getattr(p, name) for p in group) for name in ("rows", "layers"))
        size = sum(piece.bytes for piece in group)
        first = group[0]
        units.append(Unit(index, first.file, first.position, len(group), row, rows, layers, size))
        row += rows
    return units


class _Job:
    def __init__(
        self, source: Scan, destination: Path, request: Request, report: Report | None
    ) -> None:
        self._source, self._destination, self._request = source, destination, request
        self._report = report
        self._started = time.monotonic()
        self._files = source.files()
        self._outline = _outline(source)

    def go_on(self) -> None:
        """Do the units that are not done."""
        manifest = self._begin()
        attempt = self._attempt(manifest)
        work = self._work(plans.table(manifest.plan), self._request.options())
        todo = [unit for unit in manifest.units if unit.index not in manifest.done]
        self._each(manifest, attempt, work, todo, self._whole)

    def retry(self) -> None:
        """Do the failed rows of finished units."""
        manifest = manifests.load(self._destination)
        self._refuse_differences(manifest, manifest.plan)
        manifests.clean(self._destination, manifest)
        attempt = self._attempt(manifest)
        options = self._request.options(manifest.settings["scale_dtype"])
        work = self._work(self._retry_plan(manifest), options)
        done = manifest.done
        todo = [u for u in manifest.units if u.index in done and done[u.index].failed.rows]
        self._each(manifest, attempt, work, todo, self._failed_only)

    def _begin(self) -> Manifest:
        """The manifest to go on with, or a new one."""
        destination, request = self._destination, self._request
        manifests.prepare(destination)
        fresh = self._fresh()
        if manifests.exists(destination) and not request.overwrite:
            manifest = manifests.load(destination)
            self._refuse_differences(manifest, fresh.plan, fresh)
            present = [part for part in manifest.parts if _is_there(destination, part)]
            manifest.parts = present
        else:
            manifest = fresh
        manifests.save(destination, manifest)
        manifests.clean(destination, manifest)
        return manifest

    def _fresh(self) -> Manifest:
        request, source = self._request, self._source
        options = request.options()
        everything = request.everything
        plan = resolve(self._outline, options, request.keep, request.plan, everything=everything)
        return Manifest(
            id=uuid.uuid4().hex,
            library=_core.__version__,
            source=str(source.path.resolve()),
            files=self._files,
            settings={
                "scale_dtype": options.scale_dtype,
                "part_bytes": self._source.setup.part_bytes,
            },
            plan=plans.rows(plan),
            units=units_of(source.pieces(), source.setup.part_bytes),
        )

    def _refuse_differences(
        self, manifest: Manifest, plan: list[dict[str, Any]], fresh: Manifest | None = None
    ) -> None:
        """Raise where the destination holds what another source or other options began."""
        settings = manifest.settings | {"part_bytes": self._source.setup.part_bytes}
        other = fresh or replace(manifest, files=self._files, settings=settings)
        if self._request.retry_failed:
            # A file that was missing may have come since.
            known = {name: rest for name, *rest in manifest.files}
            files = [(n, s, m) for n, s, m in self._files if known.get(n) != [None, None]]
            other = replace(other, files=files)
            manifest = replace(manifest, files=[f for f in manifest.files if f[1] is not None])
        differences = plans.differences(manifest, plan, other)
        if differences:
            raise ValueError(
                f"{self._destination}: holds a dataset that another call began: "
                f"{'; '.join(differences)}. Name another directory, or start afresh with "
                "overwrite=True (--overwrite)."
            )

    def _retry_plan(self, manifest: Manifest) -> pa.Table:
        """What is asked of the layers that failed: as before, unless the request says otherwise."""
        request = self._request
        if not request.asks_anew:
            return plans.table(manifest.plan)
        failed = {row["layer_name"] for row in _failed_rows(self._destination, manifest)}
        names = pa.array(sorted(name for name in failed if name is not None), pa.string())
        wanted = self._outline.filter(pc.is_in(self._outline["layer_name"], names))
        options = request.options(manifest.settings["scale_dtype"])
        planned = resolve(wanted, options, request.keep, request.plan, everything=True)
        return plans.table(plans.rows(planned))

    def _work(self, plan: pa.Table, options: Options) -> Work:
        return Work(self._source, self._files, self._outline, plan, options)

    def _attempt(self, manifest: Manifest) -> Attempt:
        attempt = Attempt(
            datetime.now(UTC).isoformat(timespec="seconds"),
            _core.__version__,
            self._request.retry_failed,
            self._request.recorded(),
        )
        manifest.attempts.append(attempt)
        manifests.save(self._destination, manifest)
        return attempt

    def _each(
        self,
        manifest: Manifest,
        attempt: Attempt,
        work: Work,
        units: Sequence[Unit],
        quantize: Callable[[Manifest, Work, Unit, Report | None], Quantized],
    ) -> None:
        """Quantize the units; the files of one are synced and named while the next is computed."""
        progress = _Progress(self._report, manifest, units)
        parts = manifest.done
        outcome = "failed"
        try:
            with ThreadPoolExecutor(1, "arrowquant-commit") as thread:
                pending: Future[Part] | None = None
                try:
                    for unit in units:
                        quantized = quantize(manifest, work, unit, progress.of(unit))
                        _settle(pending, parts)
                        old, number = parts.get(unit.index), len(manifest.attempts)
                        pending = thread.submit(self._commit, manifest, quantized, old, number)
                finally:
                    _settle(pending, parts)
            outcome = "finished"
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        except QuantizationError as error:
            outcome = f"stopped: {error}"
            raise self._stopped(manifest, parts, error) from error
        except OSError as error:
            outcome = f"stopped: {error}"
            raise self._disturbed(manifest, parts, error) from error
        finally:
            self._end(manifest, attempt, parts, units, outcome)

    def _whole(
        self, _manifest: Manifest, work: Work, unit: Unit, report: Report | None
    ) -> Quantized:
        return quantize_unit(work, unit, _names(self._destination, unit, 0), report)

    def _failed_only(
        self, manifest: Manifest, work: Work, unit: Unit, report: Report | None
    ) -> Quantized:
        part = manifest.done[unit.index]
        failed = pq.read_table(self._destination / part.failed.path)
        names = _names(self._destination, unit, len(manifest.attempts))
        rows = failed["row_index"].combine_chunks()
        return quantize_unit(work, unit, names, report, rows=rows)

    def _commit(
        self, manifest: Manifest, quantized: Quantized, old: Part | None, attempt: int
    ) -> Part:
        good, failed = quantized.name_files(self._destination)
        earlier: list[PartFile] = old.layers if old else []
        if old and not good.rows:  # Nothing was gained.
            (self._destination / good.path).unlink()
        layers = [*earlier, good] if good.rows or not old else earlier
        part = Part(quantized.unit.index, layers, failed, attempt)
        manifests.commit(self._destination, manifest, part)
        if old:
            (self._destination / old.failed.path).unlink(missing_ok=True)
        return part

    def _end(
        self,
        manifest: Manifest,
        attempt: Attempt,
        parts: dict[int, Part],
        units: Sequence[Unit],
        outcome: str,
    ) -> None:
        """Record what the attempt did. On a full disk the receipts must do."""
        done = [unit for unit in units if unit.index in parts]
        if not self._request.retry_failed:
            before = manifest.done
            done = [unit for unit in done if unit.index not in before]
        attempt.seconds = round(time.monotonic() - self._started, 3)
        attempt.units, attempt.outcome = len(done), outcome
        attempt.layers = sum(unit.layers for unit in done)
        attempt.bytes = sum(unit.bytes for unit in done)
        attempt.failed_rows = sum(parts[unit.index].failed.rows for unit in done)
        manifest.parts = [parts[index] for index in sorted(parts)]
        try:
            manifests.save(self._destination, manifest)
        except OSError:
            if outcome == "finished":
                raise

    def _stopped(
        self, manifest: Manifest, parts: dict[int, Part], error: QuantizationError
    ) -> CheckpointStoppedError:
        finished = sum(unit.layers for unit in manifest.units if unit.index in parts)
        return CheckpointStoppedError(
            error.failed, finished, manifest.layers, self._destination, str(error)
        )

    def _disturbed(self, manifest: Manifest, parts: dict[int, Part], error: OSError) -> OSError:
        finished = sum(unit.layers for unit in manifest.units if unit.index in parts)
        text = (
            f"{error} {finished} of {manifest.layers} layers are finished and kept in "
            f"{self._destination}; the same call goes on with the rest."
        )
        disturbed = type(error)(text)
        disturbed.errno = error.errno
        return disturbed


def _settle(pending: Future[Part] | None, parts: dict[int, Part]) -> None:
    if pending is not None:
        part = pending.result()
        parts[part.unit] = part


class _Progress:
    """Reports of units as reports of the whole job; what was done before counts as done."""

    def __init__(self, report: Report | None, manifest: Manifest, units: Sequence[Unit]) -> None:
        todo = {unit.index for unit in units}
        self._report = report
        self._total = sum(unit.bytes for unit in manifest.units)
        self._done = sum(unit.bytes for unit in manifest.units if unit.index not in todo)

    def of(self, unit: Unit) -> Report | None:
        """The report of a unit's bytes."""
        if self._report is None:
            return None
        report, before, total = self._report, self._done, self._total
        self._done += unit.bytes

        def heard(finished: bool, name: str | None, _fraction: float | None, size: int) -> Any:
            done = before + min(size, unit.bytes)
            return report(finished, name, done / total if total else None, done)

        return heard


def _outline(source: Scan) -> pa.Table:
    """The source's rows without data, in memory."""
    reader = source.without_data()
    table = pa.Table.from_batches(list(reader), reader.schema)
    return table.drop_columns(["data"]) if "data" in table.schema.names else table


def _names(destination: Path, unit: Unit, attempt: int) -> tuple[Path, Path]:
    name = f"part-{unit.index:05}{f'-{attempt}' if attempt else ''}.parquet"
    return destination / "layers" / name, destination / "failed" / name


def _is_there(destination: Path, part: Part) -> bool:
    def size(file: PartFile) -> int:
        path = destination / file.path
        return path.stat().st_size if path.exists() else -1

    return all(size(file) == file.bytes for file in part.files)


def _failed_rows(destination: Path, manifest: Manifest) -> Iterator[dict[str, Any]]:
    for part in manifest.parts:
        if part.failed.rows:
            table = pq.read_table(destination / part.failed.path, columns=["layer_name"])
            yield from table.to_pylist()
