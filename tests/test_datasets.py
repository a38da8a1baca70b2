"""Public data: found where it is said to be, downloaded otherwise, and what is in it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from scipy.spatial.distance import squareform

from resmem_extract import datasets
from resmem_extract.errors import RequestError, WorkError

N = 5


def test_the_real_data(kriegeskorte92):
    assert len(kriegeskorte92.ids) == 92
    assert kriegeskorte92.ids[0] == "01.png"
    assert kriegeskorte92.human_IT_subjects.subjects == ("BE", "KO", "SN", "TI")
    assert kriegeskorte92.human_IT_subjects.ids == kriegeskorte92.ids
    assert {p.name for p in kriegeskorte92.images.iterdir()} == set(kriegeskorte92.ids)
    assert kriegeskorte92.columns["category"][0] == "human bodypart"
    assert kriegeskorte92.columns["human"].count("1") == 24


@pytest.fixture
def supplement(tmp_path, rng) -> dict:
    """Two small MATLAB files with the structure of the paper's supplement."""
    folder = tmp_path / "served"
    folder.mkdir()
    images = rng.integers(0, 256, (N, 6, 6, 3), dtype=np.uint8)
    stimuli = np.zeros((1, N), dtype=[(name, object) for name in (*datasets._COLUMNS, "image")])
    for k in range(N):
        stimuli[0, k] = ("fruit", 0, 0, 0, 1, images[k])
    means = {name: rng.random(N * (N - 1) // 2) for name in ("mIT_674neurons", "hIT_4")}
    records = np.zeros((1, 2), dtype=[("name", object), ("RDM", object)])
    for k, (name, values) in enumerate(means.items()):
        records[0, k] = (name, values)
    scipy.io.savemat(
        folder / datasets._PICTURES, {"stimuli_92objs": stimuli, "RDMs_mIT_hIT_fig1": records}
    )
    sessions = np.zeros((1, 2, 2), dtype=[("name", object), ("RDM", object)])
    squares = {}
    for s, subject in enumerate(("TI", "BE")):
        for k in range(2):
            squares[subject, k] = squareform(rng.random(N * (N - 1) // 2))
            sessions[0, s, k] = (f"hIT | {subject} | Session: {k + 1}", squares[subject, k])
    scipy.io.savemat(folder / datasets._SUBJECTS, {"RDMs": sessions})
    return {"folder": folder, "images": images, "means": means, "squares": squares}


@contextlib.contextmanager
def serving(folder: Path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, supplement):
    """Let the files come from a server here, with their own hashes, into a cache of the test's."""
    monkeypatch.delenv(datasets.DATA_VARIABLE, raising=False)
    monkeypatch.setenv("RESMEM_EXTRACT_CACHE", str(tmp_path / "cache"))
    hashes = {
        name: hashlib.sha256((supplement["folder"] / name).read_bytes()).hexdigest()
        for name in datasets._SHA256
    }
    monkeypatch.setattr(datasets, "_SHA256", hashes)
    with serving(supplement["folder"]) as url:
        monkeypatch.setattr(datasets, "_URL", url)
        yield tmp_path / "cache"


@pytest.mark.needs("pooch")
def test_downloaded_once_and_unpacked(elsewhere, supplement, monkeypatch):
    data = datasets.kriegeskorte92()
    assert data.ids == ("01.png", "02.png", "03.png", "04.png", "05.png")
    pixels = np.asarray(Image.open(data.images / "03.png"))
    np.testing.assert_array_equal(pixels, supplement["images"][2])
    np.testing.assert_allclose(data.human_IT.dissimilarities, supplement["means"]["hIT_4"])
    np.testing.assert_allclose(
        data.monkey_IT.dissimilarities, supplement["means"]["mIT_674neurons"]
    )
    squares = supplement["squares"]
    assert data.human_IT_subjects.subjects == ("BE", "TI")
    expected = (squares["BE", 0] + squares["BE", 1]) / 2
    np.testing.assert_allclose(data.human_IT_subjects.square()[0], expected)
    assert data.columns["category"] == ("fruit",) * N
    assert [path.name for path in elsewhere.iterdir()] == ["kriegeskorte92"]
    monkeypatch.setattr(datasets, "_URL", "http://127.0.0.1:9/")  # nothing is fetched again
    assert datasets.kriegeskorte92().ids == data.ids


@pytest.mark.needs("pooch")
def test_another_file_under_the_url_is_refused(elsewhere, supplement):
    with (supplement["folder"] / datasets._SUBJECTS).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(WorkError, match="cannot be downloaded"):
        datasets.kriegeskorte92()
    assert not list(elsewhere.iterdir())


@pytest.mark.needs("pooch")
def test_without_internet_the_variable_is_named(elsewhere, monkeypatch):
    monkeypatch.setattr(datasets, "_URL", "http://127.0.0.1:9/")
    with pytest.raises(WorkError, match="set RESMEM_EXTRACT_DATA to a folder") as caught:
        datasets.kriegeskorte92()
    assert str(caught.value).isprintable()


def test_a_folder_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(datasets.DATA_VARIABLE, str(tmp_path))
    with pytest.raises(RequestError, match=r"rdms\.npz does not exist; unset RESMEM_EXTRACT_DATA"):
        datasets.kriegeskorte92()
