"""ResMem and its kin as citizens of thingsvision.

After `register` stock thingsvision has our networks among its custom models, with their own
preprocessing and all module paths of this package::

    from resmem_extract.thingsvision import register
    from thingsvision import get_extractor

    register()
    extractor = get_extractor("resmem", source="custom", device="cpu", pretrained=True)

``python -m resmem_extract.thingsvision`` is thingsvision's own command line with the same.
"""

from .plugin import register

__all__ = ["register"]
