"""Stores and responses joined: the files written, which layer is named, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

import resmem_extract as rx
from resmem_extract.encoding import Responses, kfolds
from resmem_extract.errors import RequestError, WorkError
from resmem_extract.pipeline.encode_features import johnson_lindenstrauss_size
from resmem_extract.store import StoreWriter
from resmem_extract.types import ActivationSpec

N = 60
IDS = [f"{k:02d}.png" for k in range(N)]
SHAPES = {"conv1": (4, 3, 3), "conv2": (90,), "fc": (20,)}
DESIGN = [
    *("model", "module", "target", "roi", "split", "r", "r2", "ceiling", "r_normalised"),
    *("p", "p_fdr", "alpha"),
]


def write_store(path: Path, model: str, seed: int, order=range(N), columns=None) -> Path:
    rng = np.random.default_rng(seed)
    arrays = {name: rng.random((N, *shape), dtype=np.float32) for name, shape in SHAPES.items()}
    axes = ("image", "channel", "height", "width")
    specs = [ActivationSpec(n, n, s, axes[: len(s) + 1]) for n, s in SHAPES.items()]
    rows = list(order)
    with StoreWriter(path, specs, N) as writer:
        hashes = [f"{k:064x}" for k in rows]
        writer.append([IDS[k] for k in rows], hashes, {k: a[rows] for k, a in arrays.items()})
        label = [f"c{k % 6}" for k in rows]
        more = {name: [column[k] for k in rows] for name, column in (columns or {}).items()}
        writer.finish({"label": label, **more}, provenance={"model": model})
    return path


def activations(store: Path, module: str) -> np.ndarray:
    with rx.open_store(store) as opened:
        return opened[module].rows(IDS).reshape(N, -1).astype(float)


def from_layer(store: Path, module: str, rng, t: int = 5, snr: float = 4.0) -> np.ndarray:
    """Responses of targets that are linear in a module, and noise."""
    x = activations(store, module)
    signal = (x - x.mean(axis=0)) @ rng.standard_normal((x.shape[1], t))
    signal /= signal.std(axis=0)
    return signal + rng.standard_normal((N, t)) / np.sqrt(snr)


@pytest.fixture
def store(tmp_path) -> Path:
    return write_store(tmp_path / "net.h5", "net", 0)


@pytest.fixture
def responses(store, tmp_path, rng) -> Path:
    arrays = {"V1": from_layer(store, "conv1", rng), "IT": from_layer(store, "fc", rng)}
    np.savez(tmp_path / "r.npz", image_id=IDS, **arrays)
    return tmp_path / "r.npz"


def rows_of(folder: Path, name: str = "scores.csv") -> list[dict[str, str]]:
    with (folder / name).open() as stream:
        return list(csv.DictReader(stream))


def test_a_folder_with_scores_models_and_what_they_are_of(store, responses, tmp_path):
    told: list[str] = []
    out = tmp_path / "o"
    result = rx.encode(
        store, responses=responses, out=out, permutations=19, weights=True, tell=told.append
    )
    assert sorted(p.name for p in out.iterdir()) == [
        *("best.csv", "encode.json", "model.h5", "scores.csv")
    ]
    rows = rows_of(out)
    assert list(rows[0]) == DESIGN
    assert len(rows) == 3 * 10 * 6
    assert [row["split"] for row in rows[:6]] == ["0", "1", "2", "3", "4", "all"]
    for at in range(0, len(rows), 6):
        *folds, whole = rows[at : at + 6]
        assert float(whole["r"]) == pytest.approx(np.mean([float(f["r"]) for f in folds]), rel=1e-6)
        assert float(whole["r2"]) == pytest.approx(
            np.mean([float(f["r2"]) for f in folds]), rel=1e-5
        )
        assert whole["p"] and whole["p_fdr"] and not any(f["p"] for f in folds)
        assert whole["ceiling"] == whole["r_normalised"] == ""
        logs = [math.log(float(f["alpha"])) for f in folds]
        assert math.log(float(whole["alpha"])) == pytest.approx(np.mean(logs), abs=1e-5)
    assert [row["module"] for row in rows_of(out, "best.csv")] == ["conv1"] * 5 + ["fc"] * 5
    assert result.best.tolist() == [0] * 5 + [2] * 5
    assert told == ["no noise ceiling: images were measured once; give repeats, or ncsnr"]
    record = json.loads((out / "encode.json").read_text())
    assert record["modules"] == ["net:conv1", "net:conv2", "net:fc"]
    assert record["notes"] == told
    check_file(out / "model.h5", store, result)


def check_file(path: Path, store: Path, result) -> None:
    """Predictions are those of models made by hand, with the folds and penalties of the file."""
    with h5py.File(path) as file:
        ids = file["image_id"].asstr()[()].tolist()
        assert file["target"].asstr()[()].tolist() == list(result.targets)
        assert file["roi"].asstr()[5] == "IT"
        assert file.attrs["seed"] == 0
        fold, measured = file["fold"][()], file["measured"][()]
        made = file["models/net:conv1"]
        alpha, predicted = made["alpha"][()], made["predicted"][()]
        weights, intercept = made["weights"][()], made["intercept"][()]
        mean, alpha_of_all = made["feature_mean"][()], made["alpha_of_all"][()]
        provenance = json.loads(file["provenance"].asstr()[()])
    assert provenance["responses"]["file"] == "r.npz"
    x = activations(store, "conv1")[[IDS.index(image_id) for image_id in ids]]
    for t in (0, 7):
        for k in range(5):
            train, test = fold != k, fold == k
            model = Ridge(alpha=alpha[k, t]).fit(x[train], measured[train, t])
            np.testing.assert_allclose(predicted[test, t], model.predict(x[test]), rtol=1e-5)
            r = np.corrcoef(predicted[test, t], measured[test, t])[0, 1]
            assert result.scores[0].r[k, t] == pytest.approx(r)
        model = Ridge(alpha=alpha_of_all[t]).fit(x, measured[:, t])
        np.testing.assert_allclose(weights[:, t], model.coef_, rtol=1e-3, atol=1e-5)
        expected = model.predict(x)
        np.testing.assert_allclose(
            (x - mean) @ weights[:, t] + intercept[t], expected, rtol=1e-4, atol=1e-4
        )


def test_modules_know_their_store(store, responses, tmp_path):
    other = write_store(tmp_path / "other.h5", "other", 1)
    result = rx.encode([store, other], "fc", responses=responses)
    assert result.sources == {"net:fc": str(store), "other:fc": str(other)}


def test_order_of_files_has_no_influence(store, responses, tmp_path, rng):
    order = rng.permutation(N)
    other = write_store(tmp_path / "other.h5", "net", 0, order)
    arrays = dict(np.load(responses))
    again = rng.permutation(N)
    np.savez(tmp_path / "again.npz", **{key: array[again] for key, array in arrays.items()})
    first = rx.encode(store, "fc", responses=responses, permutations=9)
    second = rx.encode(other, "fc", responses=tmp_path / "again.npz", permutations=9)
    np.testing.assert_allclose(second.scores[0].r, first.scores[0].r, rtol=1e-6)
    np.testing.assert_array_equal(second.scores[0].p, first.scores[0].p)
    assert second.responses.ids == first.responses.ids


def test_the_same_request_is_answered_at_once_and_another_is_refused(store, responses, tmp_path):
    asked = {"modules": "fc", "responses": responses, "out": tmp_path / "o"}
    first = rx.encode(store, **asked)
    before = (tmp_path / "o" / "scores.csv").stat().st_mtime_ns
    again = rx.encode(store, **asked)
    assert again.already_complete
    np.testing.assert_array_equal(again.table, first.table)
    np.testing.assert_array_equal(again.best, first.best)
    np.testing.assert_array_equal(again.predicted["net:fc"], first.predicted["net:fc"])
    assert (tmp_path / "o" / "scores.csv").stat().st_mtime_ns == before
    with pytest.raises(RequestError, match=r"another request \(seed: 0 there, 1 ask.*--overwrite"):
        rx.encode(store, seed=1, **asked)
    rx.encode(store, seed=1, overwrite=True, **asked)
    assert json.loads((tmp_path / "o" / "encode.json").read_text())["options"]["seed"] == 1


@pytest.mark.needs("himalaya")
def test_a_full_disk_leaves_nothing(store, responses, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with (
        mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")),
        pytest.raises(WorkError, match=r"enc.scores.csv cannot be written: No space left"),
    ):
        rx.encode(store, responses=responses, out=tmp_path / "new" / "enc")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.needs("himalaya")
def test_a_partition_that_is_there_is_read(store, responses, tmp_path):
    asked = {
        "modules": ["conv1", "fc"], "responses": responses, "partition": True, "iterations": 4,
        "permutations": 0, "folds": 3, "inner": 2, "out": tmp_path / "o",
    }  # fmt: skip
    first, again = rx.encode(store, **asked), rx.encode(store, **asked)
    assert again.already_complete
    assert again.names == first.names
    assert again.partition[:2] == first.partition[:2]
    np.testing.assert_array_equal(again.partition[2].shared, first.partition[2].shared)
    assert list(again.scores[2].bands) == list(first.scores[2].bands) == ["net:conv1", "net:fc"]
    np.testing.assert_array_equal(again.scores[2].bands["net:fc"], first.scores[2].bands["net:fc"])


def test_an_option_of_another_method_is_refused(store, responses):
    with pytest.raises(RequestError, match="--components is of --method pls, not of ridge"):
        rx.encode(store, "fc", responses=responses, components=3)
    for method in ("pls", "linear"):
        expected = f"--alpha is of --method ridge or banded, not of {method}"
        with pytest.raises(RequestError, match=expected):
            rx.encode(store, "fc", responses=responses, method=method, alpha=[1.0])


def test_repeats_give_a_ceiling_and_are_averaged_or_kept(store, tmp_path, rng):
    trials = np.stack([from_layer(store, "fc", np.random.default_rng(1), snr=1e9)] * 4)
    trials += rng.standard_normal(trials.shape)
    np.savez(tmp_path / "r.npz", IT=trials, image_id=IDS)
    averaged = rx.encode(store, "fc", responses=tmp_path / "r.npz", alpha=[0.01])
    expected = math.sqrt(1 / (1 + 1 / 4))
    np.testing.assert_allclose(averaged.ceiling, expected, atol=0.1)
    np.testing.assert_allclose(averaged.normalised(averaged.table[0]), 1, atol=0.15)
    kept = rx.encode(store, "fc", responses=tmp_path / "r.npz", repeats="keep", permutations=9)
    assert len(kept.responses.ids) == 4 * N
    np.testing.assert_allclose(kept.ceiling, math.sqrt(1 / 2), atol=0.1)
    np.testing.assert_allclose(kept.scores[0].p, 0.1)
    of_image = kept.predicted["net:fc"].reshape(N, 4, -1)
    assert np.ptp(of_image, axis=1).max() < 1e-9  # repeats of an image are in one fold


def by_subjects(path, values, levels=(0, 0, 0)):
    """Write a line a subject and image, of `values` `[subjects, N, t]`."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image_id", "who", *"abcdef"[: values.shape[2]]])
        for subject, own, level in zip("xyz", values, levels, strict=True):
            writer.writerows([IDS[k], subject, *(own[k] + level)] for k in reversed(range(N)))
    return path


