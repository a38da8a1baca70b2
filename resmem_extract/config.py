"""Run configurations: what can be asked for, validated when it is asked.

The same records serve the command line, `rx.extract` and the files in ``configs/``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from .errors import EMPTY_PATH, RequestError, nearest
from .types import (
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

__all__ = [
    "EncodeOptions",
    "EncodeRun",
    "ExtractOptions",
    "ExtractRun",
    "ModelOptions",
    "RsaOptions",
    "RsaRun",
    "Run",
    "RunOptions",
    "ScoreRun",
    "TransformOptions",
    "read_config",
    "validated",
]


def _as_text(value: Any) -> Any:
    """Return the name of what stands for one: ``np.float16``, a `numpy.dtype`, a `torch.device`."""
    if value is None or isinstance(value, (str, bool, int, float, list, dict)):
        return value
    return getattr(value, "__name__", None) or getattr(value, "name", None) or str(value)


def _as_path(value: Any) -> Any:
    """Return a text as a path, as it is: the file system may give names that are not UTF-8."""
    if value == "":
        raise ValueError(EMPTY_PATH)
    if isinstance(value, (list, dict)):
        raise ValueError("should be one path")
    return Path(value) if isinstance(value, str) else value


def _as_shard(value: Any) -> Any:
    """Return ``3/8``, or a pair, as two numbers."""
    pair = value.split("/") if isinstance(value, str) else value
    if pair is None:
        return None
    try:
        index, count = map(int, pair)
    except (TypeError, ValueError):
        index, count = -1, 0
    if not 0 <= index <= count or count == 0:
        raise ValueError("should be i/n with i from 0 to n, such as 3/8")
    return index, count


def _as_formats(value: Any) -> Any:
    """Return formats of figures; ``none`` alone stands for none of them."""
    formats = _listed(value)
    if isinstance(formats, list):
        if formats == ["none"]:
            return []
        if unknown := [name for name in formats if name not in ("png", "svg", "pdf")]:
            raise ValueError(f"should be png, svg or pdf, or none alone; got {unknown[0]!r}")
    return formats


_GivenPath = Annotated[Path, BeforeValidator(_as_path)]
_Count = Annotated[int, Field(strict=True, gt=0)]
_Amount = Annotated[int, Field(strict=True, ge=0)]


class ModelOptions(BaseModel):
    """Which weights a network has, and how images are prepared for it; see `load_model`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: _GivenPath | None = None
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

    batch_size: _Count | None = None
    """Images in one forward pass; this and the next three are chosen from the machine."""
    streams: Annotated[_Count, Field(le=256)] | None = None
    """Batches in the network at the same time."""
    threads: Annotated[_Count, Field(le=1024)] | None = None
    """Threads that work on one batch."""
    device: Annotated[str, BeforeValidator(_as_text)] = "auto"
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

    dtype: Annotated[DType, BeforeValidator(_as_text)] = "float32"
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
    shard: Annotated[tuple[int, int] | None, BeforeValidator(_as_shard)] = None
    """``i/n``: one of `n` processes that share the images; `i` from 0 or from 1."""

    @property
    def reduction(self) -> Reduction:
        """What is done to activations before they are stored."""
        return Reduction(pool=self.pool, flatten=self.flatten, tokens=self.tokens)


class _Run(BaseModel):
    """What every run names."""

    images: _GivenPath | None = None
    """Whatever path `find_images` takes; by default the photographs of scikit-image and -learn."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_size(value: Any) -> Any:
    """Return ``auto``, or a number, which options of a command give as a text."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if number in (None, "auto") or (type(number) is int and number > 0):
        return number
    raise ValueError("should be a number of values, such as 1000, or auto")


_Names = Annotated[list[str], Field(min_length=1), BeforeValidator(_listed)]
_Distinct = Annotated[_Names, AfterValidator(lambda names: list(dict.fromkeys(names)))]
_Formats = Annotated[list[str], BeforeValidator(_as_formats)]


