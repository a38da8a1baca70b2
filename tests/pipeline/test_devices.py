"""One process a device: numbers, order, and what happens when one of them fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from device_models import FAIL, SLOW, pixels, wilful
from pictures import draw

import resmem_extract as rx
from resmem_extract.capture import split_devices
from resmem_extract.config import RunOptions
from resmem_extract.errors import (
    OverflowInDtypeError,
    RequestError,
    UnknownModelError,
    UnknownModuleError,
    WorkError,
)
from resmem_extract.pipeline.background import in_order
from resmem_extract.pipeline.devices import (
    DeviceWork,
    NamedModel,
    device_processes,
)
from resmem_extract.pipeline.messages import receive, send
from resmem_extract.pipeline.run import prepare_capture
from resmem_extract.types import Reduction

HOOKS = RunOptions(engine="hooks")
CPUS = ["cpu", "cpu"]


# --- which devices ---


def test_devices_are_split_at_commas():
    assert split_devices("cpu") == ["cpu"]
    assert split_devices("auto") == ["auto"]
    assert split_devices("cpu, cpu,cpu") == ["cpu", "cpu", "cpu"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cpu,cuda:99", "device 'cuda:99' is not on this machine"),
        ("cpu,quantum", "device 'quantum' is not known"),
        ("cpu,", "expected names between commas"),
        ("auto,cpu", "expected names between commas"),
    ],
)
def test_wrong_lists_of_devices_are_refused(text, problem):
    with pytest.raises(RequestError, match=problem):
        split_devices(text)


def test_a_gpu_is_named_once_and_kinds_are_not_mixed(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert split_devices("cuda:0,cuda:1") == ["cuda:0", "cuda:1"]
    for text in ("cuda:1,cuda:1", "cuda,cuda:0"):
        with pytest.raises(RequestError, match="name each device once"):
            split_devices(text)
    with pytest.raises(RequestError, match="of one kind"):
        split_devices("cpu,cuda:0")


# --- messages ---


def test_arrays_arrive_as_they_were_sent(rng):
    here, there = socket.socketpair()
    message = {
        "large": rng.random((3, 700_000)),
        "strided": np.arange(12).reshape(3, 4)[:, ::2],
        "empty": np.zeros((0, 5), np.uint8),
        "text": "ä",
    }
    with here, there:
        sender = threading.Thread(target=send, args=(here, message))
        sender.start()
        arrived = receive(there)
        sender.join()
        here.close()
        with pytest.raises(EOFError):
            receive(there)
    assert list(arrived) == list(message)
    assert arrived["text"] == "ä"
    for name in ("large", "strided", "empty"):
        assert arrived[name].dtype == message[name].dtype
        assert np.array_equal(arrived[name], message[name])
    arrived["large"][0, 0] = 7  # it is the receiver's own


# --- numbers and order ---


def test_two_devices_give_what_one_process_gives_every_time(resmem, rng):
    modules = ("conv1", "features.layer1.0.relu@0")
    two = [rng.integers(0, 256, (2, 227, 227, 3), dtype=np.uint8) for _ in range(2)]
    reference = prepare_capture(resmem, modules, RunOptions(engine="reference"), lambda _: None)
    known = [reference(resmem.preprocessing.batch(batch)) for batch in two]
    order = [0, 1, 1, 0, 0, 1]
    batches, want = [two[i] for i in order], [known[i] for i in order]
    runs = []
    work = DeviceWork(NamedModel("resmem"), modules, RunOptions(engine="graph"))
    for _ in range(2):
        with device_processes([work], CPUS, threads=1) as processes:
            assert (processes.streams, processes.engines, processes.notes) == (4, ("graph",), ())
            runs.append(list(in_order(processes.runs[0], batches, processes.streams)))
    for first, second, expected in zip(*runs, want, strict=True):
        assert set(first) == set(expected) == set(modules)
        for path in modules:
            assert np.array_equal(first[path], second[path])
            assert first[path].shape == expected[path].shape
            worst = np.abs(first[path] - expected[path]).max() / np.abs(expected[path]).max()
            assert worst <= 1e-5


def test_order_is_kept_whatever_finishes_first():
    values = [SLOW, 1, 2, 3, SLOW, 4, 5, 6, 7]
    done: list[int] = []
    works = [
        DeviceWork(wilful(), ("scale",), HOOKS),
        DeviceWork(wilful(), ("output",), HOOKS, Reduction(pool="avg"), compile_for=2),
    ]
    with device_processes(works, CPUS, threads=1) as processes:
        assert processes.engines == ("hooks", "hooks")
        assert processes.notes == ("not compiled: cpu: engine hooks has no graph",)

        def run(value: int):
            both = [network(pixels(value)) for network in processes.runs]
            done.append(value)
            return both

        results = list(in_order(run, values, processes.streams))
    assert done != values  # the slow ones were overtaken
    for value, (full, pooled) in zip(values, results, strict=True):
        assert np.array_equal(full["scale"], np.full((2, 3, 4, 4), 2.0 * value, np.float32))
        assert np.array_equal(pooled["output"], np.full((2, 3), 2.0 * value, np.float32))


# --- failures ---


@pytest.mark.parametrize(
    ("deed", "kind", "line"),
    [
        ("die", WorkError, r"^the process of cpu was ended by SIGKILL \(exit code -9\); .*memory$"),
        ("exit", WorkError, r"^the process of cpu ended with exit code 3$"),
        ("overflow", OverflowInDtypeError, r"^scale: too large$"),
        ("divide", WorkError, r"^cpu: ZeroDivisionError: no such thing$"),
    ],
)
def test_a_failing_process_is_one_line_after_the_batches_before(deed, kind, line):
    values = [1, SLOW, 2, FAIL, *range(20, 40)]
    seen: list[float] = []
    threads_before = threading.active_count()
    with (
        pytest.raises(kind, match=line) as caught,
        device_processes([DeviceWork(wilful(deed), ("scale",), HOOKS)], CPUS, 1) as processes,
    ):
        for result in in_order(
            lambda value: processes.runs[0](pixels(value)), values, processes.streams
        ):
            seen.append(float(result["scale"].max()))
    assert type(caught.value) is kind
    finished = [2.0, 28.0, 4.0]
    if deed in ("die", "exit"):  # takes with it what its other lane was about to send
        finished = finished[: len(seen)]
    assert seen == finished
    assert threading.active_count() == threads_before


def test_every_call_fails_once_all_processes_are_dead():
    with device_processes([DeviceWork(wilful("die"), ("scale",), HOOKS)], CPUS, 1) as processes:
        for _ in range(2 * processes.streams):  # none waits for a device that never gets free
            with pytest.raises(WorkError, match="the process of cpu was ended by SIGKILL"):
                processes.runs[0](pixels(FAIL))


@pytest.mark.parametrize(
    ("work", "kind", "line"),
    [
        (DeviceWork(NamedModel("resmum"), ("conv1",), HOOKS), UnknownModelError, "resmem"),
        (DeviceWork(wilful(), ("scala",), HOOKS), UnknownModuleError, "scale"),
        (
            DeviceWork(wilful(), ("scale",), RunOptions(engine="graph")),
            RequestError,
            "engine 'graph' cannot run this network",
        ),
    ],
)
def test_a_wrong_request_is_the_error_that_one_process_raises(work, kind, line):
    with pytest.raises(kind, match=line), device_processes([work], ["cpu"], 1):
        raise AssertionError("never ready")


def test_a_network_that_cannot_be_pickled_is_refused():
    model = wilful()
    model.network.register_forward_hook(lambda *_: None)
    with (
        pytest.raises(
            RequestError, match=r"cannot be sent to other processes \(.*; use one device"
        ),
        device_processes([DeviceWork(model, ("scale",), HOOKS)], CPUS, 1),
    ):
        raise AssertionError("never ready")


SCRIPT = f"""
from device_models import ENDLESS, pixels, wilful
from resmem_extract.config import RunOptions
from resmem_extract.pipeline.devices import DeviceWork, device_processes

