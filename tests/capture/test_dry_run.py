from __future__ import annotations

import copy

import pytest
import torch
from small_networks import TwoHeads, convolution, images, plain_hooks
from torch import nn

from resmem_extract.capture import list_modules, prepare
from resmem_extract.errors import RequestError, UnknownModuleError
from resmem_extract.module_path import ModulePaths

CPU = torch.device("cpu")


def capture_of(network: nn.Module, *texts: str, make_input=images, engine: str = "auto"):
    torch.manual_seed(0)
    addresses = [a for text in texts for a in ModulePaths(network.eval()).resolve(text)]
    return prepare(network, addresses, make_input, device=CPU, engine=engine)


# --- batch axis ----------------------------------------------------------------------------------


class SequenceFirst(nn.Module):
    """A transformer block over `[tokens, batch, dim]`, as torch's own has it by default."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.tokens, self.dim = tokens, dim
        self.patches = nn.Linear(4 * 36, tokens * dim)
        self.block = nn.TransformerEncoderLayer(dim, nhead=1, dim_feedforward=8)

    def forward(self, x):
        tokens = self.patches(x.flatten(1)).unflatten(1, (self.tokens, self.dim))
        return self.block(tokens.transpose(0, 1))[0]


@pytest.mark.parametrize("tokens", [2, 3, 5])
@pytest.mark.parametrize("dim", [2, 3, 5])
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_sequence_first_block(tokens: int, dim: int, engine: str) -> None:
    torch.manual_seed(0)
    network = SequenceFirst(tokens, dim)
    capture = capture_of(network, "block", "output", engine=engine)
    assert [c.batch_axis for c in capture.captured] == [1, 0]
    assert [c.shape for c in capture.captured] == [(tokens, dim), (dim,)]
    # As many images as tokens, and as in the probes: the shape alone could not tell.
    for n in {tokens, 2, 3}:
        with torch.inference_mode():
            each = [network.block(t) for t in tokens_of(network, images(n))]
        found = capture(images(n))
        assert found["block"].shape == (n, tokens, dim)
        for image, expected in zip(found["block"], each, strict=True):
            assert abs(image - expected[:, 0].numpy()).max() < 1e-5


def tokens_of(network: SequenceFirst, x: torch.Tensor) -> list[torch.Tensor]:
    """One image's tokens at a time, `[tokens, 1, dim]`."""
    tokens = network.patches(x.flatten(1)).unflatten(1, (network.tokens, network.dim))
    return [image.unsqueeze(1) for image in tokens]


def test_output_without_a_batch_axis_is_refused() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.Identity()

        def forward(self, x):
            return x + self.pool(x.mean(0))

    with pytest.raises(RequestError) as raised:
        capture_of(Mean(), "pool")
    assert str(raised.value) == (
        "pool: no axis follows the number of images (shape (4, 6, 6) for 2 images, (4, 6, 6) "
        "for 3); choose another module"
    )


# --- calls ---------------------------------------------------------------------------------------


