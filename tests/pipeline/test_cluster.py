"""A Ray cluster of two machines on this one, whose workers are killed."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_model import MODULES, assert_same, draw_many, small

import resmem_extract as rx
from resmem_extract.errors import ImageError, MissingExtraError, RequestError
from resmem_extract.pipeline.work import WorkFolder

ray = pytest.importorskip("ray")

N = 1500
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own processes, pipes and deprecations
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    # Workers import the model's class by name.
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    machines = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    machines.add_node(num_cpus=1)
    machines.wait_for_nodes()
    ray.init(address=machines.address, log_to_driver=False)
    yield machines
    ray.shutdown()
    machines.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_many(tmp_path_factory.mktemp("cluster") / "in", N)


@pytest.fixture(scope="module")
def undisturbed(pictures: Path) -> Path:
    out = pictures.parent / "undisturbed.h5"
    rx.extract(small(), MODULES, pictures, out=out, batch_size=2, threads=1)
    return out


def holders(out: Path) -> dict[str, int]:
    """Return the process at work on each shard, as the locks name it."""
    found = {}
    for path in WorkFolder(out).path.glob("shard-*.lock"):
        if pid := re.match(r"process (\d+) on", path.read_text()):
            found[path.name] = int(pid[1])
    return found


def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path, cluster, pictures, undisturbed):
    out = tmp_path / "f.h5"
    told: list[str] = []
    seen: list[int] = []
    killed: list[int] = []

    def progress(done: int, total: int) -> None:
        assert total == N
        seen.append(done)
        if done > N // 4 and not killed and (there := holders(out)):
            killed.append(there[min(there)])
            os.kill(killed[0], signal.SIGKILL)

    (summary,) = rx.extract_on_ray(
        small(), MODULES, pictures, out=out, batch_size=2, threads=1,
        progress=progress, tell=told.append,
    )  # fmt: skip
    assert killed
    assert any("a worker was lost" in line for line in told)
    assert any(line.startswith("3 shards for 2 workers") for line in told)
    assert (summary.images, summary.missing, seen[-1]) == (N, 0, N)
    assert_same(out, undisturbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5"]


def test_again_it_is_complete(cluster, pictures, undisturbed):
    (summary,) = rx.extract_on_ray(small(), MODULES, pictures, out=undisturbed)
    assert (summary.already_complete, summary.images) == (True, N)


def test_several_networks_and_more_workers_than_machines(tmp_path, cluster, pictures):
    images = sorted(pictures.rglob("*.png"))[:40]
    models = [small(0, "one"), small(1, "two")]
    options = {"batch_size": 4, "threads": 1}
    alone = rx.extract_many(models, MODULES, images, out=tmp_path / "alone", **options)
    summaries = rx.extract_on_ray(
        models, MODULES, images, out=tmp_path / "ray", n_workers=2, **options
    )
    assert [summary.computed for summary in summaries] == [40, 40]
    for one, other in zip(summaries, alone, strict=True):
        assert_same(one.out, other.out)


def test_a_workers_error_is_the_drivers(tmp_path, cluster, pictures):
    images = sorted(pictures.rglob("*.png"))[:20]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    with pytest.raises(ImageError, match=r"bad\.png: the file is empty"):
        rx.extract_on_ray(small(), MODULES, [*images, bad], out=tmp_path / "f.h5", batch_size=2)
    with pytest.raises(RequestError, match="no module 'conf': did you mean conv"):
        rx.extract_on_ray(small(), "conf", images, out=tmp_path / "g.h5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": "0/2"}, "--shard and --cluster both share out the images"),
        ({"restart": True}, "--restart with --cluster: remove"),
        ({"overwrite": True}, "--overwrite with --cluster: remove"),
        ({"batch": 1}, "unknown option 'batch'; did you mean batch_size"),
    ],
)
def test_wrong_requests(tmp_path, pictures, options, message):
    with pytest.raises(RequestError, match=message):
        rx.extract_on_ray(small(), MODULES, pictures, out=tmp_path / "f.h5", **options)


def test_without_ray_it_says_how_to_install_it(tmp_path, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'resmem-extract\[ray\]'"):
        rx.extract_on_ray(small(), MODULES, pictures, out=tmp_path / "f.h5")
