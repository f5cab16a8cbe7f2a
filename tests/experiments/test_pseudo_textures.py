"""The mean texture of an identity, and the agreement of textures, against hand arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.experiments.stages.pseudo_textures import identity_means, texture_agreement, texture_descriptor


def flat(value: int) -> np.ndarray:
    return np.full((4, 4, 3), value, np.uint8)


def test_every_image_gets_the_mean_of_its_identity_and_nobody_keeps_their_own():
    textures = [flat(10), flat(200), flat(21), flat(7), flat(255), flat(255)]
    pids = np.array([3, 5, 3, -1, 5, 5])
    # (10 + 21) / 2 = 15.5, to even 16; (200 + 255 + 255) / 3 = 236.67, beyond what uint8 sums can hold.
    means = [int(texture[0, 0, 0]) for texture in identity_means(iter(textures), pids)]
    assert means == [16, 237, 16, 7, 237, 237]


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def test_agreement_compares_people_across_cameras_only():
    # Person 1 at 0 and 3, person 2 at 10 and 2, under cameras 1 and 2. Of one person: |0 - 3| = 3 and
    # |10 - 2| = 8. Of two people across cameras: |0 - 2| = 2 and |10 - 3| = 7.
    agreement = texture_agreement(column(0, 3, 10, 2), np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2]))
    assert (agreement.same, agreement.different) == (5.5, 4.5)
    # Pairs (same, different): 3 < 7 only, of four.
    assert agreement.auc == 0.25
    # Nearest elsewhere: 0 -> 2 wrong, 3 -> 0 right, 10 -> 3 wrong, 2 -> 0 wrong. The true one is then second.
    assert agreement.rank1 == 0.25
    assert agreement.mAP == (1 + 3 * 0.5) / 4


def test_images_without_identity_do_not_count():
    pids, camids = np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2])
    alone = texture_agreement(column(0, 3, 10, 2), pids, camids)
    more = texture_agreement(column(0, 3, 10, 2, 5, 5), np.append(pids, [-1, 0]), np.append(camids, [1, 2]))
    assert more == alone


def test_a_texture_is_described_by_its_colours_on_the_body():
    black, white = (texture_descriptor(np.full((64, 64, 3), value, np.uint8)) for value in (0, 255))
    # CIELAB: black is (0, 0, 0), white (100, 0, 0).
    assert np.linalg.norm(white - black) == pytest.approx(100, abs=0.01)
    # Outside of the islands nothing counts; the corner belongs to none.
    dotted = np.zeros((64, 64, 3), np.uint8)
    dotted[:2, :2] = 255
    assert np.array_equal(texture_descriptor(dotted), black)


def test_agreement_needs_known_cameras_and_somebody_seen_by_two():
    with pytest.raises(UserError, match="unknown cameras"):
        texture_agreement(column(0, 1), np.array([1, 1]), np.array([1, -1]))
    with pytest.raises(UserError, match="same person"):
        texture_agreement(column(0, 1), np.array([1, 2]), np.array([1, 2]))
