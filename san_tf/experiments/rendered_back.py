"""Measures painted textures without true ones: draws them back onto photographs and compares colours."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.texture_scores import lab_colors
from san_tf.synthesis.body import BodyShape, load_body, shaped
from san_tf.synthesis.camera import labelled_window
from san_tf.synthesis.mesh import Mesh
from san_tf.synthesis.pose import walking
from san_tf.synthesis.posture import Arm, Leg, Posture, rotations
from san_tf.synthesis.rasterizer import View, draw
from san_tf.synthesis.skeleton import Pose, pose_vertices
from san_tf.synthesis.texels import texels_at

# Textures and photographs are compared at these sizes: an image's noise averages out, garments stay apart.
COMPARED = 32
_SIZE = (64, 32)
_TURNS, _PHASES = 12, (0.0, 0.25, 0.5, 0.75)
# Photographs that are measured at most; more change the means little.
_MOST = 1_000


class RenderedBack(NamedTuple):
    """Colour errors of textures that are drawn back onto photographs, in CIELAB units.

    The standard body stands or walks in the box of the photograph, seen from twelve sides; the view with the
    least error counts. So the errors are those of the best fit, for every texture alike.

    Attributes:
        own: error of the texture painted of the photograph itself.
        partner: error of a texture painted of the same person from another camera.
        other: error of a texture painted of another person, from the camera of the partner.
        mean: error of the mean texture.
        partner_wins: how often the partner's error is below the other person's, in [0, 1]; 0.5 is chance.
        images: number of photographs that were measured.
    """

    own: float
    partner: float
    other: float
    mean: float
    partner_wins: float
    images: int


class Views(NamedTuple):
    """Which texel each pixel shows, for all views one after another.

    Attributes:
        pixels: `(P,)` index into an image of 64 x 32 pixels.
        texels: `(P,)` index into a texture of 32 x 32 texels.
        starts: `(V,)` where each view begins.
    """

    pixels: np.ndarray
    texels: np.ndarray
    starts: np.ndarray


@functools.cache
def body_views() -> Views:
    """Return the standard body, standing and in four phases of a walk, from twelve sides."""
    body, shape = load_body(), BodyShape(sex=0.5, age=0.15)
    arm, leg = Arm(abduction=10, elbow=8), Leg(abduction=2)
    standing = Pose(rotations(Posture(left_arm=arm, right_arm=arm, left_leg=leg, right_leg=leg)))
    pixels, texels = [], []
    for pose in (standing, *map(walking, _PHASES)):
        posed = pose_vertices(shaped(shape), shape, pose)
        for angle in np.arange(_TURNS) * 2 * np.pi / _TURNS:
            cosine, sine = np.cos(angle), np.sin(angle)
            vertices = posed @ np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]]).T
            # From 8 metres and a camera above the head, as most of them hang.
            view = View.looking((0, 2.5, 8.0), (0, 0.9, 0), focal=1.0, size=_SIZE)
            mesh = Mesh(vertices, body.faces, np.zeros((2, 2, 3), np.uint8), body.uv, body.uv_faces)
            frame = draw([mesh], _boxed(view, vertices))
            # The outermost pixels also show the background.
            seen = cv2.erode((frame.mesh == 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            row, column = texels_at(frame.uv[seen], COMPARED)
            pixels.append(np.flatnonzero(seen))
            texels.append(row * COMPARED + column)
    starts = np.cumsum([0, *(len(one) for one in pixels[:-1])])
    return Views(np.concatenate(pixels), np.concatenate(texels), starts)


def _boxed(view: View, vertices: np.ndarray) -> View:
    """The same view of the box that people would draw, stretched to the size of the picture."""
    window = labelled_window(view.project(vertices)[:, :2], _NoChance())  # type: ignore[arg-type]
    height, width = _SIZE
    across, down = width / window.width, height / window.height
    left, top = view.center[0] - window.left, view.center[1] - window.top
    rotation = view.rotation * np.array([[across / down], [1.0], [1.0]])
    return View(rotation, view.position, down, (left * across, top * down), _SIZE)


class _NoChance:
    """Stands for a random generator: every draw is its mean."""

    @staticmethod
    def normal(mean: float, _: float, size: int) -> np.ndarray:
        return np.full(size, mean)


def fit_errors(image: np.ndarray, textures: np.ndarray) -> np.ndarray:
    """Draw textures onto a photograph; return the mean colour error of each one's best view.

    Args:
        image: `(H, W, 3)` uint8 crop of a person.
        textures: `(K, 32, 32, 3)` CIELAB colours, see `evaluation.texture_scores.lab_colors`.

    Returns:
        `(K,)` float64, mean distance in CIELAB over the body's pixels.

    Example:
        >>> grey = np.full((128, 64, 3), 128, np.uint8)
        >>> fit_errors(grey, lab_colors(np.full((1, 32, 32, 3), 128, np.float32))).round(3)
        array([0.])
    """
    views = body_views()
    small = cv2.resize(image, _SIZE[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    seen = lab_colors(small).reshape(-1, 3)[views.pixels]
    drawn = np.asarray(textures, np.float32).reshape(len(textures), -1, 3)[:, views.texels]
    errors = np.linalg.norm(drawn - seen, axis=-1)
    counts = np.diff([*views.starts, len(views.pixels)])
    means = np.add.reduceat(errors, views.starts, axis=1, dtype=np.float64) / counts
    best: np.ndarray = means.min(1)
    return best


def rendered_back(
    images: Sequence[Callable[[], np.ndarray]],
    textures: np.ndarray,
    pids: np.ndarray,
    camids: np.ndarray,
    seed: int = 0,
) -> RenderedBack:
    """Measure how well textures fit photographs of the same person from another camera.

    They are compared with those of other people by that camera, or by any if it saw nobody else.

    Args:
        images: N functions that return a uint8 crop `(H, W, 3)`.
        textures: `(N, 32, 32, 3)` CIELAB colours of what was painted of each photograph.
        pids: `(N,)` identities; images without identity (below 1) do not count.
        camids: `(N,)` cameras.
        seed: chooses partners and other people, and the photographs if there are more than 1,000.

    Raises:
        UserError: nobody was seen by two cameras, or there is one person only.
    """
    rng = np.random.default_rng(seed)
    mean = textures.mean(0)
    found: list[np.ndarray] = []
    wins: list[float] = []
    for number in rng.permutation(len(pids)):
        if len(found) == _MOST:
            break
        elsewhere = (pids >= 1) & (camids != camids[number])
        partners = np.flatnonzero(elsewhere & (pids == pids[number]))
        if pids[number] < 1 or not len(partners):
            continue
        partner = rng.choice(partners)
        others = np.flatnonzero(elsewhere & (pids != pids[number]))
        # Seen by the partner's camera where it saw others, so that the camera's colours tell nothing.
        if (alike := camids[others] == camids[partner]).any():
            others = others[alike]
        if not len(others):
            continue
        four = np.stack([textures[number], textures[partner], textures[rng.choice(others)], mean])
        errors = fit_errors(images[number](), four)
        found.append(errors)
        wins.append(float(errors[1] < errors[2]) + 0.5 * float(errors[1] == errors[2]))
    if not found:
        raise UserError(
            "Textures are drawn onto photographs by another camera, but nobody was seen by two, or only one "
            "person was seen; give photographs of two people by two cameras."
        )
    own, partner, other, average = (float(value) for value in np.mean(found, axis=0))
    return RenderedBack(own, partner, other, average, float(np.mean(wins)), len(found))
