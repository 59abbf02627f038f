import numpy as np
import pytest

from pgn_vln.navigation.env import Rect
from pgn_vln.navigation.geodesic import AGENT_RADIUS_M, OccupancyGrid
from pgn_vln.navigation.motion import move_forward

# A wall along x = 2 in an open hall.
GRID = OccupancyGrid(Rect(0, 0, 4, 4), [Rect(2.0, 0.0, 2.2, 4.0)])
LIMIT = 2.0 - AGENT_RADIUS_M


def step(x, y, heading, sliding=True):
    places, collided = move_forward(GRID, np.array([[x, y]]), np.array([heading]), 0.25, sliding)
    return places[0], bool(collided[0])


@pytest.mark.parametrize("heading", range(0, 360, 15))
def test_a_free_step_is_25_cm_along_the_heading(heading):
    place, collided = step(1.0, 2.0, heading)
    assert not collided
    expected = (1 + 0.25 * np.cos(np.radians(heading)), 2 + 0.25 * np.sin(np.radians(heading)))
    assert place == pytest.approx(expected)


@pytest.mark.parametrize("sliding", [True, False])
def test_head_on_the_agent_stops_at_the_wall(sliding):
    place, collided = step(1.7, 2.0, 0.0, sliding)
    assert collided
    # Up to one piece of the step, 5 cm, and half a cell are lost.
    assert LIMIT - 0.08 <= place[0] <= LIMIT + 0.03
    assert place[1] == pytest.approx(2.0)


def test_at_an_angle_it_slides_along_or_stays():
    slid, collided = step(1.79, 2.0, 45.0, sliding=True)
    assert collided
    assert slid[1] == pytest.approx(2.0 + 0.25 * np.sin(np.pi / 4))
    assert slid[0] <= LIMIT + 0.03
    stuck, collided = step(1.79, 2.0, 45.0, sliding=False)
    assert collided
    assert np.hypot(*(stuck - (1.79, 2.0))) <= 0.05 + 1e-9


def test_nobody_ever_enters_an_obstacle_or_leaves_the_building():
    rng = np.random.default_rng(0)
    places = GRID.centres(np.argwhere(GRID.free))[rng.integers(0, GRID.free.sum(), 500)]
    for sliding in (True, False):
        walkers = places
        for _ in range(40):
            before = walkers
            walkers, collided = move_forward(GRID, walkers, rng.integers(0, 24, 500) * 15.0, 0.25, sliding)
            assert GRID.is_free(walkers).all()
            lengths = np.hypot(*(walkers - before).T)
            assert (lengths <= 0.25 + 1e-9).all()
            # Without a collision nothing is lost of the step; with one, something is.
            assert np.allclose(lengths[~collided], 0.25) and (lengths[collided] < 0.25 - 1e-6).all()


def test_a_batch_moves_like_one_by_one():
    rng = np.random.default_rng(1)
    places = GRID.centres(np.argwhere(GRID.free))[rng.integers(0, GRID.free.sum(), 100)]
    headings = rng.integers(0, 24, 100) * 15.0
    for sliding in (True, False):
        together, collided = move_forward(GRID, places, headings, 0.25, sliding)
        alone = [move_forward(GRID, p[None], h[None], 0.25, sliding) for p, h in zip(places, headings, strict=True)]
        assert np.array_equal(together, np.concatenate([place for place, _ in alone]))
        assert np.array_equal(collided, np.concatenate([hit for _, hit in alone]))
