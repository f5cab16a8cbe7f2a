"""Compiled loops that augment images and textures, reading and writing each pixel once.

A chain of TensorFlow operations goes over the pixels eight times and takes four times as long.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from san_tf.compiled import compiled

# Number of texels gathered before they are scaled together.
_TEXELS_AT_ONCE = 1024
# Mid-grey replaces a missing texture; its weight in the loss is 0.
_MISSING = np.float32(128 / 127.5 - 1.0)


class ImageChanges(NamedTuple):
    """What happens to each of N images, in this order; arrays of an `augmentation.AugmentationPlan`."""

    color: np.ndarray  # (N, 3, 4) float32 matrix and shift of the colours, clipped to 0-255
    flip: np.ndarray  # (N,) bool
    size: np.ndarray  # (N, 2) int32 height and width to resize to, see `fill_images`
    crop: np.ndarray  # (N, 2) int32 top and left of the crop in the resized image
    noise: np.ndarray  # (N,) float32 factor of the tile's noise
    noise_offset: np.ndarray  # (N, 2) int32 top and left of its cut from the noise tile
    erased: np.ndarray  # (N, 4) int32 top, left, height and width of the box that is filled with 0


@compiled
def fill_images(
    pixels: np.ndarray,
    sizes: np.ndarray,
    changes: ImageChanges,
    noise_tile: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    images: np.ndarray,
) -> None:
    """Recolour, flip, resize, crop, normalise, add noise to and erase boxes of images.

    The resize equals `tf.image.resize`: bilinear, half-pixel centres, no antialiasing.

    Args:
        pixels: `(N, L)` uint8; the first 3 h w values of a row are an image of h x w, row by row.
        sizes: `(N, 2)` int32: h and w.
        changes: of each image.
        noise_tile: `(h, w, 3)` float32; used only for images with noise.
        scale: `(3 W,)` float32: factor of each value of a row.
        shift: `(3 W,)` float32: subtracted after scaling.
        images: `(N, H, 3 W)` float32: the result, written in place.
    """
    flip, enlarged, crop, color = changes.flip, changes.size, changes.crop, changes.color
    noise, noise_offset, erased = changes.noise, changes.noise_offset, changes.erased
    height, values = images.shape[1], images.shape[2]
    width = values // 3
    row = np.empty(3 * sizes[:, 1].max(), np.float32)
    upper, lower = np.empty(values, np.float32), np.empty(values, np.float32)
    top, bottom, down = np.empty(height, np.int64), np.empty(height, np.int64), np.empty(height, np.float32)
    left, right, across = np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.float32)
    for n in range(len(images)):
        stored_height, stored_width = sizes[n]
        stored = pixels[n, : 3 * stored_height * stored_width].reshape(stored_height, 3 * stored_width)
        recolored = not is_identity(color[n])
        if stored_height == enlarged[n, 0] and stored_width == enlarged[n, 1]:
            first = 3 * crop[n, 1]
            for y in range(height):
                _load_row(stored[crop[n, 0] + y], flip[n], recolored, color[n], row)
                _normalize_row(row[first : first + values], scale, shift, images[n, y])
        else:
            _place(stored_height, enlarged[n, 0], crop[n, 0], top, bottom, down)
            _place(stored_width, enlarged[n, 1], crop[n, 1], left, right, across)
            # Stored rows in `upper` and `lower`, resized in width: the next rows often need them again.
            at_upper, at_lower = -1, -1
            for y in range(height):
                if top[y] != at_upper and top[y] == at_lower:
                    upper, lower = lower, upper
                    at_upper, at_lower = at_lower, at_upper
                if top[y] != at_upper:
                    _load_row(stored[top[y]], flip[n], recolored, color[n], row)
                    _resize_row(row, left, right, across, upper)
                    at_upper = top[y]
                if bottom[y] != top[y] and bottom[y] != at_lower:
                    _load_row(stored[bottom[y]], flip[n], recolored, color[n], row)
                    _resize_row(row, left, right, across, lower)
                    at_lower = bottom[y]
                below = upper if bottom[y] == top[y] else lower
                _join_rows(upper, below, down[y], scale, shift, images[n, y])
        if noise[n] != 0:
            first = 3 * noise_offset[n, 1]
            for y in range(height):
                line = noise_tile[noise_offset[n, 0] + y].reshape(-1)[first : first + values]
                for i in range(values):
                    images[n, y, i] += noise[n] * line[i]
        for y in range(erased[n, 0], erased[n, 0] + erased[n, 2]):
            images[n, y, 3 * erased[n, 1] : 3 * (erased[n, 1] + erased[n, 3])] = 0.0


@compiled
def is_identity(color: np.ndarray) -> bool:
    """Whether a colour matrix `(3, 4)` changes nothing."""
    for i in range(3):
        for j in range(4):
            if color[i, j] != (1.0 if i == j else 0.0):
                return False
    return True


@compiled
def _place(
    stored: int, enlarged: int, first: int, low: np.ndarray, high: np.ndarray, part: np.ndarray
) -> None:
    """For each row (or column) of the crop: its two neighbours in the stored image, and the fraction."""
    step = np.float32(stored) / np.float32(enlarged)
    for i in range(len(low)):
        at = (np.float32(first + i) + np.float32(0.5)) * step - np.float32(0.5)
        below = np.floor(at)
        low[i] = max(int(below), 0)
        high[i] = min(int(np.ceil(at)), stored - 1)
        part[i] = at - below


@compiled
def _load_row(stored: np.ndarray, flip: bool, recolored: bool, color: np.ndarray, row: np.ndarray) -> None:
    """One stored row as float32, recoloured and flipped if asked."""
    width = len(stored) // 3
    if recolored:
        zero, white = np.float32(0.0), np.float32(255.0)
        for x in range(width):
            red, green, blue = (
                np.float32(stored[3 * x]), np.float32(stored[3 * x + 1]), np.float32(stored[3 * x + 2])
            )  # fmt: skip
            target = 3 * (width - 1 - x) if flip else 3 * x
            for c in range(3):
                value = color[c, 0] * red + color[c, 1] * green + color[c, 2] * blue + color[c, 3]
                row[target + c] = min(max(value, zero), white)
    elif flip:
        for x in range(width):
            target = 3 * (width - 1 - x)
            row[target] = stored[3 * x]
            row[target + 1] = stored[3 * x + 1]
            row[target + 2] = stored[3 * x + 2]
    else:
        for i in range(3 * width):
            row[i] = stored[i]


@compiled
def _resize_row(
    row: np.ndarray, left: np.ndarray, right: np.ndarray, across: np.ndarray, resized: np.ndarray
) -> None:
    for x in range(len(left)):
        here, there, part = 3 * left[x], 3 * right[x], across[x]
        resized[3 * x] = row[here] + (row[there] - row[here]) * part
        resized[3 * x + 1] = row[here + 1] + (row[there + 1] - row[here + 1]) * part
        resized[3 * x + 2] = row[here + 2] + (row[there + 2] - row[here + 2]) * part


@compiled
def _join_rows(
    upper: np.ndarray,
    lower: np.ndarray,
    part: float,
    scale: np.ndarray,
    shift: np.ndarray,
    joined: np.ndarray,
) -> None:
    for i in range(len(joined)):
        joined[i] = (upper[i] + (lower[i] - upper[i]) * part) * scale[i] - shift[i]


@compiled
def _normalize_row(row: np.ndarray, scale: np.ndarray, shift: np.ndarray, normalized: np.ndarray) -> None:
    for i in range(len(normalized)):
        normalized[i] = row[i] * scale[i] - shift[i]


@compiled
def fill_textures(
    decoded: np.ndarray,
    places: np.ndarray,
    flip: np.ndarray,
    dye: np.ndarray,
    mirror: np.ndarray,
    textures: np.ndarray,
) -> None:
    """Mirror, dye and scale a batch of textures.

    Args:
        decoded: `(U, 3 T T)` uint8.
        places: `(N,)` int64: index into `decoded`; -1 for no texture, which becomes grey.
        flip: `(N,)` bool: mirrored.
        dye: `(N, 3, 4)` float32: matrix and shift of the colours (0-255); clipped and rounded.
        mirror: `(T T,)` int32: the texel that the mirrored texture shows at each place.
        textures: `(N, 3 T T)` float32: the result, texture / 127.5 - 1, written in place.
    """
    size = len(mirror)
    values = np.empty(_TEXELS_AT_ONCE * 3, np.uint8)
    for n in range(len(textures)):
        if places[n] < 0:
            textures[n] = _MISSING
            continue
        source, target = decoded[places[n]], textures[n]
        dyed = not is_identity(dye[n])
        if not flip[n] and not dyed:
            _scale(source, target)
            continue
        # Gather texels one by one into a small buffer, then scale the whole buffer, which is faster.
        for first in range(0, size, _TEXELS_AT_ONCE):
            count = min(_TEXELS_AT_ONCE, size - first)
            for i in range(count):
                at = 3 * (mirror[first + i] if flip[n] else first + i)
                values[3 * i] = source[at]
                values[3 * i + 1] = source[at + 1]
                values[3 * i + 2] = source[at + 2]
            if dyed:
                _dye(values[: 3 * count], dye[n])
            _scale(values[: 3 * count], target[3 * first : 3 * (first + count)])


@compiled
def _scale(values: np.ndarray, scaled: np.ndarray) -> None:
    step, one = np.float32(2.0 / 255.0), np.float32(1.0)
    for i in range(len(scaled)):
        scaled[i] = np.float32(values[i]) * step - one


@compiled
def _dye(values: np.ndarray, color: np.ndarray) -> None:
    zero, white = np.float32(0.0), np.float32(255.0)
    for i in range(len(values) // 3):
        red, green, blue = (
            np.float32(values[3 * i]), np.float32(values[3 * i + 1]), np.float32(values[3 * i + 2])
        )  # fmt: skip
        for c in range(3):
            value = color[c, 0] * red + color[c, 1] * green + color[c, 2] * blue + color[c, 3]
            values[3 * i + c] = np.uint8(np.rint(min(max(value, zero), white)))