if __name__ == "__main__":
    work = DeviceWork(wilful(), ("scale",), RunOptions(engine="hooks"))
    try:
        with device_processes([work], {CPUS}, 1) as processes:
            processes.runs[0](pixels(1))
            print("ready", flush=True)
            processes.runs[0](pixels(ENDLESS))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize(("kill", "output"), [("SIGINT", "interrupted\n"), ("SIGKILL", "")])
def test_no_process_outlives_the_parent_or_prints(tmp_path, kill, output):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1])])
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    time.sleep(0.3)
    if kill == "SIGINT":
        os.killpg(parent.pid, signal.SIGINT)  # as the terminal does
    else:
        parent.kill()
    # The pipes end once every process that holds them has ended; a batch would take a minute.
    stdout, stderr = parent.communicate(timeout=20)
    assert (stdout, stderr) == (output, "")


def test_a_whole_extraction_on_two_devices(tmp_path, photos):
    for i in range(6):
        draw(photos / f"{i}.png", 10 + i)
    given = {"images": photos, "batch_size": 2}
    summary = rx.extract("resmem", ["conv1"], out=tmp_path / "two.h5", device="cpu,cpu", **given)
    rx.extract("resmem", ["conv1"], out=tmp_path / "one.h5", device="cpu", threads=1, **given)
    assert (summary.device, summary.engine, summary.images) == ("cpu,cpu", "fused", 11)
    with rx.open_store(tmp_path / "two.h5") as two, rx.open_store(tmp_path / "one.h5") as one:
        np.testing.assert_array_equal(two["conv1"][:], one["conv1"][:])
        assert two.image_ids.tolist() == one.image_ids.tolist()
        assert (two.provenance["device"], two.provenance["streams"]) == ("cpu,cpu", 4)
        np.testing.assert_array_equal(two.sha256, one.sha256)


def test_scores_on_two_devices(photos, predictor):
    two = rx.score(predictor, photos, device="cpu,cpu", batch_size=2)
    one = rx.score(predictor, photos, device="cpu", batch_size=2)
    assert two.image_ids == one.image_ids
    assert np.ptp(one.memorability) > 0
    np.testing.assert_allclose(two.memorability, one.memorability, atol=1e-6)
    assert two.provenance["device"] == "cpu,cpu"
