"""A z-buffer rasterizer for small pictures of people, with its light.

Several meshes are drawn into one frame, each with a texture or with one colour per vertex. Camera axes are
x right, y down, z forward. Pixel (row r, column c) has its centre at (c + 0.5, r + 0.5). Colours are linear
light in float32; 1.0 is a white surface in full light. `to_srgb` makes an image of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from san_tf.errors import UserError
from san_tf.synthesis import raster_kernels as kernels
from san_tf.synthesis.mesh import Mesh, vertex_normals


@dataclass(frozen=True, eq=False)
class View:
    """A pinhole camera without distortion.

    Attributes:
        rotation: (3, 3) float, world to camera axes (rows: right, down, forward).
        position: (3,) float, metres, world position of the camera.
        focal: Focal length in pixels.
        center: (x, y) of the principal point in pixels.
        size: (height, width) in pixels.
    """

    rotation: np.ndarray
    position: np.ndarray
    focal: float
    center: tuple[float, float]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if min(self.size) < 1 or not self.focal > 0:
            raise UserError(f"A view needs a positive size and focal. Received: {self.size}, {self.focal}.")
        if np.shape(self.rotation) != (3, 3) or np.shape(self.position) != (3,):
            raise UserError("A view needs a (3, 3) rotation and a (3,) position.")

    @classmethod
    def looking(
        cls,
        position: Sequence[float],
        target: Sequence[float],
        focal: float,
        size: tuple[int, int],
        roll: float = 0.0,
    ) -> View:
        """Return a camera at `position` that looks at `target`.

        Args:
            position: (3,) metres.
            target: (3,) metres, not straight above or below the camera.
            focal: Focal length in pixels.
            size: (height, width) in pixels.
            roll: Radians; positive turns the picture's content clockwise.

        Raises:
            UserError: If the camera looks straight up or down, or `target` is `position`.
        """
        forward = np.asarray(target, float) - np.asarray(position, float)
        right = np.cross(forward, [0.0, 1.0, 0.0])
        if np.linalg.norm(right) < 1e-9:
            raise UserError(f"A camera cannot look straight up or down: {list(position)} at {list(target)}.")
        forward, right = forward / np.linalg.norm(forward), right / np.linalg.norm(right)
        down = np.cross(forward, right)
        c, s = np.cos(roll), np.sin(roll)
        rotation = np.stack([c * right - s * down, s * right + c * down, forward])
        return cls(rotation, np.asarray(position, float), focal, (size[1] / 2, size[0] / 2), size)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project world points (N, 3) to (N, 3): pixel x, pixel y, depth in metres."""
        camera = (np.asarray(points, np.float64) - self.position) @ np.asarray(self.rotation, np.float64).T
        depth = camera[:, 2:]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.concatenate([self.focal * camera[:, :2] / depth + np.array(self.center), depth], axis=1)

    def scaled(self, factor: float) -> View:
        """Return the same camera with `factor` times as many pixels per side."""
        size = (round(self.size[0] * factor), round(self.size[1] * factor))
        center = (self.center[0] * factor, self.center[1] * factor)
        return View(self.rotation, self.position, self.focal * factor, center, size)


@dataclass(frozen=True)
class Light:
    """Light of a scene: key light, sky, reflecting ground and fill light, in linear RGB.

    Attributes:
        direction: Towards the key light (sun or lamp) in world axes; any length except zero.
        color: The key light's RGB.
        sky: Ambient RGB from above.
        ground: Ambient RGB from below.
        fill_direction: Towards the fill light.
        fill: The fill light's RGB; zeros switch it off.
        shadows: Whether meshes cast shadows of the key light on each other and themselves.
    """

    direction: tuple[float, float, float] = (0.4, 0.8, 0.5)
    color: tuple[float, float, float] = (0.75, 0.73, 0.70)
    sky: tuple[float, float, float] = (0.45, 0.47, 0.50)
    ground: tuple[float, float, float] = (0.22, 0.20, 0.19)
    fill_direction: tuple[float, float, float] = (-0.6, 0.2, 0.6)
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shadows: bool = False


