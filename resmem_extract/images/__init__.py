"""Stimuli: whatever a user may give as images, found, named and put in order."""

from .find import Source, find_images, find_named
from .names import IMAGE_EXTENSIONS, MAX_ID_BYTES
from .samples import sample_photographs
from .stimuli import StimulusSet

__all__ = [
    "IMAGE_EXTENSIONS",
    "MAX_ID_BYTES",
    "Source",
    "StimulusSet",
    "find_images",
    "find_named",
    "sample_photographs",
]
