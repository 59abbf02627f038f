import pytest

from pgn_vln.data.windows import all_windows, random_window


@pytest.mark.parametrize(
    "steps, layout, history, expected",
    [
        (5, "window", 2, [(0, 1), (0, 2), (0, 3), (1, 4), (2, 5)]),
        (3, "window", None, [(0, 1), (0, 2), (0, 3)]),
        (3, "window", 1, [(0, 1), (0, 2), (1, 3)]),
        (1, "window", 8, [(0, 1)]),
        (7, "stream", 3, [(0, 3), (3, 6), (6, 7)]),
        (6, "stream", 3, [(0, 3), (3, 6)]),
        (2, "stream", 16, [(0, 2)]),
        (7, "stream", None, [(0, 7)]),
        (1, "stream", 1, [(0, 1)]),
    ],
)
def test_all_windows(steps, layout, history, expected):
    assert all_windows(steps, layout, history) == expected


def draw(steps, layout, history, *, seed=0, episode_id="e", epochs=400):
    return [
        random_window(steps, layout, history, seed=seed, epoch=epoch, episode_id=episode_id) for epoch in range(epochs)
    ]


@pytest.mark.parametrize(
    "steps, layout, history, possible",
    [
        (6, "window", 2, {(0, 3), (1, 4), (2, 5), (3, 6)}),  # 3 = h + 1 consecutive steps
        (3, "window", 2, {(0, 3)}),
        (2, "window", 5, {(0, 2)}),
        (6, "window", None, {(0, 4), (0, 5), (0, 6)}),  # t in [3, 5]
        (4, "window", None, {(0, 4)}),
        (3, "window", None, {(0, 3)}),  # shorter than t = 3: the last step
        (1, "window", None, {(0, 1)}),
        (5, "stream", 3, {(0, 3), (1, 4), (2, 5)}),
        (2, "stream", 3, {(0, 2)}),
        (5, "stream", None, {(0, 5)}),
    ],
)
def test_random_windows_reach_exactly_the_possible_ones(steps, layout, history, possible):
    assert set(draw(steps, layout, history)) == possible


def test_random_windows_are_reproducible_and_differ():
    first = draw(50, "window", 4, epochs=20)
    assert first == draw(50, "window", 4, epochs=20)
    assert len(set(first)) > 5  # by epoch
    assert first != draw(50, "window", 4, seed=1, epochs=20)
    assert first != draw(50, "window", 4, episode_id="f", epochs=20)


@pytest.mark.parametrize(
    "steps, layout, history, message",
    [
        (5, "stram", 3, "prompt_layout is 'stram'; expected one of stream, window"),
        (5, "stream", 0, "history_frames is 0; expected a whole number of 1 or more, or none for whole episodes; set"),
        (5, "window", 0, "history_frames is 0; expected a whole number of 1 or more"),
        (5, "window", -1, "history_frames is -1; expected a whole number of 1 or more"),
        (5, "window", 1.5, "history_frames is 1.5; expected a whole number of 1 or more"),
        (0, "window", 3, "an episode of 0 steps"),
    ],
)
def test_settings_that_make_no_sense(steps, layout, history, message):
    with pytest.raises(ValueError, match=message):
        all_windows(steps, layout, history)
    with pytest.raises(ValueError, match=message):
        random_window(steps, layout, history, seed=0, epoch=0, episode_id="e")