def test_leaving_one_subject_out(store, tmp_path, rng):
    shared = from_layer(store, "fc", rng, t=2)
    responses = by_subjects(tmp_path / "r.csv", shared + 0.3 * rng.standard_normal((3, N, 2)))
    told = []
    found = rx.encode(
        store, "fc", responses=responses, subjects="who", permutations=9, tell=told.append
    )
    assert found.folds == ("x", "y", "z")
    assert (found.table > 0.8).all()
    assert any("--folds 5 holds images out too" in line for line in told)
    who, predicted = found.responses.labels["who"], found.predicted["net:fc"]
    x = activations(store, "fc")[[IDS.index(image_id) for image_id in found.responses.ids]]
    k = found.folds.index("y")
    alpha = found.scores[0].alpha[k, 1]
    model = Ridge(alpha=alpha).fit(x[who != "y"], found.responses.values[who != "y", 1])
    np.testing.assert_allclose(predicted[who == "y", 1], model.predict(x[who == "y"]), rtol=1e-5)


def test_what_subjects_share_is_not_predicted_of_images_held_out(store, tmp_path, rng):
    chance = rng.standard_normal((N, 6))  # the same in all subjects, and of no module
    responses = by_subjects(tmp_path / "r.csv", chance + 0.3 * rng.standard_normal((3, N, 6)))
    told = []
    options = {"responses": responses, "subjects": "who", "tell": told.append}
    assert rx.encode(store, "fc", **options).table.mean() > 0.3
    told.clear()
    crossed = rx.encode(store, "fc", folds=3, **options)
    assert crossed.folds[:4] == ("x/0", "x/1", "x/2", "y/0")
    assert abs(crossed.table.mean()) < 0.15
    assert not any("holds images out" in line for line in told)


