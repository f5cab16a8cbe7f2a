"""Body-part labels for the cells of a rendered crop.

The renderer knows which texel of the body it drew at each pixel. Counted over the cells of a grid, such as an
encoder's feature map, these texels give exact labels, which photographs lack. They test whether a feature
knows which body part it sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from san_tf.errors import UserError
from san_tf.synthesis.body import PARTS
from san_tf.synthesis.crop_plans import CropSpec
from san_tf.synthesis.scene import BODY_MESH, Surface, draw_shot
from san_tf.synthesis.texels import texel_map, texels_at

LABELS: tuple[str, ...] = ("background", *PARTS[1:], "hair, skirt or bag")
BACKGROUND, EXTRA = 0, len(LABELS) - 1
# A cell shows the person if this share of its pixels does. With a majority (0.5), half of the cells on legs
# and arms would be background.
_LEAST = 0.25


@dataclass(frozen=True, eq=False)
class SurfaceLabels:
    """Labels of the cells of N crops.

    Attributes:
        part: `(N, h, w)` uint8 into `LABELS`. Background if less than a quarter of the cell shows the
            person; else the part with most pixels, the first one in a tie.
        position: `(N, h, w, 3)` float32 metres: the mean position of that part's visible pixels on the
            average body at rest; NaN where `part` is not a part of the body itself.
    """

    part: np.ndarray
    position: np.ndarray

    @property
    def on_body(self) -> np.ndarray:
        """Cells that show a part of the body itself, `(N, h, w)` bool."""
        return (self.part != BACKGROUND) & (self.part != EXTRA)


def label_crops(specs: Iterable[CropSpec], grid: tuple[int, int]) -> SurfaceLabels:
    """Label the cells of crops; the crops are drawn again.

    Args:
        specs: from `generator.synthetic_reid_index` or `pit_index`. The labels belong to the pixels of the
            images that `crops.render_crop` makes of the same specs.
        grid: rows and columns of cells, such as (8, 4); all cells have the same size.

    Returns:
        Labels with one row per spec.

    Raises:
        UserError: the list of specs is empty, or the grid has more cells than the drawing has pixels.

    Example:
        >>> specs = synthetic_reid_index("smoke", "query")
        >>> label_crops(specs, (8, 4)).part.shape
        (12, 8, 4)
    """
    cells = [label_cells(draw_shot(spec).surface, grid) for spec in specs]
    if not cells:
        raise UserError("There are no crops to label; name at least one.")
    parts, positions = zip(*cells, strict=True)
    return SurfaceLabels(np.stack(parts), np.stack(positions))


def label_cells(surface: Surface, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Label the cells of one crop.

    Args:
        surface: what each pixel shows.
        grid: rows and columns of cells.

    Returns:
        `part` (h, w) and `position` (h, w, 3), as in `SurfaceLabels`.

    Raises:
        UserError: the grid has no cells, or more than there are pixels.
    """
    height, width = surface.mesh.shape
    rows, columns = grid
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise UserError(f"A grid of {rows} x {columns} cells does not fit {height} x {width} pixels.")
    texels = texel_map()
    row, column = texels_at(surface.uv, len(texels.part))
    part_of_body = np.where(surface.mesh == BODY_MESH, texels.part[row, column], BACKGROUND)
    label = np.where(surface.mesh > BODY_MESH, EXTRA, part_of_body)
    down, across = np.arange(height) * rows // height, np.arange(width) * columns // width
    cell = (down[:, None] * columns + across[None, :]).ravel()
    number = len(LABELS)
    counts = np.bincount(cell * number + label.ravel(), minlength=rows * columns * number).reshape(-1, number)
    shown = counts[:, 1:].sum(1) >= _LEAST * counts.sum(1)
    part = np.where(shown, 1 + counts[:, 1:].argmax(1), BACKGROUND)
    # Average over the winning part alone: the mean of torso and forearm positions lies on neither.
    kept = label.ravel() == part[cell]
    kept &= (label.ravel() != BACKGROUND) & (label.ravel() != EXTRA)
    seen = np.bincount(cell[kept], minlength=rows * columns).astype(np.float64)
    places = texels.position[row, column].reshape(-1, 3)[kept]
    sums = np.stack([np.bincount(cell[kept], axis, rows * columns) for axis in places.T], axis=1)
    with np.errstate(invalid="ignore"):
        position = sums / seen[:, None]
    return part.reshape(grid).astype(np.uint8), position.reshape(*grid, 3).astype(np.float32)
