from __future__ import annotations

import subprocess
import sys

import pytest

from resmem_extract.errors import UnknownModelError
from resmem_extract.models import MODELS, load_model


def test_entries_are_found_under_their_own_names() -> None:
    assert "resmem" in MODELS
    assert all(name == entry.name for name, entry in MODELS.items())
    resmem = MODELS["resmem"]
    assert (resmem.source, resmem.licence) == ("resmem", "non-commercial")


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_loads_without_weights_under_its_name(name: str) -> None:
    model = load_model(name, pretrained=False)
    assert (model.name, model.source) == (name, MODELS[name].source)
    assert model.weights is None
    assert {p.device.type for p in model.network.parameters()} == {"meta"}
    assert not model.network.training


def test_models_is_read_only() -> None:
    with pytest.raises(TypeError):
        MODELS["mine"] = MODELS["resmem"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "hint"), [("resmen", ": did you mean resmem?"), ("ResMem", ": did you mean resmem?"),
                       ("qqq", "")]
)  # fmt: skip
def test_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(UnknownModelError) as raised:
        load_model(name)
    assert str(raised.value) == f"no model {name!r}{hint}; `resmem-extract models` lists all"


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from resmem_extract.models import MODELS; "
        "print(*sorted({'torch', 'torchvision', 'h5py', 'numpy', 'resmem'} & set(sys.modules)), "
        "*MODELS)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(MODELS)
