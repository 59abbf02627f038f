"""Rendered views with what every pixel shows, against the geometry written again."""

import math

import numpy as np
import pytest

from pgn_vln.navigation.houses import LEVELS, build_house, seeded_random
from pgn_vln.navigation.views import (
    LABEL_COLOURS,
    LABEL_KINDS,
    LABELS,
    HouseViews,
    patch_labels,
    strip_labels,
)

pytestmark = pytest.mark.usefixtures("needs_renderer")


def make(split="train", **kwargs):
    return HouseViews(("one_room", "two_rooms"), split, 12, **kwargs)


@pytest.fixture(scope="module")
def drawn():
    views = make()
    yield [view for index in range(10) for view in views.views(index)]
    views.close()


def test_an_index_always_gives_the_same_views_and_no_split_another_ones():
    forward, backward = make(), make()
    first = [forward.views(index) for index in (0, 1, 2)]
    second = [backward.views(index) for index in (2, 1, 0)][::-1]
    for a, b in zip(first, second, strict=True):
        assert all((x.rgb == y.rgb).all() and (x.labels == y.labels).all() for x, y in zip(a, b, strict=True))
    others = [make("val").views(0), make("test").views(0), make(seed=1).views(0)]
    assert all((other[0].rgb != first[0][0].rgb).any() for other in others)


def test_every_other_house_has_two_rooms_and_so_a_door():
    views = make()
    doors = [sum(s.name == "door" for s in views.views(index)[0].sightings) for index in range(4)]
    assert doors == [0, 1, 0, 1]


def test_labels_are_named_by_kind_and_colour():
    assert len(LABELS) == len(LABEL_KINDS) == len(LABEL_COLOURS) == len(set(LABELS)) == 48
    assert LABELS[:2] == ("", "door") and "red chair" in LABELS and "blue plant" not in LABELS
    for index, name in enumerate(LABELS[2:], 2):
        for other, text in enumerate(LABELS[2:], 2):
            assert (LABEL_KINDS[index] == LABEL_KINDS[other]) == (name.split()[1] == text.split()[1])
            assert (LABEL_COLOURS[index] == LABEL_COLOURS[other]) == (name.split()[0] == text.split()[0])
    assert LABEL_KINDS[:2] == (0, 1) and LABEL_COLOURS[:2] == (0, 0)


def test_pixels_counted_by_sightings_are_those_of_the_label_map(drawn):
    for view in drawn:
        for name in {sighting.name for sighting in view.sightings}:
            counted = sum(s.pixels for s in view.sightings if s.name == name)
            assert counted == (view.labels == LABELS.index(name)).sum()
    assert sum(bool(view.visible()) for view in drawn) > 0.7 * len(drawn)


def test_what_is_left_in_the_picture_has_a_bearing_to_the_left(drawn):
    """A pinhole camera of 90 degrees, written again without its pitch: column = 32 - 32 tan(bearing)."""
    misses = []
    for view in drawn:
        for sighting in view.visible():
            columns = np.nonzero(view.labels == LABELS.index(sighting.name))[1]
            whole = columns.min() > 0 and columns.max() < 63 and sighting.pixels > 60
            if whole and sighting.name != "door":
                misses.append(columns.mean() - (32 - 32 * math.tan(math.radians(sighting.bearing))))
    # The pitch draws things inwards, and something may stand before a part of them.
    assert len(misses) > 30 and np.abs(misses).max() < 12 and np.abs(misses).mean() < 3


def test_the_colour_of_a_piece_is_the_named_one(drawn):
    """The strongest channel of the pixels of red, green and blue pieces."""
    strongest = {"red": 0, "green": 1, "blue": 2}
    hits = []
    for view in drawn:
        for sighting in view.visible():
            colour = sighting.name.split()[0]
            # A bed's pillow is white.
            if colour in strongest and "bed" not in sighting.name and sighting.pixels > 40:
                pixels = view.rgb[view.labels == LABELS.index(sighting.name)]
                hits.append(pixels.mean(axis=0).argmax() == strongest[colour])
    assert len(hits) > 20 and all(hits)


def test_patches_and_strips_show_what_covers_most_of_them(drawn):
    labels = np.stack([view.labels for view in drawn[:20]])
    patches, strips = patch_labels(labels, 16), strip_labels(labels, 8)
    assert patches.shape == (20, 16) and strips.shape == (20, 8)
    for frame in range(20):
        for index in range(16):
            row, column = divmod(index, 4)
            block = labels[frame, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            assert patches[frame, index] == commonest(block, 0.2 * 256)
        for index in range(8):
            assert strips[frame, index] == commonest(labels[frame, :, 8 * index : 8 * index + 8], 12)
    assert len(np.unique(patches)) > 5 and len(np.unique(strips)) > 5
    # Three strips of 64 pixels: the last one is a pixel wider, none is lost.
    one = np.zeros((1, 64, 64), dtype=np.uint8)
    one[0, :, 63] = 5
    assert strip_labels(one, 3).tolist() == [[0, 0, 5]]


def commonest(block, least):
    names, counts = np.unique(block[block > 0], return_counts=True)
    return names[counts.argmax()] if counts.size and counts.max() >= least else 0


def test_owners_of_a_house_full_of_furniture_are_refused_in_words():
    from pgn_vln.navigation.renderer import Renderer
    from pgn_vln.navigation.visibility import Camera

    house = build_house(LEVELS["house"], seeded_random("crowded"))
    crowded = type(house)(house.level, house.bounds, house.rooms, house.doors, house.furniture * 10)
    renderer = Renderer(16, Camera())
    renderer.load(crowded)
    with pytest.raises(ValueError, match="at most 30 can be told apart"):
        renderer.owners(np.array([1.0, 1.0]), 0.0)
    renderer.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (((), "train", 4), "levels"),
        ((("castle",), "train", 4), "castle"),
        ((("one_room",), "dev", 4), "split 'dev'"),
        ((("one_room",), "train", 0), "views_per_house 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        HouseViews(*settings)
