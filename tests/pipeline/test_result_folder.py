"""Folders of results: whole or not at all, figures too, and nobody else's files touched."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from resmem_extract.errors import RequestError, WorkError
from resmem_extract.pipeline.new_result import draw_figures, new_result
from resmem_extract.pipeline.result_folder import Figures, result_folder

TABLES, RECORD = ("t.csv", "extra.csv"), "t.json"


def draw(numbers: str, folder: Path, formats) -> None:
    """Draw a figure a number, in each format."""
    for ending in formats:
        for number in numbers:
            (folder / f"plot_{number}.{ending}").write_text(f"picture of {number}")


FIGURES = Figures(["png"], {"group": None}, ("plot_*",), draw)


def make(
    out: Path,
    numbers: str = "12",
    extra: bool = False,
    overwrite: bool = False,
    figures: Figures | None = FIGURES,
    meanwhile: Callable[[], object] | None = None,
) -> list[str]:
    """Make a result as `compare_stores` does; return what the user is told, "made" if it was."""
    told: list[str] = []
    place = result_folder(out, TABLES, RECORD, figures)
    asked = {"modules": sorted(numbers), "options": {"extra": extra, "seed": 0}}
    if found := place.find(asked, overwrite=overwrite):
        draw_figures(place, found, numbers, told.append)
        return told
    with new_result(place) as new:
        for name in TABLES[: 1 + extra]:
            with new.file(name) as path:
                path.write_text(f"{name} of {numbers}\n")
        if meanwhile:
            meanwhile()
        new.finish(numbers, asked, {"notes": []})
    return [*told, "made"]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_the_record_knows_what_is_there(tmp_path):
    make(tmp_path / "o", extra=True)
    record = json.loads((tmp_path / "o" / "t.json").read_text())
    assert sorted(record["files"]) == ["extra.csv", "plot_1.png", "plot_2.png", "t.csv"]
    assert record["figures"] == {"png": {"group": None}}
    assert make(tmp_path / "o", extra=True) == []


def test_what_is_replaced_goes_and_what_is_the_users_stays(tmp_path):
    out = tmp_path / "o"
    make(out, extra=True, figures=replace(FIGURES, formats=["png", "svg"]))
    for name in ("plot_mine.svg", "notes.txt", ".hidden"):
        (out / name).write_text("mine")
    (out / "plot_3.png").write_text("mine, and agreed to be replaced")
    make(out, "13", overwrite=True)
    names = [".hidden", "notes.txt", "plot_1.png", "plot_3.png", "plot_mine.svg", "t.csv", "t.json"]
    there = contents(out)
    assert sorted(there) == names
    assert (there["plot_3.png"], there["notes.txt"]) == ("picture of 3", "mine")


def failing(error: BaseException | type[BaseException]) -> Figures:
    def fail(numbers, folder, formats):
        draw(numbers, folder, formats)
        raise error

    return replace(FIGURES, draw=fail)


@pytest.mark.parametrize("error", [KeyboardInterrupt, WorkError("the disk is full"), MemoryError])
def test_where_figures_cannot_be_drawn_a_result_is_not_replaced(tmp_path, error):
    make(tmp_path / "o")
    before = contents(tmp_path / "o")
    with pytest.raises(type(error) if isinstance(error, WorkError) else error):
        make(tmp_path / "o", "34", overwrite=True, figures=failing(error))
    assert contents(tmp_path / "o") == before
    assert make(tmp_path / "o") == []


def test_an_interrupt_while_figures_are_drawn_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "new" / "o", figures=failing(KeyboardInterrupt))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (WorkError("the disk is full"), "full; tables are whole, and the same command draws the f"),
        (MemoryError(), "^$"),
    ],
)
def test_work_is_not_lost_for_a_figure(tmp_path, error, message):
    out = tmp_path / "o"
    with pytest.raises(type(error), match=message):
        make(out, figures=failing(error))
    assert sorted(contents(out)) == ["t.csv", "t.json"]
    assert make(out) == [f"{out} holds this result; drawing its figures (png)"]
    assert make(out) == []


@pytest.mark.parametrize("name", ["t.csv", "extra.csv", "plot_7.png", "t.json"])
def test_a_file_of_no_result_is_not_written_over(tmp_path, name):
    out = tmp_path / "o"
    out.mkdir()
    (out / name).write_text("{}")
    with pytest.raises(RequestError, match=rf"o holds {name}, which t.json does not know.*--overw"):
        make(out)
    assert contents(out) == {name: "{}"}
    assert make(out, overwrite=True) == ["made"]
    # A folder that lost its record is one of files of no result.
    (out / "t.json").unlink()
    with pytest.raises(RequestError, match=r"and \d more, which t.json does not know"):
        make(out)
    assert make(tmp_path / "o2") == ["made"]


def test_a_folder_that_cannot_be_listed_is_not_written_to(tmp_path):
    with (
        mock.patch.object(Path, "iterdir", side_effect=PermissionError(13, "Permission denied")),
        pytest.raises(RequestError, match=f"{tmp_path} cannot be written: Permission denied"),
    ):
        make(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_never_replaced(tmp_path):
    (tmp_path / "o" / "t.csv").mkdir(parents=True)
    with pytest.raises(RequestError, match="know, or not as it is; choose another --out"):
        make(tmp_path / "o", overwrite=True)


def test_a_record_names_no_files_elsewhere(tmp_path):
    (tmp_path / "precious").write_text("mine")
    make(tmp_path / "o")
    record = json.loads((tmp_path / "o" / "t.json").read_text())
    record["files"]["../precious"] = "0"
    (tmp_path / "o" / "t.json").write_text(json.dumps(record))
    make(tmp_path / "o", "3", overwrite=True)
    assert (tmp_path / "precious").read_text() == "mine"


def test_damage_is_no_result(tmp_path):
    out = tmp_path / "o"
    for damage, message in (
        (lambda: (out / "t.csv").write_text("trash"), r"t\.csv is not what was written; --overwr"),
        (lambda: (out / "t.csv").unlink(), r"t\.csv is missing; --overwrite makes the result"),
        (lambda: (out / "t.json").write_text('{"files'), r"t\.json is damaged .*; --overwrite"),
    ):
        make(out, overwrite=True)
        damage()
        with pytest.raises(WorkError, match=message) as raised:
            make(out)
        assert raised.value.exit_code == 1
    assert make(out, overwrite=True) == ["made"]
    assert make(out) == []


def test_another_request_is_told_from_this_one(tmp_path):
    make(tmp_path / "o")
    message = r"other modules; extra: False there, True asked\); use --overwrite"
    with pytest.raises(RequestError, match=message):
        make(tmp_path / "o", "3", extra=True)


def test_of_two_runs_at_the_same_time_none_is_replaced_unasked(tmp_path):
    out = tmp_path / "o"
    with pytest.raises(RequestError, match=r"holds the result of another request \(other modules"):
        make(out, "12", meanwhile=lambda: make(out, "345"))
    before = contents(out)
    assert before["t.csv"] == "t.csv of 345\n"
    assert make(out, "345") == []
    # The same request twice: either is the result.
    assert make(tmp_path / "p", "12", meanwhile=lambda: make(tmp_path / "p", "12")) == ["made"]
    with pytest.raises(RequestError, match="another request"):
        make(out, "12", overwrite=True, meanwhile=lambda: make(out, "6", overwrite=True))
    assert contents(out)["t.csv"] == "t.csv of 6\n"


def test_a_link_that_leads_nowhere_is_refused(tmp_path):
    (tmp_path / "o").symlink_to(tmp_path / "gone")
    with pytest.raises(RequestError, match=r"o is a link to .*gone, which is not there; make that"):
        make(tmp_path / "o")


def test_figures_that_are_not_there_are_drawn_from_the_result(tmp_path):
    out = tmp_path / "o"
    svg, grouped = replace(FIGURES, formats=["svg"]), replace(FIGURES, look={"group": "label"})
    make(out)
    table = (out / "t.csv").stat().st_mtime_ns
    assert make(out, figures=svg) == [f"{out} holds this result; drawing its figures (svg)"]
    pictures = ["plot_1.png", "plot_1.svg", "plot_2.png", "plot_2.svg"]
    assert sorted(contents(out)) == [*pictures, "t.csv", "t.json"]
    (out / "plot_2.svg").unlink()
    assert make(out) == make(out, figures=None) == []
    assert len(make(out, figures=svg)) == 1
    assert len(make(out, figures=grouped)) == 1  # of the format that is asked for alone
    assert make(out, figures=grouped) == make(out, figures=svg) == []
    assert json.loads((out / "t.json").read_text())["figures"] == {
        "png": {"group": "label"},
        "svg": {"group": None},
    }
    assert sorted(contents(out)) == [*pictures, "t.csv", "t.json"]
    assert (out / "t.csv").stat().st_mtime_ns == table


def test_figures_that_a_user_edited_are_not_drawn_over(tmp_path):
    out = tmp_path / "o"
    make(out)
    (out / "plot_1.png").write_text("edited")
    assert make(out) == []
    with pytest.raises(RequestError, match=r"holds plot_1.png, which t.json does not know, or"):
        make(out, figures=replace(FIGURES, look={"group": "label"}))
    assert (out / "plot_1.png").read_text() == "edited"
    make(out, overwrite=True)
    assert (out / "plot_1.png").read_text() == "picture of 1"


def in_child(job: Callable[[], object]) -> int:
    """Run in a process of its own; return its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            job()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at_move(number: int, deed: Callable[[], object]) -> Callable[..., Path]:
    """Return `Path.replace`, which does something before that many-th file is moved."""
    moved, original = [0], Path.replace

    def move(path: Path, target: Path) -> Path:
        moved[0] += 1
        if moved[0] == number:
            deed()
        return original(path, target)

    return move


