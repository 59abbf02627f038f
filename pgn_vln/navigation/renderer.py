"""Frames of built-in houses, drawn by Panda3D's software renderer: no GPU, no display, the same pixels everywhere.

Panda3D is imported when the first renderer is made: experts, geodesics and reports work without it.
"""

import itertools
from typing import Any

import numpy as np

from pgn_vln.navigation.furniture import RGB
from pgn_vln.navigation.houses import House
from pgn_vln.navigation.mesh import HouseMesh, Quads
from pgn_vln.navigation.textures import room_textures
from pgn_vln.navigation.visibility import Camera

# Small frames are drawn larger and averaged: a chair leg is thinner than a pixel of 64.
SUPERSAMPLE_UP_TO = 128
_NEAR_M, _FAR_M = 0.05, 40.0
# Owners are drawn as shades this far apart: the rasteriser's rounding must not make one of another.
_OWNER_STEP = 8
_MAX_OWNERS = 30
_VERTEX = np.dtype([("position", "<f4", 3), ("rgba", "u1", 4), ("uv", "<f4", 2)])
_shared: dict[str, Any] = {}
_names = itertools.count()


class RendererUnavailableError(OSError):
    """Panda3D or a system library that it needs is missing."""


class Renderer:
    """Draws what a camera sees in a house.

    Args:
        image_size: Side of the square frames, pixels.
        camera: Field of view, height and pitch.

    Raises:
        RendererUnavailableError: naming what to install.
    """

    def __init__(self, image_size: int, camera: Camera) -> None:
        self.image_size = image_size
        self.camera = camera
        self._scale = 2 if image_size <= SUPERSAMPLE_UP_TO else 1
        self._panda = panda = _load_panda()
        self._pipe, self._engine = _open_pipe(panda), panda.GraphicsEngine.getGlobalPtr()
        side = image_size * self._scale
        properties = panda.FrameBufferProperties()
        properties.setRgbColor(True)
        properties.setDepthBits(24)
        self._buffer = self._engine.makeOutput(
            self._pipe, f"pgn-{next(_names)}", 0, properties, panda.WindowProperties.size(side, side),
            panda.GraphicsPipe.BFRefuseWindow,
        )  # fmt: skip
        if self._buffer is None:
            raise RendererUnavailableError(f"Panda3D's software renderer gave no buffer of {side} x {side} pixels")
        self._frame = panda.Texture()
        self._buffer.addRenderTexture(self._frame, panda.GraphicsOutput.RTMCopyRam)
        # The engine is one for the whole process and draws every active buffer: others must not cost us time.
        self._buffer.setActive(False)
        lens = panda.PerspectiveLens()
        lens.setFov(camera.hfov_degrees, camera.hfov_degrees)
        lens.setNearFar(_NEAR_M, _FAR_M)
        self._root = panda.NodePath("root")
        self._camera = self._root.attachNewNode(panda.Camera("camera", lens))
        self._buffer.makeDisplayRegion().setCamera(self._camera)
        self._textures = {name: self._make_texture(name, image) for name, image in room_textures().items()}
        self._scene = self._owners = self._mesh = None
        self._last_owner = 0

    def load(self, house: House) -> None:
        """Put another house before the camera."""
        self._clear()
        panda = self._panda
        self._scene = self._root.attachNewNode("house")
        # A fixed draw order, as the default one follows memory addresses and with it the pixels on edges would.
        self._mesh = HouseMesh(house)
        for order, (name, quads) in enumerate(sorted(self._mesh.groups.items())):
            node = panda.GeomNode(name or "plain")
            node.addGeom(_make_geom(panda, quads, quads.colours))
            path = self._scene.attachNewNode(node)
            path.setBin("fixed", order)
            if name:
                path.setTexture(self._textures[name])

    def frame(self, position: np.ndarray, heading: float) -> np.ndarray:
        """What is seen from ``[2]`` metres, looking along `heading` degrees: uint8 ``[H, W, 3]``."""
        rgb = self._draw(position, heading)
        if self._scale == 1:
            return rgb.copy()
        total = rgb[::2, ::2].astype(np.uint16) + rgb[::2, 1::2] + rgb[1::2, ::2] + rgb[1::2, 1::2]
        return ((total + 2) // 4).astype(np.uint8)

    def owners(self, position: np.ndarray, heading: float) -> np.ndarray:
        """What each pixel of that frame shows, uint8 ``[H, W]``: an owner as `Quads` counts them."""
        if self._owners is None:
            self._owners = self._make_owners()
        self._scene.hide()
        self._owners.show()
        rgb = self._draw(position, heading)
        self._owners.hide()
        self._scene.show()
        # Nothing is averaged: the mean of two owners would be a third.
        owners = (rgb[:: self._scale, :: self._scale, 0] + np.uint8(_OWNER_STEP // 2)) // np.uint8(_OWNER_STEP)
        # On the outermost edge of a face the rasteriser may run past its shade, for a pixel.
        return np.where(owners <= self._last_owner, owners, 0).astype(np.uint8)

    def _draw(self, position: np.ndarray, heading: float) -> np.ndarray:
        # Panda3D's heading 0 looks along +y, ours along +x.
        self._camera.setPosHpr(
            float(position[0]), float(position[1]), self.camera.height_m,
            heading - 90.0, self.camera.pitch_degrees, 0.0,
        )  # fmt: skip
        self._buffer.setActive(True)
        self._engine.renderFrame()
        self._buffer.setActive(False)
        side = self.image_size * self._scale
        return np.frombuffer(self._frame.getRamImageAs("RGB"), dtype=np.uint8).reshape(side, side, 3)[::-1]

    def _make_owners(self) -> Any:
        """The scene once more, untextured, each face in the shade that stands for its owner."""
        groups = self._mesh.groups.values()
        self._last_owner = max(max(quads.owners) for quads in groups)
        if self._last_owner > _MAX_OWNERS:
            raise ValueError(
                f"the house holds {self._last_owner} pieces and doors; at most {_MAX_OWNERS} can be told apart"
            )
        scene = self._root.attachNewNode("owners")
        for order, quads in enumerate(groups):
            node = self._panda.GeomNode("owners")
            node.addGeom(_make_geom(self._panda, quads, [(owner * _OWNER_STEP, 0, 0) for owner in quads.owners]))
            scene.attachNewNode(node).setBin("fixed", order)
        return scene

    def close(self) -> None:
        """Free the buffer and the scene."""
        self._clear()
        if self._buffer is not None:
            self._engine.removeWindow(self._buffer)
            self._buffer = None

    def _clear(self) -> None:
        if self._scene is not None:
            for scene in filter(None, (self._scene, self._owners)):
                scene.removeNode()
            self._scene = self._owners = self._mesh = None
            # States of removed scenes stay in a global cache otherwise, and memory grows with every house.
            self._panda.RenderState.garbageCollect()
            self._panda.TransformState.garbageCollect()

    def _make_texture(self, name: str, image: np.ndarray) -> Any:
        panda = self._panda
        texture = panda.Texture(name)
        texture.setup2dTexture(image.shape[1], image.shape[0], panda.Texture.TUnsignedByte, panda.Texture.FRgb)
        # Panda3D keeps pixels as BGR.
        texture.setRamImage(np.ascontiguousarray(image[..., ::-1]).tobytes())
        texture.setWrapU(panda.SamplerState.WMRepeat)
        texture.setWrapV(panda.SamplerState.WMRepeat)
        texture.setMinfilter(panda.SamplerState.FTNearest)
        texture.setMagfilter(panda.SamplerState.FTNearest)
        return texture


def _make_geom(panda: Any, quads: Quads, colours: list[RGB]) -> Any:
    """Upload quads as triangles, each in its colour, in one copy each for vertices and indices."""
    count = len(quads.vertices)
    table = np.zeros((count, 4), dtype=_VERTEX)
    table["position"] = np.array(quads.vertices)
    table["rgba"][..., :3] = np.array(colours, dtype=np.uint8)[:, None]
    table["rgba"][..., 3] = 255
    table["uv"] = np.array(quads.coordinates)
    data = panda.GeomVertexData("house", panda.GeomVertexFormat.getV3c4t2(), panda.Geom.UHStatic)
    data.uncleanSetNumRows(4 * count)
    data.modifyArrayHandle(0).copyDataFrom(table.tobytes())
    corners = 4 * np.arange(count)[:, None] + np.array([0, 1, 2, 0, 2, 3])
    triangles = panda.GeomTriangles(panda.Geom.UHStatic)
    triangles.setIndexType(panda.Geom.NTUint32)
    indices = triangles.modifyVertices()
    indices.uncleanSetNumRows(corners.size)
    indices.modifyHandle().copyDataFrom(corners.astype("<u4").tobytes())
    geom = panda.Geom(data)
    geom.addPrimitive(triangles)
    return geom


def _load_panda() -> Any:
    try:
        from panda3d import core
    except ImportError as error:
        raise RendererUnavailableError(
            f"Panda3D cannot be imported ({error}); install it with `pip install panda3d`"
        ) from error
    return core


def _open_pipe(panda: Any) -> Any:
    """The software pipe, opened once per process."""
    if "pipe" not in _shared:
        # Log lines of level "error" would tell about a display that we do not want.
        panda.loadPrcFileData("", "audio-library-name null\nnotify-level-x11display fatal\nsync-video false")
        selection = panda.GraphicsPipeSelection.getGlobalPtr()
        # Of the module's two pipes the offscreen one opens no display.
        pipe = selection.makePipe("TinyOffscreenGraphicsPipe", "p3tinydisplay")
        _shared["pipe"] = pipe
    if _shared["pipe"] is None:
        raise RendererUnavailableError(
            "Panda3D's software renderer (p3tinydisplay) did not start: it needs libX11, though no display; "
            "install it with `apt-get install libx11-6`"
        )
    return _shared["pipe"]
