"""How networks are named: ``resmem``, ``torchvision/resnet50@IMAGENET1K_V1``, ``mine:factory``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UnknownModelError

__all__ = ["RANDOM", "ModelName", "parse_name"]

RANDOM = "random"
"""The tag of a network without trained weights; ``random3`` is the one of seed 3."""


@dataclass(frozen=True)
class ModelName:
    """The parts of a name as a user writes it."""

    base: str
    """All but the tag: ``torchvision/resnet50``, or bare, ``resnet50``."""
    tag: str = ""
    """Which weights; empty for the default."""

    @property
    def is_factory(self) -> bool:
        """Whether this is code of one's own, ``package.module:factory``."""
        return _FACTORY.fullmatch(self.base) is not None

    @property
    def source(self) -> str:
        """What stands before the first '/'; empty for a bare name."""
        first, slash, _ = self.base.partition("/")
        return first if slash else ""

    @property
    def random_seed(self) -> int | None:
        """The seed that a tag such as ``random3`` asks for; 0 for ``random``; else None."""
        found = re.fullmatch(rf"{RANDOM}(\d*)", self.tag)
        return int(found[1] or 0) if found else None


_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def parse_name(text: str) -> ModelName:
    """Split the name of a network into what it is and which weights it has.

    Raises
    ------
    UnknownModelError
        If it is empty or not a text.
    """
    if not isinstance(text, str) or not text.strip():
        raise UnknownModelError(
            f"no model {text!r}; expected a name such as resmem or torchvision/resnet50"
        )
    base, _, tag = text.strip().partition("@")
    return ModelName(base, tag)
