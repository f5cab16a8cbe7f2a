"""Painted textures on the standard body, seen from several sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from san_tf.errors import UserError
from san_tf.synthesis.body import BodyShape, load_body, shaped
from san_tf.synthesis.mesh import Mesh
from san_tf.synthesis.posture import Arm, Leg, Posture, rotations
from san_tf.synthesis.rasterizer import Light, View, draw, to_srgb
from san_tf.synthesis.skeleton import Pose, pose_vertices
from san_tf.visualization import style

_TALL = 1.7
_LIGHT = Light(
    direction=(0.3, 0.5, 0.9),
    color=(0.42, 0.42, 0.42),
    sky=(0.62, 0.62, 0.62),
    ground=(0.5, 0.5, 0.5),
    fill_direction=(-0.8, 0.1, 0.5),
    fill=(0.12, 0.12, 0.12),
)


def render_texture(texture: np.ndarray, yaw: float = 0.0, height: int = 320) -> np.ndarray:
    """Draw the standard body with a texture, on white.

    Args:
        texture: (T, T, 3) uint8 RGB, or float in [-1, 1].
        yaw: Degrees; 0 faces the viewer, 90 shows the person's left side.
        height: Height of the picture in pixels, at least 32; its width is half of it.

    Returns:
        (height, height // 2, 3) uint8 RGB.

    Raises:
        UserError: If the texture is not valid or the height is below 32.

    Example:
        >>> render_texture(np.zeros((64, 64, 3), np.uint8), yaw=90.0, height=64).shape
        (64, 32, 3)
    """
    if height < 32:
        raise UserError(f"A rendered body needs at least 32 rows. Received: height={height}.")
    picture = style.as_picture(texture, "texture")
    body, shape = load_body(), BodyShape(sex=0.5, age=0.15)
    arm, leg = Arm(abduction=14, elbow=8), Leg(abduction=3)
    pose = Pose(rotations(Posture(left_arm=arm, right_arm=arm, left_leg=leg, right_leg=leg)))
    angle = np.radians(yaw)
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    vertices = pose_vertices(shaped(shape), shape, pose) @ turn.T
    mesh = Mesh(vertices, body.faces, picture, body.uv, body.uv_faces, occlusion=body.occlusion)
    size = (height, height // 2)
    view = View.looking((0, 1.0, 7.0), (0, 0.84, 0), focal=3.85 * height, size=size)
    frame = draw([mesh], view, _LIGHT, supersample=2)
    return to_srgb(frame.over(np.ones((*size, 3), np.float32)))


def reposed(
    images: Sequence[np.ndarray] | np.ndarray,
    textures: Sequence[np.ndarray] | np.ndarray,
    yaws: Sequence[float] = (0, 60, 120, 180, 240, 300),
    captions: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw photographs, their painted textures, and textured bodies from several sides.

    Args:
        images: N photographs (H, W, 3) uint8 RGB.
        textures: N textures (T, T, 3), uint8 or float in [-1, 1].
        yaws: Degrees; 0 faces the viewer, 90 shows the person's left side.
        captions: N short texts under the photographs.
        title: Above the figure.

    Returns:
        The figure: 2 + len(yaws) axes per sample.

    Raises:
        UserError: If counts or shapes do not fit.

    Example:
        >>> image, texture = np.zeros((128, 64, 3), np.uint8), np.zeros((128, 128, 3), np.uint8)
        >>> figure = reposed([image], [texture], yaws=(0, 90))
        >>> len(figure.axes)
        4
    """
    pictures, worn = style.as_pictures(images, "images"), style.as_pictures(textures, "textures")
    style.check_count(worn, len(pictures), "textures", "the images")
    style.check_count(captions, len(pictures), "captions", "the images")
    if len(yaws) == 0:
        raise UserError("yaws is empty: give at least one angle in degrees, e.g. (0, 180).")
    half, step = _TALL / 2, _TALL / 2 + 0.02
    line = 0.18 if captions is not None else 0.0
    head = style.title_height(title) + 0.24
    start = 0.15 + half + 0.12 + _TALL + 0.15
    figure = style.new_figure(
        start + len(yaws) * step + 0.1, head + len(pictures) * (_TALL + line + 0.12), title
    )
    for text, at in (("input", 0.15 + half / 2), ("painted", 0.15 + half + 0.12 + half)):
        style.write(figure, text, at, head - 0.12, style.SMALL, style.MUTED, "center")
    for n, (picture, texture) in enumerate(zip(pictures, worn, strict=True)):
        top = head + n * (_TALL + line + 0.12)
        style.show_picture(figure, picture, 0.15, top, half, _TALL)
        if captions is not None:
            style.caption(figure, captions[n], 0.15 + half / 2, top + _TALL + 0.1, half + 0.3)
        style.show_picture(figure, texture, 0.15 + half + 0.12, top, _TALL, _TALL)
        for k, yaw in enumerate(yaws):
            axes = style.show_picture(
                figure, render_texture(texture, yaw), start + k * step, top, half, _TALL
            )
            axes.set_axis_off()
            if n == 0:
                at = start + k * step + half / 2
                style.write(figure, f"{yaw:g}°", at, head - 0.12, style.SMALL, style.MUTED, "center")
    return figure
