from __future__ import annotations

import json

OPTIONS = ("--module", "conv1", "-n", 4, "--batch-size", 2, "--device", "cpu")


def test_table_and_json(tmp_path, photos, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("bench", *OPTIONS, "--images", photos)
    assert done.code == 0
    for word in ("decode", "transform", "forward", "write", "binds", "together at most"):
        assert word in done.out
    done = call("bench", *OPTIONS, "--images", photos, "--json", "-q")
    record = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert record["images"] == 4
    assert [stage["name"] for stage in record["stages"]][::3] == ["decode", "write"]
    assert record["ratio"] == record["measured"] / record["bound"]
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_wrong_options_are_refused(call):
    done = call("bench", "--module", "conv1", "--precision", "float8")
    assert (done.code, "bench: --precision 'float8'" in done.err) == (2, True)
