"""A surveillance camera's effects on a picture: colour, exposure, blur, noise, compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from san_tf.errors import UserError
from san_tf.synthesis.seeds import generator_at


@dataclass(frozen=True)
class Sensor:
    """Parameters of the look of one camera's pictures.

    Attributes:
        color_matrix: `(3, 3)` RGB to RGB: white balance, channel crosstalk and saturation.
        exposure: factor on the light, on top of auto-exposure.
        gamma: factor on the usual exponent 1 / 2.2; below 1 brightens shadows.
        contrast: slope at middle grey.
        haze: `(3,)` RGB veil that lifts the blacks, 0..0.2.
        vignette: loss of brightness towards the corners of the crop, 0..0.25.
        defocus: standard deviation of the lens blur in native pixels.
        shutter: longest motion blur in native pixels.
        noise: standard deviation of the sensor noise at middle grey, in 0..1.
        sharpening: strength of the in-camera sharpening, which rings at edges.
        jpeg_quality: JPEG quality of the recording, 1..100.
        halo: standard deviation of the blur that the sharpening subtracts, in native pixels.
        clarity: strength of the contrast between a pixel and its wider surroundings.
        chroma_noise: standard deviation of blotches of false colour, in 0..1.
        combing: sideways shift of every other row in native pixels, as in interlaced recordings.
        rows: rows of a person's box in the recording; 0 leaves them to the camera's lens.
        zoom: OpenCV's interpolation that brings the recording to the stored size.
    """

    color_matrix: np.ndarray
    exposure: float
    gamma: float
    contrast: float
    haze: np.ndarray
    vignette: float
    defocus: float
    shutter: float
    noise: float
    sharpening: float
    jpeg_quality: int
    halo: float = 1.2
    clarity: float = 0.0
    chroma_noise: float = 0.0
    combing: float = 0.0
    rows: int = 0
    zoom: int = cv2.INTER_LINEAR


def sample_sensor(seed: int, camid: int, wide: float = 0.0) -> Sensor:
    """Return the sensor of camera `camid` of the data set with this seed.

    Args:
        seed: of the data set.
        camid: camera id, from 0.
        wide: probability that the sensor comes from `any_sensor`.

    Returns:
        A `Sensor`; the same arguments give the same sensor.

    Example:
        >>> sample_sensor(0, 0).jpeg_quality == sample_sensor(0, 0).jpeg_quality
        True
    """
    if wide and (rng := generator_at(seed, "any sensor", camid)).random() < wide:
        return any_sensor(rng)
    rng = generator_at(seed, "sensor", camid)
    gains = np.exp(rng.normal(0.0, [0.085, 0.025, 0.105]))
    saturation = rng.uniform(0.6, 1.15)
    return Sensor(
        color_matrix=_color_matrix(gains, saturation, 0.03, rng),
        exposure=float(np.exp(rng.uniform(-0.35, 0.3))),
        gamma=rng.uniform(0.8, 1.2),
        contrast=rng.uniform(0.8, 1.2),
        haze=rng.uniform(0.0, 0.14) * np.array([0.95, 1.0, 1.05]) * np.exp(rng.normal(0, 0.1, 3)),
        vignette=rng.uniform(0.0, 0.2),
        defocus=rng.uniform(0.25, 0.85),
        shutter=rng.uniform(0.5, 4.0),
        noise=rng.uniform(0.004, 0.02),
        sharpening=rng.uniform(0.0, 0.7),
        jpeg_quality=int(rng.integers(35, 85)),
    )


def _color_matrix(
    gains: np.ndarray, saturation: float, crosstalk: float, rng: np.random.Generator
) -> np.ndarray:
    """Combine white balance, crosstalk of the channels and saturation, `(3, 3)`."""
    grey = np.full((3, 3), 1.0 / 3.0)
    leak = np.eye(3) + rng.normal(0.0, crosstalk, (3, 3))
    leak /= leak.sum(1, keepdims=True)
    return (saturation * np.eye(3) + (1 - saturation) * grey) @ leak @ np.diag(gains / gains.mean())


def any_sensor(rng: np.random.Generator) -> Sensor:
    """Draw the sensor of any camera: sharp or soft, new or old, well or badly set.

    Recordings of most surveillance cameras are sharpened and of high contrast, with deep blacks and burnt
    whites. So the ranges are wide, but their middle is not the mild picture of `sample_sensor`.

    Args:
        rng: source of randomness.

    Returns:
        A `Sensor`.

    Example:
        >>> 40 <= any_sensor(np.random.default_rng(0)).rows <= 400
        True
    """
    gains = np.exp(rng.normal(0.0, [0.11, 0.03, 0.13]))
    # Most people have some sixty to three hundred rows; a few are far away.
    rows = np.exp(rng.uniform(*np.log([40.0, 90.0] if rng.random() < 0.2 else [90.0, 400.0])))
    foggy = rng.random() < 0.15
    return Sensor(
        color_matrix=_color_matrix(gains, float(rng.triangular(0.2, 0.8, 1.15)), 0.04, rng),
        exposure=float(np.exp(rng.normal(0.0, 0.25))),
        gamma=rng.uniform(0.85, 1.3),
        contrast=rng.uniform(0.9, 1.35),
        haze=(rng.uniform(0.04, 0.16) if foggy else rng.uniform(0.0, 0.04)) * np.exp(rng.normal(0, 0.1, 3)),
        vignette=rng.uniform(0.0, 0.25),
        defocus=rng.uniform(0.2, 0.9) if rng.random() < 0.4 else 0.0,
        shutter=rng.uniform(0.3, 3.0),
        noise=float(np.exp(rng.uniform(*np.log([0.003, 0.025])))),
        sharpening=rng.uniform(0.2, 1.8) if rng.random() < 0.75 else 0.0,
        jpeg_quality=int(rng.integers(22, 96)),
        halo=rng.uniform(0.7, 2.0),
        clarity=rng.uniform(0.0, 0.6),
        chroma_noise=rng.uniform(0.01, 0.04) if rng.random() < 0.2 else 0.0,
        combing=rng.uniform(0.5, 2.0) if rng.random() < 0.05 else 0.0,
        rows=round(rows),
        zoom=int(
            rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_NEAREST],
                       p=[0.55, 0.27, 0.15, 0.03])
        ),
    )  # fmt: skip


def develop(
    radiance: np.ndarray,
    sensor: Sensor,
    gain: float,
    native_height: float,
    output_size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """Turn a clean rendering into a crop of the camera's recording.

    Args:
        radiance: `(H, W, 3)` float32 RGB in linear light.
        sensor: the camera's look.
        gain: auto-exposure of the scene, from `auto_exposure`; multiplied by `sensor.exposure`.
        native_height: height of the crop in pixels of the recording, before it is resized.
        output_size: (height, width) of the result in pixels.
        rng: source of exposure changes, motion and noise.

    Returns:
        `(height, width, 3)` uint8 RGB, and the exposure, the factor on the light.

    Example:
        >>> grey = np.full((64, 32, 3), 0.5, np.float32)
        >>> picture, exposure = develop(
        ...     grey, sample_sensor(0, 0), 1.0, 60.0, (128, 64), np.random.default_rng(0)
        ... )
        >>> picture.shape
        (128, 64, 3)
    """
    height, width = radiance.shape[:2]
    # The rendering has no detail beyond its own rows.
    rows = min(sensor.rows, height) if sensor.rows else max(24, min(round(native_height), 2 * height))
    columns = max(12, round(rows * width / height))
    picture = _resize(radiance, rows, columns)
    picture = _blur(picture, sensor, rows, rng)
    picture, exposure = _tone(picture, sensor, gain, rng)
    if sensor.clarity:
        # Blurring a quarter of the rows is as good as all of them, and much quicker.
        small = _resize(picture, max(2, rows // 4), max(2, columns // 4))
        soft = cv2.resize(cv2.GaussianBlur(small, (0, 0), rows / 50.0), (columns, rows))
        picture = picture + sensor.clarity * (picture - soft)
    if sensor.sharpening > 0.1:
        soft = cv2.GaussianBlur(picture, (0, 0), sensor.halo)
        picture = picture + sensor.sharpening * (picture - soft)
    # Shot noise grows with the light; demosaicing makes the channels share a part of it.
    spread = sensor.noise * np.sqrt(np.clip(picture, 0.02, 1.0) * 2.0)
    grain = rng.standard_normal((rows, columns, 1), np.float32)
    grain = 0.8 * grain + 0.6 * rng.standard_normal((rows, columns, 3), np.float32)
    picture = picture + spread * grain
    if sensor.chroma_noise:
        blotches = rng.normal(0.0, sensor.chroma_noise, (rows // 4 + 1, columns // 4 + 1, 3))
        blotches -= blotches.mean(2, keepdims=True)
        picture = picture + cv2.resize(blotches.astype(np.float32), (columns, rows))
    if sensor.combing:
        shift = round(rng.normal(0.0, sensor.combing) * rows / 128.0)
        picture[1::2] = np.roll(picture[1::2], shift, axis=1)
    frame = np.clip(picture * 255.0 + 0.5, 0, 255).astype(np.uint8)
    quality = int(np.clip(sensor.jpeg_quality + rng.integers(-6, 7), 25, 95))
    frame = decode_rgb(encode_jpeg(frame, quality))
    return _resize(frame, *output_size, sensor.zoom), exposure


def auto_exposure(scene: np.ndarray) -> float:
    """Return the gain that brings a scene's mean to middle grey.

    Args:
        scene: `(H, W, 3)` float32 RGB in linear light: the empty street, at any resolution.

    Returns:
        The gain, 0.4..4.

    Example:
        >>> auto_exposure(np.full((4, 4, 3), 0.09, np.float32))
        2.0
    """
    return float(np.clip(round(0.18 / max(float(np.minimum(scene, 1.0).mean()), 1e-3), 6), 0.4, 4.0))


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode an `(H, W, 3)` uint8 RGB image as JPEG, quality 1..100."""
    _, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return data.tobytes()


