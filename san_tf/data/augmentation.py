"""Plans the augmentation of every image of an epoch; `transforms` carries it out.

A plan is a pure function of (seed, epoch, position). So a batch is the same in a resumed run, and with any
number of threads. Planning a whole epoch in NumPy takes milliseconds, and saves the input pipeline a dozen
small random operations per image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from san_tf.data.auto_augment import DRAWS, plan_operations
from san_tf.errors import UserError
from san_tf.normalization import IMAGENET_MEAN

_STREAM = 3
_ERASING_ATTEMPTS = 10
# Columns of the uniform numbers drawn for an image. Each augmentation has its own, so that switching one on
# does not change the others.
_FLIP, _MOVE, _CROP, _REDUCE, _SCALE, _JITTER, _COLOR = 0, 1, slice(2, 4), 4, 5, 6, slice(7, 11)
_ERASE, _PLACE, _NOISE, _LEVEL, _OFFSET = 11, slice(12, 14), 14, 15, slice(16, 18)
_AREA, _ASPECT = slice(18, 18 + _ERASING_ATTEMPTS), slice(18 + _ERASING_ATTEMPTS, 18 + 2 * _ERASING_ATTEMPTS)
_DYE, _DYE_HUE, _DYE_CHROMA, _DYE_TINT = (
    _ASPECT.stop, _ASPECT.stop + 1, _ASPECT.stop + 2, slice(_ASPECT.stop + 3, _ASPECT.stop + 6)
)  # fmt: skip
_DRAWS = _DYE_TINT.stop
# What came later has a stream of its own, so that it does not change what the numbers above were.
_LATER_STREAM = 6
_GRAYSCALE, _OPERATIONS = _DRAWS, slice(_DRAWS + 1, _DRAWS + 1 + DRAWS)
_LATER_DRAWS = 1 + DRAWS
_LATEST_STREAM = 7
_AMPLITUDE, _BLUR, _JPEG = (
    slice(_OPERATIONS.stop, _OPERATIONS.stop + 3),
    slice(_OPERATIONS.stop + 3, _OPERATIONS.stop + 5),
    slice(_OPERATIONS.stop + 5, _OPERATIONS.stop + 7),
)
_LATEST_DRAWS = 7
# Luma of ITU-R 601, as PIL and torchvision turn images to grey.
_LUMA = (0.299, 0.587, 0.114)
NOISE_MARGIN = 256
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied; the defaults are the paper's.

    Args:
        flip: probability of a left-right flip; the texture is then mirrored with the image.
        translation: probability of enlarging by `translation_scale` and cropping the original size at a
            random place.
        translation_scale: at least 1.
        erasing: probability of filling a random box with 0, the mean of normalised images (Zhong et al.,
            "Random Erasing Data Augmentation", 2020).
        erasing_area: smallest and largest share of the image that is erased.
        erasing_aspect: smallest and largest height / width of the box.
        jitter: probability of changing brightness, contrast, saturation and hue of the image, not the
            texture.
        brightness: largest relative change; likewise `contrast` and `saturation`.
        contrast: see brightness.
        saturation: see brightness.
        hue: largest rotation, as a share of the colour circle (0.5 is the opposite colour).
        grayscale: probability of taking an image's colours, not the texture's, as
            `torchvision.transforms.RandomGrayscale` does, after the jitter.
        auto_augment: probability of one of the 25 pairs of operations of AutoAugment's policy of ImageNet,
            before everything else; the texture stays. See `san_tf.data.auto_augment`.
        dye: probability of changing the colours of an image and its texture together: hue by any angle,
            saturation and the strength of each channel by random factors. Pairs then show clothes of every
            colour, and a texture generator learns to copy colours instead of guessing common ones.
        dye_chroma: smallest and largest factor of the saturation.
        dye_tint: largest relative change of a channel.
        low_resolution: probability of reducing to a random size, at least `smallest_scale`, and enlarging
            again. Crops of street cameras are small and blurred; rendered images should look the same.
        smallest_scale: share of the image's height and width.
        noise: probability of Gaussian pixel noise of a random standard deviation up to `noise_level`.
        noise_level: in grey levels of 0-255.
        amplitude_mix: probability of mixing an image's Fourier amplitudes with those of another image of the
            batch, see `transforms.mixed_amplitudes`; the texture stays.
        amplitude_share: largest share of the other's amplitudes, eta in FACT.
        blur: probability of a Gaussian blur.
        blur_deviation: smallest and largest standard deviation, in pixels of an image 128 pixels high.
        jpeg: probability of a JPEG compression.
        jpeg_quality: lowest and highest quality, 1 to 95.
    """

    flip: float = 0.5
    translation: float = 0.5
    translation_scale: float = 1.125
    erasing: float = 0.5
    erasing_area: tuple[float, float] = (0.02, 0.4)
    erasing_aspect: tuple[float, float] = (0.3, 3.3)
    jitter: float = 0.0
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.25
    hue: float = 0.03
    grayscale: float = 0.0
    auto_augment: float = 0.0
    dye: float = 0.0
    dye_chroma: tuple[float, float] = (0.6, 1.8)
    dye_tint: float = 0.2
    low_resolution: float = 0.0
    smallest_scale: float = 0.4
    noise: float = 0.0
    noise_level: float = 12.0
    amplitude_mix: float = 0.0
    amplitude_share: float = 1.0
    blur: float = 0.0
    blur_deviation: tuple[float, float] = (0.3, 1.6)
    jpeg: float = 0.0
    jpeg_quality: tuple[int, int] = (10, 75)

    def __post_init__(self) -> None:
        for name in (
            "flip", "translation", "erasing", "jitter", "grayscale", "auto_augment", "dye", "low_resolution",
            "noise", "amplitude_mix", "amplitude_share", "blur", "jpeg",
        ):  # fmt: skip
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(
                    f"The augmentation {name} is a probability from 0 to 1; received {getattr(self, name)}."
                )
        if self.translation_scale < 1.0 or not 0.0 < self.smallest_scale <= 1.0:
            raise UserError(
                f"translation_scale is at least 1 and smallest_scale in (0, 1]; received "
                f"{self.translation_scale} and {self.smallest_scale}."
            )
        (soft, softest), (worst, best) = self.blur_deviation, self.jpeg_quality
        if not 0 <= soft <= softest or not 1 <= worst <= best <= 95:
            raise UserError(
                "blur_deviation rises from 0 or more, and jpeg_quality rises within 1 to 95; received "
                f"{self.blur_deviation} and {self.jpeg_quality}."
            )

    @classmethod
    def none(cls) -> Augmentation:
        """Return the augmentation that leaves images as they are."""
        return cls(flip=0.0, translation=0.0, erasing=0.0)

    @classmethod
    def for_transfer(cls) -> Augmentation:
        """Return the augmentation for a texture generator trained on rendered pairs.

        It prepares the generator for real photographs. Erasing is off, because an unseen body part cannot be
        painted. Sharpness and noise vary. Colours mostly change in image and texture together: if only the
        image changes, the generator must guess the colour, and then paints common ones.
        """
        return cls(
            erasing=0.0,
            jitter=0.2,
            dye=0.5,
            low_resolution=0.3,
            smallest_scale=0.4,
            noise=0.4,
            noise_level=8.0,
        )


