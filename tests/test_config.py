"""Run configurations: what is accepted, and how each mistake is answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from resmem_extract.config import (
    ExtractOptions,
    ExtractRun,
    RsaOptions,
    RsaRun,
    RunOptions,
    ScoreRun,
    read_config,
    validated,
)
from resmem_extract.errors import RequestError

CONFIGS = Path(__file__).parents[1] / "configs"


def refusal(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError) as caught:
        read_config(path)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith((str(path), f"cannot read the configuration {path}"))
    return message.removeprefix(f"{path}: ")


def test_shipped_configurations_are_what_they_say():
    features = read_config(CONFIGS / "resmem_features.yaml")
    assert isinstance(features, ExtractRun)
    assert (features.module, features.out) == (["features.5.4"], Path("activations.h5"))
    assert features.options() == ExtractOptions().model_dump()
    layers = read_config(CONFIGS / "resmem_layers.yaml")
    assert isinstance(layers, ExtractRun)
    assert (len(layers.module), len(set(layers.module)), layers.pool) == (10, 10, "avg")
    score = read_config(CONFIGS / "resmem_score.yaml")
    assert isinstance(score, ScoreRun)
    assert (score.model, score.out) == ("resmem", Path("scores.csv"))
    assert score.options() == RunOptions().model_dump()
    rsa = read_config(CONFIGS / "resmem_rsa.yaml")
    assert isinstance(rsa, RsaRun)
    assert rsa.store == [str(layers.out)]
    assert (rsa.options()["bootstrap"], rsa.pairs) == (1000, None)
    assert len(list(CONFIGS.glob("*.yaml"))) >= 4


@pytest.mark.parametrize(("given", "count"), [("1e6", 10**6), (2e4, 20_000), (5000, 5000)])
def test_numbers_of_pairs_may_be_written_short(given, count):
    assert validated(RsaOptions, {"pairs": given}, "rsa").pairs == count


@pytest.mark.parametrize("given", ["1.5", "many", 0, -1, True, "1e999", "nan"])
def test_what_is_no_number_of_pairs_is_refused(given):
    with pytest.raises(RequestError, match="rsa: pairs "):
        validated(RsaOptions, {"pairs": given}, "rsa")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_and_says_how_to_run_it(path):
    read_config(path)
    assert f"#     resmem-extract run configs/{path.name}\n" in path.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a key 'command' with one of extract, score"),
        ("- extract", "got None"),
        ("command: [extract]", "got ['extract']"),
        ("command: extrakt", "got 'extrakt'"),
        ("command: extract\nout: f.h5", "'module' is missing"),
        ("command: extract\nmodule: conv1", "'out' is missing"),
        ("command: extract\nmodule: []\nout: f.h5", "module []: List should have at least 1 item"),
        ("command: extract\nmodule: [1]\nout: f.h5", "module.0 1: should be a valid string"),
        (
            "command: score\nbatchsize: 4",
            "unknown option 'batchsize'; did you mean batch_size?",
        ),
        ("command: extract\nmodul: fc\nout: f.h5", "unknown option 'modul'; did you mean module"),
        ("command: extract\nmodule: a\nmodule: b\nout: f.h5", "key 'module' is there twice"),
        ("command: score\ndtype: float16", "unknown option 'dtype'; known: "),
        ("command: score\nbatch_size: -1", "batch_size -1: should be greater than 0"),
        ("command: score\nid: name", "id 'name': should be 'path' or 'stem'"),
        ("command: score\nimages: ''", "images '': empty; is a shell variable unset?"),
        ("command: score\nweights: ''", "weights '': empty"),
        ("command: extract\nmodule: a\nout: ''", "out '': empty; is a shell variable unset?"),
        ("command: score\nthreads: 1025", "threads 1025: should be less than or equal to 1024"),
        ("command: score\nstreams: 257", "streams 257: should be less than or equal to 256"),
        ("command: score\nworkers: 257", "workers 257: should be less than or equal to 256"),
        ("command: score\nbatch_size: true", "batch_size True: should be a valid integer"),
        ("command: score\nimages: [a]", "images ['a']"),
        ("command: score\n1: 2", "1 "),
        ("command: [", "while parsing"),
        ("command: !!python/object:os.system x", "could not determine a constructor"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(tmp_path, text, message):
    assert message in refusal(tmp_path / "c.yaml", text)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RequestError, match="No such file or directory"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(RequestError, match="Is a directory"):
        read_config(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"command: \xff")
    with pytest.raises(RequestError, match="codec can't decode"):
        read_config(tmp_path / "b.yaml")


def test_records_are_frozen_and_keys_are_named_as_typed():
    options = validated(ExtractOptions, {"pool": "max", "flatten": True}, "extract")
    assert options.reduction.describe() == {"pool": "max", "flatten": True}
    with pytest.raises(ValueError, match="frozen"):
        options.pool = "avg"
    with pytest.raises(RequestError, match=r"^here: <batch_size> 0: should be greater than 0$"):
        validated(RunOptions, {"batch_size": 0}, "here", "<{}>".format)


@pytest.mark.parametrize("dtype", [np.float16, np.dtype("float16"), "float16"])
def test_records_of_other_packages_stand_for_their_names(dtype):
    values = {"dtype": dtype, "device": torch.device("cpu")}
    options = validated(ExtractOptions, values, "here")
    assert (options.dtype, options.device) == ("float16", "cpu")