@pytest.mark.parametrize("redraw", [False, True])
def test_after_a_kill_while_files_are_moved_the_next_run_makes_all_whole(tmp_path, redraw):
    expected, out = tmp_path / "expected", tmp_path / "o"
    numbers, figures = ("12", replace(FIGURES, look={"group": "x"})) if redraw else ("23", FIGURES)
    make(expected, numbers, figures=figures)
    killed = 0
    for step in range(1, 20):
        make(out, extra=not redraw, overwrite=True)
        (out / "notes.txt").write_text("mine")

        def job(step: int = step) -> None:
            kill = at_move(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
            with mock.patch.object(Path, "replace", kill):
                make(out, numbers, overwrite=not redraw, figures=figures)

        killed += (code := in_child(job)) == -signal.SIGKILL
        try:
            told = make(out, numbers, figures=figures)
        except RequestError:  # killed before the first is moved: what was there is whole
            assert make(out, extra=True) == []
            told = make(out, numbers, overwrite=True, figures=figures)
        assert "made" not in told or not redraw  # tables are not made anew for figures
        there = contents(out)
        assert there.pop("notes.txt") == "mine"
        assert there == contents(expected)
        if code == 0:
            break
    assert killed > 4


def test_an_interrupt_while_files_are_moved_comes_after(tmp_path):
    interrupt = at_move(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with (
        mock.patch.object(Path, "replace", interrupt),
        pytest.raises(KeyboardInterrupt, match="o holds the whole result"),
    ):
        make(tmp_path / "o")
    assert make(tmp_path / "o") == []
    assert sorted(contents(tmp_path / "o")) == ["plot_1.png", "plot_2.png", "t.csv", "t.json"]