class AugmentationPlan(NamedTuple):
    """Augmentation of each of `n` images, as NumPy arrays, or as tensors in a pipeline."""

    flip: Any  # (n,) bool
    size: Any  # (n, 2) int32: height and width to resize to before the crop
    crop: Any  # (n, 2) int32: top and left of the crop
    erased: Any  # (n, 4) int32: top, left, height, width of the erased box; 0 x 0 where there is none
    color: Any  # (n, 3, 4) float32: RGB (0-255) -> color[:, :3] @ RGB + color[:, 3]
    scale: Any  # (n,) float32: share of the resolution kept
    noise: Any  # (n,) float32: standard deviation in grey levels
    noise_offset: Any  # (n, 2) int32: where the noise tile is cut
    dye: Any  # (n, 3, 4) float32: like color, for the texture
    operations: Any  # (n, 2) int32: of AutoAugment, before everything else; -1 for none
    strengths: Any  # (n, 2) float32: of the operations
    other: Any  # (n,) float32 in [0, 1): place in the batch of the image whose amplitudes are mixed in
    amplitude: Any  # (n,) float32: share of its amplitudes; 0 for none
    blur: Any  # (n,) float32: standard deviation in pixels of an image 128 pixels high; 0 for none
    quality: Any  # (n,) int32: of a JPEG compression; 0 for none


