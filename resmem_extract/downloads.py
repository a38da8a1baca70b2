"""Download checkpoints into the user cache: resumed where they stopped, verified, then moved.

pooch and torch.hub begin a broken download anew, and torch.hub keeps files under names that
collide; so this is our own. A file that is being fetched lies beside its final place under a
hidden name that tells which version of it the server has, and appears under its name whole.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ._version import __version__
from .errors import MissingWeightsError, WorkError
from .weights import (
    LocatedWeights,
    WeightsFile,
    file_sha256,
    find,
    how_to_get,
    weights_folder,
)

__all__ = ["OFFLINE_VARIABLE", "DownloadProgress", "fetch", "is_offline"]

OFFLINE_VARIABLE = "RESMEM_EXTRACT_OFFLINE"

DownloadProgress = Callable[[str, int, int], None]
"""Told the name of a file, how many of its bytes are here, and how many there are (0: unknown)."""

_BLOCK = 1 << 20
_TIMEOUT = 30.0
_FAILURES = (OSError, HTTPException)  # URLError, timeouts and broken connections among them


def is_offline() -> bool:
    """Tell whether the user has forbidden downloads (also in the way of the Hugging Face hub)."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
        for name in (OFFLINE_VARIABLE, "HF_HUB_OFFLINE")
    )


def fetch(record: WeightsFile, progress: DownloadProgress | None = None) -> LocatedWeights:
    """Find a checkpoint on this machine, or download it into the user cache.

    Parameters
    ----------
    record : WeightsFile
    progress : callable, optional
        Told how far a download is.

    Returns
    -------
    LocatedWeights

    Raises
    ------
    MissingWeightsError
        If it is not here and cannot be downloaded: there is no address, no connection, or the
        user is offline. The message names the file to bring, and where to put it.
    WeightsError
        If what is here is another file.
    WorkError
        If the download is not the released file, or cannot be written.
    """
    try:
        return find(record)
    except MissingWeightsError:
        if not record.address or record.hint:
            raise
    if is_offline():
        raise MissingWeightsError(
            f"no weights of {record.name} on this machine, and {OFFLINE_VARIABLE} or "
            f"HF_HUB_OFFLINE is set; {how_to_get(record)}"
        )
    folder = weights_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / ".lock"):
            with contextlib.suppress(MissingWeightsError):
                return find(record)  # another process has fetched it meanwhile
            path = _download(record, folder, progress)
    except HTTPError as error:
        error.close()  # it holds the connection
        raise MissingWeightsError(
            f"no weights of {record.name}: {error.url} answers {error.code} {error.reason}; "
            f"{how_to_get(record)}"
        ) from error
    except _FAILURES as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        if isinstance(error, OSError) and error.filename:
            raise WorkError(f"{error.filename} cannot be written: {reason}") from error
        raise MissingWeightsError(
            f"no weights of {record.name}: {record.address} cannot be reached ({reason}); "
            f"{how_to_get(record)}"
        ) from error
    return LocatedWeights(path, file_sha256(path), "cache")


def _download(record: WeightsFile, folder: Path, progress: DownloadProgress | None) -> Path:
    """Download, resuming what is there of the very same file, verify, and move."""
    redirects = _Redirects()
    opener = build_opener(redirects)
    with opener.open(_request(record), timeout=_TIMEOUT) as answer:
        total = _length(answer)
        linked = redirects.linked_etag
        expected = record.sha256 or (linked if _is_sha256(linked) else "")
        partial = folder / f".{record.filename}.{_version_of(answer):08x}.partial"
        for other in folder.glob(f".{record.filename}.????????.partial"):
            if other != partial:  # of a version that is no longer published
                other.unlink(missing_ok=True)
        done = partial.stat().st_size if partial.exists() else 0
        if not 0 < done < total:
            partial.unlink(missing_ok=True)
            done = 0
            _append(answer, partial, 0, total, record, progress)
    if done:
        with opener.open(_request(record, done), timeout=_TIMEOUT) as answer:
            if answer.status != 206:  # the server cannot resume
                partial.unlink()
                done = 0
            _append(answer, partial, done, total, record, progress)
    size = partial.stat().st_size
    if total and size != total:
        raise ConnectionError(f"the connection ended after {size:,} of {total:,} bytes")
    found = file_sha256(partial)
    if not found.startswith(expected):
        partial.unlink()
        raise WorkError(
            f"{record.address} is not the released weights file of {record.name}: expected "
            f"SHA-256 {expected[:12]}, found {found[:12]} ({size:,} bytes); try again"
        )
    path = folder / record.filename_with(found)
    partial.replace(path)
    return path


def _append(
    answer: Any,
    partial: Path,
    done: int,
    total: int,
    record: WeightsFile,
    progress: DownloadProgress | None,
) -> None:
    name = record.filename
    with partial.open("ab") as stream:
        while block := answer.read(_BLOCK):
            stream.write(block)
            done += len(block)
            if progress:
                progress(name, done, total)
        stream.flush()
        os.fsync(stream.fileno())


def _request(record: WeightsFile, start: int = 0) -> Request:
    headers = {"User-Agent": f"resmem-extract/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = Request(record.address, headers=headers)
    if record.repository and (token := os.environ.get("HF_TOKEN")):
        # The hub redirects to other hosts, which are not to see the token.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


class _Redirects(HTTPRedirectHandler):
    """Keeps what the hub says of a file only where it redirects: its SHA-256."""

    linked_etag = ""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        self.linked_etag = headers.get("X-Linked-Etag", "").strip('"')
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def _length(answer: Any) -> int:
    return int(answer.headers.get("Content-Length") or 0)


def _version_of(answer: Any) -> int:
    """Return a number that changes with the file on the server."""
    headers = answer.headers
    told = headers.get("ETag") or headers.get("Last-Modified") or ""
    return zlib.crc32(f"{told} {_length(answer)}".encode())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time fetch files, where the file system has locks."""
    with path.open("a") as stream:
        with contextlib.suppress(ImportError, OSError):  # not on Windows, not on every NFS
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
