"""The way to a device: the identity on a processor, and safe from several threads everywhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from small_networks import CHANNELS, convolution, images
from torch import nn

from resmem_extract.capture import prepare
from resmem_extract.capture.lanes import lane_of_this_thread
from resmem_extract.module_path import ModulePaths

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]


def test_on_a_processor_nothing_is_copied() -> None:
    lane = lane_of_this_thread(torch.device("cpu"))
    inputs = images(2)
    with lane.entered():
        assert lane.send(inputs) is inputs
        fetched = lane.fetch({"a": inputs, "b": inputs[:1]})
    assert {name: array.shape for name, array in fetched.items()} == {
        "a": (2, CHANNELS, 6, 6),
        "b": (1, CHANNELS, 6, 6),
    }
    assert fetched["a"].ctypes.data == fetched["b"].ctypes.data == inputs.data_ptr()


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("engine", ["fused", "graph", "hooks", "reference"])
def test_threads_do_not_disturb_one_another(name: str, engine: str) -> None:
    """Many batches by four threads are what one thread makes of them, bit for bit."""
    torch.manual_seed(0)
    network = nn.Sequential(convolution(), nn.ReLU(inplace=True), convolution(), nn.ReLU()).eval()
    addresses = [a for text in ("0", "1", "3") for a in ModulePaths(network).resolve(text)]
    capture = prepare(network, addresses, images, device=torch.device(name), engine=engine)
    batches = [images(8).roll(i, 0)[: 1 + i % 8] + i for i in range(64)]
    expected = [capture(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(capture, batches))
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        assert all(np.array_equal(one[path], other[path]) for path in one)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_each_thread_has_a_stream_of_its_own_and_pinned_results() -> None:
    device = torch.device("cuda", 0)

    def stream_and_result(number: int) -> tuple[int, np.ndarray, bool]:
        lane = lane_of_this_thread(device)
        assert lane is lane_of_this_thread(device)
        with lane.entered():
            sent = lane.send(torch.full((1000, 1000), float(number)))
            fetched = lane.fetch({"a": sent @ sent})["a"]
            return torch.cuda.current_stream(device).cuda_stream, fetched, sent.is_cuda

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(stream_and_result, range(50)))
    assert len({stream for stream, _, _ in made}) == 2
    assert torch.cuda.default_stream(device).cuda_stream not in {stream for stream, _, _ in made}
    for number, (_, fetched, sent_is_cuda) in enumerate(made):
        assert sent_is_cuda
        np.testing.assert_allclose(fetched, 1000.0 * number * number, rtol=1e-5)
