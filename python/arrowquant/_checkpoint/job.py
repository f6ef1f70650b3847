"""A checkpoint's job: which units there are to do, and what became of them."""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from arrowquant import _core
from arrowquant._checkpoint import contents
from arrowquant._checkpoint import manifest as manifests
from arrowquant._checkpoint import plan as plans
from arrowquant._checkpoint.records import (
    Attempt,
    Manifest,
    Part,
    PartFile,
    Unit,
    check_rows,
)
from arrowquant._checkpoint.request import Request
from arrowquant._checkpoint.rows import Report
from arrowquant._checkpoint.tasks import Progress, Task, units_of
from arrowquant._checkpoint.unit import Work
from arrowquant._errors import (
    CheckpointStoppedError,
    OtherDatasetError,
    QuantizationError,
    QuantizationWarning,
)
from arrowquant._facts import absmax_of, needs_of, shared
from arrowquant._importance import weighed
from arrowquant._model import axis_rules, rules_of
from arrowquant._options import Options
from arrowquant._plan import fallbacks_of
from arrowquant._scan import Scan


class Job:
    """A checkpoint's job on one machine."""

    def __init__(
        self, source: Scan, destination: Path, request: Request, report: Report | None
    ) -> None:
        begun = manifests.exists(destination) and not request.overwrite
        self._begun = manifests.load(destination) if begun else None
        # A plan says how stacks lie once: a retry and a second call know it from the manifest.
        known = self._begun.settings.get("axis_rules", ()) if self._begun else ()
        axes = axis_rules(request.plan) or rules_of(known)
        source = source.with_axes(axes)
        if self._begun is not None:
            source = source.in_order(*plans.places(self._begun))
        if request.importance is not None:
            request = replace(request, importance=request.importance.of_model(source))
        self._source, self._destination, self._request = source, destination, request
        self._report = report
        self._started = time.monotonic()
        self._files = self._source.files()
        self._outline = self._source.outline()
        self._pieces = self._source.pieces()

    def resume(self) -> None:
        """Do the units that are not done."""
        manifest = fresh = self._fresh(self._request, self._begun)
        if self._begun is not None:
            manifest = self._begun
            self._check_compatible(manifest, fresh)
        done = {part.unit for part in manifest.parts if _is_there(self._destination, part)}
        manifest.parts = [part for part in manifest.parts if part.unit in done]
        attempt = self._attempt(manifest)
        plan, options = plans.table(manifest.plan), self._request.options()
        self._learn(manifest, plan, options)
        work = self._work(plan, replace(options, absmax=manifest.absmax))
        todo = [unit for unit in manifest.units if unit.index not in done]
        self._each(manifest, attempt, work, todo)

    def retry(self) -> None:
        """Do what failed in finished units, and what could not be read at first."""
        manifest = self._begun or manifests.load(self._destination)
        importance = manifests.load_importance(self._destination, manifest)
        original = self._request.with_original(manifest.request, importance)
        with warnings.catch_warnings(action="ignore", category=QuantizationWarning):
            fresh = self._fresh(original, manifest)  # It was warned of them when it began.
        self._check_compatible(manifest, fresh)
        late = set(manifest.late_units)
        attempt = self._attempt(manifest)
        done = manifest.done
        todo = [
            unit
            for unit in manifest.units
            if (done[unit.index].failed.rows if unit.index in done else unit.index in late)
        ]
        request = self._request.over(original)
        plan = self._retry_plan(manifest, request, late - done.keys())
        options = request.options()
        self._learn(manifest, plan, options, again=_failed_names(self._destination, manifest))
        work = self._work(plan, replace(options, absmax=manifest.absmax))
        self._each(manifest, attempt, work, todo)

    def _learn(
        self,
        manifest: Manifest,
        plan: pa.Table,
        options: Options,
        again: Collection[str] = (),
    ) -> None:
        """Find out what layers need to know of their parts and siblings, once for all units.

        Args:
            manifest: Where it is kept.
            plan: What is asked of each layer.
            options: Of the job.
            again: Layers that failed before, whose values may be others now.

        Raises:
            ValueError: A layer has larger values now than those that share its scale were given.
        """
        told = manifest.request.get("tensor_absmax")
        if told is not None:  # The runtime has no tensor scales, whatever the values are.
            manifest.absmax = {row["layer_name"]: told for row in manifest.plan}
            return
        groups = needs_of(self._outline, plan, options).absmax
        failed = set(again)
        new = {
            key: members
            for key, members in groups.items()
            if not manifest.absmax.keys() >= set(members) or not failed.isdisjoint(members)
        }
        names = {name for members in new.values() for name in members}
        if not names:
            return
        found = shared(new, absmax_of(self._source, names, options.threads))
        for members in new.values():
            siblings = [name for name in members if name not in failed]
            known = [manifest.absmax[name] for name in siblings if name in manifest.absmax]
            if failed and known and found[members[0]] > max(known):
                raise ValueError(
                    f"{self._destination}: {', '.join(repr(n) for n in members if n in failed)} "
                    f"has values up to {found[members[0]]:g} now, and shares a scale with "
                    f"{', '.join(map(repr, siblings))}, which are done with {max(known):g}. Start "
                    "afresh with overwrite=True (--overwrite), so that all of them are done anew."
                )
            if failed and known:
                found |= dict.fromkeys(members, max(known))
        manifest.absmax |= found
        manifests.save(self._destination, manifest)

    def _fresh(self, request: Request, before: Manifest | None) -> Manifest:
        """The manifest of a job that begins now; what can't be done is found here.

        Args:
            request: What is asked.
            before: What began before. Scales are chosen as it did, where neither says how: defaults
                may have changed since.
        """
        source = self._source
        resolved = request.resolve(self._outline, source)
        plan = plans.rows(resolved)
        if before is not None and not _says_search(request, before):
            plan = plans.with_searches(plan, before.plan)
        if request.importance is not None:
            request.importance.say_missing(weighed(plan), stacklevel=5)
        schema = plans.without_columns(source.schema)
        quantizer = _core.Quantizer(schema, plans.table(plan), request.options(), 0)
        _core.check_storable(quantizer.schemas[0])
        return Manifest(
            id=uuid.uuid4().hex,
            library=_core.__version__,
            # Links are not resolved: what belongs to the model lies where the user's path shows it.
            source=str(source.path.absolute()),
            files=self._files,
            settings={
                "part_bytes": source.setup.part_bytes,
                "variant": source.setup.variant,
                "stack_axis": source.setup.stack_axis,
                "axis_rules": [list(rule) for rule in source.setup.axis_rules],
            },
            request=request.to_json(),
            late_units=[],
            plan=plan,
            units=units_of(self._pieces, source.setup.part_bytes, source.first_key),
            fallbacks=fallbacks_of(resolved),
        )

    def _check_compatible(self, manifest: Manifest, fresh: Manifest) -> None:
        """Add files that were missing at first; raise where anything else is not as it was."""
        try:
            check_rows(manifest)
        except ValueError as error:
            raise ValueError(f"{self._destination}: {error}") from error
        plans.add_late_files(manifest, fresh, self._outline)
        changed = self._changed_layers(manifest, fresh)
        differences = changed or plans.differences(manifest, fresh, self._pieces)
        if differences:
            raise OtherDatasetError(
                f"{self._destination}: holds a dataset that another call began: "
                f"{'; '.join(differences)}. Name another directory, or start afresh with "
                "overwrite=True (--overwrite)."
            )

    def _changed_layers(self, manifest: Manifest, fresh: Manifest) -> list[str]:
        """What is not as it was in files that have other times: layers that are done and good.

        Files without any are taken over as they are now, so that what failed can be done from a
        source that was cleaned.
        """
        names = plans.changed_files(manifest, fresh)
        if not names:
            return []
        found = plans.other_layers(manifest, fresh, self._pieces, names)
        if found:
            return found
        found = contents.changed_layers(
            self._source, self._destination, manifest, names, self._request.threads
        )
        if not found:
            plans.accept_files(manifest, fresh, self._pieces, names)
            layers = plans.names_of_files(names, self._outline)
            layers -= contents.good_layers(self._destination, manifest, names)
            plans.accept_plan(manifest, fresh, layers)
        return found

    def _retry_plan(self, manifest: Manifest, request: Request, units: set[int]) -> pa.Table:
        """What is asked of the layers that failed: as before, unless the request says otherwise.

        Layers that were to be kept stay so, unless a rule of the request names them.
        """
        if not self._request.asks_anew and self._request.importance is None:
            return plans.table(manifest.plan)
        planned = {row["layer_name"]: row for row in manifest.plan}
        failed = _failed_names(self._destination, manifest)
        failed |= plans.names_in(manifest, units, self._outline)
        if not self._request.asks_anew:
            # A table alone changes the search, and nothing else.
            for name in failed:
                if "weighted" in _core.searches(planned[name]["scheme"]):
                    planned[name] = {**planned[name], "search": "weighted"}
            return plans.table([planned[row["layer_name"]] for row in manifest.plan])
        names = self._outline["layer_name"].cast(pa.string())
        wanted = pc.is_in(names, pa.array(sorted(failed), pa.string()))
        # What is asked now is stronger than plan columns of the source.
        outline = plans.without_table_columns(self._outline.filter(wanted))
        for row in plans.rows(request.resolve(outline)):
            was_kept = planned[row["layer_name"]]["scheme"] == "none"
            if not was_kept or plans.is_named(request.plan, row["layer_name"]):
                planned[row["layer_name"]] = row
        return plans.table([planned[row["layer_name"]] for row in manifest.plan])

    def _work(self, plan: pa.Table, options: Options) -> Work:
        ends = accumulate(piece.rows for piece in self._pieces)
        offsets = {
            (piece.file, piece.position): end - piece.rows
            for piece, end in zip(self._pieces, ends, strict=True)
        }
        return Work(self._source, self._files, self._outline, offsets, plan, options)

    def _attempt(self, manifest: Manifest) -> Attempt:
        """Begin: everything is checked by now, and this is the first that is written."""
        attempt = Attempt(
            datetime.now(UTC).isoformat(timespec="seconds"),
            _core.__version__,
            self._request.retry_failed,
            self._request.to_json(),
        )
        manifest.attempts.append(attempt)
        if not self._request.retry_failed:
            # First, since the manifest says that it is there.
            manifests.save_importance(self._destination, self._request.importance)
        manifests.save(self._destination, manifest)
        manifests.save_metadata(self._destination, self._source.metadata)
        manifests.clean(self._destination, manifest)
        return attempt

    def _each(
        self, manifest: Manifest, attempt: Attempt, work: Work, units: Sequence[Unit]
    ) -> None:
        """Do the units, and record what came of it, however it ends."""
        parts, before, number = manifest.done, manifest.done, len(manifest.attempts)
        tasks = [
            Task(unit, self._destination, manifest.id, number, before.get(unit.index))
            for unit in units
        ]
        try:
            self._do(work, tasks, parts, Progress(self._report, manifest, units))
            attempt.outcome = "finished"
        except KeyboardInterrupt:
            attempt.outcome = "interrupted"
            raise
        except QuantizationError as error:
            attempt.outcome = f"stopped: {error}"
            raise self._stopped(manifest, parts, error) from error
        except OSError as error:
            attempt.outcome = f"stopped: {error}"
            raise self._disturbed(manifest, parts, error) from error
        except BaseException as error:
            attempt.outcome = f"failed: {error!r}"
            raise
        finally:
            self._end(manifest, attempt, before)

    def _do(
        self, work: Work, tasks: Sequence[Task], parts: dict[int, Part], progress: Progress
    ) -> None:
        """Do the tasks one by one; the files of one are synced and named during the next.

        Parts are added to `parts` as they are done, so that these are known whatever happens.
        """
        with ThreadPoolExecutor(1, "arrowquant-commit") as thread:
            pending: Future[Part] | None = None
            try:
                for task in tasks:
                    quantized = task.quantize(work, progress.of(task.unit))
                    try:
                        _settle(pending, parts)
                        pending = thread.submit(task.commit, quantized)
                    except BaseException:
                        quantized.drop()
                        raise
            finally:
                _settle(pending, parts)

    def _end(self, manifest: Manifest, attempt: Attempt, before: dict[int, Part]) -> None:
        """Record what the attempt did, as receipts say. On a full disk they must do."""
        manifests.merge_receipts(self._destination, manifest)
        parts = manifest.done
        done = [u for u in manifest.units if parts.get(u.index) != before.get(u.index)]
        attempt.seconds = round(time.monotonic() - self._started, 3)
        attempt.units = len(done)
        attempt.layers = sum(unit.layers for unit in done)
        attempt.bytes = sum(unit.bytes for unit in done)
        attempt.failed_rows = sum(parts[unit.index].failed.rows for unit in done)
        try:
            manifests.save(self._destination, manifest)
            manifests.clean(self._destination, manifest)
        except OSError:
            if attempt.outcome == "finished":
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


def _says_search(request: Request, before: Manifest) -> bool:
    """Whether a request, or the one before it, says how scales are chosen."""
    began = request.with_original(before.request, None)
    told = before.request.get("importance") is not None
    return told or request.says_search or began.says_search


def _settle(pending: Future[Part] | None, parts: dict[int, Part]) -> None:
    if pending is not None:
        part = pending.result()
        parts[part.unit] = part


def _is_there(destination: Path, part: Part) -> bool:
    def size(file: PartFile) -> int:
        path = destination / file.path
        return path.stat().st_size if path.exists() else -1

    return all(size(file) == file.bytes for file in part.files)


def _failed_names(destination: Path, manifest: Manifest) -> set[str]:
    """The layers that failed, by their names; one without a name has no plan of its own."""
    names: set[str | None] = set()
    for part in manifest.parts:
        if part.failed.rows:
            table = pq.read_table(destination / part.failed.path, columns=["layer_name"])
            names.update(table["layer_name"].to_pylist())
    return {name for name in names if name is not None}
