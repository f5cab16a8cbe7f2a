import colorsys
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageFilter

from san_tf.data import transforms
from san_tf.data.augmentation import Augmentation, AugmentationPlan, draw_epoch, plan_augmentation
from san_tf.data.auto_augment import OPERATIONS, POLICY, operated, plan_operations, strength
from san_tf.data.images import decode_image, normalize_images, resize_image
from san_tf.errors import UserError
from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD, normalize

SIZE = (64, 32)


def plan_of(augmentation, number=4000, seed=0, epoch=0, size=SIZE):
    return plan_augmentation(augmentation, draw_epoch((number,), seed, epoch), size)


def rows_of(plan, rows):
    return AugmentationPlan(*(column[rows] for column in plan))


def packed(images):
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    pixels = np.zeros((len(images), max(image.size for image in images)), np.uint8)
    for row, image in zip(pixels, images, strict=True):
        row[: image.size] = image.ravel()
    return pixels, sizes


def varied(images, plan, size=SIZE):
    """Varied images, back in grey levels of 0-255."""
    return (transforms.vary_images(*packed(images), plan, size) * IMAGENET_STD + IMAGENET_MEAN) * 255


def recolored(image, color):
    size = np.array([image.shape[:2]], np.int32)
    plan = rows_of(plan_of(Augmentation.none(), 1), [0])
    plan = plan._replace(color=np.asarray(color, np.float32)[None], size=size)
    return varied([image], plan, image.shape[:2])[0]


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
    plan = rows_of(plan_of(Augmentation.none(), 50), [13])
    np.testing.assert_allclose(varied([image], plan)[0], image, atol=1e-4)


def test_images_are_varied_as_tensorflow_would_do_it():
    # Larger, smaller, as large, of one pixel: each flipped or not, moved or not, erased or not.
    rng = np.random.default_rng(0)
    shapes = [(40, 24), (64, 32), (72, 36), (150, 90), (1, 1), (5, 100)]
    images = [rng.integers(0, 256, (*shapes[i % 6], 3), dtype=np.uint8) for i in range(120)]
    plan = plan_of(Augmentation(jitter=0.5, noise=0.5), len(images))
    tile = transforms.make_noise_tile(0, SIZE)
    boxes = plan.erased[:, 2] > 0
    moved = plan.size[:, 0] > SIZE[0]
    assert len({(flip, move, box) for flip, move, box in zip(plan.flip, moved, boxes, strict=True)}) == 8
    result = transforms.vary_images(*packed(images), plan, SIZE, tile)
    for n, image in enumerate(images):
        expected = image.astype(np.float32) @ plan.color[n, :, :3].T + plan.color[n, :, 3]
        expected = np.clip(expected, 0, 255)[:, :: -1 if plan.flip[n] else 1]
        top, left = plan.crop[n]
        expected = tf.image.resize(expected, plan.size[n])[top : top + SIZE[0], left : left + SIZE[1]]
        expected = normalize(np.asarray(expected))
        top, left = plan.noise_offset[n]
        expected += plan.noise[n] * tile[top : top + SIZE[0], left : left + SIZE[1]]
        top, left, height, width = plan.erased[n]
        expected[top : top + height, left : left + width] = 0.0
        np.testing.assert_allclose(result[n], expected, atol=1e-4)
        erased = (result[n] == 0).all(axis=-1)
        assert erased[top : top + height, left : left + width].all()
        assert erased.sum() <= height * width + 5  # a pixel may be 0 by chance


def test_batches_are_normalised_as_numpy_does_it():
    images = np.random.default_rng(0).integers(0, 256, (3, 10, 7, 3), dtype=np.uint8)
    np.testing.assert_allclose(normalize_images(tf.cast(images, tf.float32)), normalize(images), atol=1e-5)


