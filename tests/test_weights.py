"""Finding checkpoints: every place, every failure, and the memo of hashes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resmem_extract import weights
from resmem_extract.cache import cache_dir, remembered
from resmem_extract.errors import RequestError, WeightsError
from resmem_extract.models.resmem import RELEASED as RESMEM
from resmem_extract.weights import WeightsFile, file_sha256, find

RELEASED = b"the released weights"
OTHER = b"weights of one's own"

RECORD = WeightsFile(
    name="toynet",
    sha256=hashlib.sha256(RELEASED).hexdigest(),
    size=len(RELEASED),
    distribution="toynet-weights-for-tests",
    member="toynet_weights_for_tests/model.pt",
    licence="none",
    hint="run ./get_weights.sh",
    variable_names_file=True,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache, and nothing named in the environment."""
    monkeypatch.delenv("RESMEM_EXTRACT_WEIGHTS", raising=False)
    monkeypatch.setenv("RESMEM_EXTRACT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were really read, in order."""
    read: list[Path] = []
    original = weights.read_sha256

    def counted(path: Path) -> str:
        read.append(path)
        return original(path)

    monkeypatch.setattr(weights, "read_sha256", counted)
    return read


def put(path: Path, content: bytes = RELEASED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def install(site: Path, monkeypatch: pytest.MonkeyPatch, *, listed: bool) -> Path:
    """Install a distribution whose package must not be imported, with or without a RECORD."""
    package = site / "toynet_weights_for_tests"
    put(package / "__init__.py", b"raise RuntimeError('imported')")
    info = site / "toynet_weights_for_tests-1.0.dist-info"
    put(info / "METADATA", b"Metadata-Version: 2.1\nName: toynet-weights-for-tests\nVersion: 1.0\n")
    if listed:
        put(info / "RECORD", b"toynet_weights_for_tests/model.pt,,\n")
    monkeypatch.syspath_prepend(str(site))
    return put(package / "model.pt")


# --- where the cache is -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RESMEM_EXTRACT_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/resmem_extract"),
        ({"HOME": "/c"}, "/c/.cache/resmem_extract"),
        (
            {"RESMEM_EXTRACT_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"},
            "/c/.cache/resmem_extract",
        ),
        ({"RESMEM_EXTRACT_CACHE": "~/x", "HOME": "/c"}, "/c/x"),
    ],
)
def test_cache_dir(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RESMEM_EXTRACT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)


def test_no_home_directory_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESMEM_EXTRACT_CACHE", "~no_such_user_here/cache")
    with pytest.raises(WeightsError, match="set RESMEM_EXTRACT_CACHE"):
        cache_dir()


# --- the order of places ------------------------------------------------------------------------


