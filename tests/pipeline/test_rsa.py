"""Stores and references joined: the files written, repeats of a request, and real data."""

from __future__ import annotations

import csv
import json
from dataclasses import astuple
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest

import resmem_extract as rx
from resmem_extract.errors import RequestError, StoreError, UnknownModuleError, WorkError
from resmem_extract.store import StoreWriter, read_rdms
from resmem_extract.types import ActivationSpec

N = 12
IDS = [f"{k:02d}.png" for k in range(N)]
DESIGN = [
    *("a", "b", "metric", "compare", "n_images", "value", "ci_low", "ci_high", "p", "p_fdr"),
    *("ceiling_low", "ceiling_high"),
]


def write_store(path: Path, model: str, seed: int, modules=("conv1", "fc"), n: int = N) -> Path:
    rng = np.random.default_rng(seed)
    shapes = {"conv1": (4, 5, 5), "fc": (20,), "output": (1,)}
    specs = [
        ActivationSpec(name, name, shapes[name], ("image", "c", "h", "w")[: len(shapes[name]) + 1])
        for name in modules
    ]
    with StoreWriter(path, specs, n) as writer:
        arrays = {s.path: rng.random((n, *s.shape), dtype=np.float32) for s in specs}
        writer.append(IDS[:n], [f"{k:064x}" for k in range(n)], arrays)
        writer.finish({"label": ["a", "b"] * (n // 2)}, provenance={"model": model})
    return path


@pytest.fixture
def store(tmp_path) -> Path:
    return write_store(tmp_path / "net.h5", "net", 0)


@pytest.fixture
def reference(tmp_path, rng) -> Path:
    features = rng.random((3, N, 15))
    rdms = [rx.rsa.rdm(x, ids=IDS).square() for x in features]
    np.savez(tmp_path / "it.npz", IT=np.stack(rdms), image_id=IDS)
    return tmp_path / "it.npz"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "rsa.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_a_folder_with_the_table_the_rdms_and_what_they_are_of(store, reference, tmp_path):
    told: list[str] = []
    result = rx.compare_stores(
        [store],
        references=[str(reference)],
        out=tmp_path / "rsa",
        bootstrap=20,
        permutations=20,
        metric=["correlation", "euclidean"],
        tell=told.append,
    )
    out = tmp_path / "rsa"
    names = sorted(path.name for path in out.iterdir())
    assert names == ["differences.csv", "rdms.h5", "rsa.csv", "rsa.json"]
    rows = rows_of(out)
    assert list(rows[0]) == DESIGN
    assert [(r["a"], r["b"], r["metric"]) for r in rows[:3]] == [
        ("net:conv1", "IT", "correlation"),
        ("net:fc", "IT", "correlation"),
        ("net:conv1", "net:fc", "correlation"),
    ]
    assert len(rows) == 6
    assert all(row["ci_low"] and row["p_fdr"] for row in rows)
    assert [bool(row["ceiling_low"]) for row in rows] == [True, True, False] * 2
    stored = {(rdm.name, rdm.metric): rdm for rdm in read_rdms(out / "rdms.h5")}
    assert set(stored) == {
        *((f"net:{m}", metric) for m in ("conv1", "fc") for metric in ("correlation", "euclidean")),
        ("IT", ""),
    }
    assert float(rows[0]["value"]) == pytest.approx(
        rx.rsa.compare(stored["net:conv1", "correlation"], stored["IT", ""]).value, rel=1e-6
    )
    record = json.loads((out / "rsa.json").read_text())
    assert record["modules"] == ["net:conv1", "net:fc"]
    assert record["notes"] == told[1:] == result.table.notes
    assert told[0] == (
        "comparing 2 modules with 1 reference and with each other: 20 bootstrap samples, "
        "20 permutations"
    )
    assert [entity.name for entity in result.models] == ["net:conv1", "net:fc"]
    assert result.columns["label"]["01.png"] == "b"


def assert_same(first, again) -> None:
    """Hold a result that was read from its folder against the one that was written."""
    for own, theirs in (
        (first.table.rows, again.table.rows),
        (first.table.differences, again.table.differences),
        (first.table.sampled, again.table.sampled),
    ):
        assert len(own) == len(theirs)
        for a, b in zip(own, theirs, strict=True):
            for cell, there in zip(astuple(a), astuple(b), strict=True):
                same = cell if isinstance(cell, str) else pytest.approx(cell, 1e-6, nan_ok=True)
                assert there == same
    assert (again.table.notes, again.columns) == (first.table.notes, first.columns)
    for own, theirs in zip(
        (*first.models, *first.references), (*again.models, *again.references), strict=True
    ):
        assert own.name == theirs.name
    if not first.table.sampled:
        rdms = again.models[0].rdms["correlation"]
        np.testing.assert_array_equal(
            rdms.dissimilarities, first.models[0].rdms["correlation"].dissimilarities
        )


def test_a_single_store_need_not_be_a_list(store):
    alone, listed = (rx.compare_stores(given).table for given in (str(store), [store]))
    assert [row.value for row in alone.rows] == [row.value for row in listed.rows]


def test_what_is_asked_twice_is_done_once(store):
    result = rx.compare_stores([store], metric=["cosine", "cosine"], compare=["spearman"] * 2)
    assert len(result.table.rows) == len(rx.compare_stores([store], metric="cosine").table.rows)


def test_what_can_show_little_is_said(store, reference):
    told: list[str] = []
    rx.compare_stores([store], "fc", permutations=9, tell=told.append)
    assert "nothing to compare: one module, and no --reference; its RDM is written" in told
    assert "9 permutations: p cannot be below 0.1; give --permutations 1000" in told
    with pytest.raises(RequestError, match="--bootstrap 1: one sample has no interval; give 1000"):
        rx.compare_stores([store], bootstrap=1)


def test_an_rdm_of_a_module_is_no_reference_beside_that_module(store, tmp_path):
    rx.compare_stores([store], out=tmp_path / "first")
    with pytest.raises(RequestError, match="net:conv1 is both a module of a store and a reference"):
        rx.compare_stores([store], references=[str(tmp_path / "first" / "rdms.h5")])


def test_the_same_request_is_answered_at_once_and_another_is_refused(store, reference, tmp_path):
    asked = {"references": [str(reference)], "out": tmp_path / "rsa"}
    first = rx.compare_stores([store], **asked, bootstrap=10)
    before = (tmp_path / "rsa" / "rsa.csv").stat()
    again = rx.compare_stores([store], **asked, bootstrap=10)
    assert again.already_complete
    assert_same(first, again)
    assert (tmp_path / "rsa" / "rsa.csv").stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(RequestError, match=r"compare: .*spearman.* there, .*pearson.*--overw"):
        rx.compare_stores([store], compare="pearson", bootstrap=10, **asked)
    rx.compare_stores([store], compare="pearson", overwrite=True, **asked)
    assert rows_of(tmp_path / "rsa")[0]["compare"] == "pearson"


def test_a_result_is_replaced_whole_or_not_at_all(store, reference, tmp_path):
    out = tmp_path / "rsa"
    rx.compare_stores(store, references=[str(reference)], out=out, bootstrap=20)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "differences.csv" in before
    for place in (out, tmp_path / "new" / "rsa"):
        with (
            mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")),
            pytest.raises(WorkError, match=r"rsa.rsa.csv cannot be written: No space left"),
        ):
            rx.compare_stores(store, compare="pearson", out=place, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (tmp_path / "new").exists()
    rx.compare_stores(store, compare="cka", out=out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["rsa.csv", "rsa.json"]
    assert rows_of(out)[0]["compare"] == "cka"


def test_several_networks_and_patterns_of_modules(store, tmp_path):
    other = write_store(tmp_path / "other.h5", "other/net", 1, ("fc",), n=N - 2)
    result = rx.compare_stores([store, other], ["*"])
    assert [entity.name for entity in result.models] == ["net:conv1", "net:fc", "other/net:fc"]
    assert [row.n_images for row in result.table.rows] == [12, 10, 10]
    result = rx.compare_stores([store, other], ["net:fc", "other/net:fc", "fc"])
    assert [entity.name for entity in result.models] == ["net:fc", "other/net:fc"]


def test_modules_know_their_store(store, tmp_path):
    """Two stores of one network have the same name in tables, and no common order of modules."""
    more = write_store(tmp_path / "more.h5", "net", 1, modules=("output",))
    models = rx.compare_stores([more, store], ["net:fc", "output"], metric="euclidean").models
    assert [model.source for model in models] == [str(store), str(more)]


def test_features_are_compared_with_features(store, tmp_path, rng):
    np.savez(tmp_path / "v.npz", V1=rng.random((N, 9)), image_id=IDS)
    result = rx.compare_stores([store], references=[str(tmp_path / "v.npz")], compare="cka")
    with rx.open_store(store) as opened:
        expected = rx.rsa.compare(
            rx.rsa.kernel(opened["fc"]),
            rx.rsa.kernel(np.load(tmp_path / "v.npz")["V1"], ids=IDS),
            "cka",
        )
    (found,) = (row for row in result.table.rows if row.a == "net:fc")
    assert found.value == pytest.approx(expected.value, abs=1e-9)
    assert found.metric == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "corelation"}, "did you mean correlation"),
        ({"compare": "spearmen"}, "did you mean spearman"),
        ({"compare": ["spearman", "cka"]}, "cka compares features, and IT is an RDM; use"),
        ({"compare": "cka", "metric": "cosine"}, "--metric cosine: cka compares features, not"),
        ({"bootstrap": -1}, "bootstrap -1: should be greater than or equal to 0"),
        ({"memory": "much"}, "expected an amount such as 2GB"),
        ({"boostrap": 10}, "unknown option 'boostrap'; did you mean bootstrap"),
        ({"modules": "fcc"}, "has no module 'fcc'; did you mean fc"),
        ({"references": ["no.npz"]}, "no.npz does not exist"),
    ],
)
def test_wrong_requests_are_refused_and_nothing_is_written(
    options, message, store, reference, tmp_path
):
    asked = {"references": [str(reference)], "out": tmp_path / "rsa", **options}
    with pytest.raises(RequestError, match=message):
        rx.compare_stores([store], **asked)
    assert not (tmp_path / "rsa").exists()


def test_modules_and_references_of_one_name_are_refused(store, reference, tmp_path):
    again = write_store(tmp_path / "again.h5", "net", 2)
    with pytest.raises(RequestError, match=r"net:conv1 is both in .*net\.h5 and in .*again"):
        rx.compare_stores([store, again])
    with pytest.raises(RequestError, match=r"two references are named 'it\.IT'; give each once"):
        rx.compare_stores([store], references=[str(reference), str(reference)])
    other = reference.with_name("monkey.npz")
    other.write_bytes(reference.read_bytes())
    both = rx.compare_stores([store], references=[str(reference), f"{other}:IT"])
    assert [entity.name for entity in both.references] == ["it.IT", "monkey.IT"]
    with pytest.raises(UnknownModuleError):
        rx.compare_stores([store], ["net:nothing"])
    with pytest.raises(StoreError, match="does not exist"):
        rx.compare_stores([tmp_path / "no.h5"])


def test_one_unit_under_correlation_names_the_module(tmp_path):
    store = write_store(tmp_path / "s.h5", "resmem", 0, ("output",))
    with pytest.raises(RequestError, match="resmem:output has one unit"):
        rx.compare_stores([store])


@pytest.mark.slow
def test_resmem_and_human_it(kriegeskorte92, tmp_path):
    """Numbers made with rsatoolbox on the activations of PyPI's resmem."""
    modules = ["features.avgpool", "features.layer2.4", "conv1"]
    rx.extract("resmem", modules, kriegeskorte92.images, out=tmp_path / "r.h5")
    references = [f"{kriegeskorte92.rdms}:{name}" for name in ("human_IT", "human_IT_subjects")]
    result = rx.compare_stores(
        [tmp_path / "r.h5"], references=references, compare=["spearman", "tau-a", "pearson"]
    )
    found = {(r.a, r.b, r.compare): r for r in result.table.rows}
    for module, method, value in (
        ("features.avgpool", "spearman", 0.274),
        ("features.avgpool", "tau-a", 0.186),
        ("features.avgpool", "pearson", 0.352),
        ("features.layer2.4", "spearman", 0.121),
        ("conv1", "spearman", 0.069),
    ):
        row = found[f"resmem:{module}", "human_IT", method]
        assert row.value == pytest.approx(value, abs=0.002)
        assert row.n_images == 92
    of_subjects = found["resmem:features.avgpool", "human_IT_subjects", "spearman"]
    assert 0 < of_subjects.value < of_subjects.ceiling_low < of_subjects.ceiling_high


@pytest.fixture
def many(tmp_path, rng) -> Path:
    """A store and a reference of 130 images, ten of them in one alone."""
    spec = ActivationSpec("fc", "fc", (20,), ("image", "unit"))
    ids = [f"{k:03d}.png" for k in range(125)]
    values = rng.random((125, 20), dtype=np.float32)
    with StoreWriter(tmp_path / "many.h5", [spec], 125) as writer:
        writer.append(ids, [f"{k:064x}" for k in range(125)], {"fc": values})
        writer.finish(provenance={"model": "net"})
    it = values[None, 5:] + rng.random((3, 120, 20))
    it = np.concatenate([it, rng.random((3, 5, 20))], axis=1)
    np.savez(tmp_path / "it.npz", IT=it, image_id=[*ids[5:], *"abcde"])
    return tmp_path / "many.h5"


def test_a_sample_of_pairs_is_near_all_pairs(many, tmp_path):
    told: list[str] = []
    asked = {"references": [str(tmp_path / "it.npz")], "metric": ["correlation", "euclidean"]}
    result = rx.compare_stores([many], **asked, pairs=5000, out=tmp_path / "o", tell=told.append)
    assert {model.source for model in result.models} == {str(many)}
    whole = rx.compare_stores([many], **asked)
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "pairs.csv",
        "rsa.csv",
        "rsa.json",
    ]
    with (tmp_path / "o" / "pairs.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    for line, row, all_of_it in zip(lines, result.table.rows, whole.table.rows, strict=True):
        assert (line["a"], line["b"], line["metric"]) == (row.a, row.b, all_of_it.metric)
        assert (line["n_images"], line["n_pairs"]) == ("120", "5000")
        assert abs(row.value - all_of_it.value) < 4 * float(line["standard_error"])
        assert row.ceiling_low == pytest.approx(all_of_it.ceiling_low, abs=0.05)
    assert "net:fc has 125 images, IT has 125: compared on the 120 that both have" in told
    again = rx.compare_stores([many], **asked, pairs=5000, out=tmp_path / "o")
    assert again.already_complete
    assert_same(result, again)
    with pytest.raises(RequestError, match="--pairs and --bootstrap or --permutations"):
        rx.compare_stores([many], **asked, pairs=5000, bootstrap=10)
    with pytest.raises(RequestError, match="cka needs all pairs of images"):
        rx.compare_stores([many], pairs=5000, compare="cka")


def test_damaged_activations_are_not_compared(store, reference, tmp_path):
    with h5py.File(store, "r+") as file:
        file["features/fc"][3, 2] += 1
    with pytest.raises(WorkError, match="damaged: /features/fc, rows 0 to"):
        rx.compare_stores([store], references=[str(reference)], out=tmp_path / "rsa")
    assert not (tmp_path / "rsa").exists()
    assert rx.compare_stores([store], "conv1", references=[str(reference)]).table.rows


def test_a_result_of_features_alone_is_complete_without_rdms(store, tmp_path):
    first = rx.compare_stores([store], out=tmp_path / "rsa", compare=["cka"])
    assert not first.already_complete
    assert sorted(path.name for path in (tmp_path / "rsa").iterdir()) == ["rsa.csv", "rsa.json"]
    assert rx.compare_stores([store], out=tmp_path / "rsa", compare=["cka"]).already_complete
