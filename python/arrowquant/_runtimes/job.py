"""A checkpoint for a runtime: quantized into a dataset, which is exported and then removed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from arrowquant._checkpoint import manifest as manifests
from arrowquant._checkpoint.dataset import Dataset
from arrowquant._checkpoint.place import known_setup
from arrowquant._checkpoint.quantize import run
from arrowquant._checkpoint.request import Request
from arrowquant._export import check_destination, export, formats
from arrowquant._export.formats import Format
from arrowquant._progress import ProgressCallback, listener
from arrowquant._runtimes import Runtime, convert
from arrowquant._runtimes.planning import BITS, Prepared, prepare
from arrowquant._scan import Scan, scan


@dataclass(frozen=True)
class Setup:
    """How the source is read; see `aq.scan`."""

    mmap: bool = True
    part_bytes: int | None = None
    variant: str | None = None
    stack_axis: int | None = None


@dataclass
class RuntimeJob:
    """What is to be done, and where."""

    model: Path
    destination: Path
    runtime: Runtime
    bits: int | None
    request: Request
    setup: Setup
    dataset: Path | None = None
    """Where the dataset is kept; None: it is removed at the end."""

    @property
    def place(self) -> Path:
        """Where the dataset is while the job runs."""
        return self.dataset or self.destination.with_name(f"{self.destination.name}.dataset")

    def start(self) -> Dataset | None:
        """Check what is there already; the dataset of an earlier run, if there is one.

        Raises:
            OSError, ValueError: The destination can't be written.
        """
        check_destination(self.destination, self.form_of_default(), self.request.overwrite)
        is_begun = manifests.exists(self.place) and not self.request.overwrite
        return Dataset(self.place) if is_begun else None

    def form_of_default(self) -> Format:
        """The exporter, by what the call says."""
        scheme = self.request.scheme
        if scheme is None or self.request.retry_failed:
            return formats.find(self.runtime.way(self.size).format)
        return self.runtime.format(scheme, self.size)

    @property
    def size(self) -> int:
        """The size in bits a weight."""
        return BITS if self.bits is None else self.bits

    def source(self, progress: bool | ProgressCallback) -> Scan:
        """The checkpoint as the exporter needs it; for GGUF it is converted first.

        Raises:
            ValueError: It can't be; the text has the commands that work.
        """
        model = self.model
        if self.form_of_default().suffix == convert.SUFFIX:
            model = convert.to_gguf(model, self.destination, progress=progress)
        known = known_setup(
            self.place,
            overwrite=self.request.overwrite,
            mmap=self.setup.mmap,
            part_bytes=self.setup.part_bytes,
            variant=self.setup.variant,
            stack_axis=self.setup.stack_axis,
        )
        return scan(model, **known)

    def prepare(self, source: Scan) -> Prepared:
        """What is asked of the layers."""
        if self.request.retry_failed:
            return Prepared(self.form_of_default(), self.request, [])
        return prepare(self.runtime, self.bits, source, self.request)

    def quantize(
        self, source: Scan, request: Request, progress: bool | ProgressCallback
    ) -> Dataset:
        """Quantize into the dataset, or resume it."""
        with listener(progress) as callback:
            run(source, self.place, request, callback)
        return Dataset(self.place)

    def export(self, progress: bool | ProgressCallback) -> Path:
        """Write what the runtime loads, and remove what is not wanted any more.

        Raises:
            ValueError: Layers failed, or the format can't hold some.
        """
        said = manifests.load(self.place).request["scheme"]
        form = self.form_of_default() if said is None else self.runtime.format(said, self.size)
        written = export(
            self.place,
            self.destination,
            to=form.name,  # type: ignore[arg-type]
            overwrite=self.request.overwrite,
            threads=self.request.threads,
            progress=progress,
        )
        if self.dataset is None:
            shutil.rmtree(self.place)
        convert.remove(self.model, self.destination)
        return written


def quantize_for(job: RuntimeJob, progress: bool | ProgressCallback) -> Path:
    """Do all of it.

    Raises:
        CheckpointStoppedError, OSError, ValueError: As `aq.quantize_checkpoint` and `aq.export`.
    """
    job.start()
    source = job.source(progress)
    prepared = job.prepare(source)
    request = replace(prepared.request, threads=job.request.threads)
    job.quantize(source, request, progress)
    return job.export(progress)
