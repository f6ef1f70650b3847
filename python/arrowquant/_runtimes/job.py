"""A checkpoint for a runtime: quantized into a dataset, which is exported and then removed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from arrowquant._checkpoint import manifest as manifests
from arrowquant._checkpoint.dataset import Dataset
from arrowquant._checkpoint.importance import with_table
from arrowquant._checkpoint.place import known_setup
from arrowquant._checkpoint.quantize import run
from arrowquant._checkpoint.request import Request
from arrowquant._errors import OtherDatasetError
from arrowquant._export import check_destination, export, formats
from arrowquant._export.check import undecodable
from arrowquant._export.formats import Format
from arrowquant._export.place import check_apart
from arrowquant._options import Target
from arrowquant._progress import ProgressCallback, listener
from arrowquant._runtimes import Runtime, convert
from arrowquant._runtimes.base import BITS
from arrowquant._runtimes.planning import Prepared, check_search, check_source, prepare
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
    """Where the dataset is kept; None: it is hidden beside the destination, and removed."""
    notes: list[str] = field(default_factory=list)
    """What to tell of the source."""

    def __post_init__(self) -> None:
        """Take the destination as it is from here: it may be `.`."""
        self.destination = self.destination.absolute()

    @property
    def place(self) -> Path:
        """Where the dataset is while the job runs."""
        return self.dataset or self.destination.with_name(f".{self.destination.name}.dataset")

    @property
    def size(self) -> int:
        """The size in bits a weight."""
        return BITS if self.bits is None else self.bits

    def find_importance(self, progress: bool | ProgressCallback) -> None:
        """Make the table of importance, where the request asks for one.

        Raises:
            ValueError: Nothing would use it.
        """
        if self.request.scheme is None and not self.request.retry_failed:
            check_search(self.runtime, self.runtime.way(self.size).scheme, self.request.settings)
        self.request, notes = with_table(self.request, self.model, self.place, progress)
        self.notes += notes

    def start(self) -> Dataset | None:
        """Check what is there already; the dataset of an earlier run, if there is one.

        Raises:
            OSError, ValueError: The destination or the dataset can't be written.
        """
        check_destination(
            self.destination,
            self.form(),
            overwrite=self.request.overwrite,
            apart_from=[self.model, self.place],
        )
        check_apart(self.place, [self.model])
        return Dataset(self.place) if manifests.exists(self.place) else None

    def form(self, scheme: str | None = None) -> Format:
        """The exporter for a scheme; where none is named, what the call says or retries."""
        if scheme is None and self.request.retry_failed and manifests.exists(self.place):
            scheme = manifests.load(self.place).request["scheme"]
        if scheme is None:
            scheme = self.request.scheme
        if scheme is None:
            return formats.find(self.runtime.way(self.size).format)
        return self.runtime.format(scheme, self.size)

    def source(self) -> Scan:
        """The checkpoint as the exporter needs it: converted first, to GGUF or from it.

        Raises:
            ValueError: It can't be; the text has the commands that work.
        """
        check_source(self.model, self.form())
        model = self.model
        form, overwrite = self.form(), self.request.overwrite
        if form.suffix == convert.SUFFIX:
            model = convert.to_gguf(model, self._converted(), overwrite=overwrite)
        elif form.suffix is None and convert.is_gguf(model):
            model = convert.to_hugging_face(model, self._converted(), overwrite=overwrite)
            self.notes.append(f"{self.model} was converted to a Hugging Face directory first.")
        known = known_setup(
            self.place,
            overwrite=False,
            mmap=self.setup.mmap,
            part_bytes=self.setup.part_bytes,
            variant=self.setup.variant,
            stack_axis=self.setup.stack_axis,
        )
        return scan(model, **known)

    def _converted(self) -> Path:
        """Where a converted model is: beside a dataset that is kept, which is of it."""
        suffix = self.form().suffix or ""
        if self.dataset is not None:
            return self.dataset.with_name(f"{self.dataset.name}.16bit{suffix}")
        name = self.destination.stem if suffix else self.destination.name
        return self.destination.with_name(f".{name}.16bit{suffix}")

    def prepare(self, source: Scan) -> Prepared:
        """What is asked of the layers."""
        if self.request.retry_failed:
            return Prepared(self.form(), self.request, [])
        return prepare(self.runtime, self.bits, source, self.request)

    def quantize(
        self, source: Scan, request: Request, progress: bool | ProgressCallback
    ) -> Dataset:
        """Quantize into the dataset, or resume it; with `overwrite`, in place of another one."""
        with listener(progress) as callback:
            try:
                run(source, self.place, replace(request, overwrite=False), callback)
            except OtherDatasetError:
                if not request.overwrite:
                    raise
                run(source, self.place, request, callback)
        return Dataset(self.place)

    def export(self, progress: bool | ProgressCallback) -> tuple[Path, list[str]]:
        """Write what the runtime loads, and remove what is not wanted any more.

        Returns:
            Where it is, and what to tell: layers that are decoded, since the format does not take
            them as another tool has quantized them.

        Raises:
            ValueError: Layers failed, or the format can't hold some.
        """
        form = self.form(manifests.load(self.place).request["scheme"])
        decoded = undecodable(form, Dataset(self.place))
        notes = []
        if decoded:
            name, why = next(iter(decoded.items()))
            notes.append(
                f"{len(decoded)} layers that the source has quantized are written decoded, such as "
                f"'{name}': {why}."
            )
        written = export(
            self.place,
            self.destination,
            to=cast("Target", form.name),
            decode=list(decoded),
            overwrite=self.request.overwrite,
            threads=self.request.threads,
            progress=progress,
        )
        if self.dataset is None:
            shutil.rmtree(self.place)
            convert.remove(self._converted())
        return written, notes


def quantize_for(job: RuntimeJob, progress: bool | ProgressCallback) -> Path:
    """Do all of it.

    Raises:
        CheckpointStoppedError, OSError, ValueError: As `aq.quantize_checkpoint` and `aq.export`.
    """
    job.start()
    job.find_importance(progress)
    source = job.source()
    prepared = job.prepare(source)
    job.quantize(source, replace(prepared.request, threads=job.request.threads), progress)
    return job.export(progress)[0]
