"""Representational similarity analysis: RDMs, comparators and inference (``rx.rsa``).

It sees arrays, or what reads like one, and never a network or a file format.
"""

from ..rdm import RDM
from .build import kernel, rdm, rdms
from .files import read_npz, write_npz
from .interop import crossnobis, from_rsatoolbox, to_rsatoolbox
from .kernel import Kernel
from .metrics import METRICS

__all__ = [
    "METRICS",
    "RDM",
    "Kernel",
    "crossnobis",
    "from_rsatoolbox",
    "kernel",
    "rdm",
    "rdms",
    "read_npz",
    "to_rsatoolbox",
    "write_npz",
]