def test_places_are_tried_in_the_documented_order(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explicit = put(tmp_path / "explicit.pt")
    keyed = put(tmp_path / "folder" / RECORD.filename)
    plain = put(tmp_path / "folder" / "model.pt")
    cached = put(cache / "weights" / RECORD.filename)
    installed = install(tmp_path / "site", monkeypatch, listed=True)
    monkeypatch.setenv("RESMEM_EXTRACT_WEIGHTS", str(tmp_path / "folder"))

    found = find(RECORD, explicit)
    assert (found.path, found.origin, found.sha256) == (explicit, "explicit", RECORD.sha256)
    for path, origin in [
        (keyed, "environment"),
        (plain, "environment"),
        (cached, "cache"),
        (installed, "distribution"),
    ]:
        found = find(RECORD)
        assert (found.path, found.origin, found.sha256) == (path, origin, RECORD.sha256)
        path.unlink()
    with pytest.raises(WeightsError, match="no weights of toynet"):
        find(RECORD)


def test_environment_may_name_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = put(tmp_path / "any name.bin")
    monkeypatch.setenv("RESMEM_EXTRACT_WEIGHTS", str(named))
    assert find(RECORD) == weights.LocatedWeights(named, RECORD.sha256, "environment")


@pytest.mark.parametrize("listed", [True, False])
def test_distribution_is_found_but_not_imported(
    listed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = install(tmp_path / "site", monkeypatch, listed=listed)
    assert find(RECORD) == weights.LocatedWeights(installed, RECORD.sha256, "distribution")
    assert "toynet_weights_for_tests" not in sys.modules


def test_filename_bears_the_hash() -> None:
    assert RECORD.filename == f"toynet-{RECORD.sha256[:8]}.pt"


@pytest.mark.parametrize("sha256", ["ab", "A" * 64, "0" * 65])
def test_record_refuses_what_is_no_hash(sha256: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        dataclasses.replace(RECORD, sha256=sha256)


# --- failures -----------------------------------------------------------------------------------


def test_missing_says_where_it_looked_and_what_to_run(cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        find(RECORD)
    message = str(caught.value)
    assert isinstance(caught.value, RequestError) and isinstance(caught.value, OSError)
    assert caught.value.exit_code == 2
    assert str(cache / "weights" / RECORD.filename) in message
    assert "toynet-weights-for-tests" in message
    assert message.endswith("run ./get_weights.sh")
    assert "\n" not in message


def test_missing_explicit_file_is_not_looked_for_elsewhere(tmp_path: Path, cache: Path) -> None:
    put(cache / "weights" / RECORD.filename)
    with pytest.raises(WeightsError, match=r"no weights file .*absent\.pt"):
        find(RECORD, tmp_path / "absent.pt")
    with pytest.raises(WeightsError, match="no weights file"):
        find(RECORD, tmp_path)  # a folder


def test_environment_that_names_nothing_is_an_error(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache / "weights" / RECORD.filename)
    monkeypatch.setenv("RESMEM_EXTRACT_WEIGHTS", str(tmp_path / "absent"))
    with pytest.raises(WeightsError, match=r"RESMEM_EXTRACT_WEIGHTS names .* does not exist"):
        find(RECORD)


def test_environment_folder_without_the_file_is_passed_over(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESMEM_EXTRACT_WEIGHTS", str(tmp_path))
    cached = put(cache / "weights" / RECORD.filename)
    assert find(RECORD).path == cached


def test_corrupt_file_names_both_hashes_and_the_remedy(cache: Path) -> None:
    corrupt = put(cache / "weights" / RECORD.filename, RELEASED[:-1])
    with pytest.raises(WeightsError) as caught:
        find(RECORD)
    message = str(caught.value)
    for part in (
        str(corrupt),
        RECORD.sha256[:12],
        hashlib.sha256(RELEASED[:-1]).hexdigest()[:12],
        f"({len(RELEASED)} bytes)",
        f"({len(RELEASED) - 1} bytes)",
        "delete it, then run ./get_weights.sh",
    ):
        assert part in message
    assert "\n" not in message


def test_corrupt_distribution_is_to_be_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(install(tmp_path / "site", monkeypatch, listed=True), OTHER)
    with pytest.raises(WeightsError, match="--force-reinstall --no-deps toynet-weights-for-tests"):
        find(RECORD)


def test_unreadable_file_is_a_weights_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions do not bind root, who may run the tests.
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(weights, "read_sha256", refuse)
    with pytest.raises(WeightsError, match=r"cannot read the weights file .*: Permission denied"):
        find(RECORD, put(tmp_path / "w.pt"))


# --- weights of one's own -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["explicit", "environment"])
def test_own_weights_need_verify_false(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = put(tmp_path / "own.pt", OTHER)
    explicit = own if how == "explicit" else None
    if how == "environment":
        monkeypatch.setenv("RESMEM_EXTRACT_WEIGHTS", str(own))
    with pytest.raises(WeightsError, match="pass verify=False"):
        find(RECORD, explicit)
    found = find(RECORD, explicit, verify=False)
    assert found == weights.LocatedWeights(own, hashlib.sha256(OTHER).hexdigest(), how)


def test_cache_is_checked_even_without_verify(cache: Path) -> None:
    put(cache / "weights" / RECORD.filename, OTHER)
    with pytest.raises(WeightsError, match="not the released weights file"):
        find(RECORD, verify=False)


# --- the memo -----------------------------------------------------------------------------------


def test_hash_is_computed_once(tmp_path: Path, digests: list[Path]) -> None:
    path = put(tmp_path / "w.pt")
    link = tmp_path / "link.pt"
    link.symlink_to(path)
    assert file_sha256(path) == file_sha256(path) == file_sha256(link) == RECORD.sha256
    assert digests == [path]


def test_hash_is_remembered_by_the_next_process(tmp_path: Path, digests: list[Path]) -> None:
    path = put(tmp_path / "w.pt")
    code = "import sys; from resmem_extract.weights import file_sha256; file_sha256(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert file_sha256(path) == RECORD.sha256
    assert digests == []


@pytest.mark.parametrize("change", ["time", "size", "content of equal size"])
def test_changed_file_is_hashed_again(change: str, tmp_path: Path, digests: list[Path]) -> None:
    path = put(tmp_path / "w.pt")
    os.utime(path, ns=(10**18, 10**18))
    file_sha256(path)
    content = {"time": RELEASED, "size": RELEASED + b"!"}.get(change, RELEASED[::-1])
    path.write_bytes(content)
    later = 10**18 if change == "size" else 10**18 + 1
    os.utime(path, ns=(later, later))
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()
    assert digests == [path, path]


def test_large_file_is_read_to_its_end(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000 + b"tail"
    assert file_sha256(put(tmp_path / "large", content)) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"key": 1}', b'{"key": null}', b'{"key": {}}'],
)
def test_damaged_memo_is_ignored_and_replaced(damage: bytes, cache: Path) -> None:
    put(cache / "hashes.json", damage)
    assert remembered("key", lambda: "value") == "value"
    assert json.loads((cache / "hashes.json").read_bytes()) == {"key": "value"}


def test_memo_keeps_what_others_wrote_meanwhile(cache: Path) -> None:
    def slow() -> str:
        remembered("other", lambda: "theirs")
        return "mine"

    assert remembered("key", slow) == "mine"
    assert json.loads((cache / "hashes.json").read_bytes()) == {"other": "theirs", "key": "mine"}


def test_memo_is_bounded_and_forgets_the_oldest(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resmem_extract.cache._REMEMBER_AT_MOST", 2)
    for key in "abc":
        remembered(key, key.upper)
    assert json.loads((cache / "hashes.json").read_bytes()) == {"b": "B", "c": "C"}


def test_memo_leaves_no_scratch_files(cache: Path) -> None:
    remembered("key", lambda: "value")
    assert [p.name for p in cache.iterdir()] == ["hashes.json"]


def test_failed_move_leaves_no_scratch_files(cache: Path) -> None:
    (cache / "hashes.json").mkdir(parents=True)
    assert remembered("key", lambda: "value") == "value"
    assert [p.name for p in cache.iterdir()] == ["hashes.json"]


@pytest.mark.parametrize("broken", ["under a file", "no such user"])
def test_unwritable_cache_costs_only_the_hash(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digests: list[Path]
) -> None:
    blocked = put(tmp_path / "file") / "cache" if broken == "under a file" else "~no_such_user/x"
    monkeypatch.setenv("RESMEM_EXTRACT_CACHE", str(blocked))
    path = put(tmp_path / "w.pt")
    for _ in range(2):
        assert find(RECORD, path).sha256 == RECORD.sha256
    assert digests == [path, path]


def test_failed_computation_is_not_remembered(cache: Path) -> None:
    def fail() -> str:
        raise KeyError("no")

    with pytest.raises(KeyError):
        remembered("key", fail)
    assert remembered("key", lambda: "value") == "value"


def test_processes_that_write_at_once_leave_a_whole_memo(cache: Path) -> None:
    code = (
        "import sys; from resmem_extract.cache import remembered\n"
        "for i in range(30): remembered(sys.argv[1] + str(i), lambda: 'v' * 1000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    memo = json.loads((cache / "hashes.json").read_bytes())
    assert set(memo.values()) == {"v" * 1000}
    assert [p.name for p in cache.iterdir()] == ["hashes.json"]


# --- the real thing -----------------------------------------------------------------------------


def test_the_installed_resmem_has_the_released_weights() -> None:
    imported_before = "resmem" in sys.modules
    found = find(RESMEM)
    known = "8e4b8ab0ac338909add68a674e9bd4c1602350731abe7f97bc060dc159706a53"
    assert (found.origin, found.sha256, RESMEM.sha256) == ("distribution", known, known)
    assert found.path.stat().st_size == RESMEM.size
    assert ("resmem" in sys.modules) == imported_before


def test_get_weights_fetches_the_file_that_is_looked_for() -> None:
    script = (Path(__file__).parents[1] / "get_weights.sh").read_text(encoding="utf-8")
    for fact in (RESMEM.sha256, str(RESMEM.size), RESMEM.filename, RESMEM.member):
        assert fact in script


def test_the_memo_honours_the_umask(cache: Path) -> None:
    before = os.umask(0o027)
    try:
        remembered("key", lambda: "value")
    finally:
        os.umask(before)
    assert (cache / "hashes.json").stat().st_mode & 0o777 == 0o640
