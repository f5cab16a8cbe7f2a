"""The compiled loop that makes texture targets: looked up, mirrored, dyed and scaled in one go."""

from __future__ import annotations

import numpy as np

from san_tf.compiled import compiled
from san_tf.data.image_kernels import is_identity

# Mid-grey stands where there is no texture; its weight in the loss is 0.
_TEXELS_AT_ONCE = 1024
_MISSING = np.float32(128 / 127.5 - 1.0)


@compiled
def fill_textures(
    decoded: np.ndarray,
    places: np.ndarray,
    flip: np.ndarray,
    dye: np.ndarray,
    mirror: np.ndarray,
    textures: np.ndarray,
) -> None:
    """Fill a batch of textures from decoded ones.

    Args:
        decoded: `(U, 3 T T)` uint8.
        places: `(N,)` int64: which of them; -1 for none, which becomes grey.
        flip: `(N,)` bool: mirrored.
        dye: `(N, 3, 4)` float32: matrix and shift of the colours (0-255); clipped and rounded.
        mirror: `(T T,)` int32: the texel that the mirrored texture shows at each place.
        textures: `(N, 3 T T)` float32, filled: texture / 127.5 - 1.
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
        # A few rows at a time: bytes are gathered one by one, but scaled many at once.
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
