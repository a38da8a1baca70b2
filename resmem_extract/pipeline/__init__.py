"""Whole jobs: images, a network and a store, joined."""

from .extract import ExtractSummary, extract, extract_many
from .score import Scores, score

__all__ = ["ExtractSummary", "Scores", "extract", "extract_many", "score"]