def test_textures_are_looked_up_mirrored_dyed_and_scaled():
    decoded = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    decoded[0, 0, 0] = (0, 128, 255)
    # Not its own inverse, so that a map applied the wrong way round is noticed.
    rows, columns = np.divmod(np.random.default_rng(1).permutation(64).reshape(8, 8), 8)
    mirror_map = np.stack([rows, columns], axis=-1)
    plan = plan_of(Augmentation(dye=0.5), 40)
    places = np.resize([0, 2, -1, 1, 2], 40).astype(np.int64)
    textures = transforms.vary_textures(decoded, places, plan, mirror_map)
    assert textures.dtype == np.float32
    for texture, place, flip, dye in zip(textures, places, plan.flip, plan.dye, strict=True):
        if place < 0:
            np.testing.assert_allclose(texture, 128 / 127.5 - 1, atol=1e-7)
            continue
        expected = decoded[place][rows, columns] if flip else decoded[place]
        if (dye != np.eye(3, 4)).any():
            expected = np.rint(np.clip(expected.astype(np.float32) @ dye[:, :3].T + dye[:, 3], 0, 255))
            # A value on the edge between two grey levels may fall to either side.
            assert np.abs(texture - (expected / 127.5 - 1)).max() <= 1.01 / 127.5
            assert np.mean(np.abs(texture - (expected / 127.5 - 1)) > 1e-6) < 0.01
        else:
            np.testing.assert_allclose(texture, expected / 127.5 - 1, atol=2e-7)
    straight = textures[(places == 0) & ~plan.flip & (plan.dye == np.eye(3, 4)).all(axis=(1, 2))][0]
    assert straight[0, 0, [0, 2]].tolist() == [-1.0, 1.0]


def test_color_matrix_against_tf_image():
    image = np.random.default_rng(0).integers(90, 160, (8, 4, 3), dtype=np.uint8)

    def changed(**ranges):
        nothing = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
        augmentation = Augmentation(jitter=1.0, **{**nothing, **ranges})
        draws = draw_epoch((1,), 0, 0)
        draws[:, 7:11] = 1.0  # the largest change
        plan = plan_augmentation(augmentation, draws, SIZE)
        return recolored(image, plan.color[0])

    np.testing.assert_allclose(changed(), image, atol=2e-3)
    np.testing.assert_allclose(changed(brightness=0.2), image * 1.2, atol=2e-3)
    grey = 255 * np.mean([0.485, 0.456, 0.406])
    np.testing.assert_allclose(changed(contrast=0.2), (image - grey) * 1.2 + grey, atol=2e-3)
    luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(changed(saturation=0.5), luma[..., None] * -0.5 + image * 1.5, atol=0.2)
    # A hue rotation by a third of the circle keeps the luma and turns red towards another primary.
    turned = changed(hue=1 / 3)
    np.testing.assert_allclose(turned @ np.array([0.299, 0.587, 0.114]), luma, atol=0.2)
    assert np.abs(turned - image).max() > 5


def test_dye_changes_image_and_texture_alike():
    plan = plan_of(Augmentation(dye=1.0), 200)
    np.testing.assert_array_equal(plan.color, plan.dye)
    assert np.abs(plan.dye - np.eye(3, 4)).max(axis=(1, 2)).min() > 0.01
    pixels = np.random.default_rng(0).integers(100, 156, (8, 4, 3), dtype=np.uint8)
    pixels = np.concatenate([pixels, pixels], axis=1)
    straight = np.stack(np.mgrid[:8, :8], axis=-1)
    for n in range(20):
        one = rows_of(plan, [n])._replace(flip=np.array([False]))
        texture = transforms.vary_textures(pixels[None], np.zeros(1, np.int64), one, straight)[0]
        image = recolored(pixels, plan.dye[n])
        np.testing.assert_allclose(image, (texture + 1) * 127.5, atol=0.51)  # rounding to whole grey levels


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
        changed = recolored(image, color)
        assert changed.min() >= -1e-4
        assert changed.max() <= 255.0001


