"""How responses are predicted from activations: `encode`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .fields import Amount, Count, Formats, GivenPath, Names, as_size, as_text, listed

__all__ = ["EncodeOptions", "EncodeRun"]


class EncodeOptions(BaseModel):
    """How responses are predicted from activations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["ridge", "banded", "linear", "pls"] = "ridge"
    """`banded`: all modules at once, a penalty each."""
    scale: Literal["center", "zscore"] = "center"
    """What is done to features, learnt from training images."""
    pool: Literal["none", "avg"] = "none"
    """Average over height and width, or over tokens, first."""
    project: Annotated[int | Literal["auto"] | None, BeforeValidator(as_size)] = None
    """Sparse random projection to so many values; `auto`: the size of Johnson and Lindenstrauss."""
    pca: Count | None = None
    """Principal components of the training images."""
    alpha: Annotated[list[float], BeforeValidator(listed)] = []
    """Penalties; by default ten that follow the size of the features."""
    components: Count = 10
    """Of partial least squares."""
    iterations: Count = 60
    """Weights of bands that banded ridge tries."""
    folds: Annotated[Count, Field(ge=2)] | None = None
    """Outer folds of images: 5 by default, and with `subjects` none."""
    inner: Annotated[Count, Field(ge=2)] = 5
    """Folds within the training images, in which penalties are chosen."""
    groups: str | None = None
    """Column by which images stay together: a category, a session."""
    split: str | None = None
    """Column with `train` and `test`, or names of folds."""
    subjects: str | None = None
    """Column of measurements; one subject is left out at a time."""
    repeats: Literal["average", "keep"] = "average"
    """What is done to several measurements of an image."""
    ceiling: Literal["split-half", "ncsnr", "none"] = "split-half"
    """How noise ceilings are got from repeats."""
    permutations: Amount = 0
    """Orders of the images for p."""
    partition: bool = False
    """Unique and shared variance of two sets of modules."""
    weights: bool = False
    """Keep weights of features, of a model of all images."""
    missing: Literal["stop", "skip"] = "stop"
    """What to do about responses to images without activations."""
    seed: Amount = 0
    memory: str | int = "2GB"
    """For the inner products of one module."""
    device: Annotated[str, BeforeValidator(as_text)] = "cpu"
    response_ids: GivenPath | None = None
    """Ids of the images, one a line, for responses that have none."""
    mask: GivenPath | None = None
    """NIfTI file of the voxels that are targets."""
    overwrite: bool = False
    """Replace an existing result."""


class EncodeRun(EncodeOptions):
    """`resmem-extract encode`."""

    command: Literal["encode"]
    store: Names
    """Feature stores; one alone need not be a list."""
    module: Names | None = None
    """Module paths or patterns; by default all modules."""
    responses: GivenPath | None = None
    """File of measured responses."""
    target: Annotated[list[str], BeforeValidator(listed)] = []
    """Columns of the store's images, in place of `responses`."""
    out: GivenPath
    figures: Formats = ["png"]
    """Formats; `none` draws none."""

    def options(self) -> dict[str, Any]:
        """Return the fields of `EncodeOptions`."""
        return self.model_dump(include=set(EncodeOptions.model_fields))