def test_the_ceiling_of_subjects_does_not_see_their_levels(store, tmp_path, rng):
    """Of one subject with the truth, r is the root of how subjects correlate."""
    values = rng.standard_normal((N, 6)) + 0.7 * rng.standard_normal((3, N, 6))
    plain, shifted = (
        rx.encode(
            store, "fc", responses=by_subjects(tmp_path / name, values, levels), subjects="who"
        )
        for name, levels in (("a.csv", (0, 0, 0)), ("b.csv", (0, 5, -7)))
    )
    np.testing.assert_allclose(shifted.ceiling, plain.ceiling, rtol=1e-9)
    expected = np.sqrt(
        [np.corrcoef(values[:, :, k])[np.triu_indices(3, 1)].mean() for k in range(6)]
    )
    np.testing.assert_allclose(plain.ceiling, expected, atol=0.03)


def test_groups_and_splits_are_columns(store, responses, tmp_path):
    by_group = rx.encode(store, "fc", responses=responses, groups="label", folds=3)
    assert by_group.folds == ("0", "1", "2")
    groups = by_group.responses.labels["label"]
    at = {name: set(by_group.predicted["net:fc"][groups == name, 0]) for name in set(groups)}
    assert all(len(values) == 10 for values in at.values())
    split = {"part": ["test" if k % 4 == 0 else "train" for k in range(N)]}
    other = write_store(tmp_path / "s.h5", "net", 0, columns=split)
    found = rx.encode(other, "fc", responses=responses, split="part")
    assert found.folds == ("test",)
    tested = np.isfinite(found.predicted["net:fc"][:, 0])
    ids = np.array(found.responses.ids)[tested]
    assert sorted(ids) == IDS[::4]


