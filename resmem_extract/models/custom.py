"""Networks of one's own: ``package.module:factory``."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import RequestError, ResmemExtractError
from .checkpoint import fill
from .entries import ModelEntry, Parts, Wanted
from .objects import import_object
from .transforms import chosen_transform

__all__ = ["CustomSource"]


class CustomSource:
    """Calls what a name names; see `entries.Source`."""

    def entries(self) -> Sequence[ModelEntry]:
        """Return nothing: what users have cannot be listed."""
        return []

    def load(self, wanted: Wanted) -> Parts:
        """Return what a factory returns, called without arguments, filled from a file if asked.

        A factory returns a network, or a pair of a network and its transform.
        """
        name = wanted.entry.name
        made = import_object(name, "model")
        if not isinstance(made, nn.Module):
            _check_callable(name, made)
            made = _called(name, made)
        network, transform = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not isinstance(network, nn.Module):
            raise RequestError(
                f"{name} returned a {type(network).__name__}; expected a torch.nn.Module, or a "
                "pair of one and its transform"
            )
        if wanted.file is not None:
            fill(network, wanted.file.path, trust=wanted.trust)
        return Parts(network.eval(), chosen_transform(transform))


def _called(name: str, factory: Callable[[], Any]) -> Any:
    """Return what a factory returns; what goes wrong in it is the user's, and told in one line."""
    try:
        return factory()
    except ResmemExtractError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise RequestError(
            f"{name} failed: {type(error).__name__}: {error} ({Path(last.filename).name}, line "
            f"{last.lineno})"
        ) from error


def _check_callable(name: str, made: Any) -> None:
    """Raise if something cannot be called without arguments."""
    if not callable(made):
        raise RequestError(f"{name} is a {type(made).__name__}; expected a network or a factory")
    try:
        signature = inspect.signature(made)
    except ValueError:  # of some functions written in C
        return
    try:
        signature.bind()
    except TypeError as error:
        raise RequestError(
            f"{name} cannot be called without arguments ({error}); write a function that calls it "
            "with them, and name that"
        ) from error
