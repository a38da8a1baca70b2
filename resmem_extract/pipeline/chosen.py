"""Which modules of which stores are meant."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import RequestError, UnknownModuleError
from ..store import Store, open_store

__all__ = ["check_chosen", "choose_modules", "model_name", "opened_stores"]


@contextmanager
def opened_stores(paths: Iterable[str | os.PathLike[str]]) -> Iterator[list[Store]]:
    """Open stores, their ids and all else beside activations held against their checksums.

    Images are joined by what ids say, so that a damaged one would be told as a wrong request.

    Raises
    ------
    StoreError
        If there is no complete store of a name.
    WorkError
        If one is damaged.
    """
    with ExitStack() as stack:
        stores = [stack.enter_context(open_store(path)) for path in paths]
        for store in stores:
            store.check([])
        yield stores


def choose_modules(
    stores: Sequence[Store], modules: Sequence[str] | None
) -> list[tuple[Store, str]]:
    """Return stores and canonical paths of the modules asked for, none twice.

    Raises
    ------
    RequestError
        If no store has a module, or two of one name would be there.
    """
    chosen: dict[tuple[int, str], None] = {}
    if modules is None:
        chosen = {(k, path): None for k, store in enumerate(stores) for path in store}
    for text in modules or ():
        found = list(_matches(stores, text))
        if not found:
            store = stores[0]
            _ = store[text]  # names the nearest
            raise UnknownModuleError(f"no store has a module {text!r}")
        chosen |= dict.fromkeys(found)
    names: dict[str, Path] = {}
    pairs = []
    for k, path in chosen:
        store, name = stores[k], f"{model_name(stores[k])}:{path}"
        if name in names:
            raise RequestError(
                f"{name} is both in {names[name]} and in {store.path}, and could not be told apart"
            )
        names[name] = store.path
        pairs.append((store, path))
    return pairs


def check_chosen(chosen: Iterable[tuple[Store, str]]) -> None:
    """Hold modules against their checksums, before anything is computed from them.

    Raises
    ------
    WorkError
        If one is damaged.
    """
    paths: dict[Store, list[str]] = {}
    for store, path in dict.fromkeys(chosen):
        paths.setdefault(store, []).append(path)
    for store, modules in paths.items():
        store.check(modules)


def _matches(stores: Sequence[Store], text: str) -> Iterator[tuple[int, str]]:
    for k, store in enumerate(stores):
        of_this = text.removeprefix(f"{model_name(store)}:")
        try:
            found = store.match(of_this) if "*" in of_this else [store[of_this]]
        except UnknownModuleError:
            continue
        yield from ((k, array.module) for array in found)


def model_name(store: Store) -> str:
    """Return the name of the network that a store is of."""
    return str(store.provenance.get("model", store.path.stem))
