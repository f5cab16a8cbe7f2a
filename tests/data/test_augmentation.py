import colorsys

import numpy as np
import pytest
import tensorflow as tf

from san_tf.data import transforms
from san_tf.data.augmentation import Augmentation, AugmentationPlan, draw_epoch, plan_augmentation
from san_tf.data.images import decode_image, normalize_image, normalize_images, resize_image
from san_tf.errors import UserError
from san_tf.normalization import normalize

SIZE = (64, 32)


def plan_of(augmentation, number=4000, seed=0, epoch=0, size=SIZE):
    return plan_augmentation(augmentation, draw_epoch((number,), seed, epoch), size)


def row(plan, index):
    return AugmentationPlan(*(column[index] for column in plan))


def test_plan_follows_the_probabilities_and_ranges_of_the_paper():
    plan = plan_of(Augmentation())
    assert abs(plan.flip.mean() - 0.5) < 0.03
    moved = plan.size[:, 0] > SIZE[0]
    assert abs(moved.mean() - 0.5) < 0.03
    assert (plan.size[moved] == (72, 36)).all()
    assert plan.crop[moved].min(axis=0).tolist() == [0, 0]
    assert plan.crop[moved].max(axis=0).tolist() == [8, 4]
    assert (plan.crop[~moved] == 0).all()
    top, left, height, width = plan.erased.T
    erased = height > 0
    assert abs(erased.mean() - 0.5) < 0.03
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= SIZE[0]).all()
    assert (left + width <= SIZE[1]).all()
    # Rounding to whole pixels widens the ranges a little.
    area = (height * width / (SIZE[0] * SIZE[1]))[erased]
    assert 0.01 < area.min() < 0.03
    assert 0.36 < area.max() < 0.42
    aspect = (height / width.clip(1))[erased]
    assert 0.25 < aspect.min() < 0.4
    assert 2.6 < aspect.max() < 4.0
    # Boxes reach every corner.
    assert (top + height)[erased].max() == SIZE[0]
    assert (left + width)[erased].max() == SIZE[1]
    np.testing.assert_array_equal(plan.color, np.broadcast_to(np.eye(3, 4), plan.color.shape))
    assert (plan.scale == 1).all()
    assert (plan.noise == 0).all()


def test_plan_depends_on_seed_epoch_and_position_alone():
    for first, second in zip(plan_of(Augmentation(), 10), plan_of(Augmentation(), 400), strict=True):
        np.testing.assert_array_equal(first, second[:10])
    assert not np.array_equal(plan_of(Augmentation(), seed=1).flip, plan_of(Augmentation(), seed=2).flip)
    assert not np.array_equal(plan_of(Augmentation(), epoch=1).flip, plan_of(Augmentation(), epoch=2).flip)


def test_switching_one_augmentation_on_leaves_the_others():
    plain, colored = plan_of(Augmentation()), plan_of(Augmentation(jitter=1.0, noise=1.0, low_resolution=1.0))
    for name in ("flip", "size", "crop", "erased"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(colored, name))
    assert (colored.scale >= 0.4).all()
    assert colored.scale.min() < 0.45
    assert 11 < colored.noise.max() <= 12


def test_none_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    plan = row(plan_of(Augmentation.none(), 50), 13)
    np.testing.assert_allclose(transforms.move_image(image, plan, SIZE), image, atol=1e-4)


def test_move_is_flip_then_enlarge_then_crop():
    image = np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    plan = plan_of(Augmentation(), 200)
    flipped_and_moved = np.flatnonzero(plan.flip & (plan.size[:, 0] > SIZE[0]) & (plan.crop > 0).all(axis=1))
    index = flipped_and_moved[0]
    top, left = plan.crop[index]
    expected = tf.image.resize(image[:, ::-1], (72, 36))[top : top + 64, left : left + 32]
    np.testing.assert_allclose(transforms.move_image(image, row(plan, index), SIZE), expected, atol=1e-4)


def test_erasing_fills_exactly_the_box():
    images = np.random.default_rng(0).standard_normal((20, *SIZE, 3)).astype(np.float32)
    plan = plan_of(Augmentation(), 20)
    assert (plan.erased[:, 2] > 0).any()
    assert (plan.erased[:, 2] == 0).any()
    for image, box in zip(images, plan.erased, strict=True):
        expected, (top, left, height, width) = image.copy(), box
        expected[top : top + height, left : left + width] = 0.0
        np.testing.assert_array_equal(transforms.erase_box(tf.constant(image), tf.constant(box)), expected)


def test_images_are_normalised_alike_alone_and_in_batches():
    images = np.random.default_rng(0).integers(0, 256, (3, 10, 7, 3), dtype=np.uint8)
    expected = normalize(images)
    np.testing.assert_allclose(normalize_images(tf.cast(images, tf.float32)), expected, atol=1e-5)
    for image, own in zip(images, expected, strict=True):
        np.testing.assert_allclose(normalize_image(tf.constant(image)), own, atol=1e-5)
        np.testing.assert_allclose(normalize_image(tf.cast(image, tf.float32)), own, atol=1e-5)


def test_normalising_before_or_after_the_resize_is_the_same():
    image = np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    after = normalize(np.asarray(resize_image(tf.constant(image), SIZE)))
    np.testing.assert_allclose(resize_image(normalize_image(tf.constant(image)), SIZE), after, atol=1e-5)


def test_textures_are_scaled_to_minus_1_and_1():
    texture = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    scaled = transforms.scale_texture(tf.constant(texture)).numpy()
    np.testing.assert_allclose(scaled, texture / 127.5 - 1.0, atol=2e-7)
    assert (scaled.min(), scaled.max()) == (-1.0, 1.0)