def test_a_rating_of_the_images_is_a_target(tmp_path, rng):
    plain = write_store(tmp_path / "plain.h5", "net", 0)
    rating = from_layer(plain, "fc", rng, t=1)[:, 0]
    store = write_store(tmp_path / "s.h5", "net", 0, columns={"rating": rating.tolist()})
    found = rx.encode(store, target="rating")
    assert found.targets == ("rating",)
    assert found.scores[found.best[0]].module == "fc"
    with pytest.raises(RequestError, match="no column 'ratings' of the images; it has rating"):
        rx.encode(store, target="ratings")
    with pytest.raises(RequestError, match="column 'label' holds 'c0'; expected numbers"):
        rx.encode(store, target="label")


def test_features_are_pooled_and_projected(store, responses):
    pooled = rx.encode(store, "conv1", responses=responses, pool="avg", method="linear")
    x = activations(store, "conv1").reshape(N, 4, 9).mean(axis=2)
    order = [IDS.index(image_id) for image_id in pooled.responses.ids]
    y = pooled.responses.values
    predicted = pooled.predicted["net:conv1"]
    fold = next(iter(kfolds(pooled.responses.ids)))
    model = LinearRegression().fit(x[order][fold.train], y[fold.train])
    np.testing.assert_allclose(predicted[fold.test], model.predict(x[order][fold.test]), atol=1e-5)
    told: list[str] = []
    plain = rx.encode(store, "conv2", responses=responses, project="auto", tell=told.append)
    size = johnson_lindenstrauss_size(N)
    assert f"net:conv2: 90 features are not projected; distances would take {size}" in told
    projected = rx.encode(store, "conv2", responses=responses, project=40)
    assert projected.table.shape == (1, 10)
    for size in (90, 91):  # the other modules of a study may have more
        whole = rx.encode(store, "conv2", responses=responses, project=size, tell=told.append)
        assert f"net:conv2: 90 features are not projected; they are no more than {size}" in told
        np.testing.assert_array_equal(whole.table, plain.table)


