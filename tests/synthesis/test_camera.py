"""Cameras, windows, light and sensors."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from san_tf.synthesis.camera import (
    Window,
    detector_window,
    labelled_window,
    sample_camera,
    sample_yaw,
    spoilt_window,
    wrap_degrees,
)
from san_tf.synthesis.light import sample_light
from san_tf.synthesis.seeds import generator_at
from san_tf.synthesis.sensor import (
    any_sensor,
    auto_exposure,
    decode_rgb,
    develop,
    encode_jpeg,
    encode_png,
    sample_sensor,
)


def test_projection_matches_hand_arithmetic() -> None:
    camera = dataclasses.replace(sample_camera(0, 0), height=3.0, tilt=0.0, roll=0.0, focal=600.0)
    # 10 m ahead: one metre is 60 pixels; the ground lies 3 m below the lens.
    pixels = camera.project(np.array([[0.0, 3.0, -10.0], [1.0, 0.0, -10.0], [-2.0, 4.0, -10.0]]))
    np.testing.assert_allclose(pixels, [[0, 0], [60, 180], [-120, -60]], atol=1e-9)


def test_tilted_down_camera_sees_the_ground_in_its_middle() -> None:
    camera = dataclasses.replace(sample_camera(0, 0), height=4.0, tilt=np.arctan2(4.0, 10.0), roll=0.0)
    np.testing.assert_allclose(camera.project(np.array([[0.0, 0.0, -10.0]])), [[0, 0]], atol=1e-9)
    # What is farther away on the ground is higher in the picture.
    assert camera.project(np.array([[0.0, 0.0, -20.0]]))[0, 1] < 0


def test_window_corners_map_to_image_corners() -> None:
    window = Window(left=-10.0, top=20.0, width=50.0, height=100.0)
    corners = window.to_image(np.array([[-10.0, 20.0], [40.0, 120.0]]), 256, 128)
    np.testing.assert_allclose(corners, [[0, 0], [128, 256]])


def test_cameras_are_reproducible_and_differ() -> None:
    assert sample_camera(5, 2) == sample_camera(5, 2)
    heights = {sample_camera(5, camid).height for camid in range(20)} | {sample_camera(6, 2).height}
    assert len(heights) == 21
    assert all(2.2 <= height <= 6.0 for height in heights)


@given(st.floats(-2000, 2000))
def test_wrapped_angle_is_the_same_direction(angle: float) -> None:
    wrapped = wrap_degrees(angle)
    assert -180 < wrapped <= 180
    np.testing.assert_allclose(np.exp(1j * np.deg2rad(wrapped)), np.exp(1j * np.deg2rad(angle)), atol=1e-9)


def test_yaw_prefers_the_cameras_heading_yet_covers_the_circle() -> None:
    camera, rng = sample_camera(0, 3), np.random.default_rng(0)
    yaws = np.array([sample_yaw(camera, rng) for _ in range(2000)])
    along = np.cos(2 * np.deg2rad(yaws - camera.heading)).mean()
    assert along > 0.25
    counts, _ = np.histogram(yaws, bins=12, range=(-180, 180))
    assert counts.min() > 0


def test_detector_windows_hold_the_person_and_junk_misses_much_of_it() -> None:
    camera, rng = sample_camera(0, 0), np.random.default_rng(0)
    box = np.array([[0.0, 0.0], [40.0, 120.0]])

    def overlap(window: Window) -> float:
        low = np.maximum(box[0], [window.left, window.top])
        high = np.minimum(box[1], [window.left + window.width, window.top + window.height])
        return float(np.prod(np.maximum(high - low, 0)) / np.prod(box[1] - box[0]))

    good = [overlap(detector_window(box, camera, rng)) for _ in range(200)]
    junk = [overlap(detector_window(box, camera, rng, 1.0)) for _ in range(200)]
    assert np.mean(good) > 0.9
    assert np.mean(junk) < 0.6


def test_addresses_give_independent_reproducible_numbers() -> None:
    assert generator_at(1, "a", 2).random() == generator_at(1, "a", 2).random()
    others = [
        generator_at(1, "a", 3),
        generator_at(1, "b", 2),
        generator_at(2, "a", 2),
        generator_at(1, 2, "a"),
    ]
    assert generator_at(1, "a", 2).random() not in {other.random() for other in others}


def test_light_comes_from_above_and_changes_with_the_hour() -> None:
    lights = [sample_light(0, 1, sequence) for sequence in range(6)]
    assert all(
        light.direction[1] > 0.3 and np.isclose(np.linalg.norm(light.direction), 1) for light in lights
    )
    assert len({float(light.direction[0]) for light in lights}) == 6


def test_auto_exposure_brings_the_mean_to_middle_grey() -> None:
    for level in (0.06, 0.18, 0.3):
        scene = np.full((8, 8, 3), level, np.float32)
        assert scene.mean() * auto_exposure(scene) == pytest.approx(0.18, rel=1e-4)


def test_developed_pictures_differ_by_camera_more_than_by_frame() -> None:
    rng = np.random.default_rng(0)
    scene = np.repeat(np.repeat(rng.random((16, 8, 3)), 16, 0), 16, 1).astype(np.float32) * 0.4
    means = np.array(
        [
            [
                develop(scene, sample_sensor(0, camid), 1.0, 120.0, (128, 64), generator_at(0, camid, n))[
                    0
                ].mean((0, 1))
                for n in range(4)
            ]
            for camid in range(6)
        ]
    )
    assert means.mean(1).std(0).min() > 2 * means.std(1).mean()


def test_low_resolution_loses_detail() -> None:
    stripes = np.zeros((256, 128, 3), np.float32)
    stripes[::4] = stripes[1::4] = 0.5
    sensor = dataclasses.replace(sample_sensor(0, 0), noise=0.0, jpeg_quality=95, shutter=0.0, vignette=0.0)
    sharp = develop(stripes, sensor, 1.0, 250.0, (256, 128), np.random.default_rng(0))[0].std(0).mean()
    blurred = develop(stripes, sensor, 1.0, 60.0, (256, 128), np.random.default_rng(0))[0].std(0).mean()
    assert blurred < 0.3 * sharp


def test_encoders_keep_rgb_order() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 200
    np.testing.assert_array_equal(decode_rgb(encode_png(image)), image)
    red, green, blue = decode_rgb(encode_jpeg(image, 95)).mean((0, 1))
    assert red > 190 and green < 10 and blue < 10


def _overlap(first: Window, second: Window) -> float:
    """Intersection as a share of the first window."""
    sides = [
        min(a + side_a, b + side_b) - max(a, b)
        for a, side_a, b, side_b in (
            (first.left, first.width, second.left, second.width),
            (first.top, first.height, second.top, second.height),
        )
    ]
    return max(0.0, sides[0]) * max(0.0, sides[1]) / (first.width * first.height)


@pytest.mark.parametrize("wide", [40.0, 70.0])
def test_labelled_boxes_touch_the_person_and_have_their_proportions(wide: float) -> None:
    rng, person = np.random.default_rng(0), np.array([[10.0, 20.0], [10.0 + wide, 140.0]])
    silhouette = Window(10.0, 20.0, wide, 120.0)
    boxes = [labelled_window(person, rng) for _ in range(300)]
    assert np.mean([_overlap(silhouette, box) for box in boxes]) > 0.97
    assert np.mean([_overlap(box, silhouette) for box in boxes]) > 0.85
    assert np.mean([box.width / box.height for box in boxes]) == pytest.approx(wide / 120, rel=0.05)
    # A thin person gives no sliver.
    thin = labelled_window(np.array([[0.0, 0.0], [3.0, 120.0]]), rng)
    assert thin.width == pytest.approx(0.25 * thin.height)


def test_spoilt_boxes_have_each_error_and_keep_half_of_the_person() -> None:
    rng, good = np.random.default_rng(0), Window(0.0, 0.0, 50.0, 120.0)
    boxes = [spoilt_window(good, rng) for _ in range(400)]
    kept = np.array([_overlap(good, box) for box in boxes])
    assert kept.min() > 0.45 and kept.mean() < 0.95
    assert any(box.top > 3 and box.height < 117 for box in boxes), "no cut head"
    assert any(box.top == 0 and box.height < 80 for box in boxes), "no cut legs"
    assert any(box.width < 45 and box.height == 120 for box in boxes), "no cut side"
    assert any(box.width > 75 and box.height == 120 for box in boxes), "no wide box"
    assert any(box.width > 53 and box.height > 125 for box in boxes), "no large box"


def test_wide_cameras_hang_lower_and_higher_than_a_street_s() -> None:
    street = np.array([sample_camera(3, camid).height for camid in range(200)])
    anywhere = np.array([sample_camera(3, camid, 1.0).height for camid in range(200)])
    assert street.min() > 2.1 and anywhere.min() < 1.8 and anywhere.max() > street.max()
    same = [sample_camera(3, camid, 0.5) == sample_camera(3, camid) for camid in range(200)]
    assert 0.35 < np.mean(same) < 0.65


def test_any_sensor_keeps_its_ranges_and_reaches_their_ends() -> None:
    sensors = [any_sensor(np.random.default_rng(seed)) for seed in range(400)]
    rows = np.array([sensor.rows for sensor in sensors])
    assert 40 <= rows.min() < 50 and 350 < rows.max() <= 400 and np.mean(rows < 90) < 0.3
    quality = [sensor.jpeg_quality for sensor in sensors]
    assert 22 <= min(quality) < 26 and 92 < max(quality) <= 95
    for share, flags in (
        (0.75, [sensor.sharpening > 0 for sensor in sensors]),
        (0.2, [sensor.chroma_noise > 0 for sensor in sensors]),
        (0.05, [sensor.combing > 0 for sensor in sensors]),
    ):
        assert abs(np.mean(flags) - share) < 0.08
    # White balance and saturation leave grey about as bright as it was.
    greys = np.array([(sensor.color_matrix @ np.ones(3)).mean() for sensor in sensors])
    assert greys.min() > 0.9 and greys.max() < 1.1
    assert sample_sensor(0, 0, 1.0).rows > 0 == sample_sensor(0, 0).rows


# A sensor that changes nothing, to which one effect is added at a time.
STILL = dataclasses.replace(
    any_sensor(np.random.default_rng(0)), color_matrix=np.eye(3), exposure=1.0, gamma=1.0, contrast=1.0,
    haze=np.zeros(3), vignette=0.0, defocus=0.0, shutter=0.0, noise=1e-6, sharpening=0.0, jpeg_quality=95,
    clarity=0.0, chroma_noise=0.0, combing=0.0, rows=128,
)  # fmt: skip


def _developed(scene: np.ndarray, **effects: float) -> np.ndarray:
    sensor = dataclasses.replace(STILL, **effects)  # type: ignore[arg-type]
    return develop(scene, sensor, 1.0, 128.0, (128, 64), np.random.default_rng(1))[0].astype(float)


def test_effects_of_old_and_of_sharpened_recordings() -> None:
    edge = np.full((128, 64, 3), 0.1, np.float32)
    edge[:, 32:] = 0.4
    plain = _developed(edge)
    left, right = plain[:, 8].mean(), plain[:, -8].mean()
    # Sharpening overshoots beside an edge, and the wider the halo, the further.
    thin, broad = (_developed(edge, sharpening=1.5, halo=halo) for halo in (0.7, 2.0))
    assert thin[:, 32].mean() > right + 10 and thin[:, 31].mean() < left - 10
    assert broad[:, 34].mean() > thin[:, 34].mean() + 5
    # Clarity does so over a tenth of the height.
    assert _developed(edge, clarity=0.6)[:, 34].mean() > right + 8
    # Interlacing shifts every other row.
    combed = _developed(edge, combing=4.0)
    steps = np.abs(np.diff(combed.mean(2), axis=0))
    assert steps.max() > 30 and np.abs(np.diff(plain.mean(2), axis=0)).max() < 10
    # False colour changes hue, not brightness.
    grey = np.full((128, 64, 3), 0.2, np.float32)
    false = _developed(grey, chroma_noise=0.05)
    assert false.std(axis=2).mean() > 4 and np.abs(false.mean(2) - _developed(grey).mean(2)).mean() < 3


def test_few_rows_lose_detail_and_the_zoom_gives_blocks() -> None:
    noise = np.random.default_rng(0).random((128, 64, 1)).astype(np.float32).repeat(3, 2)
    sharp, soft = _developed(noise, rows=128), _developed(noise, rows=40)
    assert soft.std() < 0.6 * sharp.std()
    blocks = _developed(noise, rows=32, zoom=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(blocks[0::4], blocks[3::4])
