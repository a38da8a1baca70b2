"""Each call of thingsvision's README beside its equal here: the numbers are the same.

Runs in the environment of `make thingsvision-env`.
"""

from __future__ import annotations

import re
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("thingsvision.core.extraction", reason="needs make thingsvision-env")

import h5py
from scipy.io import loadmat
from thingsvision import get_extractor
from thingsvision.core.cka import get_cka
from thingsvision.core.extraction import center_features, normalize_features
from thingsvision.core.rsa import compute_rdm, correlate_rdms
from thingsvision.utils.data import DataLoader, HDF5Dataset, ImageDataset
from thingsvision.utils.storing import save_features

import resmem_extract as rx
from resmem_extract.store import StoreWriter
from resmem_extract.types import ActivationSpec, Reduction

DOCUMENT = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
EARLY, LATE = "features.3.expand3x3", "classifier"


@pytest.fixture(scope="module")
def folder(photographs, tmp_path_factory) -> Path:
    """Photographs in folders that name their classes."""
    made = tmp_path_factory.mktemp("photographs")
    for i, image in enumerate(photographs):
        label = made / ("people", "things")[i > 0]
        label.mkdir(exist_ok=True)
        image.save(label / f"{i}.png")
    return made


@pytest.fixture(scope="module")
def extractor():
    return get_extractor("squeezenet1_1", source="torchvision", device="cpu", pretrained=False)


