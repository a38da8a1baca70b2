"""Reduced precisions: really on, within their documented bounds, and gone afterwards."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_networks import convolution, images
from torch import nn

from resmem_extract.capture import BOUNDS, check_precision, in_precision, prepare
from resmem_extract.capture.device import arithmetic
from resmem_extract.errors import OverflowInDtypeError, RequestError
from resmem_extract.module_path import ModulePaths

CPU = torch.device("cpu")
MODULES = (
    "conv1",
    "conv5",
    "features.conv1",
    "features.layer1.2",
    "features.layer2.4",
    "features.layer3.35",
    "features.layer4.2",
    "features.avgpool",
    "fc7",
    "output",
)


@pytest.fixture(scope="module")
def inputs(resmem_model, photographs) -> torch.Tensor:
    prepared = [resmem_model.preprocessing.image(image) for image in photographs[:2]]
    return resmem_model.preprocessing.batch(np.stack(prepared))


@pytest.fixture(scope="module")
def capture(resmem_model):
    addresses = [address for text in MODULES for address in resmem_model.paths.resolve(text)]
    return prepare(resmem_model.network, addresses, resmem_model.noise(), device=CPU)


@pytest.fixture(scope="module")
def expected(capture, inputs) -> dict[str, np.ndarray]:
    return capture(inputs)


def skip_unless_torch_has(precision: str) -> None:
    try:
        check_precision(precision, CPU)
    except RequestError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_each_stays_within_its_bound(capture, inputs, expected, resmem_model, precision) -> None:
    skip_unless_torch_has(precision)
    found = in_precision(capture, precision, resmem_model.noise())(inputs)
    for path, b in expected.items():
        assert found[path].dtype == np.float32  # the store's dtype is another matter
        deviation = float(np.abs(found[path] - b).max() / np.abs(b).max())
        assert 1e-6 < deviation <= BOUNDS[precision], path


@pytest.mark.slow
def test_tf32_operands_stay_within_its_bound(resmem_model, inputs) -> None:
    """What tensor cores do: operands with 10 bits of mantissa, summed in float32."""

    def rounded(x: torch.Tensor) -> torch.Tensor:
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)

    assert rounded(torch.tensor([1 + 2.0**-10, 1 + 2.0**-12, -3.0])).tolist() == [
        1 + 2.0**-10,
        1.0,
        -3.0,
    ]
    network = copy.deepcopy(resmem_model.network)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data = rounded(module.weight.data)
            module.register_forward_pre_hook(lambda _m, args: (rounded(args[0]),))
    addresses = resmem_model.paths.resolve("features.layer2.4")
    (expected,), (found,) = (
        prepare(n, addresses, resmem_model.noise(), device=CPU, engine="hooks")(inputs).values()
        for n in (resmem_model.network, network)
    )
    assert 1e-3 < float(np.abs(found - expected).max() / np.abs(expected).max()) <= BOUNDS["tf32"]


def test_tf32_is_of_cuda() -> None:
    with pytest.raises(RequestError, match=r"--precision tf32 is of CUDA devices, not of cpu"):
        check_precision("tf32", CPU)


def test_what_a_device_lacks_is_refused(monkeypatch) -> None:
    def cannot(*_args, **_kwargs):
        raise RuntimeError("no autocast")

    monkeypatch.setattr(torch, "autocast", cannot)
    with pytest.raises(RequestError, match="--precision float16 cannot be had on cpu"):
        check_precision("float16", CPU)


class Large(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = convolution()
        self.large = nn.Conv2d(4, 4, 1)
        nn.init.constant_(self.large.weight, 1e6)

    def forward(self, x):
        return self.large(self.body(x))


def test_overflow_in_float16_names_the_module() -> None:
    skip_unless_torch_has("float16")
    torch.manual_seed(0)
    network = Large()
    addresses = list(ModulePaths(network).resolve("large"))
    usual = prepare(network, addresses, images, device=CPU)
    capture = in_precision(usual, "float16", images)
    with pytest.raises(OverflowInDtypeError, match=r"^large: .* --precision bfloat16 or float32"):
        capture(images(2))
    assert np.isfinite(in_precision(usual, "bfloat16", images)(images(2))["large"]).all()


def state() -> tuple[bool, bool, bool]:
    backends = torch.backends
    by_device = torch.__version__ >= "2.4"
    return (
        torch.is_autocast_enabled("cpu") if by_device else torch.is_autocast_cpu_enabled(),
        backends.cudnn.allow_tf32,
        backends.cuda.matmul.allow_tf32,
    )


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_the_state_of_torch_is_restored(precision) -> None:
    if precision == "float16":
        skip_unless_torch_has(precision)
    before = state()
    with arithmetic(precision, CPU):
        assert state() == (precision in ("bfloat16", "float16"), *[precision == "tf32"] * 2)
        with arithmetic(precision, CPU):
            pass
        assert state()[1:] == (precision == "tf32",) * 2
    assert state() == before
    with pytest.raises(ZeroDivisionError), arithmetic(precision, CPU):
        raise ZeroDivisionError
    assert state() == before