def encode_png(image: np.ndarray) -> bytes:
    """Encode an `(H, W, 3)` uint8 RGB image as PNG."""
    _, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 4])
    return data.tobytes()


def decode_rgb(data: bytes) -> np.ndarray:
    """Decode JPEG or PNG to an `(H, W, 3)` uint8 RGB image; other bytes raise UserError."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{len(data)} bytes were given that are not JPEG or PNG; check where they come from.")
    return np.ascontiguousarray(image[..., ::-1])


def _resize(image: np.ndarray, rows: int, columns: int, zoom: int = cv2.INTER_LINEAR) -> np.ndarray:
    shrinks = rows < image.shape[0]
    return cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if shrinks else zoom)


def _blur(picture: np.ndarray, sensor: Sensor, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Blur by defocus and by motion, mostly sideways, as people walk; lengths in native pixels."""
    defocus = sensor.defocus * rng.uniform(0.7, 1.3)
    if defocus > 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), defocus)
    length = sensor.shutter * rng.uniform(0.0, 1.0) ** 2 * rows / 128.0
    if length > 0.8:
        angle, size = rng.normal(0.0, 0.35), int(np.ceil(length)) | 1
        kernel = np.zeros((size + 2, size + 2), np.float32)
        centre, half = (size + 1) / 2, length / 2
        for step in np.linspace(-half, half, 2 * size + 1):
            kernel[round(centre + step * np.sin(angle)), round(centre + step * np.cos(angle))] += 1
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    return picture


