"""Plans of data sets: the identity and camera of each image.

A plan draws nothing, so it is cheap. It is a pure function of its configuration. Each entry can be drawn
alone, in any order, by any process.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from san_tf.errors import UserError
from san_tf.synthesis.seeds import generator_at

# First identity number of each use. Uses never share a number, so their people never share clothes.
_STRANGER, _PASSER_BY, _PIT = (
    100_000,
    {"train": 200_000, "test": 300_000},
    {"train": 400_000, "test": 500_000},
)
PASSERS_BY = 12
ACTIONS = ("walking", "standing", "carrying", "phoning")
# Values of `CropSpec.badness`.
USABLE, JUNK, FALSE_ALARM = 0.0, 1.0, 2.0


@dataclass(frozen=True)
class Variety:
    """How far pictures differ beyond a few cameras of one street (domain randomisation).

    Each number is a probability. With the defaults, a data set shows one street; `ANYWHERE` has what an
    encoder needs that is to work at places it has never seen.

    Attributes:
        wide_cameras: a camera hangs and looks as any camera may: height, distance, lens, colour, contrast,
            sharpening with halos, noise, compression, interlacing.
        own_look: a picture has its own sensor, light and resolution, whatever its camera. It is taken after
            `wide_cameras`.
        tight_boxes: a box touches the silhouette, so its proportions follow the pose. The finished picture is
            stretched to the usual proportions, as labelled boxes are in training.
        box_errors: a box is cut (head, feet, side), shifted, too wide or too large.
        backdrops: a painted collage stands behind the person instead of the street.
        covers: a parapet, post, railing, wall or twig hides a part of the person.
        held: a person carries something in the hand that is not theirs to be recognised by.
        everyday: a person wears what most people wear: dark plain trousers, open layers, school bags.
        passers_by: number of strangers who may be in a split's pictures.
    """

    wide_cameras: float = 0.0
    own_look: float = 0.0
    tight_boxes: float = 0.0
    box_errors: float = 0.0
    backdrops: float = 0.0
    covers: float = 0.0
    held: float = 0.0
    everyday: float = 0.0
    passers_by: int = PASSERS_BY

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "passers_by":
                if not 1 <= value <= 100_000:
                    raise UserError(f"Variety.passers_by must lie in 1..100000. Received: {value}.")
            elif not 0 <= value <= 1:
                raise UserError(f"Variety.{field.name} is a probability, 0 to 1. Received: {value}.")


ONE_STREET = Variety()
ANYWHERE = Variety(
    wide_cameras=1.0,
    own_look=0.35,
    tight_boxes=0.6,
    box_errors=0.25,
    backdrops=0.3,
    covers=0.2,
    held=0.3,
    everyday=0.8,
    passers_by=40,
)


@dataclass(frozen=True)
class ReidConfig:
    """Configuration of a synthetic re-ID data set in Market-1501's proportions.

    Attributes:
        name: name of the configuration.
        train_identities, test_identities: numbers of people; the two sets are disjoint.
        cameras: number of cameras.
        train_images: number of images of the training identities.
        queries: number of queries: one per test identity and camera that saw it.
        gallery_images: number of gallery images of test identities, without distractors and junk.
        distractors: number of gallery images of people without a query (pid 0).
        junk: number of gallery images that are cut too badly to count (pid -1).
        image_height: height of the stored images in pixels; the width is half of it.
        seed: seed of all random choices.
        backgrounds: folder of photographs that replace the procedural streets.
        test_cameras: number of cameras that see test identities alone; 0 if all cameras see both.
        appearances: number of cameras that see a training identity, on average; fewer if there are fewer
            cameras or images.
        lookalikes: number of people who share most of an outfit, as hard negatives; 1 for none.
        variety: how far pictures differ beyond one street.

    Raises:
        UserError: fewer than two cameras, or numbers of images that no plan can meet.
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
    test_cameras: int = 0
    appearances: float = 4.4
    lookalikes: int = 1
    variety: Variety = ONE_STREET

    def __post_init__(self) -> None:
        if self.cameras < 2 or self.test_cameras < 0 or self.test_cameras == 1:
            raise UserError(
                f"Configuration {self.name!r} needs two or more cameras in `cameras`, and none or two or "
                f"more in `test_cameras`. Received: cameras={self.cameras}, test_cameras={self.test_cameras}."
            )
        if self.appearances < 2 or self.lookalikes < 1:
            raise UserError(
                f"Configuration {self.name!r} needs `appearances` of 2 or more and `lookalikes` of 1 or "
                f"more. Received: appearances={self.appearances}, lookalikes={self.lookalikes}."
            )
        most = (self.test_cameras or self.cameras) * self.test_identities
        for name, low, high in (
            ("train_images", 2 * self.train_identities, math.inf),
            ("queries", self.test_identities, most),
            ("gallery_images", self.queries, math.inf),
        ):
            if not low <= getattr(self, name) <= high:
                bounds = f"at least {low:,}" if high == math.inf else f"{low:,} to {high:,}"
                raise UserError(
                    f"Configuration {self.name!r} needs {bounds} in `{name}`: two cameras see each training "
                    "person, a test person has a query or several by different cameras, and each query has "
                    f"a gallery image. Received: {name}={getattr(self, name)}."
                )


