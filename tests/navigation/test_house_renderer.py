import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pgn_vln import cli
from pgn_vln.navigation import renderer as renderer_module
from pgn_vln.navigation.env import Rect
from pgn_vln.navigation.episodes import draw_episode
from pgn_vln.navigation.furniture import COLOURS, KINDS
from pgn_vln.navigation.houses import LEVELS, ROOM_TYPES, Furniture, House, Room
from pgn_vln.navigation.renderer import Renderer, RendererUnavailableError
from pgn_vln.navigation.textures import room_textures
from pgn_vln.navigation.visibility import Camera

ROOT = Path(__file__).parents[2]
DIGEST_SCRIPT = """
import hashlib
from pgn_vln.navigation.episodes import draw_episode
from pgn_vln.navigation.renderer import Renderer
from pgn_vln.navigation.visibility import Camera
digest = hashlib.sha256()
renderer = Renderer(64, Camera())
for name in ("house_test_000003", "one_room_train_000001", "two_rooms_val_s5_000002"):
    episode = draw_episode(name, 15, Camera())
    renderer.load(episode.house)
    for turn in range(0, 24, 5):
        digest.update(renderer.frame(episode.start, episode.start_heading + 15 * turn).tobytes())
    digest.update(repr((episode.instruction, episode.goal.tolist(), episode.start.tolist())).encode())
"""


def empty_house(room: str, *pieces: Furniture) -> House:
    bounds = Rect(0.0, 0.0, 5.0, 5.0)
    return House(LEVELS["one_room"], bounds, (Room(room, bounds),), (), pieces)


def test_the_same_pixels_in_any_process(needs_renderer):
    here: dict = {}
    exec(DIGEST_SCRIPT, here)
    # Another hash seed, and another folder.
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    script = DIGEST_SCRIPT + "print(digest.hexdigest())"
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT / "tests", capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == here["digest"].hexdigest()
    # Panda3D looks for a display by default, and complains.
    assert "x11display" not in result.stderr


def test_a_frame_does_not_depend_on_what_was_drawn_before(needs_renderer):
    first, second = (draw_episode(f"house_val_00000{index}", 15, Camera()) for index in (0, 1))
    alone, busy, other = (Renderer(64, Camera()) for _ in range(3))
    alone.load(first.house)
    expected = alone.frame(first.start, first.start_heading)
    busy.load(second.house)
    other.load(second.house)
    for heading in range(0, 360, 45):
        busy.frame(second.start, heading)
        other.frame(second.start, heading)
    busy.load(first.house)
    assert np.array_equal(busy.frame(first.start, first.start_heading), expected)
    assert not np.array_equal(other.frame(second.start, 0.0), expected)
    for renderer in (alone, busy, other):
        renderer.close()


@pytest.mark.parametrize("size", [64, 112, 224])
def test_image_size_and_field_of_view(needs_renderer, size):
    # A red wardrobe 2 m ahead, 1 m wide: its width in pixels follows from the pinhole camera.
    piece = Furniture(KINDS["wardrobe"], "red", 0, 2.5, 4.0, 0)
    house = empty_house("kitchen", piece)
    front = piece.rect.y0
    for hfov in (90.0, 79.0):
        camera = Camera(hfov_degrees=hfov, pitch_degrees=0.0)
        renderer = Renderer(size, camera)
        renderer.load(house)
        frame = renderer.frame(np.array([2.5, front - 2.0]), 90.0)
        renderer.close()
        assert frame.shape == (size, size, 3) and frame.dtype == np.uint8
        red = (frame[..., 0] > 90) & (frame[..., 1] < 60)
        width = red.any(axis=0).sum()
        assert width == pytest.approx(size / 2 * 0.5 / np.tan(np.radians(hfov / 2)), abs=0.05 * size)
        # It stands in the middle, and upright: more of it below the horizon's 1.1 m than above it is not.
        columns = np.flatnonzero(red.any(axis=0))
        assert columns.mean() == pytest.approx((size - 1) / 2, abs=0.03 * size)
        rows = np.flatnonzero(red.any(axis=1))
        assert size / 2 - rows.min() < rows.max() - size / 2