def test_reduced_image_is_smaller_and_keeps_its_mean():
    image = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    reduced = transforms.reduce_resolution(image, tf.constant(0.25)).numpy()
    assert reduced.shape == (16, 8, 3)
    assert abs(reduced.mean() - image.mean()) < 2
    assert reduced.std() < image.std() / 2
    np.testing.assert_array_equal(transforms.reduce_resolution(image, tf.constant(1.0)), image)
    assert transforms.reduce_resolution(image[:6, :5], tf.constant(0.25)).shape == (6, 5, 3)


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


# --- grayscale and AutoAugment ---


def test_what_came_later_leaves_the_numbers_drawn_before_as_they_were():
    """The first 44 of an image's numbers are those of one stream, whatever follows."""
    draws = draw_epoch((2, 3), seed=5, epoch=1, part=1)
    np.testing.assert_array_equal(draws[..., :44], np.random.default_rng((5, 1, 3, 1)).random((2, 3, 44)))
    plain, all_of_it = (
        plan_of(Augmentation(jitter=0.5, grayscale=p, auto_augment=p), 500) for p in (0.0, 1.0)
    )
    for name in ("flip", "size", "crop", "erased", "scale", "noise", "noise_offset", "dye"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(all_of_it, name))
    assert (plain.operations == -1).all()


def test_grayscale_is_the_luma_of_pil_after_the_jitter():
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    plan = plan_of(Augmentation(flip=0, translation=0, erasing=0, grayscale=1.0), 1)
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float64)
    found = varied([image], plan)[0]
    np.testing.assert_allclose(found, np.repeat(grey[..., None], 3, axis=2), atol=0.6)
    half = plan_of(Augmentation(grayscale=0.3, jitter=1.0), 4000)
    is_grey = (half.color[:, 0] == half.color[:, 1]).all(axis=1) & (half.color[:, 0] == half.color[:, 2]).all(
        1
    )
    assert abs(is_grey.mean() - 0.3) < 0.03
    # The jitter's matrix first, then the luma of what it gives.
    jittered = plan_of(Augmentation(jitter=1.0), 4000).color[is_grey]
    luma = np.einsum("c,ncd->nd", [0.299, 0.587, 0.114], jittered)
    np.testing.assert_allclose(half.color[is_grey][:, 0], luma, atol=1e-4)


def test_the_policies_are_drawn_as_planned():
    number = 100_000
    operations, strengths = plan_operations(0.4, np.random.default_rng(0).random((number, 6)))
    # First operations: 24 of 25 pairs have them with their probability; the share of images with any.
    first = sum(pair[0][1] for pair in POLICY) / len(POLICY)
    assert (operations[:, 0] >= 0).mean() == pytest.approx(0.4 * first, abs=0.01)
    rotated = operations[:, 1] == OPERATIONS.index("Rotate")
    # The first pair has 30 degrees with 0.6, the sixth 26.7 with 0.8.
    assert rotated.mean() == pytest.approx(0.4 * (0.6 + 0.8) / 25, abs=0.003)
    assert np.unique(strengths[rotated, 1]) == pytest.approx([-30.0, -80 / 3, 80 / 3, 30.0])
    assert (strengths[rotated, 1] > 0).mean() == pytest.approx(0.5, abs=0.05)
    assert len(POLICY) == 25
    none, _ = plan_operations(0.0, np.random.default_rng(0).random((1000, 6)))
    assert (none == -1).all()


def once(image, name, value):
    return operated(image, np.array([OPERATIONS.index(name), -1]), np.array([value, 0.0]))


