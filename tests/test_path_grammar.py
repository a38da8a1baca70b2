from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resmem_extract.path_grammar import glob_pattern, same_module, split_suffix


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("relu", ("relu", "")),
        ("relu@0", ("relu", "@0")),
        ("a.b@12[1]", ("a.b", "@12[1]")),
        ("a[0][key]", ("a", "[0][key]")),
        ("a@k", ("a@k", "")),
        ("a[0]@1", ("a[0]", "@1")),
        ("", ("", "")),
    ],
)
def test_suffix_is_split_off(text: str, parts: tuple[str, str]) -> None:
    assert split_suffix(text) == parts


PATH, INDEX = "features.layer2.4.relu@0", "features.5.4.6@0"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (PATH, True),
        (INDEX, True),
        ("features.layer2.4.6@0", True),
        ("features.5.4.relu@0", True),
        ("features.5.4.relu", False),
        ("features.5.4.relu@1", False),
        ("features.5.5.relu@0", False),
        ("features.5.4@0", False),
        ("0.5.4.relu@0", False),
        ("features.5.4.relu.x@0", False),
        ("", False),
    ],
)
def test_same_module(text: str, same: bool) -> None:
    assert same_module(text, PATH, INDEX) is same


NAMES = ["conv2", "a.conv2", "a.b.conv2", "a.conv22", "a.b", "a", "layer3.0.conv1", "layer3.10"]


@pytest.mark.parametrize(
    ("glob", "matched"),
    [
        ("*", ["conv2", "a"]),
        ("a.*", ["a.conv2", "a.conv22", "a.b"]),
        ("*.conv2", ["a.conv2"]),
        ("**.conv2", ["conv2", "a.conv2", "a.b.conv2"]),
        ("a.**", ["a.conv2", "a.b.conv2", "a.conv22", "a.b"]),
        ("a.**.conv2", ["a.conv2", "a.b.conv2"]),
        ("a.conv2*", ["a.conv2", "a.conv22"]),
        ("layer3.1*", ["layer3.10"]),
        ("layer3.*.c*1", ["layer3.0.conv1"]),
        ("**", NAMES),
        ("a+*", []),
        ("aXconv2*", []),
    ],
)
def test_globs(glob: str, matched: list[str]) -> None:
    assert [name for name in NAMES if glob_pattern(glob).fullmatch(name)] == matched


def matches(globs: list[str], names: list[str]) -> bool:
    """Tell, by recursion over segments, what `glob_pattern` tells by a regular expression."""
    if not globs:
        return not names
    first, *rest = globs
    if first == "**":
        at_least = 0 if rest else 1
        return any(matches(rest, names[n:]) for n in range(at_least, len(names) + 1))
    segment = "".join("[^.]*" if c == "*" else re.escape(c) for c in first)
    return bool(names and re.fullmatch(segment, names[0])) and matches(rest, names[1:])


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["a", "b", "ab", "*", "**", "a*", "*b"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "b", "ab", "aab"]), min_size=1, max_size=5),
)
def test_globs_match_segment_by_segment(globs: list[str], names: list[str]) -> None:
    found = glob_pattern(".".join(globs)).fullmatch(".".join(names)) is not None
    assert found == matches(globs, names)
