"""From the name of a network to the network: `load_model`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..downloads import DownloadProgress, fetch
from ..errors import RequestError, UnknownModelError, WeightsError, nearest
from ..weights import LocatedWeights, WeightsFile, find
from .catalogue import find_entry
from .entries import Init, ModelEntry, Wanted
from .names import RANDOM, ModelName, parse_name
from .registry import get_source, source_entry, versions

if TYPE_CHECKING:
    from .base import Model
    from .transforms import TransformChoice

__all__ = ["load_model", "released_weights"]


def load_model(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    verify: bool = True,
    transform: TransformChoice = None,
    pretrained: bool = True,
    seed: int = 0,
    trust: bool = False,
    structure_only: bool = False,
    progress: DownloadProgress | None = None,
) -> Model:
    """Return a network with its weights, its own preprocessing and the names of its modules.

    Parameters
    ----------
    name : str
        One of `list_models`, ``torchvision/resnet50``, with the weights after an ``@`` where not
        the default ones are wanted: ``torchvision/resnet50@IMAGENET1K_V1``. The source may be
        left out where the rest is unambiguous. ``package.module:factory`` is a function of one's
        own that returns a network; modules of the current folder can be named.
    weights : path, optional
        A checkpoint to use in place of a released one.
    verify : bool
        False accepts a checkpoint of one's own in place of one whose hash is known, ResMem's.
    transform : str or callable, optional
        In place of the network's own preprocessing: a name of `transforms.NAMED`, such as
        ``imagenet``, or ``package.module:callable``, or the callable itself, from a PIL image to
        a tensor.
    pretrained : bool
        False gives random weights, as ``NAME@random`` does.
    seed : int
        Of random weights; ``NAME@random3`` is seed 3.
    trust : bool
        Allow what runs code from elsewhere: networks of torch.hub, and checkpoints that are no
        plain tensors.
    structure_only : bool
        Leave out the weights, where possible on the meta device: enough to list modules.
    progress : callable, optional
        Told how far a download is.

    Raises
    ------
    UnknownModelError
        If there is no network of that name, or no such weights of it.
    MissingExtraError
        If packages that it needs are not installed.
    WeightsError
        If its weights are missing and cannot be fetched, or are not what they should be.

    Examples
    --------
    >>> import resmem_extract as rx
    >>> model = rx.load_model("resmem", structure_only=True)
    >>> model.paths.resolve("features.5.4")[0].module
    'features.layer2.4'
    """
    choice = _choose(name, weights, pretrained, seed)
    if choice.entry.needs_trust and not trust:
        raise RequestError(
            f"{choice.entry.name} runs code that is downloaded from its authors; allow it with "
            "--trust (trust=True)"
        )
    init: Init = choice.init if not structure_only else "none"
    file = None
    if init == "pretrained":
        _refuse_without_weights(choice, weights)
        file = _file(choice, weights, verify, lambda record: fetch(record, progress))
    wanted = Wanted(choice.entry, init, choice.tag, file, trust)
    return _load(wanted, choice, transform)


def released_weights(name: str) -> WeightsFile | None:
    """Return the checkpoint that a name asks for; None where it needs none.

    Raises
    ------
    UnknownModelError
        If there is no network of that name, or no such weights of it.
    """
    choice = _choose(name, None, True, 0)
    return choice.entry.weights.get(choice.tag)


@dataclass(frozen=True)
class _Choice:
    """What a name means."""

    entry: ModelEntry
    init: Init
    tag: str
    """Of the released weights; empty where none are wanted."""
    seed: int
    name: str
    """Canonical, with the tag if that is not the default."""


def _choose(name: str, weights: object, pretrained: bool, seed: int) -> _Choice:
    parsed = parse_name(name)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise RequestError(f"seed {seed!r}: expected a whole number from 0")
    random_seed = parsed.random_seed
    is_random = random_seed is not None or not pretrained
    if random_seed and seed not in (0, random_seed):
        raise RequestError(f"{name} and seed {seed} contradict each other; give one of them")
    if is_random and weights is not None:
        raise RequestError(f"{name}: random weights and --weights exclude each other; drop one")
    if parsed.is_factory:
        entry = ModelEntry(parsed.base, "custom")
        if is_random:
            raise RequestError(
                f"{parsed.base} itself decides what it is filled with, so {RANDOM} weights cannot "
                "be had of it; name a factory that does not load any"
            )
    else:
        entry = find_entry(parsed)
    if is_random:
        seed = seed if random_seed in (None, 0) else random_seed
        number = seed or ""
        return _Choice(entry, "random", "", seed, f"{entry.name}@{RANDOM}{number}")
    if seed and not parsed.is_factory:  # a factory may fill its network with what it likes
        raise RequestError(
            f"seed {seed} is of random weights, and {entry.name} is to have trained ones; ask for "
            f"{entry.name}@{RANDOM}{seed}, or leave the seed out"
        )
    tag = _tag(parsed, entry)
    if weights is not None:
        return _Choice(entry, "pretrained", tag, seed, entry.name)
    is_default = not entry.weights or tag == next(iter(entry.weights))
    return _Choice(
        entry, "pretrained", tag, seed, entry.name if is_default else f"{entry.name}@{tag}"
    )


def _tag(parsed: ModelName, entry: ModelEntry) -> str:
    """Return which of the released weights are meant.

    Raises
    ------
    UnknownModelError
        If there are none of that tag.
    """
    if not parsed.tag:
        return next(iter(entry.weights), "")
    known = {tag.lower(): tag for tag in entry.weights}
    if parsed.tag.lower() in known:
        return known[parsed.tag.lower()]
    if parsed.tag in entry.refused:
        raise UnknownModelError(f"{entry.name}@{parsed.tag}: {entry.refused[parsed.tag]}")
    tags = [*entry.weights, *([] if parsed.is_factory else [RANDOM])]
    close = nearest(parsed.tag, tags)
    hint = f"did you mean {', '.join(close)}?" if close else f"it has {', '.join(tags) or 'none'}"
    raise UnknownModelError(f"{entry.name} has no weights {parsed.tag!r}: {hint}")


def _refuse_without_weights(choice: _Choice, weights: object) -> None:
    entry = choice.entry
    if entry.weights or weights is not None or entry.source == "custom":
        return
    if entry.needs_trust or entry.fetches:
        return
    instead = f"use {entry.name}@{RANDOM}, or --weights FILE"
    if entry.refused:
        tag, reason = next(iter(entry.refused.items()))
        instead = f"of {tag}: {reason}"
    raise WeightsError(f"{entry.name} has no released weights; {instead}")


def _file(
    choice: _Choice,
    weights: str | os.PathLike[str] | None,
    verify: bool,
    get: Callable[[WeightsFile], LocatedWeights],
) -> LocatedWeights | None:
    record = choice.entry.weights.get(choice.tag)
    if weights is not None:
        known = record if record is not None and record.is_wholly_known else None
        return find(known or WeightsFile(choice.entry.name), weights, verify=verify)
    return get(record) if record is not None else None


def _load(wanted: Wanted, choice: _Choice, transform: TransformChoice) -> Model:
    import torch

    from .base import Model
    from .custom import CustomSource
    from .transforms import NAMED, chosen_transform

    own = wanted.entry.source == "custom"
    source = CustomSource() if own else get_source(wanted.entry.source)
    preprocessing = chosen_transform(transform)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(choice.seed)
        parts = source.load(wanted)
    preprocessing = preprocessing or parts.preprocessing
    if preprocessing is None:
        if wanted.init != "none":
            raise RequestError(
                f"{wanted.entry.name} does not say how images are prepared for it; say it with "
                "--transform imagenet, or --transform package.module:callable"
            )
        preprocessing = NAMED["imagenet"]
    released = wanted.entry.weights.get(choice.tag)
    from_file = wanted.file is not None and wanted.file.origin == "explicit"
    return Model(
        name=choice.name,
        source=wanted.entry.source,
        network=parts.network,
        preprocessing=preprocessing,
        weights=wanted.file,
        lists=parts.lists,
        aliases=parts.aliases,
        weights_tag=RANDOM if wanted.init == RANDOM else "" if from_file else choice.tag,
        seed=choice.seed if wanted.init == RANDOM else None,
        licence=released.licence if released and not from_file else "",
        packages={} if own else versions(source_entry(wanted.entry.source)),
    )
