"""The mean texture of an identity, against hand arithmetic."""

from __future__ import annotations

import numpy as np

from san_tf.experiments.stages.pseudo_textures import identity_means


def flat(value: int) -> np.ndarray:
    return np.full((4, 4, 3), value, np.uint8)


def test_every_image_gets_the_mean_of_its_identity_and_nobody_keeps_their_own():
    textures = [flat(10), flat(200), flat(21), flat(7), flat(255), flat(255)]
    pids = np.array([3, 5, 3, -1, 5, 5])
    # (10 + 21) / 2 = 15.5, to even 16; (200 + 255 + 255) / 3 = 236.67, beyond what uint8 sums can hold.
    means = [int(texture[0, 0, 0]) for texture in identity_means(iter(textures), pids)]
    assert means == [16, 237, 16, 7, 237, 237]
