r"""Synthetic data sets: configurations, plans of splits, rendering, export as Market-1501 folders.

Example:
    >>> from san_tf.synthesis import crops, generator
    >>> spec = generator.synthetic_reid_index("tiny", "query")[0]
    >>> crop = crops.render_crop(spec)
    >>> crop.pid == spec.pid and crop.image[:2] == b"\xff\xd8"
    True
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from san_tf.atomic import atomic_folder
from san_tf.errors import UserError
from san_tf.synthesis.backdrops import photograph_paths
from san_tf.synthesis.crop_plans import ANYWHERE, CropSpec, PitConfig, ReidConfig, pit_plan, reid_plan
from san_tf.synthesis.crops import Crop
from san_tf.synthesis.parallel import render_parallel
from san_tf.synthesis.people import clothes_texture

SYNTHETIC_REID: Mapping[str, ReidConfig] = {
    "tiny": ReidConfig("tiny", 100, 60, 2_400, 240, 600, 100, 60),
    "market_sized": ReidConfig(
        "market_sized", 751, 750, 12_936, 3_368, 13_115, 2_798, 3_819, image_height=256
    ),
    # For the ablation: enough identities for a validation set, enough queries to separate the variants.
    "ablation": ReidConfig("ablation", 280, 150, 3_360, 600, 1_500, 300, 150, seed=2020),
    # A test of the whole pipeline in seconds; too small to learn from.
    "smoke": ReidConfig("smoke", 8, 6, 48, 12, 30, 4, 2, cameras=3),
    # Made for encoders that are to work at places they have never seen. All training pictures of
    # a person are by different cameras, of which there are more than pictures: a camera that often sees the
    # same few people would betray who they are. The last cameras see test identities alone.
    "world": ReidConfig(
        "world", 6_000, 100, 60_000, 400, 1_000, 100, 40, cameras=100_000, seed=8848, test_cameras=24,
        appearances=10.0, lookalikes=3, variety=ANYWHERE,
    ),
    "world_smoke": ReidConfig(
        "world_smoke", 8, 6, 48, 12, 30, 4, 2, cameras=1_000, seed=8848, test_cameras=4, appearances=6.0,
        lookalikes=2, variety=ANYWHERE,
    ),
}  # fmt: skip
PIT: Mapping[str, PitConfig] = {
    # For the same number of pairs, two images of 500 people teach more than ten images of 100 people.
    "tiny": PitConfig("tiny", 500, 75, images_per_texture=2, image_height=128),
    "paper": PitConfig("paper", 929, 50),
    # Pairs as the pictures of `SYNTHETIC_REID["world"]` are.
    "world": PitConfig(
        "world", 2_000, 75, images_per_texture=2, image_height=128, dye=0.25, seed=8849,
        variety=replace(ANYWHERE, box_errors=0.1, covers=0.1),
    ),
    "smoke": PitConfig("smoke", 8, 4, images_per_texture=2, image_height=128),
}  # fmt: skip
REID_SPLITS, PIT_SPLITS = ("train", "query", "gallery"), ("train", "test")
_MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def render_crops(
    specs: Sequence[CropSpec], processes: int | None = None, progress: str | None = None
) -> Iterator[Crop]:
    """Render many crops on all cores, in order.

    Args:
        specs: what to draw.
        processes: number of worker processes, all cores by default; 0 draws in this process.
        progress: text beside a progress bar, None for no bar.

    Yields:
        A `Crop` for each spec.
    """
    yield from render_parallel(specs, processes, progress)


def stamps(specs: Sequence[CropSpec]) -> list[str]:
    """Return what determines each crop, spec and code: equal stamps mean equal bytes."""
    code = _code_digest()
    return [f"{code} {spec}" for spec in specs]


@functools.cache
def _code_digest() -> str:
    """A digest of this package's files: code and the body's mesh."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted([*folder.rglob("*.py"), *folder.glob("assets/*")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


Config = TypeVar("Config", ReidConfig, PitConfig)


def _config(
    known: Mapping[str, Config], config: str | Config, backgrounds: str | os.PathLike[str] | None
) -> Config:
    if isinstance(config, str):
        if config not in known:
            raise UserError(f"There is no configuration {config!r}; choose one of {', '.join(known)}.")
        config = known[config]
    if backgrounds is not None:
        config = replace(config, backgrounds=str(Path(backgrounds).resolve()))
    if config.backgrounds is not None:
        photograph_paths(config.backgrounds)
    return config


def _check_split(split: str, splits: tuple[str, ...]) -> None:
    if split not in splits:
        raise UserError(f"There is no split {split!r}; choose one of {', '.join(splits)}.")


def synthetic_reid_index(
    config: str | ReidConfig, split: str, backgrounds: str | os.PathLike[str] | None = None
) -> tuple[CropSpec, ...]:
    """Plan a split of the synthetic re-ID data set.

    Args:
        config: name of a configuration in `SYNTHETIC_REID`, or a custom `ReidConfig`.
        split: "train", "query" or "gallery".
        backgrounds: folder of photographs that replace the procedural streets.

    Returns:
        One `CropSpec` per image.

    Raises:
        UserError: unknown configuration or split; backgrounds that cannot be used.

    Example:
        >>> len(synthetic_reid_index("market_sized", "query"))
        3368
    """
    _check_split(split, REID_SPLITS)
    return reid_plan(_config(SYNTHETIC_REID, config, backgrounds), split)


def pit_index(
    config: str | PitConfig, split: str, backgrounds: str | os.PathLike[str] | None = None
) -> tuple[CropSpec, ...]:
    """Plan a split of the paired images and textures.

    Args:
        config: name of a configuration in `PIT`, or a custom `PitConfig`.
        split: "train" or "test"; they share no person.
        backgrounds: folder of photographs that replace the procedural streets.

    Returns:
        One `CropSpec` per pair.

    Raises:
        UserError: unknown configuration or split; backgrounds that cannot be used.

    Example:
        >>> len(pit_index("paper", "train"))
        9290
    """
    _check_split(split, PIT_SPLITS)
    return pit_plan(_config(PIT, config, backgrounds), split)


def identity_texture(config: str | ReidConfig, pid: int) -> np.ndarray:
    """Return the true texture of an identity, the target of a texture generator.

    Args:
        config: name of a configuration in `SYNTHETIC_REID`, or a custom `ReidConfig`.
        pid: a training or test identity, from 1.

    Returns:
        `(256, 256, 3)` uint8 RGB, row 0 at the top of the UV layout.

    Raises:
        UserError: the configuration has no such identity.

    Example:
        >>> identity_texture("tiny", 1).shape
        (256, 256, 3)
    """
    chosen = _config(SYNTHETIC_REID, config, None)
    last = chosen.train_identities + chosen.test_identities
    if not 1 <= pid <= last:
        raise UserError(f"Configuration {chosen.name!r} has identities 1 to {last}. Received: pid={pid}.")
    spec = next(spec for split in ("train", "query") for spec in reid_plan(chosen, split) if spec.pid == pid)
    return clothes_texture(spec.wearer).copy()


def export_market(
    config: str | ReidConfig,
    folder: str | os.PathLike[str],
    backgrounds: str | os.PathLike[str] | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Write the data set in the folder layout of Market-1501.

    The folder appears complete or not at all.

    Args:
        config: name of a configuration in `SYNTHETIC_REID`, or a custom `ReidConfig`.
        folder: new or empty folder for `bounding_box_train`, `query` and `bounding_box_test`.
        backgrounds: folder of photographs that replace the procedural streets.
        processes: number of worker processes, all cores by default.
        progress: whether to show progress bars.

    Returns:
        The folder.

    Raises:
        UserError: unknown configuration, unusable backgrounds, or a folder that cannot be written.

    Example:
        >>> export_market("tiny", "synthetic_market")
        PosixPath('synthetic_market')
    """
    plans = {split: synthetic_reid_index(config, split, backgrounds) for split in REID_SPLITS}
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} exists already and is not an empty folder; name a new folder for the export."
        )
    with atomic_folder(folder) as temporary:
        for split, specs in plans.items():
            place = temporary / _MARKET_FOLDERS[split]
            place.mkdir()
            for crop in render_crops(specs, processes, _MARKET_FOLDERS[split] if progress else None):
                (place / crop.filename).write_bytes(crop.image)
    return folder