@dataclass(frozen=True)
class PitConfig:
    """Configuration of a set of paired images and textures (PIT).

    Attributes:
        name: name of the configuration.
        train_textures, test_textures: numbers of textures; the two sets are disjoint.
        images_per_texture: number of images per texture; each has its own pose, view, camera and place.
        image_height: height of the stored images in pixels; the width is half of it.
        dye: probability that a garment has an arbitrary colour; see `wardrobe.dressing.dyed`.
        seed: seed of all random choices.
        backgrounds: folder of photographs that replace the procedural streets.
        variety: how far pictures differ beyond one street.
    """

    name: str
    train_textures: int
    test_textures: int
    images_per_texture: int = 10
    image_height: int = 256
    dye: float = 0.5
    seed: int = 929
    backgrounds: str | None = None
    variety: Variety = ONE_STREET


class Wearer(NamedTuple):
    """Arguments of `wardrobe.sample_identity`: what determines a person's body and clothes."""

    seed: int
    dye: float = 0.0
    everyday: float = 0.0
    model: int | None = None


@dataclass(frozen=True)
class CropSpec:
    """Everything that determines one image.

    Attributes:
        seed: seed of the data set.
        index: number of the image, unique within data set and split.
        split: "train", "query" or "gallery" for re-ID, "train" or "test" for PIT.
        pid: recorded identity; 0 for a distractor, -1 for junk.
        identity: number of the person who is drawn.
        camid: camera id, from 0.
        sequence: recording of that camera, from 0.
        track: number shared by the images of one pass of the person.
        step: position within the track, from 0.
        filename: file name in the style of Market-1501.
        badness: `USABLE`, `JUNK` or `FALSE_ALARM` (a box beside the person).
        varied: True for PIT: the record holds the texture and its colour cast.
        dye: probability that a garment has an arbitrary colour (PIT).
        passers_by: first identity number of the other people who may be in the picture.
        image_height: height in pixels; the width is half of it.
        backgrounds: folder of photographs, or None for procedural streets.
        variety: how far pictures differ beyond one street.
        model: number of the person whose outfit this one copies for the most part, or None.
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
    variety: Variety
    model: int | None = None

    @property
    def identity_seed(self) -> int:
        """Seed of the person's body and clothes."""
        return identity_seed(self.seed, self.identity)

    @property
    def wearer(self) -> Wearer:
        """What determines the person's body and clothes."""
        model = None if self.model is None else identity_seed(self.seed, self.model)
        return Wearer(self.identity_seed, self.dye, self.variety.everyday, model)


def identity_seed(seed: int, identity: int) -> int:
    """Return the wardrobe seed of an identity number (< 1,000,000) of a data set."""
    return seed * 1_000_000 + identity


def _spec(config: ReidConfig | PitConfig, **what: Any) -> CropSpec:
    return CropSpec(
        seed=config.seed, image_height=config.image_height, backgrounds=config.backgrounds,
        variety=config.variety, **what,
    )  # fmt: skip


def _market_name(pid: int, camid: int, sequence: int, frame: int, box: int) -> str:
    who = "-1" if pid < 0 else f"{pid:04d}"
    return f"{who}_c{camid + 1}s{sequence + 1}_{frame:06d}_{box:02d}.jpg"


