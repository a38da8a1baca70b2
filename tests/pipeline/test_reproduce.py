"""Making a sample of rows again: what is the same, what deviates, and what has changed."""

from __future__ import annotations

import copy
import dataclasses
import json
from importlib import metadata

import h5py
import numpy as np
import pytest
import torch
from pictures import NAMES, draw

import resmem_extract as rx
from resmem_extract.capture import BOUNDS
from resmem_extract.errors import RequestError
from resmem_extract.pipeline.verify import _choose as choose
from resmem_extract.store import StoreWriter

MODULES = ["conv1", "features.conv1"]


@pytest.fixture
def made(tmp_path, photos, resmem):
    out = tmp_path / "f.h5"
    rx.extract(resmem, MODULES, photos, out=out, batch_size=2, streams=2, threads=1)
    return out


def test_the_same_machine_makes_the_same_bits(made, photos, resmem):
    told, progress = [], []
    found = rx.reproduce_store(
        made, photos, sample=3, model=resmem, tell=told.append,
        progress=lambda *pair: progress.append(pair),
    )  # fmt: skip
    assert found.reproducible
    assert len(found.sample) == 4  # whole batches of 2
    assert set(found.sample) < set(NAMES)
    assert [module.path for module in found.modules] == MODULES
    for module in found.modules:
        assert (module.deviation, module.identical, module.bound) == (0.0, True, 1e-5)
    assert (found.missing, found.changed, found.unreadable, found.differences) == ((),) * 4
    assert progress == [(2, 4), (4, 4)]
    assert json.loads(json.dumps(found.describe()))["reproducible"] is True


def test_the_sample_is_seeded(made, photos):
    with rx.open_store(made) as store:
        samples = [choose(store, photos, 2, seed)[0] for seed in (1, 1, 2, 3, 4)]
    assert samples[0] == samples[1]
    assert len(set(samples)) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "hooks", "pool": "avg", "exif_orientation": True},
        {"precision": "bfloat16", "dtype": "float16", "id": "stem", "flatten": True},
    ],
    ids=lambda options: next(iter(options.values())),
)
def test_as_it_was_made(tmp_path, photos, resmem, options):
    out = tmp_path / "f.h5"
    rx.extract(resmem, "conv1", photos, out=out, batch_size=2, threads=1, **options)
    found = rx.reproduce_store(out, photos, model=resmem)
    assert found.reproducible
    assert len(found.sample) == len(NAMES)
    (module,) = found.modules
    assert module.identical
    floor = BOUNDS[options.get("precision", "float32")]
    assert module.bound == floor + (2**-10 if "dtype" in options else 0)


def test_modules_of_different_reductions(tmp_path, photos, resmem):
    files = []
    for k, options in enumerate(({"pool": "avg"}, {"flatten": True})):
        files.append(tmp_path / f"{k}.h5")
        rx.extract(resmem, MODULES[k], photos, out=files[-1], batch_size=2, **options)
    merged = rx.merge_stores(files, tmp_path / "m.h5")
    found = rx.reproduce_store(merged, photos, model=resmem)
    assert found.reproducible
    assert [(module.path, module.identical) for module in found.modules] == [
        (module, True) for module in MODULES
    ]


def test_a_value_that_was_changed_deviates(made, photos, resmem):
    with h5py.File(made, "r+") as f:
        values = f["features/conv1"]
        largest = np.abs(values[()]).max()
        values[4, 0, 0, 0] += 0.5
    found = rx.reproduce_store(made, photos, model=resmem, sample=5)
    changed, other = found.modules
    assert not found.reproducible
    assert changed.deviation == pytest.approx(0.5 / largest, rel=1e-5)
    assert (changed.within, changed.identical) == (False, False)
    assert (other.within, other.identical) == (True, True)
    with h5py.File(made, "r+") as f:
        f["features/conv1"][4, 0, 0, 0] = np.nan
    found = rx.reproduce_store(made, photos, model=resmem, sample=5)
    assert np.isnan(found.modules[0].deviation)
    assert not found.reproducible


def test_files_that_have_changed_or_are_gone(made, photos, resmem):
    draw(photos / NAMES[0], 99)
    (photos / NAMES[1]).unlink()
    (photos / NAMES[2]).write_bytes((photos / NAMES[2]).read_bytes()[:100])
    found = rx.reproduce_store(made, photos, model=resmem, sample=5)
    assert not found.reproducible
    assert found.changed == (NAMES[0],)
    assert found.missing == (NAMES[1],)
    assert [image_id for image_id, _ in found.unreadable] == [NAMES[2]]
    assert all(module.identical for module in found.modules)  # of the two that are as they were


def test_other_weights_are_not_run(made, photos, resmem):
    network = copy.deepcopy(resmem.network)
    with torch.no_grad():
        network.conv1.weight += 1e-3
    other = dataclasses.replace(resmem, network=network, weights=None)
    found = rx.reproduce_store(made, photos, model=other)
    assert not found.reproducible
    assert found.modules == ()
    (words,) = found.differences
    assert words.startswith(f"state dict sha256: {resmem.state_dict_sha256[:12]}... there, ")
    assert words.endswith(" here")


def test_what_may_change_last_bits_is_noted(made, photos, resmem):
    with h5py.File(made, "r+") as f:
        record = json.loads(f["provenance"][()])
        record["packages"]["torch"] = "1.0"
        record["device"] = "cuda:7"
        del f["provenance"]
        f["provenance"] = json.dumps(record)
    told = []
    found = rx.reproduce_store(made, photos, model=resmem, tell=told.append)
    assert found.reproducible
    assert "made on cuda:7, which is not here" in told
    assert f"torch: 1.0 there, {metadata.version('torch')} here" in found.notes
    assert "device: cuda:7 there, cpu here" in found.notes


def test_refusals(tmp_path, made, photos, resmem):
    with pytest.raises(RequestError, match="sample 0: expected at least 1"):
        rx.reproduce_store(made, photos, sample=0)
    draw(tmp_path / "others" / "z.png", 1)
    with pytest.raises(RequestError, match=r"hold none of 5 images drawn from .*f.h5, such as"):
        rx.reproduce_store(made, tmp_path / "others", model=resmem)
    with pytest.raises(RequestError, match="expected the images that the store was made of"):
        rx.reproduce_store(made, None)
    with StoreWriter(tmp_path / "e.h5", [], 0) as writer:
        writer.finish()
    with pytest.raises(RequestError, match="does not say which network made it"):
        rx.reproduce_store(tmp_path / "e.h5", photos)


def test_pictures_in_python_are_gone_through_once(tmp_path, resmem):
    rng = np.random.default_rng(0)
    pictures = {f"p{k}": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for k in range(3)}
    out = tmp_path / "f.h5"
    rx.extract(resmem, "conv1", pictures, out=out, batch_size=2)
    found = rx.reproduce_store(out, iter(pictures.items()), model=resmem)
    assert found.reproducible
    assert found.sample == ("p0", "p1", "p2")
    assert rx.reproduce_store(out, pictures, model=resmem).modules[0].identical


def test_by_name(made, photos):
    assert rx.reproduce_store(made, photos, sample=1).reproducible