@pytest.fixture(scope="module")
def model(extractor, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    torch.save(extractor.model.state_dict(), path)
    return rx.load_model("torchvision/squeezenet1_1", weights=path, transform="imagenet")


@pytest.fixture(scope="module")
def dataset(extractor, folder, tmp_path_factory):
    return ImageDataset(
        root=str(folder),
        out_path=str(tmp_path_factory.mktemp("names")),
        backend=extractor.get_backend(),
        transforms=extractor.get_transformations(resize_dim=256, crop_dim=224),
    )


@pytest.fixture(scope="module")
def theirs(extractor, dataset) -> dict[str, np.ndarray]:
    batches = DataLoader(dataset=dataset, batch_size=3, backend="pt")
    return extractor.extract_features(
        batches=batches, module_names=[EARLY, LATE], flatten_acts=True, output_type="ndarray"
    )


@pytest.fixture(scope="module")
def ours(model, folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ours") / "f.h5"
    rx.extract(model, [EARLY, LATE], folder, flatten=True, out=out)
    return out


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> tuple[np.ndarray, np.ndarray, Path]:
    """Features of two modules, enough images for statistics, and a store of them."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((20, 30)).astype(np.float32)
    y = (x[:, :12] + rng.standard_normal((20, 12))).astype(np.float32)
    out = tmp_path_factory.mktemp("many") / "f.h5"
    specs = [ActivationSpec(n, n, (w,), ("image", "unit")) for n, w in (("x", 30), ("y", 12))]
    with StoreWriter(out, specs, 20) as writer:
        writer.append([f"{i:02d}" for i in range(20)], ["0" * 64] * 20, {"x": x, "y": y})
        writer.finish({}, provenance={"model": "m"})
    return x, y, out


def deviation(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def test_every_call_of_the_readme_is_in_the_table() -> None:
    readme = metadata.metadata("thingsvision").get_payload()
    blocks = re.findall(r"^```(?:python|bash)\n(.*?)^```", str(readme), re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"`([^`\n]+)`", str(readme))
    code = re.sub(r"#.*", "", "\n".join(blocks))
    called = set(re.findall(r"\b([A-Za-z_]\w*)\(", code)) - {"is_available"}
    called |= set(re.findall(r"\bthingsvision ([a-z]+-[a-z]+)", code))
    assert {"get_extractor", "extract_batch", "align", "save_features", "show-model"} <= called
    theirs = "\n".join(
        line.strip("| ").split(" | ")[0] for line in DOCUMENT.splitlines() if line.startswith("| ")
    )
    assert {name for name in called if name not in theirs} == set()


def test_extract_features(theirs, ours) -> None:
    with rx.open_store(ours) as store:
        for name in (EARLY, LATE):
            assert deviation(store[name][:], theirs[name]) <= 1e-5
        assert store.columns["label"].tolist() == ["people"] + 3 * ["things"]


def test_batch_extraction(extractor, model, dataset) -> None:
    batch = torch.stack([dataset[i] for i in range(3)])
    with extractor.batch_extraction(module_names=[EARLY, LATE], output_type="tensor") as e:
        expected = e.extract_batch(batch=batch, flatten_acts=True)
    found = model.capture([EARLY, LATE])(batch, Reduction(flatten=True))
    for name in (EARLY, LATE):
        assert deviation(found[name], expected[name].numpy()) <= 1e-5


def test_transformations(extractor, model, photographs) -> None:
    transform = extractor.get_transformations(resize_dim=256, crop_dim=224)
    for image in photographs:
        assert torch.equal(model.transform(image), transform(image))


def test_module_names(extractor, model) -> None:
    listed = [info.path for info in model.list_modules()]
    assert set(extractor.get_module_names()) <= set(listed)


def test_hdf5_datasets(extractor, model, photographs, tmp_path) -> None:
    squares = np.stack([np.asarray(image.resize((300, 300))) for image in photographs])
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file["imgBrick"] = squares
    dataset = HDF5Dataset(
        hdf5_fp=str(tmp_path / "s.hdf5"), img_ds_key="imgBrick", backend="pt",
        transforms=extractor.get_transformations(),
    )  # fmt: skip
    batches = DataLoader(dataset=dataset, batch_size=2, backend="pt")
    expected = extractor.extract_features(batches=batches, module_name=LATE)
    rx.extract(model, LATE, str(tmp_path / "s.hdf5"), out=tmp_path / "f.h5")
    with rx.open_store(tmp_path / "f.h5") as store:
        assert deviation(store[LATE][:], expected) <= 1e-5


def test_save_features(ours, tmp_path) -> None:
    with rx.open_store(ours) as store:
        features = store[LATE][:]
    for form in ("npy", "pt", "txt", "mat"):
        rx.export_store(ours, tmp_path / form, format=form, modules=LATE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an array becomes a tensor
            save_features(features, out_path=str(tmp_path / "theirs"), file_format=form)
    a = {form: tmp_path / form / f"f.{LATE}.{form}" for form in ("npy", "pt", "txt", "mat")}
    b = {form: tmp_path / "theirs" / f"features.{form}" for form in a}
    assert np.array_equal(np.load(a["npy"]), np.load(b["npy"]))
    assert torch.equal(torch.load(a["pt"]), torch.load(b["pt"]))
    assert deviation(np.loadtxt(a["txt"]), np.loadtxt(b["txt"])) <= 1e-6
    with h5py.File(a["mat"]) as file:  # MATLAB 7.3, transposed as MATLAB has it
        assert np.array_equal(file["activations"][:].T, loadmat(b["mat"])["features"])


def test_centre_and_normalise(many, tmp_path) -> None:
    x, _, store = many
    for step, function in (("center", center_features), ("l2", normalize_features)):
        rx.transform(store, "x", steps=[step], out=tmp_path / f"{step}.h5")
        with rx.open_store(tmp_path / f"{step}.h5") as made:
            assert deviation(made["x"][:], function(x.copy())) <= 1e-5


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean"])
def test_rdms(many, metric: str) -> None:
    x, y, path = many
    with rx.open_store(path) as store:
        a, b = (rx.rsa.rdm(store[name], metric=metric) for name in "xy")
    expected = [compute_rdm(features, method=metric) for features in (x, y)]
    assert deviation(a.square(), expected[0]) <= 1e-5
    for method in ("spearman", "pearson"):
        found = rx.rsa.compare(a, b, method).value
        assert found == pytest.approx(correlate_rdms(*expected, correlation=method), abs=1e-5)


def test_cka(many) -> None:
    x, y, path = many
    with rx.open_store(path) as store:
        found = rx.rsa.compare(*(rx.rsa.kernel(store[name]) for name in "xy"), "cka").value
    expected = get_cka(backend="numpy", m=20, unbiased=True).compare(
        x.astype(np.float64), y.astype(np.float64)
    )
    assert found == pytest.approx(expected, abs=1e-5)


def test_keras_batches() -> None:
    model = rx.load_model("thingsvision/keras/MobileNet@random")
    extractor = get_extractor("MobileNet", source="keras", device="cpu", pretrained=False)
    extractor.model.set_weights([buffer.numpy() for buffer in model.network.buffers()])
    batch = model.noise()(2)
    expected = extractor.extract_batch(
        batch=batch.numpy(), module_name="conv_pw_3", flatten_acts=True
    )
    found = model.capture("conv_pw_3")(batch, Reduction(flatten=True))["conv_pw_3"]
    assert deviation(found, expected) <= 1e-5
