import hashlib
from itertools import combinations

import numpy as np
import pytest
from conftest import LEVEL_NAMES

from pgn_vln.navigation.furniture import KINDS
from pgn_vln.navigation.houses import (
    LEVELS,
    PASSAGE_M,
    SPLITS,
    Level,
    build_house,
    register_level,
    seeded_random,
)


def fingerprint(house) -> str:
    return repr((house.bounds, house.rooms, house.doors, [(p.name, p.rect, p.quarter_turns) for p in house.furniture]))


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_no_house_is_in_two_splits(level):
    houses = {
        split: {
            fingerprint(build_house(LEVELS[level], seeded_random("house", level, split, 0, index, 0)))
            for index in range(200)
        }
        for split in SPLITS
    }
    assert all(len(found) == 200 for found in houses.values())
    for first, second in combinations(SPLITS, 2):
        assert not houses[first] & houses[second]


def test_a_seeded_generator_is_the_same_in_every_python():
    # Computed apart from the code under test: SHA-256 of the joined parts, as one big integer, seeds the generator.
    digest = hashlib.sha256(b"house/one_room/test/0/7/0").digest()
    import random

    expected = random.Random(int.from_bytes(digest, "big")).random()
    assert seeded_random("house", "one_room", "test", 0, 7, 0).random() == expected
    assert seeded_random("house", "one_room", "val", 0, 7, 0).random() != expected


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_rooms_doors_and_furniture_fit_together(level):
    for index in range(60):
        house = build_house(LEVELS[level], seeded_random("fit", level, index))
        area = sum((r.cell.x1 - r.cell.x0) * (r.cell.y1 - r.cell.y0) for r in house.rooms)
        assert area == pytest.approx(house.bounds.x1 * house.bounds.y1)
        assert len({room.name for room in house.rooms}) == len(house.rooms)
        # Doors make one connected house.
        reached = {0}
        for _ in house.rooms:
            reached |= {room for door in house.doors if reached & set(door.rooms) for room in door.rooms}
        assert reached == set(range(len(house.rooms)))
        for piece in house.furniture:
            inner, rect = house.rooms[piece.room].inner, piece.rect
            assert inner.x0 <= rect.x0 and rect.x1 <= inner.x1 and inner.y0 <= rect.y0 and rect.y1 <= inner.y1
        for a, b in combinations(house.furniture, 2):
            assert a.name != b.name
            gap = np.hypot(
                max(a.rect.x0 - b.rect.x1, b.rect.x0 - a.rect.x1, 0),
                max(a.rect.y0 - b.rect.y1, b.rect.y0 - a.rect.y1, 0),
            )
            assert gap >= PASSAGE_M - 1e-9


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_stays_within_its_size(kind):
    for part in kind.parts:
        assert part.x0 < part.x1 and part.y0 < part.y1 and part.z0 < part.z1
        assert max(-part.x0, part.x1) <= kind.width_m / 2 + 1e-9
        # Handles and seams stand out by at most 2.5 cm; the agent keeps more than that away.
        assert max(-part.y0, part.y1) <= kind.depth_m / 2 + 0.026
        assert 0 <= part.z0 and part.z1 <= kind.height_m + 1e-9


def test_a_level_of_ones_own_is_registered_once(monkeypatch):
    monkeypatch.setattr("pgn_vln.navigation.houses.LEVELS", dict(LEVELS))
    level = Level("hall", (1, 1), (6.0, 7.0), (6.0, 7.0), (4, 6), max_steps=90, min_path_m=2.0)
    register_level(level)
    with pytest.raises(ValueError, match="'hall' is already registered"):
        register_level(level)
    with pytest.raises(ValueError, match="letters, digits and underscores"):
        register_level(Level("hall-2", (1, 1), (6.0, 7.0), (6.0, 7.0), (4, 6), max_steps=90, min_path_m=2.0))