def test_bands_and_partition(store, responses, tmp_path):
    pytest.importorskip("himalaya")
    out = tmp_path / "o"
    found = rx.encode(
        store, ["conv1", "fc"], responses=responses, method="banded", iterations=10, out=out
    )
    assert found.scores[0].name == "net:conv1+fc"
    shares = {(r["target"], r["band"]): float(r["r2"]) for r in rows_of(out, "bands.csv")}
    for t, target in enumerate(found.targets):
        both = shares[target, "net:conv1"], shares[target, "net:fc"]
        assert sum(both) == pytest.approx(found.scores[0].mean_r2[t], abs=1e-5)
        own, other = both if target.startswith("V1") else both[::-1]
        assert own > other + 0.2
    with h5py.File(out / "model.h5") as file:
        weight = file["models/net:conv1+fc/bands/net:fc/weight"][()]
    assert weight.shape == (5, 10)
    assert weight[:, 5:].mean() > 0.8 > 0.3 > weight[:, :5].mean()
    parts = rx.encode(
        store,
        ["conv1", "fc"],
        responses=responses,
        partition=True,
        iterations=10,
        out=tmp_path / "p",
    )
    a, b, partition = parts.partition
    assert (a, b) == ("net:conv1", "net:fc")
    assert partition.unique_b[5:].min() > 0.3
    rows = rows_of(tmp_path / "p", "partition.csv")
    assert len(rows) == 10 * 6
    low, high = partition.intervals["unique_a"][5:].T
    # A layer that has nothing to do with the responses adds nothing.
    assert (low <= 0.03).all() and (high >= -0.03).all()


