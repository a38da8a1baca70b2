"""Inner products of the activations of all pairs of images, streamed in bounded memory."""

from .arrays import Precision, not_finite, on_host, placing, wide, working_precision
from .blocks import Rows, column_blocks, each_part, memory_in_bytes
from .products import Form, Gram, grams
from .scaled import CONSTANT, scaled_grams

__all__ = [
    "CONSTANT",
    "Form",
    "Gram",
    "Precision",
    "Rows",
    "column_blocks",
    "each_part",
    "grams",
    "memory_in_bytes",
    "not_finite",
    "on_host",
    "placing",
    "scaled_grams",
    "wide",
    "working_precision",
]