def allocate(total: int, weights: np.ndarray, minimum: np.ndarray) -> np.ndarray:
    """Divide `total` in proportion to weights, with a minimum for each share.

    Args:
        total: sum of the result; at least the sum of the minima.
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
    # Largest remainders first; a stable sort gives the same result on every machine.
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
        One `CropSpec` per image, sorted by identity so that a worker dresses each person once.
    """
    if split == "train":
        pids = np.arange(1, config.train_identities + 1)
        rng = generator_at(config.seed, "plan", "train")
        # By default 4.4 of six cameras see a person, as in Market-1501; fewer if there are fewer cameras.
        most = min(2.2 * config.cameras / 3, config.train_images / len(pids))
        appearances = round(min(config.appearances, most) * len(pids))
        cameras = _cameras_per_identity(len(pids), config.cameras, appearances, rng)
        return tuple(_people(config, "train", pids, cameras, config.train_images, rng))
    pids = np.arange(config.train_identities + 1, config.train_identities + config.test_identities + 1)
    rng = generator_at(config.seed, "plan", "test")
    camids = _test_camids(config)
    cameras = _cameras_per_identity(len(pids), len(camids), config.queries, rng)
    cameras = [camids[choice] for choice in cameras]
    if split == "query":
        # One image per identity and camera that saw it.
        return tuple(
            _people(
                config, "query", pids, cameras, config.queries, generator_at(config.seed, "plan", "query")
            )
        )
    specs = _people(config, "gallery", pids, cameras, config.gallery_images, rng)
    # Sorted by identity, so that a worker dresses each person once.
    return tuple(sorted([*specs, *_others(config, len(specs), pids, rng)], key=lambda spec: spec.identity))


def _test_camids(config: ReidConfig) -> np.ndarray:
    """Ids of the cameras that see the test identities."""
    if config.test_cameras:
        return np.arange(config.cameras, config.cameras + config.test_cameras)
    return np.arange(config.cameras)


def _model(config: ReidConfig, pid: int) -> int | None:
    """Return the identity whose outfit `pid` copies: the first of its group; None for the first itself."""
    first = 1 if pid <= config.train_identities else config.train_identities + 1
    place = (pid - first) % config.lookalikes
    return pid - place if place else None


def _cameras_per_identity(count: int, cameras: int, total: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Choose the cameras that saw each identity: at least two each, `total` in all."""
    extra = np.zeros(count, np.int64)
    # Give the appearances beyond two, one by one, to identities that some camera has not seen.
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
    """Distribute `total` images over the identities, their cameras and recordings."""
    seen = np.array([len(choice) for choice in cameras], np.int64)
    per_identity = allocate(total, rng.gamma(6.0, 1.0, len(pids)), seen)
    specs: list[CropSpec] = []
    side = "train" if split == "train" else "test"
    for pid, choice, images in zip(pids.tolist(), cameras, per_identity.tolist(), strict=True):
        per_camera = allocate(images, rng.gamma(3.0, 1.0, len(choice)), np.ones(len(choice), np.int64))
        for camid, number in zip(choice.tolist(), per_camera.tolist(), strict=True):
            # The query and the first gallery images come from the same pass, as in Market-1501.
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
                        badness=USABLE, varied=False, dye=0.0, passers_by=_PASSER_BY[side],
                        model=_model(config, pid),
                    )
                )  # fmt: skip
    return specs


def _others(config: ReidConfig, first: int, pids: np.ndarray, rng: np.random.Generator) -> list[CropSpec]:
    """Plan distractors (strangers and false alarms, pid 0) and junk (badly cut test identities, pid -1)."""
    specs: list[CropSpec] = []
    strangers, camids = max(1, config.distractors // 8), _test_camids(config)
    for number in range(config.distractors + config.junk):
        junk = number >= config.distractors
        false_alarm = not junk and rng.random() < 0.5
        identity = int(rng.choice(pids)) if junk else _STRANGER + number * strangers // config.distractors
        camid, sequence = int(camids[rng.integers(len(camids))]), int(rng.integers(6))
        pid = -1 if junk else 0
        specs.append(
            _spec(
                config, index=first + number, split="gallery", pid=pid, identity=identity, camid=camid,
                sequence=sequence, track=50_000_000 + number, step=0,
                filename=_market_name(pid, camid, sequence, 100_000 + number * 5, int(rng.integers(1, 9))),
                badness=JUNK if junk else (FALSE_ALARM if false_alarm else USABLE), varied=False, dye=0.0,
                passers_by=_PASSER_BY["test"], model=_model(config, identity) if junk else None,
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
        One `CropSpec` per pair; pids count from 1, and test pids continue after the training pids.
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
                    # Every pair has its own camera and place.
                    camid=index + (500_000 if test else 0), sequence=0, track=index, step=0,
                    filename=f"{pid:04d}_{image:02d}.jpg", badness=USABLE, varied=True, dye=config.dye,
                    passers_by=_PASSER_BY[split],
                )
            )  # fmt: skip
    return tuple(specs)
