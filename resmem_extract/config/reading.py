"""From a file, or from what was typed, to a record; what is wrong in it is told in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import RequestError, nearest
from .encode import EncodeRun
from .extract import ExtractRun, ScoreRun
from .rsa import RsaRun

__all__ = ["Run", "read_config", "validated"]

Run = ExtractRun | ScoreRun | RsaRun | EncodeRun
_RUNS: dict[str, type[ExtractRun] | type[ScoreRun] | type[RsaRun] | type[EncodeRun]] = {
    "extract": ExtractRun,
    "score": ScoreRun,
    "rsa": RsaRun,
    "encode": EncodeRun,
}


class _EachKeyOnce(yaml.SafeLoader):
    """Refuses what is written twice, of which YAML's loader would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := next((key for k, key in enumerate(keys) if key in keys[:k]), None):
            raise yaml.YAMLError(f"key {twice!r} is there twice; a list takes several values")
        return super().construct_mapping(node, deep)


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
        content = yaml.load(path.read_text(encoding="utf-8"), _EachKeyOnce)
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
        found = error.errors(include_url=False)
    # What is unknown is often how something is written that is then missing.
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
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
