"""Scores of painted textures, by what the image shows of the person: front, back, side, or half of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from san_tf.evaluation.color_difference import lab_distance
from san_tf.evaluation.conditions import OCCLUDED, OPPOSITE_SIDES, SAME_SIDE, yaw_difference
from san_tf.evaluation.texture_scores import detail, gmsd, ssim
from san_tf.experiments.painting import texel_differences
from san_tf.synthesis.crop_plans import CropSpec
from san_tf.synthesis.seen_garments import seen_garments
from san_tf.synthesis.texels import texel_map

# How far a surface must turn to the camera to be seen, and away from it to be hidden: cosines.
_TOWARDS, _AWAY = 0.3, -0.3


def views(yaw: np.ndarray, visibility: np.ndarray) -> dict[str, np.ndarray]:
    """Masks `(N,)` of the views of a person: each image has front, side or back, and may be occluded too.

    Args:
        yaw: `(N,)` degrees, 0 faces the camera.
        visibility: `(N,)` share of the person that is seen.
    """
    turned = yaw_difference(yaw, np.array(0.0))
    return {
        "all": np.ones(len(yaw), bool),
        "front": turned <= SAME_SIDE,
        "side": (turned > SAME_SIDE) & (turned < OPPOSITE_SIDES),
        "back": turned >= OPPOSITE_SIDES,
        "occluded": np.asarray(visibility) < OCCLUDED,
    }


def texture_scores(
    painted: np.ndarray, true: np.ndarray, extras: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Score textures by view.

    Args:
        painted: `(N, T, T, 3)` uint8.
        true: `(N, T, T, 3)` uint8.
        extras: `yaw` and `visibility`, `(N,)` each.

    Returns:
        By view: `pairs`; `l1`, mean absolute difference as a share of the range; `l1_seen` and `l1_hidden`,
        the same on the surface that faces the camera (the person upright) and on the one that faces away;
        `ssim`, `gmsd` and `detail` of `san_tf.evaluation.texture_scores`. A view without pairs is left out.
    """
    texels = texel_map(painted.shape[1])
    inside = texels.inside
    angle = np.deg2rad(np.asarray(extras["yaw"], np.float64))
    facing = np.stack([np.sin(angle), np.zeros(len(angle)), np.cos(angle)]).T @ texels.normal[inside].T
    difference = texel_differences(painted, true)
    columns = {
        "l1": difference.mean(1, dtype=np.float64),
        **{
            name: (difference * part).sum(1) / np.maximum(part.sum(1), 1)
            for name, part in (("l1_seen", facing > _TOWARDS), ("l1_hidden", facing < _AWAY))
        },
        "ssim": ssim(painted, true, inside),
        "gmsd": gmsd(painted, true, inside),
        "detail": detail(painted, true, inside),
    }
    return {
        view: {
            "pairs": int(chosen.sum()),
            **{name: _mean(column[chosen]) for name, column in columns.items()},
        }
        for view, chosen in views(extras["yaw"], extras["visibility"]).items()
        if chosen.any()
    }


def color_scores(specs: Iterable[CropSpec], textures: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How far the colours of garments on textures are from those that they have in their pictures.

    Args:
        specs: of N rendered pictures, which are drawn again to know which pixel is of which garment.
        textures: `(N, T, T, 3)` uint8, those of the same pictures, by name.

    Returns:
        `garments`, how many are seen well enough; and for each name the mean over them of the distance in
        CIELAB between the median colour in the picture and the median colour of the same place on the
        texture. NaN where no garment is seen.
    """
    distances: dict[str, list[float]] = {name: [] for name in textures}
    for number, spec in enumerate(specs):
        for seen in seen_garments(spec):
            for name, those in textures.items():
                distances[name].append(float(lab_distance(seen.color, seen.color_on(those[number]))))
    return {
        "garments": max(map(len, distances.values()), default=0),
        **{name: _mean(np.array(column)) for name, column in distances.items()},
    }


def _mean(values: np.ndarray) -> float:
    """Mean of the values there are; NaN where there is none, as of the detail of plain textures."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
