"""The compiled loop that makes texture targets: looked up, mirrored, dyed and scaled in one go."""

from __future__ import annotations

import numpy as np

from san_tf.compiled import compiled

# Mid-grey stands where there is no texture; its weight in the loss is 0.
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
    step, one = np.float32(2.0 / 255.0), np.float32(1.0)
    zero, white = np.float32(0.0), np.float32(255.0)
    for n in range(len(textures)):
        if places[n] < 0:
            textures[n] = _MISSING
            continue
        source, target, color = decoded[places[n]], textures[n], dye[n]
        dyed = False
        for i in range(3):
            for j in range(4):
                dyed |= color[i, j] != (1.0 if i == j else 0.0)
        if dyed:
            for i in range(len(mirror)):
                at = 3 * mirror[i] if flip[n] else 3 * i
                red, green, blue = (
                    np.float32(source[at]), np.float32(source[at + 1]), np.float32(source[at + 2])
                )  # fmt: skip
                for c in range(3):
                    value = color[c, 0] * red + color[c, 1] * green + color[c, 2] * blue + color[c, 3]
                    target[3 * i + c] = np.rint(min(max(value, zero), white)) * step - one
        elif flip[n]:
            for i in range(len(mirror)):
                at = 3 * mirror[i]
                target[3 * i] = np.float32(source[at]) * step - one
                target[3 * i + 1] = np.float32(source[at + 1]) * step - one
                target[3 * i + 2] = np.float32(source[at + 2]) * step - one
        else:
            for i in range(len(target)):
                target[i] = np.float32(source[i]) * step - one
