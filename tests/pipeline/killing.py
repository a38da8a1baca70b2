"""Kills extractions at random moments, and sees after each kill that nothing was lost or spoilt.

    python killing.py FOLDER --kills 12 --seed 0 [--fill]

Each run is forked off this process, which has everything imported and computes nothing itself, so
that a run takes a second. The child is killed at a random moment, or just after it has said through
a pipe that it commits a part, joins, gives the result its name, or removes its work folder. Disks
fail in the child as well: writes beyond a limit of the system (RLIMIT_FSIZE), an `fsync` that
answers EIO and, with --fill for a folder on a small disk of its own, one that is full in the middle
of the run. Parts are cut short between two runs. Prints a `Tally` as JSON.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from small_model import MODULES, contents, draw_many, small

import resmem_extract as rx
from resmem_extract.pipeline import join, parts, work

BATCH, OLD, N = 4, 40, 160
MARKS = ("append", "commit", "join", "publish", "remove")


@dataclass
class Tally:
    """What happened, and what must not."""

    runs: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    """By SIGKILL, and at which mark."""
    interrupts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """Runs that a failing disk ended, by kind: `limit`, `io`, `fill`."""
    truncated: int = 0
    finished: int = 0
    """Results that were completed and compared."""
    lost: int = 0
    """Images that were in a part and are in none any more."""
    wrong: int = 0
    """Images in a part or result whose activations are not those of the undisturbed run."""
    unreadable: int = 0
    """Files under the name of a part or result that cannot be opened."""
    twice: int = 0
    """Images that were computed although a part had them."""
    different: int = 0
    """Results that are not equal to that of the undisturbed run."""
    litter: int = 0
    """Results beside which something was left."""
    surprises: list[str] = field(default_factory=list)
    """Runs that failed in a way that nobody has foreseen."""

    @property
    def is_clean(self) -> bool:
        return not (
            self.lost or self.wrong or self.unreadable or self.twice or self.different
            or self.litter or self.surprises
        )  # fmt: skip


class Child:
    """One run in a process of its own.

    Parameters
    ----------
    job : callable
        Called in the child; what it returns as a number is sent to the parent.
    """

    def __init__(self, job: Callable[[], int]) -> None:
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            code = 70
            try:
                mark_with(writer)
                os.write(writer, b"=" + str(job()).encode() + b";")
                code = 0
            except rx.ResmemExtractError as error:
                os.write(writer, b"!" + str(error).encode() + b";")
                code = error.exit_code
            except KeyboardInterrupt as error:
                os.write(writer, b"!" + str(error).encode() + b";")
                code = 130
            except BaseException:
                os.write(writer, b"!" + traceback.format_exc().encode() + b";")
            finally:
                os._exit(code)
        os.close(writer)
        self.said = b""

    def hear(self, until: bytes | None, seconds: float) -> bool:
        """Listen for a while, or until the child says something; False if it has ended."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._reader], [], [], left)[0]:
                return True
            heard = os.read(self._reader, 65536)
            if not heard:
                return False
            self.said += heard
            if until is not None and until in heard:
                return True
        return True

    def end(self, number: int | None = None) -> int:
        """Send a signal, if any, wait, and return the exit code, negative for a signal."""
        if number is not None:
            os.kill(self.pid, number)
        self.hear(None, 300)
        os.close(self._reader)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def mark_with(writer: int) -> None:
    """Have the child write the first letter of each mark as it comes there, and go on."""

    def marked(owner: Any, name: str, letter: bytes) -> None:
        function = getattr(owner, name)

        def marking(*arguments: Any, **keywords: Any) -> Any:
            os.write(writer, letter)
            return function(*arguments, **keywords)

        setattr(owner, name, marking)

    marked(parts.PartsWriter, "append", b"a")
    marked(parts.PartsWriter, "commit", b"c")
    marked(join.Joiner, "finish", b"j")
    marked(work.WorkFolder, "publish", b"p")
    marked(work.WorkFolder, "remove", b"r")


def extract(images: Path, out: Path, shard: str | None = None, **options: Any) -> int:
    """Extract in small parts; return how many images were computed."""
    parts.LIMITS = parts.Limits(nbytes=3 * BATCH * 8 * 30 * 30 * 4)
    parts.Blueprint.align = 2 * BATCH  # type: ignore[assignment,method-assign]
    options = {"batch_size": BATCH, "workers": 0, "on_error": "skip", **options}
    return rx.extract(small(), MODULES, images, out=out, shard=shard, **options).computed