def draw_epoch(shape: tuple[int, ...], seed: int, epoch: int, part: int = 0) -> np.ndarray:
    """Return `(*shape, draws)` float64 uniform numbers of one epoch for `plan_augmentation`.

    Args:
        shape: steps and rows of the part of the batch.
        seed: seed of the run.
        epoch: from 0.
        part: number of the part of a batch: re-ID images, then image-texture pairs. Each part has its own
            random stream, so that adding pairs does not change the re-ID images.
    """
    stream = (seed, epoch, _STREAM, part) if part else (seed, epoch, _STREAM)
    first = np.random.default_rng(stream).random((*shape, _DRAWS))
    later = np.random.default_rng((seed, epoch, _LATER_STREAM, part)).random((*shape, _LATER_DRAWS))
    latest = np.random.default_rng((seed, epoch, _LATEST_STREAM, part)).random((*shape, _LATEST_DRAWS))
    return np.concatenate([first, later, latest], axis=-1)


def plan_augmentation(
    augmentation: Augmentation, draws: np.ndarray, image_size: tuple[int, int]
) -> AugmentationPlan:
    """Turn uniform numbers into the augmentation plan of each image.

    Args:
        augmentation: the probabilities and ranges.
        draws: `(n, draws)` of `draw_epoch`.
        image_size: height and width of the result in pixels.

    Returns:
        The plan of n images.
    """
    size = np.array(image_size)
    moved = draws[:, _MOVE] < augmentation.translation
    enlarged = np.rint(size * augmentation.translation_scale).astype(np.int64)
    crop = np.floor(draws[:, _CROP] * (enlarged - size + 1))
    scale = 1.0 - (1.0 - augmentation.smallest_scale) * draws[:, _SCALE]
    noise = augmentation.noise_level * draws[:, _LEVEL]
    dye = _dye_matrices(augmentation, draws)
    color = composed(_grey_matrices(augmentation, draws), _color_matrices(augmentation, draws))
    operations, strengths = plan_operations(augmentation.auto_augment, draws[:, _OPERATIONS])
    chosen, other, share = draws[:, _AMPLITUDE].T
    amplitude = np.where(chosen < augmentation.amplitude_mix, augmentation.amplitude_share * share, 0.0)
    chosen, soft = draws[:, _BLUR].T
    low, high = augmentation.blur_deviation
    blur = np.where(chosen < augmentation.blur, low + (high - low) * soft, 0.0)
    chosen, bad = draws[:, _JPEG].T
    worst, best = augmentation.jpeg_quality
    quality = np.where(chosen < augmentation.jpeg, worst + np.floor((best - worst + 1) * bad), 0)
    return AugmentationPlan(
        flip=draws[:, _FLIP] < augmentation.flip,
        size=np.where(moved[:, None], enlarged, size).astype(np.int32),
        crop=np.where(moved[:, None], crop, 0).astype(np.int32),
        erased=_erased_boxes(augmentation, draws, image_size),
        color=composed(color, dye).astype(np.float32),
        scale=np.where(draws[:, _REDUCE] < augmentation.low_resolution, scale, 1.0).astype(np.float32),
        noise=np.where(draws[:, _NOISE] < augmentation.noise, noise, 0.0).astype(np.float32),
        noise_offset=np.floor(draws[:, _OFFSET] * (NOISE_MARGIN + 1)).astype(np.int32),
        dye=dye.astype(np.float32),
        operations=operations,
        strengths=strengths,
        other=other.astype(np.float32),
        amplitude=amplitude.astype(np.float32),
        blur=blur.astype(np.float32),
        quality=quality.astype(np.int32),
    )


