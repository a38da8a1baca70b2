"""Stimuli: whatever a user may give as images, found, named and put in order."""

from .find import Source, find_images
from .folders import IMAGE_EXTENSIONS
from .samples import sample_photographs
from .stimuli import MAX_ID_BYTES, StimulusSet

__all__ = [
    "IMAGE_EXTENSIONS",
    "MAX_ID_BYTES",
    "Source",
    "StimulusSet",
    "find_images",
    "sample_photographs",
]