class ExtractRun(_Run, ExtractOptions):
    """`resmem-extract extract`."""

    command: Literal["extract"]
    model: _Names = ["resmem"]
    """Several networks share the decoding; `out` is a folder then."""
    module: _Names
    """Module paths; one alone need not be a list."""
    out: _GivenPath
    cluster: Literal["ray"] | None = None
    """Have a cluster of machines work on it."""
    cluster_workers: _Count | None = None
    """Processes on the cluster; by default one for each GPU, or for each machine."""
    class_probabilities: _GivenPath | None = None
    """A .csv or .json to write: the most probable classes of each image, from `output`."""
    top: _Count = 5
    """How many of them."""

    def options(self) -> dict[str, Any]:
        """Return the fields of `ExtractOptions`."""
        return {name: getattr(self, name) for name in ExtractOptions.model_fields}


def _as_ids(value: Any) -> Any:
    """Return what may be a path or ids with ids as a list: also tuples and arrays."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else _as_path(value)


class TransformOptions(BaseModel):
    """What is done to stored activations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Annotated[list[str], BeforeValidator(_listed)] = []
    """`center`, `zscore`, `l2`, `pca=N`, `project=N`, in their order."""
    join: bool = False
    """Put all modules one behind the other in one vector an image, before the steps."""
    fit_on: Annotated[Path | list[str] | None, BeforeValidator(_as_ids)] = None
    """Images that steps are fitted on: their ids, or a text file of them, one a line."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    """Of random projections."""
    overwrite: bool = False
    """Replace an existing file."""


class ScoreRun(_Run, RunOptions):
    """`resmem-extract score`."""

    command: Literal["score"]
    model: str = "resmem"
    out: _GivenPath | None = None
    overwrite: bool = False

    def options(self) -> dict[str, Any]:
        """Return the fields of `RunOptions`."""
        return {name: getattr(self, name) for name in RunOptions.model_fields}


def _as_count(value: Any) -> Any:
    """Return a whole number that is written as ``1e6``."""
    if isinstance(value, (str, float)):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else value
    return value


class RsaOptions(BaseModel):
    """How modules are compared with each other and with references."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: _Distinct = ["correlation"]
    """Of dissimilarity; several make a row each."""
    compare: _Distinct = ["spearman"]
    """Comparators; several make a row each."""
    bootstrap: _Amount = 0
    """Samples for confidence intervals and tests of differences."""
    permutations: _Amount = 0
    """Orders of the images for p."""
    seed: _Amount = 0
    pairs: Annotated[_Count, BeforeValidator(_as_count)] | None = None
    """Compare a random sample of so many pairs of images, where all are too many."""
    memory: str | int = "2GB"
    """For the RDM of one module."""
    device: Annotated[str, BeforeValidator(_as_text)] = "cpu"
    """Where inner products are computed."""
    reference_ids: _GivenPath | None = None
    """Ids of the images, one a line, for references that have none."""
    overwrite: bool = False
    """Replace an existing result."""


class RsaRun(RsaOptions):
    """`resmem-extract rsa`."""

    command: Literal["rsa"]
    store: _Names
    """Feature stores; one alone need not be a list."""
    module: _Names | None = None
    """Module paths or patterns; by default all modules."""
    reference: Annotated[list[str], BeforeValidator(_listed)] = []
    """Files of RDMs or measured patterns, ``it.npz`` or ``it.npz:human_IT``."""
    out: _GivenPath
    figures: _Formats = ["png"]
    """Formats; `none` draws none."""
    images: _GivenPath | None = None
    """A folder of the images by id, for thumbnails in figures."""
    group: str | None = None
    """A column of the store by which images are put together in figures."""

    def options(self) -> dict[str, Any]:
        """Return the fields of `RsaOptions`."""
        return self.model_dump(include=set(RsaOptions.model_fields))