def test_operations_are_their_definitions():
    image = np.random.default_rng(1).integers(20, 200, (9, 6, 3), np.uint8)
    x = image.astype(int)
    assert [strength("Posterize", m, True) for m in (5, 6, 7, 8)] == [6, 5, 5, 4]
    np.testing.assert_array_equal(once(image, "Posterize", 4), x & 0b11110000)
    assert strength("Solarize", 5, True) == pytest.approx(256 * 4 / 9)
    np.testing.assert_array_equal(once(image, "Solarize", 113.8), np.where(x < 113.8, x, 255 - x))
    np.testing.assert_array_equal(once(image, "Invert", 0), 255 - x)
    low, high = x.min((0, 1)), x.max((0, 1))
    np.testing.assert_allclose(once(image, "AutoContrast", 0), (x - low) * 255.0 / (high - low), atol=1.01)
    luma = x @ [0.299, 0.587, 0.114]
    color = np.clip(luma[..., None] + 1.4 * (x - luma[..., None]), 0, 255)
    np.testing.assert_allclose(once(image, "Color", 0.4), color, atol=2)
    contrast = np.clip(luma.mean() + 0.2 * (x - luma.mean()), 0, 255)
    np.testing.assert_allclose(once(image, "Contrast", -0.8), contrast, atol=2)
    np.testing.assert_array_equal(once(image, "Sharpness", 0.0), x)
    ramp = np.repeat(np.repeat(np.arange(64, 128, dtype=np.uint8)[:, None, None], 255, 1), 3, 2)
    # 255 pixels of each of 64 greys are spread over the whole range: 63 steps of 255 / 63.
    np.testing.assert_allclose(once(ramp, "Equalize", 0)[:, 0, 0], np.arange(64) * 255 / 63, atol=1)
    line = np.zeros((10, 11, 3), np.uint8)
    line[:, 5] = 255
    sheared = once(line, "ShearX", 0.3)
    # Row y shows what lay 0.3 (y + 0.5) to the right.
    for y in range(10):
        expected = [x for x in range(11) if int(np.floor(x + 0.5 + 0.3 * (y + 0.5))) == 5]
        assert np.flatnonzero(sheared[y, :, 0]).tolist() == expected
    turned = once(np.full((21, 21, 3), 200, np.uint8), "Rotate", 30.0)
    assert turned[10, 10, 0] == 200 and turned[0, 0, 0] == 0
    marked = np.zeros((21, 21, 3), np.uint8)
    marked[10, 20] = 255
    assert np.argwhere(once(marked, "Rotate", 30.0)[..., 0])[0].tolist() == [5, 19]  # counter-clockwise


def test_operations_come_first_and_leave_the_batch_that_was_given():
    rng = np.random.default_rng(2)
    images = [rng.integers(0, 256, (height, 30, 3), np.uint8) for height in (70, 64)]
    plan = rows_of(plan_of(Augmentation(), 2), [0, 1])
    operations = np.array([[-1, -1], [OPERATIONS.index("Invert"), OPERATIONS.index("Posterize")]], np.int32)
    planned = plan._replace(operations=operations, strengths=np.array([[0, 0], [0, 4]], np.float32))
    pixels, sizes = packed(images)
    before = pixels.copy()
    pixels.flags.writeable = False
    found = transforms.vary_images(pixels, sizes, planned, SIZE)
    np.testing.assert_array_equal(pixels, before)
    expected = transforms.vary_images(*packed([images[0], (255 - images[1]) & 0xF0]), plan, SIZE)
    np.testing.assert_array_equal(found, expected)


def test_impossible_probabilities_are_refused():
    with pytest.raises(UserError, match="auto_augment is a probability"):
        Augmentation(auto_augment=1.5)
    with pytest.raises(UserError, match="grayscale is a probability"):
        Augmentation(grayscale=float("nan"))


# --- pictures as other cameras take them: mixed amplitudes, blur, compression ---


def naive_spectrum(channel):
    """Discrete Fourier transform by its definition, in complex128."""
    height, width = channel.shape
    rows = np.exp(-2j * np.pi * np.outer(np.arange(height), np.arange(height)) / height)
    columns = np.exp(-2j * np.pi * np.outer(np.arange(width), np.arange(width)) / width)
    return rows @ channel.astype(np.complex128) @ columns.T


