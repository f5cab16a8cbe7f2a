"""Plans of data sets: which identity is seen by which camera in which image, before anything is drawn.

A plan is cheap (no rendering) and a pure function of its configuration; each of its entries can then be drawn
alone, in any order, by any process.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from san_tf.synthesis.seeds import generator_at

# Identity numbers by use. People of different uses never share a number, hence never a seed of clothes.
_STRANGER, _PASSER_BY, _PIT = (
    100_000,
    {"train": 200_000, "test": 300_000},
    {"train": 400_000, "test": 500_000},
)
PASSERS_BY = 12
ACTIONS = ("walking", "standing", "carrying", "phoning")


@dataclass(frozen=True)
class ReidConfig:
    """A re-identification data set to be rendered, in the proportions of Market-1501.

    Attributes:
        name: of the configuration.
        train_identities, test_identities: numbers of people; the two sets are disjoint.
        cameras: number of cameras.
        train_images: of the training identities.
        queries: one for each test identity and camera that saw it.
        gallery_images: of the test identities, without the two below.
        distractors: gallery images of nobody in the query set (pid 0).
        junk: gallery images that are cut too badly to count as anybody (pid -1).
        image_height: of the stored images in pixels; they are half as wide.
        seed: of everything.
        backgrounds: folder of photographs to use instead of procedural streets.
    """

    name: str
    train_identities: int
    test_identities: int
    train_images: int
    queries: int
    gallery_images: int
    distractors: int
    junk: int
    cameras: int = 6
    image_height: int = 128
    seed: int = 1501
    backgrounds: str | None = None


@dataclass(frozen=True)
class PitConfig:
    """A set of paired images and textures to be rendered.

    Attributes:
        name: of the configuration.
        train_textures, test_textures: numbers of textures; the two sets are disjoint.
        images_per_texture: renderings of each, with its own body pose, view, camera and place every time.
        image_height: of the stored images in pixels; they are half as wide.
        dye: how often a garment has any colour instead of the street's; see `wardrobe.dyes`.
        seed: of everything.
        backgrounds: folder of photographs to use instead of procedural streets.
    """

    name: str
    train_textures: int
    test_textures: int
    images_per_texture: int = 10
    image_height: int = 256
    dye: float = 0.5
    seed: int = 929
    backgrounds: str | None = None


@dataclass(frozen=True)
class CropSpec:
    """All that determines one image.

    Attributes:
        seed: of the data set.
        index: number of the image, unique within data set and split.
        split: "train", "query" or "gallery" for re-ID, "train" or "test" for PIT.
        pid: as recorded: an identity, 0 for a distractor, -1 for junk.
        identity: number of the person who is drawn.
        camid: camera, from 0.
        sequence: recording of that camera, from 0.
        track: number shared by images taken in one pass of the person.
        step: position within the track, from 0.
        filename: in the style of Market-1501.
        badness: 0 for a usable crop, 1 for junk, 2 for a false alarm beside the person.
        varied: draw body shape and look of the picture anew for this image (PIT), not per camera (re-ID).
        dye: how often a garment of the person has any colour instead of the street's (PIT).
        passers_by: first identity number of the others who may be in the picture.
        image_height: pixels; the width is half of it.
        backgrounds: folder of photographs, or None for procedural streets.
    """

    seed: int
    index: int
    split: str
    pid: int
    identity: int
    camid: int
    sequence: int
    track: int
    step: int
    filename: str
    badness: float
    varied: bool
    dye: float
    passers_by: int
    image_height: int
    backgrounds: str | None

    @property
    def identity_seed(self) -> int:
        """Seed of the person's body and clothes; different for every identity number of a data set."""
        return identity_seed(self.seed, self.identity)


def identity_seed(seed: int, identity: int) -> int:
    """Return the wardrobe seed of identity number `identity` (< 1,000,000) of the data set with this seed."""
    return seed * 1_000_000 + identity


def _spec(config: ReidConfig | PitConfig, **what: Any) -> CropSpec:
    return CropSpec(
        seed=config.seed, image_height=config.image_height, backgrounds=config.backgrounds, **what
    )


def _market_name(pid: int, camid: int, sequence: int, frame: int, box: int) -> str:
    who = "-1" if pid < 0 else f"{pid:04d}"
    return f"{who}_c{camid + 1}s{sequence + 1}_{frame:06d}_{box:02d}.jpg"


def allocate(total: int, weights: np.ndarray, minimum: np.ndarray) -> np.ndarray:
    """Share `total` out in proportion to weights, giving each at least its minimum.

    Args:
        total: sum of the result, at least the sum of the minima.
        weights: `(N,)` positive numbers.
        minimum: `(N,)` int64.

    Returns:
        `(N,)` int64 that sums to `total`.

    Example:
        >>> allocate(10, np.array([1.0, 1.0, 2.0]), np.array([1, 1, 1])).tolist()
        [3, 3, 4]
    """
    spare = total - int(minimum.sum())
    exact = spare * weights / weights.sum()
    shares = np.floor(exact).astype(np.int64)
    # Largest remainders first; the stable sort keeps the result the same everywhere.
    late = np.argsort(-(exact - shares), kind="stable")[: spare - int(shares.sum())]
    shares[late] += 1
    return minimum + shares


