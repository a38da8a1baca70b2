"""What every kind of stimuli has to do, whatever holds the pictures."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from kinds import ENCODED, IN_FILES, KINDS, NAMED, NAMES, pictures, png

from resmem_extract.decoding import content_sha256, hash_images, load_images
from resmem_extract.images import StimulusSet

STACK = pictures()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def stimuli(kind: str, tmp_path: Path) -> StimulusSet:
    return KINDS[kind](tmp_path, STACK)


def pixels(stimuli: StimulusSet, workers: int = 0) -> np.ndarray:
    return np.stack([image.pixels for image in load_images(stimuli, np.asarray, workers=workers)])


def test_pictures_come_in_order_under_their_ids(kind, stimuli):
    assert stimuli.ids == (NAMES if kind in NAMED else ("0", "1", "2", "3", "4"))
    assert len(stimuli) == 5
    np.testing.assert_array_equal(pixels(stimuli), STACK)


def test_threads_see_the_same(stimuli):
    for _ in range(3):
        np.testing.assert_array_equal(pixels(stimuli, workers=4), STACK)


def test_hashes_are_of_files_where_there_are_files(kind, stimuli):
    def expected(picture: np.ndarray) -> str:
        data = png(picture) if kind in ENCODED else b"uint8[6,7,3]" + picture.tobytes()
        return hashlib.sha256(data).hexdigest()

    assert hash_images(stimuli, 2) == [expected(picture) for picture in STACK]
    loaded = [image.sha256 for image in load_images(stimuli, np.asarray, workers=0)]
    assert loaded == hash_images(stimuli, 0)


def test_some_are_taken_in_any_order(stimuli):
    taken = stimuli.take([4, 0, 3])
    assert taken.ids == tuple(stimuli.ids[row] for row in (4, 0, 3))
    np.testing.assert_array_equal(pixels(taken), STACK[[4, 0, 3]])


def test_the_files_that_are_read_are_known(kind, stimuli, tmp_path):
    assert stimuli.paths == tuple(tmp_path / name for name in IN_FILES.get(kind, ()))


def test_all_but_iterators_can_be_pickled(kind, stimuli):
    hash_images(stimuli, 0)  # whatever is open by now stays here
    if kind.startswith("generator"):
        with pytest.raises(TypeError, match="cannot pickle"):
            pickle.dumps(stimuli)
        return
    sent = pickle.dumps(stimuli)
    assert len(sent) < 10_000
    again = pickle.loads(sent)
    assert again.ids == stimuli.ids
    np.testing.assert_array_equal(pixels(again), STACK)


def test_every_image_says_where_it_is(stimuli):
    places = [str(image) for image in stimuli.images]
    assert len(set(places)) == 5
    assert all(place.isprintable() for place in places)


def test_what_is_read_may_be_changed(stimuli):
    """Conversions of Pillow change what they are given; the next reader must not see it."""
    before = content_sha256(stimuli.read(1))
    picture = stimuli.read(1)
    if not isinstance(picture, bytes):
        picture.paste((1, 2, 3), (0, 0, 7, 6))
        assert content_sha256(picture) != before
    assert content_sha256(stimuli.read(1)) == before
