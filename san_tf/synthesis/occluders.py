"""Placement of street furniture behind people and in front of them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from san_tf.synthesis.camera import Camera, Window
from san_tf.synthesis.furniture import VARIANTS, Sprite, sprite
from san_tf.synthesis.light import Light
from san_tf.synthesis.places import Place, is_free
from san_tf.synthesis.seeds import generator_at

# Kinds that stand along streets, and kinds that hide a part of a person.
PARKED = (
    *("bicycle", "bicycle", "bicycle", "car", "pole", "bin", "plant", "tree", "bench"),
    *("bollards", "railing", "boxes", "scooter"),
)
IN_FRONT = ("pole", "bin", "bicycle", "plant", "railing", "boxes", "bench", "bollards", "scooter", "tree")


@dataclass(frozen=True, eq=False)
class Thing:
    """A sprite at a place on the ground.

    Attributes:
        sprite: the drawing.
        x, z: position of the middle of its foot in metres.
        mirrored: whether left and right are exchanged.
        tint: `(3,)` factor on its colours.
    """

    sprite: Sprite
    x: float
    z: float
    mirrored: bool
    tint: np.ndarray


def _thing(kinds: tuple[str, ...], x: float, z: float, rng: np.random.Generator) -> Thing:
    art = sprite(kinds[int(rng.integers(len(kinds)))], int(rng.integers(VARIANTS)))
    tint = np.exp(rng.normal(0.0, 0.12)) * np.exp(rng.normal(0.0, 0.06, 3))
    return Thing(art, x, z, bool(rng.random() < 0.5), tint)


def parked_things(seed: int, camera: Camera, place: Place) -> list[Thing]:
    """Return the things that stand at a camera's place.

    Args:
        seed: of the data set.
        camera: the camera.
        place: its place; no thing stands behind its walls.

    Returns:
        Things, farthest first; the same arguments give the same things.
    """
    rng = generator_at(seed, "parked", camera.camid)
    near, far = camera.distance
    things: list[Thing] = []
    # Things stand in rows, as bicycles and cars do.
    for _ in range(int(rng.integers(2, 6))):
        distance = rng.uniform(near * 1.05, far * 1.5)
        x, count = rng.uniform(-1.3, 1.3) * camera.half_width * distance, int(rng.choice([1, 1, 2, 4, 7]))
        kind, step = PARKED[int(rng.integers(len(PARKED)))], rng.uniform(0.35, 0.8)
        if kind == "car":
            # Streets run behind the pavement, and flat cars look better from far away.
            distance = max(distance, far * 1.1)
        for index in range(count):
            place_x = x + index * max(step, 0.0 if kind == "bicycle" else sprite(kind, 0).width * 1.15)
            place_z = -distance + rng.normal(0, 0.15)
            if is_free(place, place_x, place_z):
                things.append(_thing((kind,), place_x, place_z, rng))
    return sorted(things, key=lambda thing: thing.z)


def thing_in_front(x: float, z: float, rng: np.random.Generator) -> Thing:
    """Return a thing that stands before a person and hides a part of them.

    Args:
        x: of the person in metres.
        z: of the person in metres, negative.
        rng: source of randomness.
    """
    nearer = z + rng.uniform(0.6, 1.6)
    art = _thing(IN_FRONT, 0.0, nearer, rng)
    reach = 0.2 + 0.35 * art.sprite.width
    return Thing(art.sprite, x * nearer / z + rng.uniform(-reach, reach), nearer, art.mirrored, art.tint)


def draw_thing(
    canvas: np.ndarray, thing: Thing, camera: Camera, window: Window, light: Light
) -> np.ndarray | None:
    """Draw an upright thing and its contact shadow.

    Args:
        canvas: `(H, W, 3)` float32 RGB in linear light, changed in place.
        thing: what to draw.
        camera: where the camera hangs.
        window: the part of the frame that the canvas shows.
        light: sun and sky.

    Returns:
        `(H, W)` float32 opacity of what was drawn, or None where the thing lies outside the window.
    """
    height, width = canvas.shape[:2]
    half, tall = thing.sprite.width / 2, thing.sprite.height
    corners = np.array(
        [[thing.x - half, 0, thing.z], [thing.x + half, 0, thing.z], [thing.x - half, tall, thing.z]]
    )
    image = window.to_image(camera.project(corners), height, width)
    left, right, top, foot = image[:, 0].min(), image[1, 0], image[2, 1], max(image[0, 1], image[1, 1])
    if right < 0 or left > width or foot < 0 or top > height or right - left < 1:
        return None
    soften_ground(canvas, (image[0] + image[1]) / 2, (right - left) * 0.6, (right - left) * 0.12, 0.45)
    rows, columns = thing.sprite.rgba.shape[:2]
    source = np.array([[0, rows], [columns, rows], [0, 0]], np.float32)
    if thing.mirrored:
        source[:, 0] = columns - source[:, 0]
    transform = cv2.getAffineTransform(source, image.astype(np.float32))
    drawn = cv2.warpAffine(thing.sprite.rgba, transform, (width, height), flags=cv2.INTER_LINEAR)
    alpha = drawn[..., 3]
    strength = (thing.tint * (0.8 * light.sky + 0.45 * light.sun)).astype(np.float32)
    canvas *= (1 - alpha)[..., None]
    canvas += drawn[..., :3] * strength
    return alpha


def soften_ground(
    canvas: np.ndarray, centre: np.ndarray, across: float, deep: float, strength: float
) -> None:
    """Darken an ellipse of the ground softly, as a contact shadow.

    Args:
        canvas: `(H, W, 3)` float32 RGB, changed in place.
        centre: `(2,)` pixel x, y.
        across: half axis in pixels along x.
        deep: half axis in pixels along y.
        strength: share of light that is lost in the middle, 0..1.
    """
    height, width = canvas.shape[:2]
    reach_x, reach_y = 2.2 * across + 1, 2.2 * deep + 1
    x0, x1 = max(0, int(centre[0] - reach_x)), min(width, int(centre[0] + reach_x) + 1)
    y0, y1 = max(0, int(centre[1] - reach_y)), min(height, int(centre[1] + reach_y) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    x = (np.arange(x0, x1, dtype=np.float32) - np.float32(centre[0])) / max(across, 1.0)
    y = (np.arange(y0, y1, dtype=np.float32) - np.float32(centre[1])) / max(deep, 1.0)
    loss = strength * np.exp(-(x[None, :] ** 2 + y[:, None] ** 2))
    canvas[y0:y1, x0:x1] *= (1 - loss)[..., None]
