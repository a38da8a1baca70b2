"""Stores made of stores: numbers against NumPy and scikit-learn, images joined by their ids."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import resmem_extract as rx
from resmem_extract.errors import RequestError, WorkError
from resmem_extract.store import StoreWriter
from resmem_extract.transforms import vectors as vectors_module
from resmem_extract.types import ActivationSpec

IDS = [f"{label}/{i:02d}.jpg" for label in ("bird", "cat") for i in range(12)]
MAPS = ActivationSpec(
    "features.layer2.4", "features.5.4", (6, 3, 2), ("image", "channel", "height", "width"),
    index_path="features.5.4", links=("features.5.4",), dtype="float16",
)  # fmt: skip
VECTOR = ActivationSpec("fc7", "fc7", (10,), ("image", "unit"))


def write(path: Path, ids: list[str], specs, arrays, model="resmem", salt="") -> Path:
    hashes = [hashlib.sha256((image_id + salt).encode()).hexdigest() for image_id in ids]
    with StoreWriter(path, specs, len(ids)) as writer:
        writer.append(ids, hashes, arrays)
        labels = [image_id.split("/")[0] for image_id in ids]
        writer.finish({"label": labels}, provenance={"model": model, "packages": {"torch": "2"}})
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(vectors_module, "BLOCK_BYTES", 5 * 40 * 4)


@pytest.fixture
def arrays(rng) -> dict[str, np.ndarray]:
    maps = rng.gamma(1.0, 3.0, (24, 6, 3, 2)).astype(np.float16)
    return {MAPS.path: maps, VECTOR.path: rng.standard_normal((24, 10)).astype(np.float32)}


@pytest.fixture
def store(tmp_path, arrays) -> Path:
    return write(tmp_path / "f.h5", IDS, [MAPS, VECTOR], arrays)


def test_each_module_keeps_its_shape_names_and_images(store, arrays, tmp_path) -> None:
    summary = rx.transform(store, steps=["center"], out=tmp_path / "c.h5")
    with rx.open_store(store) as before, rx.open_store(tmp_path / "c.h5") as after:
        assert after.modules == before.modules
        assert after.image_ids.tolist() == IDS
        assert after.sha256.tolist() == before.sha256.tolist()
        assert after.columns["label"].tolist() == before.columns["label"].tolist()
        found = after["features.5.4"]
        assert (found.shape, found.axes, found.dtype) == ((24, 6, 3, 2), MAPS.axes, np.float32)
        assert found.spec.reduce["steps"] == ["center"]
        for path, array in arrays.items():
            exact = array.astype(np.float64)
            np.testing.assert_allclose(after[path][:], exact - exact.mean(axis=0), atol=1e-5)
        record = after.provenance
    assert (record["model"], record["transform"]["steps"]) == ("resmem", ["center"])
    assert {"torch", "scikit-learn"} <= set(record["packages"])
    assert (summary.images, summary.fit_images, len(summary.modules)) == (24, 24, 2)


def test_an_ensemble_of_maps_and_penultimate_layer_by_pca(store, arrays, tmp_path) -> None:
    """Fitted on stated images: the others have no part in the components."""
    fit_ids = [image_id for i, image_id in enumerate(IDS) if i % 3]
    (tmp_path / "train.txt").write_text("\n".join(reversed(fit_ids)) + "\n")
    told: list[str] = []
    rx.transform(
        store, ["features.5.4", "fc7"], join=True, steps=["l2", "pca=5"],
        fit_on=tmp_path / "train.txt", out=tmp_path / "p.h5", tell=told.append,
    )  # fmt: skip
    flat = np.concatenate([a.reshape(24, -1).astype(np.float64) for a in arrays.values()], axis=1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    with rx.open_store(tmp_path / "p.h5") as made:
        assert made.modules == ("features.layer2.4+fc7",)
        found = made["features.layer2.4+fc7"][:]
        assert made.provenance["transform"]["fit_images"] == 16
        parts = made.specs["features.layer2.4+fc7"].reduce["joined"]
        assert [part["module"] for part in parts] == ["features.layer2.4", "fc7"]
    exact = PCA(5, svd_solver="full").fit(flat[[i % 3 > 0 for i in range(24)]])
    shares = np.var(exact.transform(flat), axis=0).sum()
    assert np.var(found, axis=0).sum() > 0.9 * shares
    assert told[0].startswith("features.layer2.4+fc7: pca=5 keeps ")
    as_ids = rx.transform(
        store, ["features.5.4", "fc7"], join=True, steps=["l2", "pca=5"], fit_on=fit_ids,
        out=tmp_path / "p.h5",
    )  # fmt: skip
    assert as_ids.already_complete


def test_an_ensemble_of_stores_by_pca_is_scikit_learns(
    store, arrays, tmp_path, monkeypatch
) -> None:
    """Exact where the images fit one block; the sign of a component is free."""
    monkeypatch.undo()  # blocks are large again
    other = write(
        tmp_path / "g.h5", IDS[::-1], [VECTOR], {"fc7": 3 * arrays["fc7"][::-1]}, "alexnet"
    )
    rx.transform(
        [store, other], join=True, steps=["zscore", "pca=4"], fit_on=IDS[:18],
        out=tmp_path / "e.h5",
    )  # fmt: skip
    joined = np.concatenate(
        [arrays[MAPS.path].reshape(24, -1), arrays["fc7"], 3 * arrays["fc7"]], axis=1
    ).astype(np.float64)
    scaler = StandardScaler().fit(joined[:18])
    exact = PCA(4, svd_solver="full").fit(scaler.transform(joined[:18]))
    expected = exact.transform(scaler.transform(joined))
    with rx.open_store(tmp_path / "e.h5") as made:
        (module,) = made.modules
        found = made[module][:]
        assert made.provenance["transform"]["fit_images"] == 18
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-4 * np.abs(expected).max())


def test_several_networks_are_joined_by_image(store, arrays, tmp_path, rng) -> None:
    order = rng.permutation(24)
    other = write(
        tmp_path / "g.h5", [IDS[i] for i in order], [VECTOR], {"fc7": 2 * arrays["fc7"][order]},
        model="torchvision/alexnet",
    )  # fmt: skip
    rx.transform([store, other], ["resmem:features.*.4", "fc7"], join=True, out=tmp_path / "j.h5")
    name = "resmem:features.layer2.4+resmem:fc7+torchvision/alexnet:fc7"
    with rx.open_store(tmp_path / "j.h5") as made:
        assert made.modules == (name,)
        found = made[name][:]
        assert made.image_ids.tolist() == IDS
        assert made.provenance["model"] == "resmem+torchvision/alexnet"
        assert len(made.provenance["transform"]["from"]) == 2
    maps = arrays[MAPS.path].reshape(24, -1).astype(np.float32)
    assert np.array_equal(found, np.concatenate([maps, arrays["fc7"], 2 * arrays["fc7"]], axis=1))


def test_projection_of_one_module(store, tmp_path) -> None:
    summary = rx.transform(
        store, "features.5.4", steps=["project=7"], seed=3, out=tmp_path / "r.h5"
    )
    assert summary.modules[0].axes == ("image", "unit")
    again = rx.transform(store, "features.5.4", steps=["project=7"], seed=3, out=tmp_path / "s.h5")
    with rx.open_store(summary.out) as a, rx.open_store(again.out) as b:
        assert a["features.5.4"].shape == (24, 7)
        assert np.array_equal(a["features.5.4"][:], b["features.5.4"][:])


def test_the_same_request_is_answered_and_another_is_refused(store, arrays, tmp_path) -> None:
    out = tmp_path / "c.h5"
    first = rx.transform(store, steps=["center", "pca=3"], out=out)
    before = out.read_bytes()
    again = rx.transform(store, steps=["center", "pca=3"], out=out)
    assert (again.already_complete, again.notes) == (True, first.notes)
    others = [{"steps": ["pca=3"]}, {"steps": ["center", "pca=3"], "seed": 1},
              {"steps": ["center", "pca=3"], "fit_on": IDS[:8]}]  # fmt: skip
    for options in others:
        with pytest.raises(RequestError, match="is of another request; use --overwrite"):
            rx.transform(store, out=out, **options)
    with pytest.raises(RequestError, match="is of another request"):
        rx.transform(store, "fc7", steps=["center", "pca=3"], out=out)
    assert out.read_bytes() == before
    assert not rx.transform(store, steps=["l2"], out=out, overwrite=True).already_complete


def test_progress_counts_all_passes(store, tmp_path) -> None:
    calls: list[tuple[int, int]] = []
    rx.transform(
        store, steps=["center", "l2", "pca=2"], fit_on=IDS[:10], out=tmp_path / "c.h5",
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert {total for _, total in calls} == {2 * (2 * 10 + 24)}
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] == calls[-1][1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to do: give steps, such as center, l2 or pca=50, or join"),
        ({"steps": ["zcore"]}, "no step 'zcore': did you mean zscore\\?"),
        ({"steps": ["l2"], "modules": "fc9"}, r".*f\.h5 has no module 'fc9'; did you mean fc7\?"),
        ({"steps": ["l2"], "fit_on": ["dog.jpg"]}, r".*f\.h5 has no image 'dog\.jpg'; .*"),
        ({"steps": ["l2"], "fit_on": []}, "no image to fit on; give at least one id"),
        ({"steps": ["l2"], "fit_on": "none.txt"}, r"none\.txt cannot be read: No such file.*"),
        ({"steps": ["pca=99"]}, "step pca=99: there are only 36 values an image"),
        ({"step": ["l2"]}, "transform: unknown option 'step'; did you mean steps\\?"),
    ],
)
def test_wrong_requests(store, tmp_path, options, message: str) -> None:
    options = dict(options)
    with pytest.raises(RequestError, match=f"^{message}$"):
        rx.transform(store, options.pop("modules", None), out=tmp_path / "x.h5", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_stores_that_do_not_go_together(store, arrays, tmp_path) -> None:
    twin = write(tmp_path / "t.h5", IDS, [VECTOR], {"fc7": arrays["fc7"]})
    fewer = write(tmp_path / "u.h5", IDS[:9], [VECTOR], {"fc7": arrays["fc7"][:9]}, "alexnet")
    changed = write(tmp_path / "v.h5", IDS, [VECTOR], {"fc7": arrays["fc7"]}, "vgg", "other")
    cases = {
        "24 images, first 'bird/00.jpg'": ([store, changed], True),
        "the stores are of resmem, resmem; give each network once": ([store, twin], True),
        "several stores make one only if they are joined; use --join": ([store, fewer], False),
        "15 images only in one of them, first 'bird/09.jpg'": ([fewer, store], True),
        "no store was given; name at least one": ([], True),
    }
    for message, (stores, join) in cases.items():
        with pytest.raises(RequestError) as raised:
            rx.transform(stores, steps=["l2"], join=join, out=tmp_path / "x.h5")
        assert message in str(raised.value)
    with pytest.raises(RequestError, match="is one of the inputs"):
        rx.transform(store, steps=["l2"], out=store, overwrite=True)
    assert not (tmp_path / "x.h5").exists()


def test_damage_is_not_passed_on(store, tmp_path) -> None:
    with h5py.File(store, "r+") as file:
        file["features/fc7"][7, 3] += 1
    with pytest.raises(WorkError, match=r"damaged: /features/fc7, rows 0 to \d+, is not what was"):
        rx.transform(store, steps=["center"], out=tmp_path / "c.h5")
    assert not (tmp_path / "c.h5").exists()
    rx.transform(store, "features.5.4", steps=["center"], out=tmp_path / "c.h5")


def test_damaged_ids_are_not_passed_on(store, tmp_path) -> None:
    with h5py.File(store, "r+") as file:
        ids = file["images/id"]
        ids[0] = ids[1]
    for use in (
        lambda: rx.transform(store, steps=["center"], out=tmp_path / "c.h5"),
        lambda: rx.export_store(store, tmp_path / "exported"),
        lambda: rx.compare_stores([store], out=tmp_path / "rsa"),
        lambda: rx.classify(store, module="fc7"),
        lambda: rx.targets(store),
    ):
        with pytest.raises(WorkError, match=r"is not what was written \(images/id\)"):
            use()
    assert [path.name for path in tmp_path.iterdir()] == [store.name]


@pytest.mark.parametrize("steps", [["zscore"], ["l2"], ["pca=2"]])
def test_values_that_are_no_numbers_are_named(store, tmp_path, steps) -> None:
    with h5py.File(store, "r+") as file:
        file["features/fc7"][17, 3] = np.nan
        del file["checksums"], file["metadata_checksums"]
    with pytest.raises(RequestError, match=r"fc7: NaN .* of 1 image \(cat/05\.jpg\)"):
        rx.transform(store, "fc7", steps=steps, out=tmp_path / "c.h5")
    assert not (tmp_path / "c.h5").exists()


def test_a_device_is_not_replaced(store, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RequestError, match="pipe is a device or a pipe, not a file"):
        rx.transform(store, steps=["l2"], out=tmp_path / "pipe", overwrite=True)
    assert (tmp_path / "pipe").is_fifo()