def test_left_is_left(needs_renderer):
    renderer = Renderer(64, Camera())
    renderer.load(empty_house("kitchen", Furniture(KINDS["sofa"], "blue", 0, 2.5, 4.5, 0)))
    # Looking along +x, what stands at +y is to the left.
    ahead = renderer.frame(np.array([2.5, 2.5]), 60.0)
    blue = (ahead[..., 2] > 100) & (ahead[..., 0] < 70)
    assert np.flatnonzero(blue.any(axis=0)).mean() < 24
    renderer.close()


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_the_named_colour_is_what_one_sees(needs_renderer, kind):
    renderer = Renderer(64, Camera())
    names, palette = list(COLOURS), np.array(list(COLOURS.values()), dtype=float)
    for colour in kind.colours:
        with_piece = empty_house("study", Furniture(kind, colour, 0, 2.5, 3.2, 0))
        for place, heading in (((2.5, 1.6), 90.0), ((1.2, 2.2), 38.0)):
            renderer.load(empty_house("study"))
            background = renderer.frame(np.array(place), heading)
            renderer.load(with_piece)
            frame = renderer.frame(np.array(place), heading)
            changed = (frame != background).any(axis=-1)
            assert changed.sum() > 80, "the piece is too small to be seen"
            pixels = frame[changed].astype(float)
            # Brightness apart, as a face in the shade keeps its hue; black has none.
            dark = pixels.max(axis=1) < 80
            hue = pixels / pixels.sum(axis=1, keepdims=True).clip(1)
            chromatic = [index for index, name in enumerate(names) if name != "black"]
            reference = palette[chromatic] / palette[chromatic].sum(axis=1, keepdims=True)
            nearest = np.array(chromatic)[((hue[:, None] - reference) ** 2).sum(axis=-1).argmin(axis=1)]
            grey = pixels.max(axis=1) - pixels.min(axis=1) < 25
            right = dark & grey if colour == "black" else (nearest == names.index(colour)) & ~grey
            assert right.mean() > 0.75, (colour, right.mean())
    renderer.close()


def test_rooms_can_be_told_apart_and_no_wall_is_bare(needs_renderer):
    renderer = Renderer(64, Camera())
    means = {}
    for room in ROOM_TYPES:
        renderer.load(empty_house(room))
        frame = renderer.frame(np.array([2.5, 3.0]), 90.0)
        assert frame.reshape(-1, 3).std(axis=0).max() > 10
        means[room] = np.concatenate([frame[:20].mean(axis=(0, 1)), frame[40:].mean(axis=(0, 1))])
    renderer.close()
    for room in ROOM_TYPES:
        distances = [np.abs(means[room] - means[other]).max() for other in ROOM_TYPES if other != room]
        assert min(distances) > 12, room


def test_no_texture_is_as_saturated_as_furniture():
    def saturation(rgb: np.ndarray) -> np.ndarray:
        return rgb.max(axis=-1) - rgb.min(axis=-1)

    least = min(saturation(np.array(rgb, dtype=int)) for name, rgb in COLOURS.items() if name != "black")
    for name, image in room_textures().items():
        assert saturation(image.astype(int)).max() < 0.96 * least, name


def test_without_libx11_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(renderer_module._shared, "pipe", None)
    with pytest.raises(RendererUnavailableError, match="apt-get install libx11-6"):
        Renderer(64, Camera())


def test_the_command_line_says_it_in_a_plain_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(renderer_module._shared, "pipe", None)
    settings = ("--level", "one_room", "--split", "train", "--episodes", "1", "--out", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        cli.main(["episodes", "generate", *settings])
    assert ended.value.code == 2
    assert re.search("^error: Panda3D.*apt-get install libx11-6", capsys.readouterr().err, re.MULTILINE)


def test_without_panda3d_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "panda3d", None)
    with pytest.raises(RendererUnavailableError, match="pip install panda3d"):
        Renderer(64, Camera())


def test_many_houses_do_not_fill_the_memory(needs_renderer):
    resource = pytest.importorskip("resource")
    renderer = Renderer(64, Camera())
    episodes = [draw_episode(f"one_room_train_{index:06d}", 15, Camera()) for index in range(5)]

    def draw(times: int) -> int:
        for index in range(times):
            renderer.load(episodes[index % 5].house)
            renderer.frame(episodes[index % 5].start, 0.0)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = draw(50)
    assert draw(300) - before < 8 * 1024
    renderer.close()
