"""What an extraction did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..store import Store
from ..types import ActivationSpec
from .making import Job, Made

__all__ = ["ExtractSummary"]


@dataclass(frozen=True)
class ExtractSummary:
    """What an extraction did."""

    out: Path
    """The feature store."""
    model: str
    images: int
    """Rows of the store; those that are done, where other shards have still to do theirs."""
    skipped: tuple[tuple[str, str], ...]
    """Id and reason of each image left out."""
    modules: tuple[ActivationSpec, ...]
    bytes: int
    """Size of the file; 0 where it is not there yet."""
    seconds: float
    """From the first image read to the file under its name."""
    engine: str
    device: str
    already_complete: bool = False
    """Whether the file was there already, from the very same request."""
    computed: int = 0
    """Images that this run has computed, and not found done by an earlier one."""
    missing: int = 0
    """Images that other shards have still to do; the file is not there before."""

    @classmethod
    def of(cls, job: Job, made: Made, computed: int, seconds: float) -> ExtractSummary:
        """Return the summary of a job.

        Parameters
        ----------
        job : Job
        made : Made
        computed : int
            Images.
        seconds : float
        """
        out = job.work.out
        return cls(
            out=out,
            model=job.model.name,
            images=made.images,
            skipped=made.skipped,
            modules=tuple(job.specs),
            bytes=0 if made.missing or not out.exists() else out.stat().st_size,
            seconds=seconds,
            engine=made.engine,
            device=made.device,
            computed=computed,
            missing=made.missing,
        )

    @classmethod
    def complete(cls, store: Store, specs: Sequence[ActivationSpec]) -> ExtractSummary:
        """Return the summary of a request whose result was there already."""
        record = store.provenance
        return cls(
            out=store.path,
            model=record["model"],
            images=len(store),
            skipped=store.skipped,
            modules=tuple(specs),
            bytes=store.path.stat().st_size,
            seconds=0.0,
            engine=record["engine"],
            device=record["device"],
            already_complete=True,
        )

    @property
    def images_per_second(self) -> float:
        """Rate over the whole job, decoding and writing included."""
        return self.computed / self.seconds if self.seconds else 0.0
