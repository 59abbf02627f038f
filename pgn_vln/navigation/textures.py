"""Floor and wall patterns by room type: one knows the room by them, and a bare wall still shows something.

They are less saturated than any furniture, so that "the red one" is never a wall.
"""

import numpy as np

from pgn_vln.navigation.furniture import RGB
from pgn_vln.navigation.houses import ROOM_TYPES

SIDE = 128
# A wall texture is 1.2 m wide and 2.4 m high, a floor texture 1.2 m square; rows count from below.
_PANEL_ROWS = int(SIDE * 0.9 / 2.4)
_SKIRTING_ROWS = int(SIDE * 0.1 / 2.4)


def room_textures() -> dict[str, np.ndarray]:
    """Textures ``[128, 128, 3]``, uint8, first row at the bottom, by ``"<room>/floor"`` and ``"<room>/wall"``."""
    textures = {
        "kitchen/floor": _checkers((208, 208, 202), (152, 156, 156), SIDE // 3),
        "kitchen/wall": _panelled(
            _plain((226, 236, 222)), _tiles((132, 184, 168), (226, 236, 230), SIDE // 8, SIDE // 16)
        ),
        "bedroom/floor": _speckled((196, 172, 186), 14, seed=1),
        "bedroom/wall": _panelled(_stripes((226, 206, 232), (202, 180, 212), SIDE // 6), None),
        "living room/floor": _planks((178, 128, 84), SIDE // 8),
        "living room/wall": _panelled(
            _plain((244, 226, 192)), _stripes((190, 146, 104), (166, 122, 84), SIDE // 4, 0.9)
        ),
        "bathroom/floor": _tiles((150, 168, 178), (206, 216, 220), SIDE // 6, SIDE // 6),
        "bathroom/wall": _panelled(_tiles((176, 212, 228), (236, 244, 248), SIDE // 4, SIDE // 8), None),
        "study/floor": _speckled((118, 112, 104), 18, seed=2),
        "study/wall": _panelled(
            _plain((208, 204, 170)), _tiles((146, 140, 118), (112, 106, 88), SIDE // 2, SIDE // 9)
        ),
    }  # fmt: skip
    if sorted(textures) != sorted(f"{room}/{part}" for room in ROOM_TYPES for part in ("floor", "wall")):
        raise RuntimeError("textures and ROOM_TYPES differ: give every room type a floor and a wall")
    return textures


def _plain(rgb: RGB) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), rgb, dtype=np.uint8)


def _panelled(upper: np.ndarray, lower: np.ndarray | None) -> np.ndarray:
    """A wall: its upper part, a panel below 0.9 m, and a dark skirting board."""
    wall = upper.copy()
    if lower is not None:
        wall[:_PANEL_ROWS] = lower[:_PANEL_ROWS]
        wall[_PANEL_ROWS : _PANEL_ROWS + 2] = 70
    wall[:_SKIRTING_ROWS] = 96
    return wall


def _tiles(rgb: RGB, grout: RGB, width: int, height: int) -> np.ndarray:
    image = _plain(rgb)
    image[np.arange(SIDE) % height == 0] = grout
    image[:, np.arange(SIDE) % width == 0] = grout
    return image


def _checkers(first: RGB, second: RGB, width: int) -> np.ndarray:
    index = np.arange(SIDE) // width
    odd = (index[:, None] + index[None]) % 2 == 1
    return np.where(odd[..., None], np.array(second, dtype=np.uint8), np.array(first, dtype=np.uint8))


def _stripes(first: RGB, second: RGB, width: int, share: float = 0.5) -> np.ndarray:
    image = _plain(first)
    image[:, np.arange(SIDE) % width >= share * width] = second
    return image


def _planks(rgb: RGB, width: int) -> np.ndarray:
    image = _plain(rgb).astype(np.int64)
    rows = np.arange(SIDE)
    image += (((rows // width) * 7) % 5 * 6 - 12)[:, None, None]
    image[rows % width == 0] -= 40
    return image.clip(0, 255).astype(np.uint8)


def _speckled(rgb: RGB, amount: int, seed: int) -> np.ndarray:
    """A carpet: blocks of 4 x 4 texels, a little lighter or darker each."""
    blocks = np.random.RandomState(seed).randint(-amount, amount + 1, size=(SIDE // 4, SIDE // 4))
    noise = np.kron(blocks, np.ones((4, 4), dtype=np.int64))
    return (_plain(rgb).astype(np.int64) + noise[..., None]).clip(0, 255).astype(np.uint8)
