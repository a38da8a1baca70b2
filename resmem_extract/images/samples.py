"""The real photographs that other packages bring along, located without importing anything."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import RequestError
from .stimuli import StimulusSet

__all__ = ["sample_photographs"]

# fmt: off
_SAMPLES = {
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
    "skimage": ("data", (
        "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png",
        "coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png",
        "moon.png", "motorcycle_left.png", "motorcycle_right.png", "page.png", "retina.jpg",
        "rocket.jpg",
    )),
}
"""Package -> folder and names of its photographs; drawings and test charts are left out."""
# fmt: on


def sample_photographs() -> StimulusSet:
    """Return the real photographs that come with scikit-learn and scikit-image.

    The packages are located, not imported.

    Returns
    -------
    StimulusSet
        With ids such as ``sklearn/china.jpg``.

    Raises
    ------
    RequestError
        Neither package is installed.
    """
    found = {
        f"{package}/{name}": folder / subfolder / name
        for package, (subfolder, names) in sorted(_SAMPLES.items())
        for folder in _package_folders(package)
        for name in names
        if (folder / subfolder / name).is_file()
    }
    if not found:
        raise RequestError("no sample photographs are installed; type: pip install scikit-image")
    note = f"{len(found)} real photographs that installed packages bring along"
    if not any(image_id.startswith("skimage/") for image_id in found):
        note += "; `pip install scikit-image` gives more"
    return StimulusSet(
        tuple(found), tuple(found.values()), root="sample photographs", notes=(note,)
    )


def _package_folders(package: str) -> list[Path]:
    """Return where an installed package lies, without executing it; nothing if it is absent."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a stand-in without a spec is in its place
        return []
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
