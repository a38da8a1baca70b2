"""Networks, how images go through them, and what is stored: `extract`, `score`, `transform`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..types import (
    CompileChoice,
    Compression,
    DType,
    EngineName,
    IdForm,
    OnError,
    Pool,
    Precision,
    Reduction,
    Tokens,
)
from .fields import Count, GivenPath, Names, as_ids, as_shard, as_text, listed

__all__ = [
    "ExtractOptions",
    "ExtractRun",
    "ModelOptions",
    "RunOptions",
    "ScoreRun",
    "TransformOptions",
]


class ModelOptions(BaseModel):
    """Which weights a network has, and how images are prepared for it; see `load_model`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: GivenPath | None = None
    """A checkpoint in place of the released one."""
    verify: bool = True
    """False accepts weights of one's own where the hash of the released ones is known."""
    transform: Any = None
    """In place of the network's own preprocessing: a name, ``package.module:callable``, or, in
    Python, a callable."""
    pretrained: bool = True
    """False gives random weights."""
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    """Of random weights."""
    trust: bool = False
    """Allow code from elsewhere to run."""

    def model_options(self) -> dict[str, Any]:
        """Return these fields, for `load_model`."""
        return {name: getattr(self, name) for name in ModelOptions.model_fields}


class RunOptions(ModelOptions):
    """How images go through a network."""

    batch_size: Count | None = None
    """Images in one forward pass; this and the next three are chosen from the machine."""
    streams: Annotated[Count, Field(le=256)] | None = None
    """Batches in the network at the same time."""
    threads: Annotated[Count, Field(le=1024)] | None = None
    """Threads that work on one batch."""
    device: Annotated[str, BeforeValidator(as_text)] = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`."""
    engine: EngineName = "auto"
    """How activations are captured; `reference` is a plain hook on the full network."""
    precision: Precision = "float32"
    """Of the arithmetic; `tf32` is of CUDA devices. What is stored has `dtype`."""
    compile: CompileChoice = "auto"
    """Compile the network first: `auto` where it saves more time than it takes."""
    workers: Annotated[int, Field(strict=True, ge=0, le=256)] | None = None
    """Threads that decode images; 0 decodes in the main thread."""
    on_error: OnError = "stop"
    """What to do with an image that cannot be read."""
    id: IdForm = "path"
    """Whether an image's id is its path or its file's stem."""
    exif_orientation: bool = False
    """Turn photographs upright first; networks were trained without."""


class ExtractOptions(RunOptions):
    """How activations are made and stored."""

    dtype: Annotated[DType, BeforeValidator(as_text)] = "float32"
    """Of the stored activations."""
    pool: Pool = "none"
    """Average or maximum over height and width, or over tokens."""
    tokens: Tokens = "all"
    """Of a transformer: the class token, the mean of the patches, or both."""
    flatten: bool = False
    """Store one vector an image."""
    compression: Compression = "none"
    """`bitshuffle-lz4` saves about a fifth and takes several times as long to write."""
    overwrite: bool = False
    """Replace an existing file."""
    restart: bool = False
    """Forget the images that an unfinished run has done, and begin anew."""
    extend: bool = False
    """Add images to an existing file that it does not hold yet."""
    shard: Annotated[tuple[int, int] | None, BeforeValidator(as_shard)] = None
    """``i/n``: one of `n` processes that share the images; `i` from 0 or from 1."""

    @property
    def reduction(self) -> Reduction:
        """What is done to activations before they are stored."""
        return Reduction(pool=self.pool, flatten=self.flatten, tokens=self.tokens)


class _Run(BaseModel):
    """What every run names."""

    images: GivenPath | None = None
    """Whatever path `find_images` takes; by default the photographs of scikit-image and -learn."""


class ExtractRun(_Run, ExtractOptions):
    """`resmem-extract extract`."""

    command: Literal["extract"]
    model: Names = ["resmem"]
    """Several networks share the decoding; `out` is a folder then."""
    module: Names
    """Module paths; one alone need not be a list."""
    out: GivenPath
    cluster: Literal["ray"] | None = None
    """Have a cluster of machines work on it."""
    cluster_workers: Count | None = None
    """Processes on the cluster; by default one for each GPU, or for each machine."""
    class_probabilities: GivenPath | None = None
    """A .csv or .json to write: the most probable classes of each image, from `output`."""
    top: Count = 5
    """How many of them."""

    def options(self) -> dict[str, Any]:
        """Return the fields of `ExtractOptions`."""
        return {name: getattr(self, name) for name in ExtractOptions.model_fields}


class ScoreRun(_Run, RunOptions):
    """`resmem-extract score`."""

    command: Literal["score"]
    model: str = "resmem"
    out: GivenPath | None = None
    overwrite: bool = False

    def options(self) -> dict[str, Any]:
        """Return the fields of `RunOptions`."""
        return {name: getattr(self, name) for name in RunOptions.model_fields}


class TransformOptions(BaseModel):
    """What is done to stored activations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Annotated[list[str], BeforeValidator(listed)] = []
    """`center`, `zscore`, `l2`, `pca=N`, `project=N`, in their order."""
    join: bool = False
    """Put all modules one behind the other in one vector an image, before the steps."""
    fit_on: Annotated[Path | list[str] | None, BeforeValidator(as_ids)] = None
    """Images that steps are fitted on: their ids, or a text file of them, one a line."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    """Of random projections."""
    overwrite: bool = False
    """Replace an existing file."""