def test_missing_images_are_named_and_skipped_if_asked(store, responses, tmp_path):
    arrays = dict(np.load(responses))
    arrays["image_id"] = np.array(["other.png", *IDS[1:]])
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(RequestError, match=r"m.npz: responses to 1 image .*'other.png'"):
        rx.encode(store, responses=tmp_path / "m.npz", out=tmp_path / "o")
    assert not (tmp_path / "o").exists()
    told: list[str] = []
    found = rx.encode(store, "fc", responses=tmp_path / "m.npz", missing="skip", tell=told.append)
    assert len(found.responses.ids) == N - 1
    assert told[:2] == [
        "m.npz: 1 image without activations left out",
        "1 image of the store without responses left out",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"responses": None}, "give --responses FILE or --target COLUMN"),
        ({"target": "label"}, "one of the two"),
        ({"method": "rige"}, "method 'rige': should be 'ridge', 'banded', 'linear' or 'pls'"),
        ({"alpha": [-1.0]}, "expected positive numbers"),
        ({"partition": True}, "two sets of modules, got 0"),
        ({"groups": "label", "split": "label"}, "both say what the folds are"),
        ({"groups": "lable"}, "no column 'lable' .* there is label"),
        ({"folds": 50}, "50 folds of 60 images"),
        ({"pca": 500}, "500 principal components of 36 features and 48 training rows"),
        ({"modules": "fcc"}, "has no module 'fcc'; did you mean fc"),
        ({"memory": "much"}, "expected an amount such as 2GB"),
        ({"memory": "10kB"}, "all pairs of 60 images need about"),
        ({"weights": True, "method": "pls"}, "--weights are of ridge regression"),
        ({"partition": True, "method": "pls", "modules": ["fc", "conv1"]}, "not of pls"),
        ({"responses": "no.npz"}, "no.npz does not exist"),
        ({"permutation": 3}, "unknown option 'permutation'; did you mean permutations"),
    ],
)
def test_wrong_requests_are_refused_and_nothing_is_written(
    options, message, store, responses, tmp_path
):
    with pytest.raises(RequestError, match=message):
        rx.encode(store, **{"responses": responses, "out": tmp_path / "o", **options})
    assert not (tmp_path / "o").exists()


def test_responses_in_memory(store, rng):
    values = from_layer(store, "fc", rng)
    given = Responses(values, tuple(IDS), tuple("abcde"))
    found = rx.encode(store, "fc", responses=given, scale="zscore")
    assert (found.table > 0.6).all()


def test_the_layer_that_responses_were_made_of_is_named(store, rng):
    """200 targets at SNR 1; the score is what noise leaves of the score of the signal itself."""
    signal = from_layer(store, "fc", np.random.default_rng(7), t=200, snr=1e12)
    noisy = signal + rng.standard_normal(signal.shape)
    targets = tuple(str(k) for k in range(200))
    found = rx.encode(store, responses=Responses(noisy, tuple(IDS), targets), scale="zscore")
    assert (found.best == 2).mean() >= 0.95
    own = found.predicted["net:fc"]
    true = np.array([signal[IDS.index(image_id)] for image_id in found.responses.ids])
    number = kfolds(found.responses.ids).numbers
    of_signal = np.mean(
        [
            [np.corrcoef(own[number == k, t], true[number == k, t])[0, 1] for t in range(200)]
            for k in range(5)
        ]
    )
    # Noise as large as the signal leaves 1 / sqrt(2) of a correlation with it.
    assert found.table[2].mean() == pytest.approx(of_signal / math.sqrt(2), abs=0.02)


def test_code_of_the_page_runs(tmp_path, rng, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "encoding.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    names = ["features.layer1", "features.layer2"]
    specs = [ActivationSpec(name, name, (5,), ("image", "unit")) for name in names]
    with StoreWriter(tmp_path / "activations.h5", specs, N) as writer:
        arrays = {name: rng.random((N, 5), dtype=np.float32) for name in names}
        writer.append(IDS, [f"{k:064x}" for k in range(N)], arrays)
        writer.finish({}, provenance={"model": "resmem"})
    np.savez(tmp_path / "v1.npz", V1=rng.standard_normal((N, 3)), image_id=IDS)
    scope: dict[str, object] = {}
    exec(compile(block, "encoding.md", "exec"), scope)
    assert scope["result"].table.shape == (2, 3)
    assert (tmp_path / "v1" / "scores.csv").is_file()


def test_damaged_activations_are_not_used(store, responses, tmp_path):
    with h5py.File(store, "r+") as file:
        file["features/fc"][3, 5] += 1
    with pytest.raises(WorkError, match="fc"):
        rx.encode(store, "fc", responses=responses, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()
    assert rx.encode(store, "conv1", responses=responses).table.shape == (1, 10)
