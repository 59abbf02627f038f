from itertools import combinations

import numpy as np
import pytest
from house_helpers import LEVEL_NAMES

from pgn_vln.navigation.episodes import draw_episode, episode_id
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
from pgn_vln.navigation.visibility import Camera


def fingerprint(house) -> str:
    return repr((house.bounds, house.rooms, house.doors, [(p.name, p.rect, p.quarter_turns) for p in house.furniture]))


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_no_house_is_in_two_splits(level):
    # As environments draw them, by name; seed 3 of a split is one more set of houses.
    groups = [(split, seed) for split in SPLITS for seed in (0, 3)]
    houses = {
        group: {fingerprint(draw_episode(episode_id(level, *group, index), 15, Camera()).house) for index in range(12)}
        for group in groups
    }
    assert all(len(found) == 12 for found in houses.values())
    for first, second in combinations(groups, 2):
        assert not houses[first] & houses[second], (first, second)


def test_a_seeded_generator_is_the_same_in_every_python():
    # Written down once: other numbers here are other houses in every folder and every report that exists.
    rng = seeded_random("house", "one_room", "test", 0, 7, 0)
    assert (rng.random(), rng.randint(1, 1000), rng.uniform(2.0, 3.0)) == (0.599071769420946, 509, 2.475172843302296)
    assert (rng.choice("abcdefgh"), rng.sample(range(100), 4)) == ("b", [13, 31, 67, 20])
    assert seeded_random("house", "one_room", "val", 0, 7, 0).random() == 0.055427969736942306
    assert seeded_random("perturb", "one_room_train_000003").random() == 0.7034248845633495


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
