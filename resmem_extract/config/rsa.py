"""How modules are compared with each other and with references: `rsa`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from .fields import Amount, Count, Distinct, Formats, GivenPath, Names, as_count, as_text, listed

__all__ = ["RsaOptions", "RsaRun"]


class RsaOptions(BaseModel):
    """How modules are compared with each other and with references."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: Distinct = ["correlation"]
    """Of dissimilarity; several make a row each."""
    compare: Distinct = ["spearman"]
    """Comparators; several make a row each."""
    bootstrap: Amount = 0
    """Samples for confidence intervals and tests of differences."""
    permutations: Amount = 0
    """Orders of the images for p."""
    seed: Amount = 0
    pairs: Annotated[Count, BeforeValidator(as_count)] | None = None
    """Compare a random sample of so many pairs of images, where all are too many."""
    memory: str | int = "2GB"
    """For the RDM of one module."""
    device: Annotated[str, BeforeValidator(as_text)] = "cpu"
    """Where inner products are computed."""
    reference_ids: GivenPath | None = None
    """Ids of the images, one a line, for references that have none."""
    overwrite: bool = False
    """Replace an existing result."""


class RsaRun(RsaOptions):
    """`resmem-extract rsa`."""

    command: Literal["rsa"]
    store: Names
    """Feature stores; one alone need not be a list."""
    module: Names | None = None
    """Module paths or patterns; by default all modules."""
    reference: Annotated[list[str], BeforeValidator(listed)] = []
    """Files of RDMs or measured patterns, ``it.npz`` or ``it.npz:human_IT``."""
    out: GivenPath
    figures: Formats = ["png"]
    """Formats; `none` draws none."""
    images: GivenPath | None = None
    """The images, as they were given to `extract`, for thumbnails in figures."""
    group: str | None = None
    """A column of the store by which images are put together in figures."""

    def options(self) -> dict[str, Any]:
        """Return the fields of `RsaOptions` that were given."""
        return self.model_dump(include=set(RsaOptions.model_fields), exclude_unset=True)