def test_mixed_amplitudes_are_their_formula():
    rng = np.random.default_rng(0)
    image, other = (rng.integers(60, 190, (12, 8, 3), np.uint8) for _ in range(2))
    found = transforms.mixed_amplitudes(image, other, 0.4)
    for c in range(3):
        one, two = naive_spectrum(image[..., c]), naive_spectrum(other[..., c])
        aimed = (0.6 * np.abs(one) + 0.4 * np.abs(two)) * np.exp(1j * np.angle(one))
        # The inverse is the transform of the conjugate, conjugated and divided by the number of places.
        back = np.conj(naive_spectrum(np.conj(aimed))) / aimed.size
        expected = np.clip(np.rint(back.real), 0, 255)
        assert np.abs(expected - found[..., c]).max() <= 1
    np.testing.assert_array_equal(transforms.mixed_amplitudes(image, other, 0.0), image)
    # All of a dark picture's amplitudes make a bright one dark; its shapes stay.
    dark = (image // 4).astype(np.uint8)
    darkened = transforms.mixed_amplitudes(image, dark, 1.0)
    assert abs(darkened.mean() - dark.mean()) < 3
    assert np.corrcoef(darkened.ravel(), image.ravel())[0, 1] > 0.95
    # A partner of another size is resized, and a flat image has no phases but stays finite.
    assert transforms.mixed_amplitudes(image, other[:5, :3], 0.5).shape == image.shape
    flat = np.full((12, 8, 3), 128, np.uint8)
    assert np.abs(transforms.mixed_amplitudes(flat, flat, 0.5).astype(int) - 128).max() == 0


def test_a_batch_is_mixed_with_stored_images_blurred_and_compressed_as_planned():
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(4)]
    plan = rows_of(plan_of(Augmentation.none(), 4), [0, 1, 2, 3])
    plan = plan._replace(
        other=np.array([0.99, 0.0, 0.3, 0.3], np.float32),
        amplitude=np.array([0.7, 0.0, 0.0, 0.0], np.float32),
        blur=np.array([0.0, 4.0, 0.0, 0.0], np.float32),
        quality=np.array([0, 0, 12, 0], np.int32),
    )
    pixels, sizes = packed(images)
    before = pixels.copy()
    found = (transforms.vary_images(pixels, sizes, plan, SIZE) * IMAGENET_STD + IMAGENET_MEAN) * 255
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_allclose(found[0], transforms.mixed_amplitudes(images[0], images[3], 0.7), atol=0.01)
    # The deviation is in pixels of 128 rows: 4 there are 2 here.
    blurred = Image.fromarray(images[1]).filter(ImageFilter.GaussianBlur(2.0))
    np.testing.assert_allclose(found[1], np.asarray(blurred), atol=0.01)
    file = io.BytesIO()
    Image.fromarray(images[2]).save(file, "JPEG", quality=12)
    np.testing.assert_allclose(found[2], np.asarray(Image.open(file)), atol=0.01)
    np.testing.assert_allclose(found[3], images[3], atol=0.01)


def test_each_is_drawn_with_its_probability_and_range_and_changes_nothing_else():
    off, on = plan_of(Augmentation()), plan_of(Augmentation(amplitude_mix=0.3, blur=0.4, jpeg=0.5))
    for name in off._fields[:11]:
        np.testing.assert_array_equal(getattr(off, name), getattr(on, name))
    assert not off.amplitude.any() and not off.blur.any() and not off.quality.any()
    for values, share, low, high in (
        (on.amplitude, 0.3, 0.0, 1.0), (on.blur, 0.4, 0.3, 1.6), (on.quality, 0.5, 10, 75),
    ):  # fmt: skip
        drawn = values[values > 0]
        assert abs(len(drawn) / len(values) - share) < 0.03
        assert (
            low <= drawn.min() < low + 0.1 * (high - low) and high - 0.1 * (high - low) < drawn.max() <= high
        )
    assert on.other.min() >= 0 and on.other.max() <= 1


@pytest.mark.parametrize("wrong", [{"blur": 1.5}, {"jpeg_quality": (0, 75)}, {"blur_deviation": (2.0, 1.0)}])
def test_impossible_degradations_are_refused(wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong))).replace("_", ".")):
        Augmentation(**wrong)