def limited(job: Callable[[], int], nbytes: int) -> int:
    """Run with files that may not grow beyond a size: the system refuses writes, as a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))
    return job()


def failing(job: Callable[[], int], after: int) -> int:
    """Run on a disk that loses what it was given: `fsync` answers EIO."""
    left = [after]

    def fail(function: Callable[[int], None], descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        function(descriptor)

    os.fsync, os.fdatasync = partial(fail, os.fsync), partial(fail, os.fdatasync)
    return job()


class Harness:
    """Makes one result after another, disturbed at random, until enough runs were killed."""

    def __init__(self, folder: Path, seed: int, *, fill: bool = False) -> None:
        self.deeds = {"kill": 12, "interrupt": 1, "limit": 1, "io": 1, "cut": 2, "fill": 2 * fill}
        self.random = random.Random(seed)
        self.tally = Tally()
        self.out = folder / "f.h5"
        self.work = work.WorkFolder(self.out)
        self.images, self.old_images = folder / "all", folder / "old"
        draw_many(self.images, N)
        for path in sorted(self.images.rglob("*.png"))[: 2 * OLD : 2]:
            there = self.old_images / path.relative_to(self.images)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, there)
        for path in sorted(self.images.rglob("*.png"))[5::30]:  # images that are skipped
            path.write_bytes(b"no image")
        self.references = {"plain": folder / "plain.h5", "extend": folder / "extended.h5"}
        self.duration = time.monotonic()
        self._undisturbed(partial(extract, self.images, self.references["plain"]))
        self.duration = time.monotonic() - self.duration
        self._begin_extension(self.references["extend"])
        self._undisturbed(partial(extract, self.images, self.references["extend"], extend=True))
        self.expected = {kind: contents(path) for kind, path in self.references.items()}
        self.kept: set[str] = set()
        """Ids of the images in parts that were not cut."""
        self.cut: set[Path] = set()

    def _undisturbed(self, job: Callable[[], int]) -> None:
        child = Child(job)
        if child.end() != 0:
            raise RuntimeError(child.said.decode())

    def _begin_extension(self, out: Path) -> None:
        """Make the store that is to be extended, by way of no parts."""
        self._undisturbed(partial(extract, self.old_images, out))

    def run(self, kills: int) -> None:
        """Go on until that many runs were killed."""
        while sum(self.tally.kills.values()) < kills:
            self.make_one(self.random.choice(["plain", "plain", "extend", "shards"]))

    def make_one(self, kind: str) -> None:
        """Make a result, disturbed again and again, then to the end."""
        reference = "extend" if kind == "extend" else "plain"
        if kind == "extend":
            self._begin_extension(self.out)
        self.kept = set()
        for _ in range(self.random.randint(2, 6)):
            if self._is_made(reference):
                break
            self._disturb(self._job(kind))
            self._check(reference)
        shards = [f"{i}/3" for i in range(3)] if kind == "shards" else [None]
        for shard in shards:
            if not self._is_made(reference):
                job = partial(self._job(kind), shard=shard)
                self._finish(job, N - OLD if kind == "extend" else N)
        self._compare(reference)

    def _job(self, kind: str) -> Callable[..., int]:
        shard = f"{self.random.randrange(3)}/3" if kind == "shards" else None
        return partial(extract, self.images, self.out, shard=shard, extend=kind == "extend")

    def _is_made(self, reference: str) -> bool:
        """Tell whether the result has its name; leftovers are for the next run to remove."""
        return self.out.exists() and len(contents(self.out)["images/id"]) == len(
            self.expected[reference]["images/id"]
        )

    # Disturbing

    def _disturb(self, job: Callable[..., int]) -> None:
        self.tally.runs += 1
        deed = self.random.choices([*self.deeds], [*self.deeds.values()])[0]
        if deed == "cut":
            self._cut()
            deed = "kill"
        if deed == "limit":
            job = partial(limited, job, self.random.randint(1, 900_000))
        if deed == "io":
            job = partial(failing, job, self.random.randint(0, 40))
        child = Child(job)
        if deed in ("limit", "io", "fill"):
            filler = self._fill(child) if deed == "fill" else None
            code = child.end()
            if filler is not None:
                filler.unlink()
            self.tally.faults[deed] += code == 1
            self._expect(code, (0, 1), child)
            return
        mark = self.random.choice(["any", "any", *MARKS])
        if mark == "any":
            running = child.hear(None, self.random.uniform(0, 1.2 * self.duration))
        else:
            running = child.hear(mark[0].encode(), 300)
            later = self.random.choice([0.0, 0.002, 0.02, self.duration / 4])
            running = running and child.hear(None, later)
        number = signal.SIGINT if deed == "interrupt" else signal.SIGKILL
        code = child.end(number if running else None)
        if code == -signal.SIGKILL:
            self.tally.kills[mark] += 1
        elif deed == "interrupt":
            self.tally.interrupts += 1
            self._expect(code, (0, 130), child)
        else:
            self._expect(code, (0,), child)

    def _fill(self, child: Child) -> Path:
        """Fill the disk while a run is at work, and return the file to remove."""
        child.hear(b"a", 300)
        child.hear(None, self.random.uniform(0, self.duration / 2))
        filler = self.out.with_name("filler")
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                pass
        return filler

    def _cut(self) -> None:
        """Cut a part short, as a disk that lies might."""
        there = [part for part in self.work.parts() if part.path not in self.cut]
        if not there:
            return
        part = self.random.choice(there)
        with h5py.File(part.path) as file:
            self.kept -= set(file["images/id"].asstr()[()])
        os.truncate(part.path, self.random.randint(0, part.path.stat().st_size - 1))
        self.cut.add(part.path)
        self.tally.truncated += 1

    def _expect(self, code: int, codes: tuple[int, ...], child: Child) -> None:
        if code not in codes:
            self.tally.surprises.append(f"exit code {code}: {child.said.decode()[-2000:]}")

    # Checking

    def _check(self, reference: str) -> None:
        """See what lies there after a disturbed run."""
        expected = self.expected[reference]
        row_of = {image_id: row for row, image_id in enumerate(expected["images/id"].tolist())}
        there: set[str] = set()
        for path in [part.path for part in self.work.parts()]:
            if (found := self._read(path)) is None:
                continue
            there |= {image_id.decode() for image_id in found["images/id"].tolist()}
            self._hold_against(found, expected, row_of)
        if self.out.exists() and (found := self._read(self.out)) is not None:
            self._hold_against(found, expected, row_of)
            if self._is_made(reference):
                there |= {image_id.decode() for image_id in row_of}
        self.tally.lost += len(self.kept - there)
        self.kept = there

    def _read(self, path: Path) -> dict[str, np.ndarray] | None:
        try:
            found = contents(path)
        except (OSError, KeyError, AssertionError):
            self.tally.unreadable += path not in self.cut
            return None
        self.cut.discard(path)  # computed again
        return found

    def _hold_against(
        self,
        found: dict[str, np.ndarray],
        expected: dict[str, np.ndarray],
        row_of: dict[bytes, int],
    ) -> None:
        rows = [row_of[image_id] for image_id in found["images/id"].tolist()]
        for name, values in found.items():
            if name.startswith("features/"):
                same = (values == expected[name][rows]).reshape(len(rows), -1).all(axis=1)
                self.tally.wrong += int((~same).sum())

    def _finish(self, job: Callable[..., int], total: int) -> None:
        """Run to the end, and see that nothing is computed that is there."""
        self.tally.runs += 1
        there: set[int] = set()
        for part in self.work.parts():
            if self._read(part.path) is not None:
                there.update(part.rows)
        child = Child(job)
        self._expect(child.end(), (0,), child)
        computed = int(child.said.partition(b"=")[2].partition(b";")[0] or 0)
        self.tally.twice += max(0, computed - (total - len(there)))

    def _compare(self, reference: str) -> None:
        expected, found = self.expected[reference], contents(self.out)
        self.tally.finished += 1
        if found.keys() != expected.keys() or any(
            not np.array_equal(values, expected[name]) for name, values in found.items()
        ):
            self.tally.different += 1
        child = Child(partial(extract, self.images, self.out, extend=reference == "extend"))
        self._expect(child.end(), (0,), child)
        if b"=0;" not in child.said:
            self.tally.surprises.append(f"not complete: {child.said.decode()}")
        self.tally.litter += self.work.path.exists()
        self.out.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fill", action="store_true")
    arguments = parser.parse_args()
    harness = Harness(arguments.folder, arguments.seed, fill=arguments.fill)
    harness.run(arguments.kills)
    print(json.dumps(vars(harness.tally), indent=1))
    sys.exit(0 if harness.tally.is_clean else 1)


if __name__ == "__main__":
    main()
