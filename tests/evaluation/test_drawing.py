from dataclasses import replace

import numpy as np
import pytest

from pgn_vln.evaluation.drawing import EpisodePicture, draw_episode, nearest_object, plan_view, sample_steps
from pgn_vln.navigation.env import FloorPlan, Landmark, Rect

RED, BLUE, FLOOR = (205, 28, 36), (36, 74, 214), (226, 236, 226)
PLAN = FloorPlan(
    bounds=Rect(0, 0, 8, 6),
    walls=(Rect(0, 0, 8, 0.1), Rect(0, 5.9, 8, 6)),
    rooms=(Landmark("kitchen", Rect(0, 0, 8, 6), FLOOR),),
    objects=(Landmark("red chair", Rect(6, 4, 7, 5), RED), Landmark("blue sofa", Rect(1, 4, 2, 5), BLUE)),
)
BARE = {"floor_plan": None, "target": None}
GREY_FRAME = np.full((12, 16, 3), 77, dtype=np.uint8)


def picture(**changes):
    made = EpisodePicture(
        instruction="Find the red chair.",
        verdict="failed: stopped 2.3 m away",
        succeeded=False,
        positions=[[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]],
        actions=[1, 0],
        frames=[GREY_FRAME, GREY_FRAME],
        goal=[6.5, 3.5],
        reference_path=[[1.0, 1.0], [6.5, 3.5]],
        radius_m=1.0,
        start_heading=90.0,
        floor_plan=PLAN,
        target=0,
    )
    return replace(made, **changes)


def count(image, colour):
    return int((np.asarray(image) == colour).all(axis=-1).sum())


def centre_of(image, colour):
    rows, columns = np.nonzero((np.asarray(image) == colour).all(axis=-1))
    return columns.mean(), rows.mean()


def test_plan_shows_rooms_and_furniture_where_they_are():
    image = draw_episode(picture())
    assert image.mode == "RGB" and image.size == draw_episode(picture(floor_plan=None, target=None)).size
    # The plan's scale: an object of 1 m x 1 m is less than a hundredth of the panel of 8 x 6 m with its margins.
    assert 1500 < count(image, RED) < 5000 and 1500 < count(image, BLUE) < 5000 and count(image, FLOOR) > 100000
    (red_x, red_y), (blue_x, blue_y) = centre_of(image, RED), centre_of(image, BLUE)
    assert red_x > blue_x + 200 and abs(red_y - blue_y) < 5
    assert red_y < centre_of(image, FLOOR)[1]  # y points up


def test_frames_are_shown_once_a_step_and_no_more_than_asked_for():
    # The tiles are 176 wide and keep the 4:3 of the frame: 176 * 132 pixels each.
    assert count(draw_episode(picture()), (77, 77, 77)) == 2 * 176 * 132
    many = picture(positions=[[1, 1]] * 41, actions=[1] * 40, frames=[GREY_FRAME] * 40)
    assert count(draw_episode(many), (77, 77, 77)) == 8 * 176 * 132


def test_the_path_and_the_end_are_drawn():
    still = draw_episode(picture(positions=[[1.0, 1.0]]))
    walked = draw_episode(picture())
    blue_path = (29, 78, 216)
    assert count(walked, blue_path) > count(still, blue_path) + 300
    # The cross at the end, in the verdict's colour.
    assert count(walked, (200, 30, 30)) > 50 and count(draw_episode(picture(succeeded=True)), (200, 30, 30)) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": [[1.0, 1.0]], "actions": [], "frames": []},
        {"reference_path": [], "goal": [np.nan, np.nan]},
        {"positions": [[0, 0.1, 0], [1, 0.1, -2]], "goal": [2, 0, 2], "reference_path": [[0, 0, 0]], **BARE},
        {"reference_path": [[1.0, 1.0], [1.0, 1.0]], "start_heading": None},
        {"instruction": "word " * 500},
    ],
)
def test_odd_episodes_are_drawn_at_the_same_size(changes):
    assert draw_episode(picture(**changes)).size == draw_episode(picture()).size


def test_habitat_is_seen_from_above():
    # x right; -z is ahead, which is up on the plan; the height y is left out.
    assert plan_view([[1.0, 9.0, -2.0]]).tolist() == [[1.0, 2.0]]


def test_sampled_steps_keep_both_ends_and_their_order():
    assert sample_steps(3, 8) == [0, 1, 2]
    assert sample_steps(15, 8) == [0, 2, 4, 6, 8, 10, 12, 14]
    steps = sample_steps(100, 8)
    assert steps[0] == 0 and steps[-1] == 99 and steps == sorted(set(steps)) and len(steps) == 8


def test_nearest_object_measures_to_the_outline():
    wide = Landmark("long table", Rect(0, 0, 6, 1), BLUE)
    small = Landmark("red chair", Rect(5.5, 3, 6, 3.5), RED)
    plan = FloorPlan(Rect(0, 0, 8, 6), (), (), (small, wide))
    assert nearest_object(plan, [5.5, 1.5]) == 1  # 0.5 m from the table's edge, 1.5 m from the chair
    assert nearest_object(plan, [5.5, 2.8]) == 0
    assert nearest_object(None, [0, 0]) is None