def _erased_boxes(augmentation: Augmentation, draws: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Return `(n, 4)` int32 boxes: of several attempts, the first box that is smaller than the image."""
    height, width = image_size
    low, high = augmentation.erasing_area
    area = (low + (high - low) * draws[:, _AREA]) * height * width
    low, high = augmentation.erasing_aspect
    aspect = low + (high - low) * draws[:, _ASPECT]
    shape: np.ndarray = np.rint(np.sqrt(np.stack([area * aspect, area / aspect], axis=-1)))
    fits = np.asarray(np.all((shape > 0) & (shape < np.array([height, width])), axis=-1))
    first = np.argmax(fits, axis=1)
    row = np.arange(len(draws))
    shape = shape[row, first]
    corner = np.floor(draws[:, _PLACE] * (np.array([height, width]) - shape + 1))
    erased = np.logical_and(draws[:, _ERASE] < augmentation.erasing, fits[row, first])
    return np.where(erased[:, None], np.concatenate([corner, shape], axis=1), 0).astype(np.int32)


def _color_matrices(augmentation: Augmentation, draws: np.ndarray) -> np.ndarray:
    """Return `(n, 3, 4)` float64: brightness, contrast, saturation and hue are all affine in RGB."""
    signed = 2.0 * draws[:, _COLOR] - 1.0
    brightness = 1.0 + augmentation.brightness * signed[:, 0]
    contrast = 1.0 + augmentation.contrast * signed[:, 1]
    saturation = 1.0 + augmentation.saturation * signed[:, 2]
    turned = _turned(2.0 * np.pi * augmentation.hue * signed[:, 3], saturation)
    matrix = (brightness * contrast)[:, None, None] * turned
    # Contrast pivots on the average grey of photographs.
    grey = 255.0 * float(IMAGENET_MEAN.mean())
    shift = np.repeat((grey * (1.0 - contrast))[:, None, None], 3, axis=1)
    return _where(draws[:, _JITTER] < augmentation.jitter, np.concatenate([matrix, shift], axis=2))


def _grey_matrices(augmentation: Augmentation, draws: np.ndarray) -> np.ndarray:
    """Return `(n, 3, 4)` float64: all channels become the luma."""
    grey = np.broadcast_to(np.array([[*_LUMA, 0.0]] * 3), (len(draws), 3, 4))
    return _where(draws[:, _GRAYSCALE] < augmentation.grayscale, grey)


def _dye_matrices(augmentation: Augmentation, draws: np.ndarray) -> np.ndarray:
    """Return `(n, 3, 4)` float64: channels strengthened or weakened, then any hue, then saturation."""
    low, high = augmentation.dye_chroma
    turned = _turned(2.0 * np.pi * draws[:, _DYE_HUE], low + (high - low) * draws[:, _DYE_CHROMA])
    tint = 1.0 + augmentation.dye_tint * (2.0 * draws[:, _DYE_TINT] - 1.0)
    matrix = turned * tint[:, None, :]
    dyed = np.concatenate([matrix, np.zeros((len(draws), 3, 1))], axis=2)
    return _where(draws[:, _DYE] < augmentation.dye, dyed)


def _turned(angle: np.ndarray, saturation: np.ndarray) -> np.ndarray:
    """Return `(n, 3, 3)`: in YIQ, saturation scales the two colour axes and hue rotates them."""
    chroma = np.zeros((len(angle), 3, 3))
    chroma[:, 0, 0] = 1.0
    chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * np.cos(angle)
    chroma[:, 1, 2] = -saturation * np.sin(angle)
    chroma[:, 2, 1] = saturation * np.sin(angle)
    return np.linalg.inv(_YIQ) @ chroma @ _YIQ


def composed(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return colour matrices `(n, 3, 4)` that apply `first`, then `second`, each `(n, 3, 4)`."""
    matrix = second[:, :, :3] @ first
    matrix[:, :, 3] += second[:, :, 3]
    return matrix


def _where(chosen: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Return the matrices where `chosen`, and the identity elsewhere."""
    return np.where(chosen[:, None, None], matrices, np.eye(3, 4))