class EncodeOptions(BaseModel):
    """How responses are predicted from activations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["ridge", "banded", "linear", "pls"] = "ridge"
    """`banded`: all modules at once, a penalty each."""
    scale: Literal["center", "zscore"] = "center"
    """What is done to features, learnt from training images."""
    pool: Literal["none", "avg"] = "none"
    """Average over height and width, or over tokens, first."""
    project: Annotated[int | Literal["auto"] | None, BeforeValidator(_as_size)] = None
    """Sparse random projection to so many values; `auto`: the size of Johnson and Lindenstrauss."""
    pca: _Count | None = None
    """Principal components of the training images."""
    alpha: Annotated[list[float], BeforeValidator(_listed)] = []
    """Penalties; by default ten that follow the size of the features."""
    components: _Count = 10
    """Of partial least squares."""
    iterations: _Count = 60
    """Weights of bands that banded ridge tries."""
    folds: Annotated[_Count, Field(ge=2)] | None = None
    """Outer folds: 5 by default, and one a subject with `subjects`."""
    inner: Annotated[_Count, Field(ge=2)] = 5
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
    permutations: _Amount = 0
    """Orders of the images for p."""
    partition: bool = False
    """Unique and shared variance of two sets of modules."""
    weights: bool = False
    """Keep weights of features, of a model of all images."""
    missing: Literal["stop", "skip"] = "stop"
    """What to do about responses to images without activations."""
    seed: _Amount = 0
    memory: str | int = "2GB"
    """For the inner products of one module."""
    device: Annotated[str, BeforeValidator(_as_text)] = "cpu"
    response_ids: _GivenPath | None = None
    """Ids of the images, one a line, for responses that have none."""
    mask: _GivenPath | None = None
    """NIfTI file of the voxels that are targets."""
    overwrite: bool = False
    """Replace an existing result."""


class EncodeRun(EncodeOptions):
    """`resmem-extract encode`."""

    command: Literal["encode"]
    store: _Names
    """Feature stores; one alone need not be a list."""
    module: _Names | None = None
    """Module paths or patterns; by default all modules."""
    responses: _GivenPath | None = None
    """File of measured responses."""
    target: Annotated[list[str], BeforeValidator(_listed)] = []
    """Columns of the store's images, in place of `responses`."""
    out: _GivenPath
    figures: _Formats = ["png"]
    """Formats; `none` draws none."""

    def options(self) -> dict[str, Any]:
        """Return the fields of `EncodeOptions`."""
        return self.model_dump(include=set(EncodeOptions.model_fields))


Run = ExtractRun | ScoreRun | RsaRun | EncodeRun
_RUNS: dict[str, type[ExtractRun] | type[ScoreRun] | type[RsaRun] | type[EncodeRun]] = {
    "extract": ExtractRun,
    "score": ScoreRun,
    "rsa": RsaRun,
    "encode": EncodeRun,
}


def read_config(path: Path) -> Run:
    """Read and validate a run configuration.

    Paths in it are relative to the current folder, as on the command line.

    Raises
    ------
    RequestError
        If the file is missing, is not YAML, or asks for something unknown; one line that names
        the key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise RequestError(f"cannot read the configuration {path}: {reason}") from error
    command = content.get("command") if isinstance(content, dict) else None
    if not isinstance(command, str) or command not in _RUNS:
        raise RequestError(
            f"{path}: expected a key 'command' with one of {', '.join(_RUNS)}, got {command!r}"
        )
    run: Run = validated(_RUNS[command], content, str(path))
    return run


def validated(
    record: type[Any],
    values: dict[str, Any],
    where: str,
    as_typed: Callable[[str], str] = str,
) -> Any:
    """Return a record of the given values.

    Parameters
    ----------
    record : type
        A pydantic model.
    values : dict
    where : str
        What the message begins with: the file or function that the values were given to.
    as_typed : callable, optional
        From a key to how the user wrote it, such as ``--batch-size``.

    Raises
    ------
    RequestError
        One line that names the first key at fault, what it was given, and what was expected.
    """
    try:
        return record.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        close = nearest(key, list(record.model_fields))
        known = f"known: {', '.join(record.model_fields)}"
        hint = f"did you mean {' or '.join(close[:2])}?" if close else known
        raise RequestError(f"{where}: unknown option {key!r}; {hint}")
    if first["type"] == "missing":
        raise RequestError(f"{where}: {as_typed(key)!r} is missing")
    expected = first["msg"].replace("Input should", "should", 1).removeprefix("Value error, ")
    raise RequestError(f"{where}: {as_typed(key)} {first['input']!r}: {expected}")
