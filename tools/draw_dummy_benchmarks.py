"""Draws the dummy data of the benchmark builders: `python tools/draw_dummy_benchmarks.py`.

Every folder `datasets/<name>/dummy_data` is written anew, in the exact layout of the benchmark, with a handful
of drawn images of 16x8 pixels. No photograph, no person.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

DATASETS = Path(__file__).resolve().parents[1] / "datasets"


def figure(pid: int, camera: int, height: int = 16, width: int = 8) -> np.ndarray:
    """A pin figure in the colours of its identity, in the light of its camera.

    Returns:
        `(height, width, 3)` uint8.
    """
    rng = np.random.default_rng(pid + 2)
    shirt, trousers = rng.integers(40, 216, (2, 3))
    image = np.full((height, width, 3), 128 + 8 * (camera % 8), np.uint8)
    middle = slice(width // 4, width - width // 4)
    image[height // 5 : height * 3 // 5, middle] = shirt
    image[height * 3 // 5 :, middle] = trousers
    return image


def encoded(image: np.ndarray, suffix: str = ".jpg") -> bytes:
    """The bytes of an image file."""
    return cv2.imencode(suffix, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes()


def write_images(folder: Path, names: Iterable[tuple[str, int, int]]) -> None:
    """Write drawn images.

    Args:
        folder: where.
        names: path in it, identity and camera of each.
    """
    for name, pid, camera in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(figure(pid, camera), Path(name).suffix))


def market1501(folder: Path) -> None:
    """Two training and two test identities, a distractor, junk; and two of the 500,000 distractors."""
    name = "{:04d}_c{}s1_{:06d}_{:02d}.jpg".format
    root = folder / "Market-1501-v15.09.15"
    people = [(pid, camera) for pid in (2, 7) for camera in (1, 2)]
    write_images(root / "bounding_box_train", ((name(p, c, 451 + p, 3), p, c) for p, c in people))
    test = [(pid, camera) for pid in (1, 5) for camera in (1, 3)]
    write_images(root / "query", ((name(p, c, 1051, 0), p, c) for p, c in test))
    write_images(root / "bounding_box_test", ((name(p, c, 1076, 2), p, c) for p, c in [*test, (0, 1)]))
    write_images(root / "bounding_box_test", [("-1_c1s1_000401_03.jpg", -1, 1)])
    write_images(folder / "distractors_500k", ((name(0, c, 151, 1), 0, c) for c in (1, 4)))


BENCHMARKS = (market1501,)


def main() -> None:
    """Write all of them."""
    for draw in BENCHMARKS:
        folder = DATASETS / draw.__name__ / "dummy_data"
        shutil.rmtree(folder, ignore_errors=True)
        draw(folder)


if __name__ == "__main__":
    main()
