"""The module-path registry: from what a user writes to the modules of a network.

A path is resolved in a fixed order, and the first reading that fits is taken:

1. an exact name, ``features.layer2.4``;
2. an index path, ``features.5.4``: after a named module an integer counts its children, and
   further parts may again be names or integers;
3. a list that the model declares, ``resnet_layers[24]``, an alias that it declares,
   ``memorability``, and ``output`` for what the network returns;
4. a glob, ``features.layer3.*`` (`*` within one segment, `**` over any number of segments).

Suffixes narrow what is taken: ``@k`` the k-th call of a module that one forward pass calls more
than once, ``[i]`` or ``[key]`` a part of an output that is a tuple or a dict, ``@attention`` the
attention map. Whether a call or a
part exists is known only once the network has run; see `resmem_extract.capture`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from .errors import RequestError, UnknownModuleError, nearest
from .path_grammar import ATTENTION, OUTPUT, Address, Key, glob_pattern

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModulePaths"]


class ModulePaths:
    """All the names by which the modules of one network can be addressed.

    Parameters
    ----------
    network : torch.nn.Module
        Only its module tree is read; it is never run.
    lists : mapping of str to sequence of str
        Declared lists of exact names, ``{"alexnet_layers": ["conv1", ...]}``.
    aliases : mapping of str to str
        Declared other names, ``{"memorability": "output"}``.
    model : str
        Name of the model, for messages.

    Raises
    ------
    ValueError
        Where a declared list or alias names a module that does not exist.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        lists: Mapping[str, Sequence[str]] | None = None,
        aliases: Mapping[str, str] | None = None,
        model: str = "NAME",
    ) -> None:
        self.network = network
        self._model = model
        self.lists = {name: tuple(paths) for name, paths in (lists or {}).items()}
        self.aliases = dict(aliases or {})
        declared = [p for paths in self.lists.values() for p in paths] + [*self.aliases.values()]
        if unknown := [p for p in declared if p != OUTPUT and p not in self._canonical]:
            raise ValueError(f"declared module paths that do not exist: {', '.join(unknown)}")

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        """Every module but the root under its first name, in the order of registration."""
        return {name: module for name, module in self.network.named_modules() if name}

    @cached_property
    def _canonical(self) -> dict[str, str]:
        """From every exact name, second names of shared modules included, to the first one."""
        first = {id(module): name for name, module in self._modules.items()}
        every = self.network.named_modules(remove_duplicate=False)
        return {name: first[id(module)] for name, module in every if name and id(module) in first}

    @property
    def names(self) -> tuple[str, ...]:
        """Exact names of all modules, then `output`."""
        return tuple(dict.fromkeys((*self._modules, OUTPUT)))

    def declared(self, name: str) -> tuple[str, ...]:
        """Return the declared names of a module: aliases, and entries of lists."""
        lists = [(f"{text}[{i}]", p) for text, ps in self.lists.items() for i, p in enumerate(ps)]
        return tuple(
            text
            for text, path in [*self.aliases.items(), *lists]
            if self._canonical.get(path, path) == name
        )

    def addresses(self) -> list[Address]:
        """Return every module, `output` last."""
        return [Address(name, self.index_path(name), name) for name in self.names]

    def module(self, name: str) -> nn.Module:
        """Return the module with an exact name; the network itself for `output`."""
        return self._modules.get(name, self.network)

    def index_path(self, name: str) -> str:
        """Return an exact name with child numbers after its first part: ``features.5.4``.

        A child whose number is the name of another child keeps its own name, so that every index
        path resolves to its module.
        """
        parts = name.split(".")
        numbers = []
        for depth in range(1, len(parts)):
            parent = self._modules[".".join(parts[:depth])]
            children = [child for child, _ in parent.named_children()]
            number = str(children.index(parts[depth]))
            numbers.append(parts[depth] if number in children else number)
        return ".".join([parts[0], *numbers])

    def forms(self, name: str) -> tuple[str, ...]:
        """Return every way to write a module's path without a glob or a suffix.

        The exact name first, then its segments given by child number, all or some of them, then
        the declared names.
        """
        segments = zip(name.split("."), self.index_path(name).split("."), strict=True)
        written = map(".".join, itertools.product(*(dict.fromkeys(both) for both in segments)))
        every = (*written, *self.declared(name))
        return tuple(form for form in every if self._find(form) == name)

    def resolve(self, text: str) -> list[Address]:
        """Return what a path addresses: one module, or all that a glob matches.

        Parameters
        ----------
        text : str
            A path in any of the forms in this module's docstring.

        Returns
        -------
        list of Address
            Never empty; in the order of registration.

        Raises
        ------
        UnknownModuleError
            If nothing fits; the message names the nearest paths.
        RequestError
            If the path is not well-formed.
        """
        text = text.strip()
        stem, call, keys, attention = self._split(text)
        if (name := self._find(stem)) is not None:
            return [Address(name, self.index_path(name), text, call, keys, attention=attention)]
        if "*" in stem:
            pattern = glob_pattern(stem)
            names = [name for name in self.names if pattern.fullmatch(name)]
            if names:
                found = (Address(n, self.index_path(n), text, call, keys) for n in names)
                return [replace(a, from_glob=True, attention=attention) for a in found]
            raise UnknownModuleError(f"no module matches {text!r}; {self._how_to_list()}")
        asked = text if nearest(stem, list(self.lists)) else stem
        raise UnknownModuleError(f"no module {text!r}{self._nearest(asked)}; {self._how_to_list()}")

    def _find(self, stem: str) -> str | None:
        """Return the exact name that a path without suffixes stands for, if it stands for one."""
        if stem in self._canonical:
            return self._canonical[stem]
        if (name := self._walk(stem.split("."))) is not None:
            return name
        if stem in self.aliases:
            return self.aliases[stem]
        if stem == OUTPUT:
            return OUTPUT
        if listed := _LISTED.fullmatch(stem):
            return self._listed(listed["list"], int(listed["index"]))
        return None

    def _walk(self, parts: Sequence[str]) -> str | None:
        """Follow names and child numbers down from a named top-level module."""
        name = ""
        for part in parts:
            named = f"{name}.{part}" if name else part
            if named not in self._canonical:
                children = [child for child, _ in self.module(name).named_children()]
                if not (name and part.isdecimal() and int(part) < len(children)):
                    return None
                named = f"{name}.{children[int(part)]}"
            name = self._canonical[named]
        return name

    def _listed(self, name: str, index: int) -> str | None:
        if name not in self.lists:
            return None
        if index >= len(paths := self.lists[name]):
            raise UnknownModuleError(
                f"{name}[{index}] does not exist: {name} has {len(paths)} entries, "
                f"{name}[0] to {name}[{len(paths) - 1}]"
            )
        return paths[index]

    def _split(self, text: str) -> tuple[str, int | None, tuple[Key, ...], bool]:
        """Split ``relu@0[1]`` into stem, call, keys and whether its attention is meant.

        A declared list keeps its index.
        """
        for stem in _stems(text):
            if self._find(stem) is not None:
                return stem, *_parse_suffix(text, text[len(stem) :])
        stem = min(_stems(text), key=len)
        return stem, *_parse_suffix(text, text[len(stem) :])

    def _nearest(self, stem: str) -> str:
        """Say what was perhaps meant, as the middle of a message."""
        lists = [f"{name}[{i}]" for name, paths in self.lists.items() for i in range(len(paths))]
        by_index = {self.index_path(name): name for name in self._modules}
        known = [*self.names, *self.aliases, *lists, *by_index]
        close = [by_index.get(near, near) for near in nearest(stem, known)]
        parent, child = self._deepest(stem)
        if parent and (child.isdecimal() or not any(c.startswith(parent + ".") for c in close)):
            children = [name for name, _ in self.module(parent).named_children()]
            span = f", {children[0]} to {children[-1]}" if children else ""
            return f": {parent} has {len(children) or 'no'} children{span}"
        return f": did you mean {', '.join(dict.fromkeys(close))}?" if close else ""

    def _deepest(self, stem: str) -> tuple[str, str]:
        """Return the longest part of a path that does exist, and the segment that follows it."""
        parts = stem.split(".")
        for depth in range(len(parts) - 1, 0, -1):
            if name := self._walk(parts[:depth]):
                return name, parts[depth]
        return "", ""

    def _how_to_list(self) -> str:
        return f"`resmem-extract modules --model {self._model}` lists all"


_SUFFIX = re.compile(rf"@\d+$|@{ATTENTION}$|\[[^\[\]]*\]$")
_LISTED = re.compile(r"(?P<list>[^\[\]@]+)\[(?P<index>\d+)\]")


def _stems(text: str) -> Iterator[str]:
    """Yield a path with none, one, two ... of its suffixes taken away, the whole first."""
    yield text
    while suffix := _SUFFIX.search(text):
        text = text[: suffix.start()]
        yield text


def _parse_suffix(text: str, suffix: str) -> tuple[int | None, tuple[Key, ...], bool]:
    if suffix == f"@{ATTENTION}":
        return None, (), True
    if not (parsed := re.fullmatch(r"(?:@(?P<call>\d+))?(?P<keys>(?:\[[^\[\]]+\])*)", suffix)):
        raise RequestError(
            f"module path {text!r}: {suffix!r} is not a suffix; expected @CALL, then [KEY], "
            "for example relu@0 or attention[0]; or @attention alone"
        )
    keys = re.findall(r"\[([^\[\]]+)\]", parsed["keys"])
    call = int(parsed["call"]) if parsed["call"] else None
    return call, tuple(int(k) if k.isdecimal() else k.strip("'\"") for k in keys), False
