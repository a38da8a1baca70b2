"""Fetching checkpoints from a real server: whole, resumed, verified; and being offline."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from resmem_extract.downloads import fetch
from resmem_extract.errors import MissingWeightsError, WeightsError, WorkError
from resmem_extract.weights import WeightsFile, find, present

CONTENT = bytes(range(256)) * 12_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """Serves one content under every path, with resuming, and notes what it was asked."""

    content: bytes = CONTENT
    break_after: int | None = None
    """Close the connection after so many bytes, once."""
    resumable: bool = True
    linked: bool = False
    """Answer as the Hugging Face hub: redirect, and tell the hash on the way."""
    url: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                server.asked.append((self.path, self.headers["Range"]))
                if server.linked and "/resolve/" in self.path:
                    self.send_response(302)
                    self.send_header("Location", "/elsewhere")
                    digest = hashlib.sha256(server.content).hexdigest()
                    self.send_header("X-Linked-Etag", f'"{digest}"')
                    self.end_headers()
                    return
                if self.path.startswith("/absent"):
                    self.send_error(404)
                    return
                asked = self.headers["Range"] if server.resumable else None
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(len(server.content) - start))
                self.send_header("ETag", f'"{zlib_of(server.content)}"')
                self.end_headers()
                if server.break_after is None:
                    self.wfile.write(server.content[start:])
                    return
                self.wfile.write(server.content[start : start + server.break_after])
                server.break_after = None
                self.close_connection = True

        return Handler


def zlib_of(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    serving = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), serving.handler())
    serving.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield serving
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RESMEM_EXTRACT_WEIGHTS", "RESMEM_EXTRACT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RESMEM_EXTRACT_CACHE", str(tmp_path / "cache"))
    for name in ("TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path / "cache" / "weights"


def record(server: Server, sha256: str = SHA256[:8], file: str = "net.pth") -> WeightsFile:
    return WeightsFile("some/net@v1", sha256, url=f"{server.url}/models/{file}")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_file_is_fetched_once_under_a_name_with_its_hash(server: Server, cache: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = fetch(record(server), lambda *now: told.append(now))
    assert found.path == cache / f"some--net--v1-{SHA256[:8]}.pth"
    assert (found.sha256, found.path.read_bytes()) == (SHA256, CONTENT)
    assert told[-1] == (found.path.name, len(CONTENT), len(CONTENT))
    assert fetch(record(server)).path == present(record(server)) == found.path
    assert len(server.asked) == 1
    assert files(cache) == [found.path.name]


def test_torch_hubs_own_name_is_kept_and_its_cache_is_used(
    server: Server, cache: Path, tmp_path: Path
) -> None:
    hashed = record(server, file=f"net-{SHA256[:8]}.pth")
    assert fetch(hashed).path.name == f"net-{SHA256[:8]}.pth"
    fetch(hashed).path.unlink()
    there = tmp_path / "TORCH_HOME" / "hub" / "checkpoints" / f"net-{SHA256[:8]}.pth"
    there.parent.mkdir(parents=True)
    there.write_bytes(CONTENT)
    found = fetch(hashed)
    assert (found.path, found.origin) == (there, "torch.hub")
    there.write_bytes(CONTENT[1:])
    with pytest.raises(WeightsError, match="is not the released weights file"):
        fetch(hashed)


def test_two_files_of_one_name_are_kept_apart(server: Server, cache: Path) -> None:
    first = fetch(replace(record(server, "", "resnet50.pth"), name="ssl/vicreg"))
    server.content = CONTENT[::-1]
    second = fetch(replace(record(server, "", "resnet50.pth"), name="ssl/barlow"))
    digests = [hashlib.sha256(data).hexdigest()[:8] for data in (CONTENT, CONTENT[::-1])]
    assert files(cache) == [f"ssl--barlow-{digests[1]}.pth", f"ssl--vicreg-{digests[0]}.pth"]
    assert [first.path.read_bytes(), second.path.read_bytes()] == [CONTENT, CONTENT[::-1]]
    first.path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=f"expected SHA-256 {digests[0]}"):
        find(replace(record(server, "", "resnet50.pth"), name="ssl/vicreg"))


@pytest.mark.parametrize("resumable", [True, False])
def test_a_broken_download_is_resumed(server: Server, cache: Path, resumable: bool) -> None:
    server.break_after, server.resumable = 2_000_000, resumable
    with pytest.raises(MissingWeightsError, match="the connection ended after 2,000,000"):
        fetch(record(server))
    assert [name[-8:] for name in files(cache)] == [".partial"]
    told: list[int] = []
    assert fetch(record(server), lambda _n, done, _t: told.append(done)).sha256 == SHA256
    assert server.asked[-1][1] == "bytes=2000000-"
    assert (min(told) > 2_000_000) == resumable
    assert len(files(cache)) == 1


def test_a_file_that_changed_meanwhile_begins_anew(server: Server, cache: Path) -> None:
    server.break_after = 1000
    with pytest.raises(MissingWeightsError):
        fetch(record(server, ""))
    server.content = CONTENT[::-1]
    assert fetch(record(server, "")).path.read_bytes() == CONTENT[::-1]
    assert all(asked is None for _, asked in server.asked)
    assert len(files(cache)) == 1


def test_another_file_than_the_released_one_is_refused(server: Server, cache: Path) -> None:
    with pytest.raises(WorkError) as raised:
        fetch(record(server, "0123abcd"))
    assert f"expected SHA-256 0123abcd, found {SHA256[:12]}" in str(raised.value)
    assert files(cache) == []


def test_the_hubs_hash_is_checked_and_its_cache_is_used(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.linked = True
    hub = WeightsFile("timm/net@a1", repository="timm/net.a1", member="model.safetensors")
    found = fetch(hub)
    assert found.path.name == f"timm--net--a1-{SHA256[:8]}.safetensors"
    assert server.asked[0][0] == "/timm/net.a1/resolve/main/model.safetensors"
    found.path.unlink()
    there = tmp_path / "HF_HOME" / "hub" / "models--timm--net.a1"
    (there / "refs").mkdir(parents=True)
    (there / "refs" / "main").write_text("abc")
    (there / "snapshots" / "abc").mkdir(parents=True)
    (there / "snapshots" / "abc" / "model.safetensors").write_bytes(CONTENT)
    assert find(hub).origin == "hub"


def test_offline_names_the_file_and_its_place(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESMEM_EXTRACT_OFFLINE", "1")
    with pytest.raises(MissingWeightsError) as raised:
        fetch(record(server))
    assert str(raised.value) == (
        "no weights of some/net@v1 on this machine, and RESMEM_EXTRACT_OFFLINE or HF_HUB_OFFLINE "
        "is set; run `resmem-extract weights fetch some/net@v1` where there is internet, or bring "
        f"{server.url}/models/net.pth to {cache}/some--net--v1-{SHA256[:8]}.pth"
    )
    assert server.asked == []
    cache.mkdir(parents=True)
    (cache / f"some--net--v1-{SHA256[:8]}.pth").write_bytes(CONTENT)
    assert fetch(record(server)).sha256 == SHA256


def test_a_brought_file_needs_no_hash_in_its_name(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "some--net--v1.pth").write_bytes(CONTENT)
    unhashed = record(server, "")
    assert find(unhashed).sha256 == SHA256
    (cache / "some--net--v1-01234567.pth").write_bytes(CONTENT)
    with pytest.raises(WeightsError, match=r"several weights of some/net@v1 .*; keep one"):
        find(unhashed)


@pytest.mark.parametrize(
    ("url", "reason"),
    [("http://127.0.0.1:9/net.pth", "cannot be reached"), ("{}/absent.pth", "answers 404")],
)
def test_unreachable(server: Server, url: str, reason: str) -> None:
    with pytest.raises(MissingWeightsError) as raised:
        fetch(WeightsFile("net", SHA256, url=url.format(server.url)))
    assert reason in str(raised.value) and "or bring http" in str(raised.value)
    assert "\n" not in str(raised.value)
