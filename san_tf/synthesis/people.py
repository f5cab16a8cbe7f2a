"""People on the street: dressing, posing, placing, drawing them and their shadows."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from san_tf.synthesis import rasterizer, wardrobe
from san_tf.synthesis.body import BodyShape, joints, load_body, shaped
from san_tf.synthesis.camera import Camera, Window
from san_tf.synthesis.crop_plans import Wearer
from san_tf.synthesis.light import Light
from san_tf.synthesis.mesh import Mesh, vertex_normals
from san_tf.synthesis.occluders import soften_ground
from san_tf.synthesis.pose import sample_pose
from san_tf.synthesis.rasterizer import View, to_linear
from san_tf.synthesis.skeleton import Pose, bone_transforms, skin


@dataclass(frozen=True, eq=False)
class Person:
    """A dressed identity in rest pose.

    Attributes:
        shape: shape of the body.
        joints: `(B, 3)` metres, heads of the bones at rest.
        texture: `(256, 256, 3)` uint8 RGB, the texture of the body.
        body: the clothed body at rest; its texture is in linear light.
        extras: hair, skirt, bags.
    """

    shape: BodyShape
    joints: np.ndarray
    texture: np.ndarray
    body: Mesh
    extras: tuple[wardrobe.ExtraMesh, ...]


@dataclass(frozen=True, eq=False)
class Figure:
    """A posed person at a place.

    Attributes:
        meshes: meshes with vertices in world coordinates, metres.
        x, z: position on the ground in metres.
    """

    meshes: tuple[Mesh, ...]
    x: float
    z: float

    def points(self) -> np.ndarray:
        """Return the `(N, 3)` vertices of all meshes."""
        return np.concatenate([mesh.vertices for mesh in self.meshes])

    def share_inside(self, camera: Camera, window: Window) -> float:
        """Return the share of the silhouette inside the window, 0..1, on a coarse grid."""
        cells = window.to_image(camera.project(self.points()[::2]), 48, 24)
        column, row = np.floor(cells).astype(np.int64).T
        # A margin of the window's size on every side counts what lies outside; points beyond it are ignored.
        near = (column >= -24) & (column < 48) & (row >= -48) & (row < 96)
        filled = np.zeros((144, 72), bool)
        filled[row[near] + 48, column[near] + 24] = True
        return float(filled[48:96, 24:48].sum()) / max(1.0, float(filled.sum()))


@functools.lru_cache(maxsize=64)
def dressed_person(wearer: Wearer) -> Person:
    """Return a person in their clothes.

    Args:
        wearer: what determines body and clothes, `CropSpec.wearer`.

    Returns:
        A `Person`, read-only.

    Example:
        >>> dressed_person(Wearer(3)).texture.shape
        (256, 256, 3)
    """
    identity = wardrobe.sample_identity(*wearer)
    outfit, body = wardrobe.dress(identity), load_body()
    bare = shaped(identity.shape)
    clothed = bare + outfit.offsets[:, None] * vertex_normals(bare, body.faces)
    mesh = Mesh(
        vertices=clothed.astype(np.float32),
        faces=body.faces,
        texture=to_linear(outfit.texture),
        uv=body.uv,
        uv_faces=body.uv_faces,
    )
    return Person(identity.shape, joints(identity.shape)[0], outfit.texture, mesh, outfit.extras)


def clothes_texture(wearer: Wearer) -> np.ndarray:
    """Return the texture of `dressed_person` without bags.

    The rendered texture shows a rucksack and its straps, but they are not part of the person. A texture
    generator should paint the shirt under them.

    Args:
        wearer: what determines body and clothes, `CropSpec.wearer`.

    Returns:
        `(256, 256, 3)` uint8 RGB, read-only.

    Example:
        >>> clothes_texture(Wearer(3)).shape
        (256, 256, 3)
    """
    identity = wardrobe.sample_identity(*wearer)
    if identity.bag.kind == "none":
        return dressed_person(wearer).texture
    return wardrobe.paint_texture(identity, bags=False)


def place_figure(
    person: Person, action: str, x: float, z: float, yaw: float, rng: np.random.Generator
) -> Figure:
    """Pose a person and put them on the street.

    Args:
        person: from `dressed_person`.
        action: one of `crop_plans.ACTIONS`.
        x: metres to the right.
        z: metres towards the camera, negative.
        yaw: degrees; 0 faces the camera, 90 shows the person's left side.
        rng: chooses the pose within the action.

    Returns:
        A `Figure`.
    """
    return posed_figure(person, sample_pose(rng, action), x, z, np.arctan2(-x, -z) - np.deg2rad(yaw))


def posed_figure(person: Person, pose: Pose, x: float, z: float, turn: float) -> Figure:
    """Put a person in a given pose on the street.

    Args:
        person: from `dressed_person`.
        pose: rotations of the bones.
        x: metres to the right.
        z: metres towards the camera, negative.
        turn: direction that the person faces, in radians: 0 is along z, pi / 2 along x.

    Returns:
        A `Figure`.
    """
    transforms = bone_transforms(person.shape, pose)
    # Turn and position are part of the bones' transforms, so every mesh is moved only once.
    cos, sin = np.cos(turn), np.sin(turn)
    transforms = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]]) @ transforms
    transforms[:, :, 3] += np.array([x, 0.0, z])
    body = load_body()
    posed = person.body.at(skin(person.body.vertices, body.skin_bones, body.skin_weights, transforms))
    extras = [wardrobe.pose_extra(extra, transforms, person.joints) for extra in person.extras]
    return Figure((posed, *extras), x, z)


def window_view(camera: Camera, window: Window, size: tuple[int, int]) -> View:
    """Return the rasterizer's view of a window of the camera's frame.

    Args:
        camera: the camera.
        window: the part of its frame that fills the image.
        size: (height, width) of the image in pixels.
    """
    height, width = size
    scale_x, scale_y = width / window.width, height / window.height
    # The rasterizer looks along +z with y down. A window is stretched to the image's proportions; the x axis
    # holds that stretch.
    rotation = camera.rotation() * np.array([[scale_x / scale_y], [-1.0], [-1.0]])
    center = (-window.left * scale_x, -window.top * scale_y)
    return View(rotation, np.array([0.0, camera.height, 0.0]), camera.focal * scale_y, center, size)


def draw_figure(
    canvas: np.ndarray, figure: Figure, camera: Camera, window: Window, light: Light
) -> rasterizer.Frame:
    """Draw a person into a window of the camera's frame.

    Args:
        canvas: `(H, W, 3)` float32 RGB in linear light, changed in place.
        figure: the person.
        camera: where the camera hangs.
        window: the part of the frame that the canvas shows.
        light: sun and sky.

    Returns:
        The rasterizer's frame: `alpha` is the covered share of each pixel; `mesh` (0 is the body) and `uv`
        name the surface that it shows.
    """
    lamps = rasterizer.Light(
        direction=tuple(light.direction),
        color=tuple(light.sun),
        sky=tuple(light.sky),
        ground=tuple(0.3 * light.sky + 0.2 * light.sun),
        shadows=light.hardness > 0.3,
    )
    frame = rasterizer.draw(figure.meshes, window_view(camera, window, canvas.shape[:2]), lamps)
    alpha = frame.alpha[..., None]
    canvas *= 1 - alpha
    canvas += alpha * frame.rgb
    return frame


def cast_shadow(canvas: np.ndarray, figure: Figure, camera: Camera, window: Window, light: Light) -> None:
    """Draw a person's shadow and the contact shadow under the feet, in place.

    Args:
        canvas: `(H, W, 3)` float32 RGB in linear light, changed in place.
        figure: the person.
        camera: where the camera hangs.
        window: the part of the frame that the canvas shows.
        light: sun and sky.
    """
    height, width = canvas.shape[:2]
    points = figure.points()
    feet = points[points[:, 1] < 0.12]
    image = window.to_image(camera.project(feet * np.array([1.0, 0.0, 1.0])), height, width)
    middle, spread = image.mean(0), np.ptp(image, axis=0)
    soften_ground(canvas, middle, 0.55 * spread[0] + 0.02 * height, 0.55 * spread[1] + 0.012 * height, 0.5)
    if light.hardness < 0.1:
        return
    thrown = points[::3] - light.direction * (points[::3, 1:2] / light.direction[1])
    # Half resolution is enough: closing and blur merge the dots into one area.
    rows, columns = height // 2, width // 2
    dots = np.floor(window.to_image(camera.project(thrown), rows, columns)).astype(np.int64)
    inside = (dots >= 0).all(1) & (dots[:, 0] < columns) & (dots[:, 1] < rows)
    mask = np.zeros((rows, columns), np.float32)
    mask[dots[inside, 1], dots[inside, 0]] = 1.0
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    mask = cv2.resize(cv2.GaussianBlur(mask, (0, 0), 1.2), (width, height), interpolation=cv2.INTER_LINEAR)
    lit = float(light.sun[1] * light.direction[1])
    canvas *= (1 - mask * (lit / (lit + float(light.sky[1]))))[..., None]
