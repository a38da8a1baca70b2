"""Sources by name: lazy, read-only, and added to by plug-ins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from resmem_extract.errors import MissingExtraError, RequestError, UnknownModelError
from resmem_extract.models import SOURCES, list_models, load_model, registry
from resmem_extract.models.entries import SourceEntry

PLUGIN = """
from torch import nn
from resmem_extract.models.entries import ModelEntry, Parts
from resmem_extract.models.preprocessing import ResizeAndCrop

class Source:
    def entries(self):
        return [ModelEntry("{name}/tiny", "{name}", description="two units")]

    def load(self, wanted):
        return Parts(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval(), ResizeAndCrop(4, 4))

SOURCE = Source()
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install distributions that add sources; all is as before when the test ends."""
    monkeypatch.setenv("RESMEM_EXTRACT_CACHE", str(tmp_path / "cache"))
    before = dict(registry._sources)

    def install(name: str, package: str) -> None:
        site = tmp_path / package
        info = site / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{package}.py").write_text(PLUGIN.format(name=name))
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nSummary: nets of {package}\n"
        )
        (info / "entry_points.txt").write_text(
            f"[resmem_extract.models]\n{name} = {package}:SOURCE\n"
        )
        monkeypatch.syspath_prepend(str(site))
        registry._read_entry_points.cache_clear()

    yield install
    monkeypatch.undo()
    registry._sources.clear()
    registry._sources.update(before)
    registry._read_entry_points.cache_clear()


def test_sources_are_found_under_their_own_names() -> None:
    assert "resmem" in SOURCES
    assert all(name == entry.name for name, entry in SOURCES.items())
    with pytest.raises(TypeError):
        SOURCES["mine"] = SOURCES["resmem"]  # type: ignore[index]


def test_a_plugin_adds_networks(plugins) -> None:
    plugins("dummy", "dummy_networks")
    (entry,) = list_models("dummy")
    assert (entry.name, entry.description) == ("dummy/tiny", "two units")
    assert SOURCES["dummy"].description == "nets of dummy_networks"
    model = load_model("dummy/tiny@random5")
    assert (model.name, model.seed) == ("dummy/tiny@random5", 5)
    assert model.packages == {"dummy_networks": "1.0"}
    assert [info.path for info in model.list_modules()] == ["0", "1", "output"]
    assert load_model("tiny@random").name == "dummy/tiny@random"


def test_a_plugin_in_a_process_of_its_own(plugins, tmp_path: Path) -> None:
    plugins("dummy", "dummy_networks")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'dummy_networks')!r})\n"
        "import sys; from resmem_extract.cli import main\n"
        "sys.argv = ['resmem-extract', 'models', '--source', 'dummy']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "dummy/tiny" in done.stdout


@pytest.mark.parametrize("name", ["resmem", "taken"])
def test_two_sources_of_one_name_are_refused(plugins, name: str) -> None:
    plugins(name, "first_networks")
    if name == "taken":
        plugins(name, "second_networks")
    with pytest.raises(RequestError, match=rf"two sources of networks are named '{name}'"):
        list_models(name)


def test_registering_twice_the_same_is_no_clash(plugins) -> None:
    entry = SourceEntry("mine", "mine:SOURCE", "my own")
    registry.register_source(entry)
    registry.register_source(entry)
    with pytest.raises(RequestError, match="two sources of networks are named 'mine': mine:SOURCE"):
        registry.register_source(SourceEntry("mine", "other:SOURCE", "my own"))


def test_missing_packages_are_named_with_the_command(plugins) -> None:
    registry.register_source(
        SourceEntry("far", "far.networks:SOURCE", "", packages=("no-such-package",), extra="far")
    )
    assert list_models("far") == []
    for attempt in (lambda: registry.get_source("far"), lambda: load_model("far/net")):
        with pytest.raises(MissingExtraError) as raised:
            attempt()
        assert str(raised.value) == (
            "no-such-package is not installed, which networks of far need; run: "
            "pip install 'resmem-extract[far]'"
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resmen", "no model 'resmen': did you mean resmem?; `resmem-extract models` lists all"),
        ("ResMem", "no model 'ResMem': did you mean resmem?; `resmem-extract models` lists all"),
        ("qqqqq", "no model 'qqqqq'; `resmem-extract models` lists all"),
        ("", "no model ''; expected a name such as resmem or torchvision/resnet50"),
        ("resmem@v2", "resmem has no weights 'v2': it has released, random"),
        ("resmem@releasd", "resmem has no weights 'releasd': did you mean released?"),
    ],
)
def test_unknown_name(name: str, message: str) -> None:
    with pytest.raises(UnknownModelError) as raised:
        load_model(name)
    assert str(raised.value) == message


def test_unknown_source() -> None:
    with pytest.raises(UnknownModelError, match=r"no source 'resmum': did you mean resmem\?"):
        list_models("resmum")


def test_listing_imports_no_library(tmp_path: Path) -> None:
    code = (
        "import sys; from resmem_extract.models import list_models; list_models(); "
        "print(*sorted({'torch', 'torchvision', 'timm', 'open_clip', 'h5py', 'numpy', 'resmem'}"
        " & set(sys.modules)))"
    )
    for _ in range(2):  # the first fills the cache, and may import
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, [])