class Repeats(nn.Module):
    """`relu` runs three times, `never` never, `nothing` returns no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = convolution()
        self.relu = nn.ReLU()
        self.never = nn.ReLU()
        self.nothing = Nothing()

    def forward(self, x):
        x = self.relu(self.conv(x)) - 1
        x = self.relu(x) - 1
        self.nothing(x)
        return self.relu(x).flatten(1)


class Nothing(nn.Module):
    def forward(self, _x):
        return None


def test_last_call_is_taken_and_the_user_is_told() -> None:
    capture = capture_of(Repeats(), "relu", "conv")
    relu, conv = capture.captured
    assert (relu.path, relu.links, relu.calls, relu.target.call) == ("relu@2", ("relu",), 3, 2)
    assert (conv.path, conv.links, conv.calls, conv.target.call) == ("conv", (), 1, 0)
    assert capture.notes == ("relu is called 3 times; took the last, @2",)


def test_each_call_is_another_tensor() -> None:
    network = Repeats()
    capture = capture_of(network, "relu@0", "relu@1", "relu@2")
    assert capture.notes == ()
    found = capture(images(3))
    expected = {f"{t.module}@{t.call}": v for t, v in plain_hooks(network, images(3)).items()}
    for path in ("relu@0", "relu@1", "relu@2"):
        assert abs(found[path] - expected[path].numpy()).max() < 1e-6
    assert found["relu@0"].max() > found["relu@1"].max() > found["relu@2"].max() >= 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("never", "module 'never' exists, but the forward pass never calls it"),
        ("nothing", "module 'nothing' returns no tensor"),
        ("relu@3", "'relu@3': the forward pass calls relu 3 times; expected @0 to @2"),
        ("conv@1", "'conv@1': the forward pass calls conv 1 time; expected @0 to @0"),
        ("conv[0]", "'conv[0]': no such part; the output of conv is a single tensor"),
        ("ne*", "'ne*' matches only modules that the forward pass never calls (never)"),
        ("n*", "'n*' matches only modules that give no activations (never, nothing)"),
    ],
)
def test_what_cannot_be_captured(text: str, message: str) -> None:
    with pytest.raises(UnknownModuleError) as raised:
        capture_of(Repeats(), text)
    assert str(raised.value) == message


def test_glob_leaves_out_what_gives_no_activations() -> None:
    capture = capture_of(Repeats(), "*")
    assert [c.path for c in capture.captured] == ["conv", "relu@2", "output"]
    assert capture.notes == (
        "relu is called 3 times; took the last, @2",
        "*: left out 2 without activations (never, nothing)",
    )


def test_glob_with_a_call_leaves_out_modules_without_it() -> None:
    capture = capture_of(Repeats(), "*@1")
    assert [(c.path, c.links) for c in capture.captured] == [("relu@1", ())]
    assert capture.notes == ("*@1: left out 4 without activations (conv, never, nothing, ...)",)


def test_equal_activations_are_merged_under_all_their_names() -> None:
    network = nn.ModuleDict({"trunk": nn.Sequential(convolution(), nn.ReLU())})
    network.forward = lambda x: network["trunk"](x)  # type: ignore[method-assign]
    capture = capture_of(network, "trunk.0.0", "trunk.0.0@0", "trunk.**", "trunk.1@0")
    first, *rest = capture.captured
    assert (first.path, first.requested, first.links) == (
        "trunk.0.0",
        "trunk.0.0",
        ("trunk.0.0@0",),
    )
    assert [c.path for c in rest] == ["trunk.0", "trunk.0.1", "trunk.1"]
    assert rest[-1].links == ("trunk.1@0",)
    assert rest[-1].requested == "trunk.**"


# --- tuples and dicts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "links", "note"),
    [
        ("output", "output[both][0]", ("output",), "output returns several parts; took output[both]"
         "[0]"),
        ("output[both]", "output[both][0]", ("output[both]",), "output returns several parts; took "
         "output[both][0]"),
        ("output[both][1]", "output[both][1]", (), None),
        ("output[stem]", "output[stem]", (), None),
    ],
)  # fmt: skip
def test_parts_of_an_output(text: str, path: str, links: tuple, note: str | None) -> None:
    network = TwoHeads()
    capture = capture_of(network, text)
    (captured,) = capture.captured
    assert (captured.path, captured.links, captured.index_path) == (path, links, path)
    assert capture.notes == ((note,) if note else ())
    expected = plain_hooks(network, images(3))[captured.target]
    assert abs(capture(images(3))[path] - expected.numpy()).max() < 1e-6


def test_unknown_part_names_those_there_are() -> None:
    with pytest.raises(UnknownModuleError) as raised:
        capture_of(TwoHeads(), "output[2]")
    assert str(raised.value) == (
        "'output[2]': no such part; the output of output is [both][0], [both][1], [stem]"
    )


def test_keys_that_are_digits() -> None:
    class Pyramid(nn.Module):
        def forward(self, x):
            return {"0": x * 1, "1": x * 2, 2: (x * 3, x * 4)}

    capture = capture_of(Pyramid(), "output[1]", "output['0']", "output[2][1]")
    assert [c.target.keys for c in capture.captured] == [("1",), ("0",), (2, 1)]
    assert capture.notes == ()
    found = capture(images(2))
    for path, factor in (("output[1]", 2), ("output[0]", 1), ("output[2][1]", 4)):
        assert (found[path] == images(2).numpy() * factor).all()


# --- the listing ---------------------------------------------------------------------------------


def test_listing_on_meta_equals_a_real_run() -> None:
    for network in (Repeats().eval(), TwoHeads().eval(), SequenceFirst(3, 2).eval()):
        addresses = ModulePaths(network).addresses()
        listed = list_modules(
            copy.deepcopy(network).to("meta"), addresses, lambda n: images(n).to("meta")
        )
        assert listed == list_modules(network, addresses, images)
        seen = plain_hooks(network, images(7))
        for info in listed:
            calls = [t for t in seen if t.module == info.path]
            if not calls:
                assert (info.shape, info.bytes) == (None, 0)
                assert info.calls == (info.path == "nothing")
                continue
            assert info.calls == len({t.call for t in calls})
            last = seen[next(t for t in calls if t.call == info.calls - 1)]
            assert last.numel() * 4 == 7 * info.bytes
            assert sorted(last.shape) == sorted((7, *info.shape))


def test_listing_of_resmem(resmem_paths) -> None:
    from resmem_extract import load_model

    rows = {info.path: info for info in load_model("resmem", structure_only=True).list_modules()}
    assert list(rows) == list(resmem_paths.names)

    def row(path: str) -> tuple:
        info = rows[path]
        return info.index_path, info.type, info.shape, info.calls, info.bytes

    assert row("features.layer2.4") == ("features.5.4", "Bottleneck", (512, 29, 29), 1, 1_722_368)
    assert row("features.layer1.0.relu") == (
        *("features.4.0.6", "ReLU", (256, 57, 57), 3),
        256 * 57 * 57 * 4,
    )
    assert row("conv1") == ("conv1", "Conv2d", (48, 55, 55), 1, 48 * 55 * 55 * 4)
    assert row("features.fc") == ("features.9", "Linear", (1000,), 1, 4000)
    assert row("drp7") == ("drp7", "Dropout", None, 0, 0)
    assert row("output") == ("output", "ResMem", (1,), 1, 4)
    assert [path for path, info in rows.items() if info.calls == 0] == ["drp7"]


def test_listing_of_some_modules() -> None:
    from resmem_extract import load_model

    model = load_model("resmem", structure_only=True)
    listed = [info.path for info in model.list_modules("features.layer2.4.conv*")]
    assert listed == [f"features.layer2.4.conv{i}" for i in (1, 2, 3)]


def test_listing_of_a_call_is_that_of_its_capture() -> None:
    from resmem_extract import load_model

    model = load_model("resmem", structure_only=True)
    (first,) = model.list_modules("features.4.0.6@0")
    assert (first.path, first.index_path) == ("features.layer1.0.relu@0", "features.4.0.6@0")
    assert (first.shape, first.calls, first.bytes) == ((64, 57, 57), 3, 64 * 57 * 57 * 4)
    assert [info.path for info in model.list_modules("conv1@0")] == ["conv1"]
    with pytest.raises(UnknownModuleError, match=r"3 times; expected @0 to @2"):
        model.list_modules("features.layer1.0.relu@3")
    with pytest.raises(UnknownModuleError, match="no such part"):
        model.list_modules("conv1[1]")
