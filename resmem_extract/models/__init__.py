"""Every network that can be named on the command line; one file a family."""

from .registry import MODELS, ModelEntry, load_model

__all__ = ["MODELS", "ModelEntry", "load_model"]
