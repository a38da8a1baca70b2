"""Names of what classifiers tell apart."""

from __future__ import annotations

from typing import Any

from ..errors import RequestError

__all__ = ["category_names"]

_IMAGENET = 1000
_NOT_CLASSIFIERS = frozenset({"resmem"})
"""Sources whose outputs are no categories, however many there are."""


def category_names(source: str, n: int) -> tuple[str, ...]:
    """Return the names of a classifier's categories, in the order of its outputs.

    Parameters
    ----------
    source : str
        Of the network: `torchvision`, `timm`, ...
    n : int
        How many outputs it has. 1000 are taken for ImageNet-1k, whose order all networks share;
        1001 for the same behind one for the background, as in networks from TensorFlow. timm says
        which further sets it knows.

    Raises
    ------
    RequestError
        If there are no names for so many.
    """
    if source not in _NOT_CLASSIFIERS:
        if n == _IMAGENET:
            return _imagenet()
        if n == _IMAGENET + 1:
            return ("background", *_imagenet())
        if source == "timm" and (names := _from_timm(n)):
            return names
    raise RequestError(
        f"no names are known for {n} outputs of a network of {source or 'unknown source'}; "
        "name them in a file, one a line: resmem-extract classify STORE --classes FILE"
    )


def _imagenet() -> tuple[str, ...]:
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def _from_timm(n: int) -> tuple[str, ...]:
    """Return the names of the set of categories of that size which timm knows, if it knows one."""
    from timm.data.imagenet_info import ImageNetInfo

    for subset in ("imagenet-21k-miil", "imagenet-21k", "imagenet-22k-ms", "imagenet-22k",
                   "imagenet-12k"):  # fmt: skip
        info: Any = ImageNetInfo(subset)
        if info.num_classes() == n:
            return tuple(info.index_to_description(i) for i in range(n))
    return ()