@functools.lru_cache(maxsize=8)
def reid_plan(config: ReidConfig, split: str) -> tuple[CropSpec, ...]:
    """Plan a split of a re-identification data set.

    Args:
        config: sizes and seed.
        split: "train", "query" or "gallery".

    Returns:
        One `CropSpec` an image, sorted by identity so that a worker dresses each person once.
    """
    if split == "train":
        pids = np.arange(1, config.train_identities + 1)
        rng = generator_at(config.seed, "plan", "train")
        # Of six cameras 4.4 see a person, as in Market-1501; fewer cameras, fewer of them.
        appearances = round(min(4.4, 2.2 * config.cameras / 3) * len(pids))
        cameras = _cameras_per_identity(len(pids), config.cameras, appearances, rng)
        return tuple(_people(config, "train", pids, cameras, config.train_images, rng))
    pids = np.arange(config.train_identities + 1, config.train_identities + config.test_identities + 1)
    rng = generator_at(config.seed, "plan", "test")
    cameras = _cameras_per_identity(len(pids), config.cameras, config.queries, rng)
    if split == "query":
        # One image for each identity and camera: as many as the identities have cameras.
        return tuple(
            _people(
                config, "query", pids, cameras, config.queries, generator_at(config.seed, "plan", "query")
            )
        )
    specs = _people(config, "gallery", pids, cameras, config.gallery_images, rng)
    # Sorted by identity, so that a worker dresses each person once.
    return tuple(sorted([*specs, *_others(config, len(specs), pids, rng)], key=lambda spec: spec.identity))


def _cameras_per_identity(count: int, cameras: int, total: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Choose for each identity which cameras saw it: at least two each, `total` together."""
    extra = np.zeros(count, np.int64)
    # Hand the appearances beyond two out one by one, to identities that still miss a camera.
    for _ in range(total - 2 * count):
        open_to = np.flatnonzero(extra < cameras - 2)
        extra[open_to[int(rng.integers(len(open_to)))]] += 1
    return [np.sort(rng.permutation(cameras)[: 2 + more]) for more in extra]


def _people(
    config: ReidConfig,
    split: str,
    pids: np.ndarray,
    cameras: list[np.ndarray],
    total: int,
    rng: np.random.Generator,
) -> list[CropSpec]:
    """Share `total` images out over the identities, their cameras and recordings."""
    seen = np.array([len(choice) for choice in cameras], np.int64)
    per_identity = allocate(total, rng.gamma(6.0, 1.0, len(pids)), seen)
    specs: list[CropSpec] = []
    side = "train" if split == "train" else "test"
    for pid, choice, images in zip(pids.tolist(), cameras, per_identity.tolist(), strict=True):
        per_camera = allocate(images, rng.gamma(3.0, 1.0, len(choice)), np.ones(len(choice), np.int64))
        for camid, number in zip(choice.tolist(), per_camera.tolist(), strict=True):
            # The pass that the query is taken from is the same that opens the gallery, as in Market-1501.
            visit = generator_at(config.seed, "visit", side, pid, camid)
            recordings = visit.permutation(6)[:3]
            start = int(visit.integers(1, 9000)) * 10
            passes = 1 if number < 4 else 2
            for image in range(number):
                turn = image * passes // number
                sequence = int(recordings[turn])
                step = image + (1 if split == "gallery" else 0)
                frame = start + turn * 4000 + step * 25
                specs.append(
                    _spec(
                        config, index=len(specs), split=split, pid=pid, identity=pid, camid=camid,
                        sequence=sequence, track=(pid * 100 + camid) * 10 + turn, step=step,
                        filename=_market_name(pid, camid, sequence, frame, int(split != "query")),
                        badness=0.0, varied=False, dye=0.0, passers_by=_PASSER_BY[side],
                    )
                )  # fmt: skip
    return specs


def _others(config: ReidConfig, first: int, pids: np.ndarray, rng: np.random.Generator) -> list[CropSpec]:
    """Plan distractors (strangers and false alarms, pid 0) and junk (badly cut test identities, pid -1)."""
    specs: list[CropSpec] = []
    strangers = max(1, config.distractors // 8)
    for number in range(config.distractors + config.junk):
        junk = number >= config.distractors
        false_alarm = not junk and rng.random() < 0.5
        identity = int(rng.choice(pids)) if junk else _STRANGER + number * strangers // config.distractors
        camid, sequence = int(rng.integers(config.cameras)), int(rng.integers(6))
        pid = -1 if junk else 0
        specs.append(
            _spec(
                config, index=first + number, split="gallery", pid=pid, identity=identity, camid=camid,
                sequence=sequence, track=50_000_000 + number, step=0,
                filename=_market_name(pid, camid, sequence, 100_000 + number * 5, int(rng.integers(1, 9))),
                badness=1.0 if junk else (2.0 if false_alarm else 0.0), varied=False, dye=0.0,
                passers_by=_PASSER_BY["test"],
            )
        )  # fmt: skip
    return specs


@functools.lru_cache(maxsize=8)
def pit_plan(config: PitConfig, split: str) -> tuple[CropSpec, ...]:
    """Plan a split of paired images and textures.

    Args:
        config: sizes and seed.
        split: "train" or "test".

    Returns:
        One `CropSpec` a pair; pids count from 1, test pids follow on those of training.
    """
    test = split == "test"
    textures, first = (config.test_textures, config.train_textures) if test else (config.train_textures, 0)
    specs = []
    for number in range(textures):
        for image in range(config.images_per_texture):
            index = number * config.images_per_texture + image
            pid = first + number + 1
            specs.append(
                _spec(
                    config, index=index, split=split, pid=pid, identity=_PIT[split] + number,
                    # Every pair has a camera and a place of its own.
                    camid=index + (500_000 if test else 0), sequence=0, track=index, step=0,
                    filename=f"{pid:04d}_{image:02d}.jpg", badness=0.0, varied=True, dye=config.dye,
                    passers_by=_PASSER_BY[split],
                )
            )  # fmt: skip
    return tuple(specs)