def respond(light: np.ndarray, sensor: Sensor, exposure: float) -> np.ndarray:
    """Apply the sensor's colour matrix, gamma, contrast and haze, without vignette.

    Args:
        light: `(..., 3)` float32 RGB, linear, 0 or more.
        sensor: the camera's look.
        exposure: factor on the light, from `develop`.

    Returns:
        `(..., 3)` float32 RGB in 0..1.

    Example:
        >>> respond(np.zeros(3, np.float32), sample_sensor(0, 0), 1.0) >= 0
        array([ True,  True,  True])
    """
    return _curve(light @ _matrix(sensor, exposure), sensor)


def _matrix(sensor: Sensor, exposure: float) -> np.ndarray:
    return (sensor.color_matrix.T * exposure).astype(np.float32)


def _curve(picture: np.ndarray, sensor: Sensor) -> np.ndarray:
    # A soft shoulder, not a hard clip, keeps the texture of bright clothes.
    picture = np.clip(picture, 0.0, None)
    picture = np.where(picture > 0.75, 1.0 - 0.25 * np.exp(-(picture - 0.75) / 0.25), picture)
    picture = picture ** (sensor.gamma / 2.2)
    picture = np.clip(0.45 + sensor.contrast * (picture - 0.45), 0.0, 1.0)
    haze = sensor.haze.astype(np.float32)
    return haze + (1 - haze) * picture


def _tone(
    picture: np.ndarray, sensor: Sensor, gain: float, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Apply exposure, vignette and the sensor's response; return values in 0..1 and the exposure."""
    rows, columns = picture.shape[:2]
    exposure = float(gain * sensor.exposure * np.exp(rng.normal(0.0, 0.08)))
    picture = picture @ _matrix(sensor, exposure)
    y, x = np.linspace(-1, 1, rows, dtype=np.float32), np.linspace(-1, 1, columns, dtype=np.float32)
    offset = rng.uniform(-0.7, 0.7, 2)
    radius = (y[:, None] - offset[0]) ** 2 + (x[None, :] - offset[1]) ** 2
    shade = (1 - sensor.vignette * np.minimum(radius, 2.0) / 2)[..., None].astype(np.float32)
    return _curve(picture * shade, sensor), exposure