def test_color_matrix_against_tf_image():
    image = np.random.default_rng(0).uniform(90, 160, (8, 4, 3)).astype(np.float32)

    def recolored(**ranges):
        nothing = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
        augmentation = Augmentation(jitter=1.0, **{**nothing, **ranges})
        draws = draw_epoch((1,), 0, 0)
        draws[:, 7:11] = 1.0  # the largest change
        plan = plan_augmentation(augmentation, draws, SIZE)
        return transforms.recolor_image(tf.constant(image), plan.color[0]).numpy()

    np.testing.assert_allclose(recolored(), image, atol=1e-3)
    np.testing.assert_allclose(recolored(brightness=0.2), image * 1.2, atol=1e-3)
    grey = 255 * np.mean([0.485, 0.456, 0.406])
    np.testing.assert_allclose(recolored(contrast=0.2), (image - grey) * 1.2 + grey, atol=1e-3)
    luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(recolored(saturation=0.5), luma[..., None] * -0.5 + image * 1.5, atol=0.2)
    # A hue rotation by a third of the circle keeps the luma and turns red towards another primary.
    turned = recolored(hue=1 / 3)
    np.testing.assert_allclose(turned @ np.array([0.299, 0.587, 0.114]), luma, atol=0.2)
    assert np.abs(turned - image).max() > 5


def test_dye_changes_image_and_texture_alike():
    plan = plan_of(Augmentation(dye=1.0), 200)
    np.testing.assert_array_equal(plan.color, plan.dye)
    assert np.abs(plan.dye - np.eye(3, 4)).max(axis=(1, 2)).min() > 0.01
    pixels = np.random.default_rng(0).integers(100, 156, (8, 4, 3), dtype=np.uint8)
    for matrix in plan.dye[:20]:
        image = transforms.recolor_image(tf.constant(pixels), matrix).numpy()
        texture = transforms.recolor_texture(tf.constant(pixels), matrix).numpy()
        np.testing.assert_allclose(image, texture, atol=0.51)  # rounding to whole grey levels


def test_dyes_turn_red_into_every_hue():
    plan = plan_of(Augmentation(dye=1.0), 2000)
    reds = np.clip(plan.dye[:, :, :3] @ np.array([200.0, 60.0, 60.0]), 0, 255)
    hues = [colorsys.rgb_to_hsv(*(red / 255))[0] for red in reds]
    counts = np.histogram(hues, 6, (0, 1))[0]
    assert counts.min() > 2000 / 6 * 0.5


def test_jitter_comes_after_dye_and_leaves_the_texture():
    both, dye = plan_of(Augmentation(dye=1.0, jitter=1.0), 50), plan_of(Augmentation(dye=1.0), 50)
    jitter = plan_of(Augmentation(jitter=1.0), 50)
    np.testing.assert_array_equal(both.dye, dye.dye)
    color = np.array([120.0, 90.0, 60.0])
    first = dye.dye[:, :, :3] @ color + dye.dye[:, :, 3]
    second = np.einsum("nij,nj->ni", jitter.color[:, :, :3], first) + jitter.color[:, :, 3]
    np.testing.assert_allclose(both.color[:, :, :3] @ color + both.color[:, :, 3], second, rtol=1e-4)
    np.testing.assert_array_equal(jitter.dye, np.broadcast_to(np.eye(3, 4), jitter.dye.shape))


def test_recolored_images_stay_within_0_and_255():
    image = np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    for color in plan_of(Augmentation(jitter=1.0, brightness=0.9, contrast=0.9), 9).color:
        recolored = transforms.recolor_image(tf.constant(image), color).numpy()
        assert recolored.min() >= 0.0
        assert recolored.max() <= 255.0


def test_reduced_image_is_smaller_and_keeps_its_mean():
    image = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    reduced = transforms.reduce_resolution(image, tf.constant(0.25)).numpy()
    assert reduced.shape == (16, 8, 3)
    assert abs(reduced.mean() - image.mean()) < 2
    assert reduced.std() < image.std() / 2
    np.testing.assert_array_equal(transforms.reduce_resolution(image, tf.constant(1.0)), image)
    assert transforms.reduce_resolution(image[:6, :5], tf.constant(0.25)).shape == (6, 5, 3)


def test_texture_is_mirrored_by_the_map():
    texture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    rows, columns = np.random.default_rng(1).permutation(64).reshape(8, 8).__divmod__(8)
    flat = (rows * 8 + columns).ravel()
    np.testing.assert_array_equal(transforms.mirror_texture(texture, flat), texture[rows, columns])


def test_larger_texture_is_averaged_over_areas():
    texture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    expected = np.rint(texture.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3)))
    np.testing.assert_allclose(transforms.resize_texture(tf.constant(texture), 4), expected, atol=1)
    assert transforms.resize_texture(tf.constant(texture), 32).shape == (32, 32, 3)


def test_greyscale_and_alpha_images_decode_to_rgb(picture):
    cv2 = pytest.importorskip("cv2")
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    decoded = decode_image(cv2.imencode(".png", grey)[1].tobytes()).numpy()
    np.testing.assert_array_equal(decoded, np.repeat(grey[..., None], 3, axis=2))
    rgba = np.dstack([grey, grey + 1, grey + 2, np.full_like(grey, 7)])
    decoded = decode_image(cv2.imencode(".png", rgba)[1].tobytes()).numpy()
    np.testing.assert_array_equal(decoded, rgba[..., 2::-1])
    assert resize_image(decoded, (4, 4)).dtype == tf.float32


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"noise": -0.1}, {"translation_scale": 0.9}])
def test_impossible_values_are_refused(wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        Augmentation(**wrong)
