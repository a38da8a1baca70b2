"""Where thingsvision is missing: one line that says what to type."""

from __future__ import annotations

import subprocess
import sys

import pytest

from resmem_extract.errors import MissingExtraError
from resmem_extract.thingsvision import register

HIDE = "import sys; sys.modules['thingsvision'] = None\n"


def test_register_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "thingsvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "thingsvision", None)
    with pytest.raises(MissingExtraError) as raised:
        register()
    assert "pip install 'resmem-extract[thingsvision]'" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_command_line_says_so_too() -> None:
    code = HIDE + "from resmem_extract.thingsvision.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: thingsvision cannot be imported")
    assert done.stderr.count("\n") == 1


def test_the_package_does_not_need_it() -> None:
    code = HIDE + "import resmem_extract.cli, resmem_extract.thingsvision, resmem_extract as rx\n"
    code += "print([getattr(rx, name) is not None for name in rx.__all__].count(True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10