@dataclass(frozen=True, eq=False)
class Frame:
    """The result of `draw`; H and W are the view's size.

    Attributes:
        rgb: (H, W, 3) float32 linear light, the mean over the covered part of a pixel; 0 if not covered.
        alpha: (H, W) float32 in 0..1, the covered share of a pixel (0 or 1 without supersampling).
        uv: (H, W, 2) float32 texture coordinates; -1 if not covered or the mesh has none.
        depth: (H, W) float32 metres along the camera's axis; inf if not covered.
        part: (H, W) uint8 label of the face; 0 if not covered.
        mesh: (H, W) int16 index into the drawn meshes; -1 if not covered.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    uv: np.ndarray
    depth: np.ndarray
    part: np.ndarray
    mesh: np.ndarray

    def over(self, background: np.ndarray) -> np.ndarray:
        """Composite the frame over a background (H, W, 3) in linear light; returns float32."""
        alpha = self.alpha[..., None]
        return alpha * self.rgb + (1 - alpha) * background.astype(np.float32)


_SRGB_TO_LINEAR = np.where(
    np.arange(256) <= 10, np.arange(256) / 255 / 12.92, ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4
).astype(np.float32)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """Convert uint8 sRGB to float32 linear light in 0..1 (IEC 61966-2-1)."""
    return _SRGB_TO_LINEAR[srgb]


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Convert linear light, clipped to 0..1, to uint8 sRGB (IEC 61966-2-1)."""
    x = np.clip(linear, 0, 1)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.power(x, 1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def _linear(colors: np.ndarray) -> np.ndarray:
    return to_linear(colors) if colors.dtype == np.uint8 else np.ascontiguousarray(colors, np.float32)


def _unit(vector: Sequence[float]) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    if not length > 0:
        raise UserError(f"A light's direction must not be zero. Received: {tuple(vector)}.")
    return np.asarray(vector, np.float64) / length


def draw(meshes: Sequence[Mesh], view: View, light: Light | None = None, supersample: int = 1) -> Frame:
    """Draw meshes into one frame; the nearest surface wins.

    Texture lookup is perspective-correct. Shading is Lambertian for key and fill light, plus hemisphere
    ambient light times each vertex's occlusion. A triangle with a vertex behind the camera is not drawn.

    Args:
        meshes: At most 32767 meshes in world coordinates.
        view: The camera.
        light: The light; `Light()` if None.
        supersample: Samples per pixel and side, 1..4. Colour and coverage are averaged; `uv`, `depth`, `part`
            and `mesh` come from the nearest sample.

    Returns:
        The frame; the same input gives the same bits in any process.

    Raises:
        UserError: If supersample or the light's direction is out of range.

    Example:
        >>> square = np.float32([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
        >>> white = Mesh(square, np.array([[0, 1, 2], [0, 2, 3]]), colors=np.full((4, 3), 255, np.uint8))
        >>> frame = draw([white], View.looking((0, 0, 4), (0, 0, 0), focal=8.0, size=(8, 8)))
        >>> int(frame.alpha.sum())
        16
    """
    light = light or Light()
    if supersample not in (1, 2, 3, 4):
        raise UserError(f"supersample must be 1, 2, 3 or 4. Received: {supersample}.")
    fine = view.scaled(supersample) if supersample > 1 else view
    height, width = fine.size
    nearest = _empty_buffer(height, width)
    projected = []
    for number, mesh in enumerate(meshes):
        points = kernels.project(
            np.ascontiguousarray(mesh.vertices, np.float64),
            np.ascontiguousarray(fine.rotation, np.float64),
            np.ascontiguousarray(fine.position, np.float64),
            float(fine.focal),
            float(fine.center[0]),
            float(fine.center[1]),
        )
        faces = np.ascontiguousarray(mesh.faces, np.int32)
        kernels.fill(points, faces, number, mesh.double_sided, nearest)
        projected.append((points, faces))
    shadow = _shadow_map(meshes, light) if light.shadows and meshes else _NO_SHADOW

    samples = kernels.Samples(
        rgb=np.zeros((height, width, 3), np.float32),
        uv=np.full((height, width, 2), -1, np.float32),
        part=np.zeros((height, width), np.uint8),
    )
    lamps = np.array(
        [
            _unit(light.direction),
            light.color,
            light.sky,
            light.ground,
            _unit(light.fill_direction),
            light.fill,
        ]
    )
    lighting = kernels.Lighting(lamps, np.ascontiguousarray(fine.position, np.float64), shadow)
    for number, (mesh, (points, faces)) in enumerate(zip(meshes, projected, strict=True)):
        surface = kernels.Surface(
            points=points,
            faces=faces,
            vertices=np.ascontiguousarray(mesh.vertices, np.float64),
            normals=vertex_normals(mesh.vertices, faces),
            uv=_NO_UV if mesh.uv is None else np.ascontiguousarray(mesh.uv, np.float32),
            uv_faces=faces[:0] if mesh.uv_faces is None else np.ascontiguousarray(mesh.uv_faces, np.int32),
            texture=_NO_TEXTURE if mesh.texture is None else _linear(mesh.texture),
            colors=_NO_COLORS if mesh.colors is None else _linear(mesh.colors),
            textured=mesh.texture is not None,
            part=_NO_PART if mesh.part is None else np.ascontiguousarray(mesh.part, np.uint8),
            occlusion=_ONES if mesh.occlusion is None else np.ascontiguousarray(mesh.occlusion, np.float32),
            gloss=float(mesh.gloss),
        )
        kernels.shade(number, surface, lighting, nearest, samples)
    return Frame(*kernels.resolve(supersample, nearest, samples))


def _empty_buffer(height: int, width: int) -> kernels.DepthBuffer:
    return kernels.DepthBuffer(
        inverse_depth=np.zeros((height, width)),
        triangle=np.full((height, width), -1, np.int32),
        which=np.full((height, width), -1, np.int16),
    )


_NO_UV = np.zeros((0, 2), np.float32)
_NO_TEXTURE = np.zeros((2, 2, 3), np.float32)
_NO_COLORS = np.zeros((0, 3), np.float32)
_NO_PART = np.zeros(0, np.uint8)
_ONES = np.zeros(0, np.float32)
_NO_SHADOW = kernels.ShadowMap(np.eye(3), x=0.0, y=0.0, scale=1.0, zero=0.0, nearness=np.zeros((0, 0)))
_SHADOW_SIZE = 192
# a point up to this far (metres) behind the surface that the light sees is still lit
_SHADOW_BIAS = 0.012


def _shadow_map(meshes: Sequence[Mesh], light: Light) -> kernels.ShadowMap:
    """The key light's view, a parallel projection, with a map of nearness to the light."""
    toward = _unit(light.direction)
    helper = np.array([0.0, 0.0, 1.0]) if abs(toward[1]) > 0.9 else np.array([0.0, 1.0, 0.0])
    right = np.cross(helper, toward)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(right, toward), toward])
    seen = [kernels.flatten(np.ascontiguousarray(mesh.vertices, np.float64), axes) for mesh in meshes]
    low = np.min([s.min(0) for s in seen], axis=0)
    high = np.max([s.max(0) for s in seen], axis=0)
    scale = (_SHADOW_SIZE - 2) / max(float((high - low)[:2].max()), 1e-6)
    origin = low - 1 / scale
    buffer = _empty_buffer(_SHADOW_SIZE, _SHADOW_SIZE)
    for number, (mesh, points) in enumerate(zip(meshes, seen, strict=True)):
        points = (points - origin) * [scale, scale, 1.0]
        points[:, 2] += 1.0  # `fill` expects positive values that are larger near the light
        kernels.fill(points, np.ascontiguousarray(mesh.faces, np.int32), number, True, buffer)
    zero = float(origin[2]) - 1.0 - _SHADOW_BIAS
    return kernels.ShadowMap(
        axes, float(origin[0]), float(origin[1]), scale, zero, nearness=buffer.inverse_depth
    )
