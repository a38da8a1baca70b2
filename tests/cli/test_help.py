"""Help and documents: every command has an example, every option a line, and nothing is made up."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from commands import draw

import resmem_extract as rx
from resmem_extract import cli

ROOT = Path(__file__).parents[2]
PROGRAM = typer.main.get_command(cli.app)
COMMANDS = {
    name: command
    for group, found in sorted(PROGRAM.commands.items())
    for name, command in (
        [(f"{group} {sub}", c) for sub, c in found.commands.items()]
        if hasattr(found, "commands")
        else [(group, found)]
    )
}
"""All commands; those of a group under both words, `weights fetch`."""


def named(words: list[str]) -> tuple[str, list[str]]:
    """Split a typed line into the command's name and its arguments."""
    n = 2 if " ".join(words[:2]) in COMMANDS else 1
    return " ".join(words[:n]), words[n:]


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def lines_of_commands(document: Path) -> list[str]:
    """Return what a document tells users to type: indented lines and code in tables and text."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\\\n +", "", text)
    candidates = re.findall(r"^    (.+)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    found = [line.split("#")[0].strip() for line in candidates]
    return [line for line in found if re.match(r"(resmem-extract|extract) \S", line)]


def options(name: str) -> set[str]:
    both = (opt for p in COMMANDS[name].params for opt in (*p.opts, *p.secondary_opts))
    return {*both, "--help", "-h"}


def test_all_commands_are_there():
    expected = {"export", "extract", "info", "merge", "models", "modules", "run", "score", "split"}
    assert expected | {"verify"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example_and_describes_every_option(name, call):
    shown = call(*name.split(), "--help")
    assert shown.code == 0
    example = re.search(r"Example: (.*)", COMMANDS[name].help or "")
    assert example is not None
    words = [word for word in shlex.split(example[1]) if word != "resmem-extract"]
    assert named(words)[0] == name
    assert "Example: " in shown.out
    for parameter in COMMANDS[name].params:
        assert parameter.help, parameter.name
        for opt in parameter.opts:
            if opt.startswith("-"):
                assert opt in shown.out
    assert not re.search(r"^\W*--(?!help).*<\w+>", shown.out, re.MULTILINE)  # typer's own metavars


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse(name):
    example = re.search(r"Example: (.*)", COMMANDS[name].help or "")
    words = [word for word in shlex.split(example[1]) if word != "resmem-extract"]
    COMMANDS[name].make_context(name, named(words)[1])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_parse(document):
    for line in lines_of_commands(document):
        words = shlex.split(re.sub(r"[\[\]](?=--| |$)", "", line))
        words = words[words[0] == "resmem-extract" :]
        if words[0].startswith("-") or words == ["extract"]:  # --version; the bare name
            continue
        name, arguments = named(words)
        assert name in COMMANDS, line
        if "\N{HORIZONTAL ELLIPSIS}" not in line and "..." not in line:
            COMMANDS[name].make_context(name, arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_options_in_documents_exist(document):
    every = set().union(*map(options, COMMANDS)) | {"--version"}
    of_others = re.compile(
        r"^(#SBATCH|.*\bthingsvision [a-z]| *python benchmarks/).*$", re.MULTILINE
    )
    text = of_others.sub("", document.read_text())
    # Of get_weights.sh, pip, benchmarks.
    elsewhere = {
        "--cache", "--force-reinstall", "--mode", "--no-deps", "--patience", "--quick", "--section"
    }  # fmt: skip
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= every | elsewhere


def test_readme_code_runs(tmp_path, monkeypatch):
    for seed, name in enumerate(("x.jpg", "y.jpg")):
        draw(tmp_path / "photos" / name, seed)
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / "README.md", "python")
    assert found
    scope: dict[str, object] = {}
    for block in found:
        exec(compile(block, "README.md", "exec"), scope)
    assert scope["rows"].shape == (2, 512, 29, 29)
    assert scope["ids"].tolist() == ["x.jpg", "y.jpg"]
    scope = {}
    (block,) = blocks(ROOT / "docs" / "store.md", "python")
    exec(compile(block, "store.md", "exec"), scope)
    assert scope["rows"].shape == (2, 512, 29, 29)
    assert list(scope["ids"]) == ["x.jpg", "y.jpg"]


def test_code_of_features_runs(tmp_path, monkeypatch):
    for seed in range(4):
        draw(tmp_path / "photos" / f"{seed}.jpg", seed)
    monkeypatch.chdir(tmp_path)
    rx.extract("resmem", ["features.5.4", "fc7"], "photos", out="activations.h5")
    (block,) = blocks(ROOT / "docs" / "features.md", "python")
    scope: dict[str, object] = {}
    exec(compile(block, "features.md", "exec"), scope)
    assert scope["features"].shape == (4, 3)
