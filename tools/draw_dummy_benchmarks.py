"""Draws the dummy data of the benchmark builders: `python tools/draw_dummy_benchmarks.py`.

Every folder `datasets/<name>/dummy_data` is written anew, in the exact layout of the benchmark, with some
drawn images of 16x8 pixels. No photograph, no person.
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


def dukemtmc_reid(folder: Path) -> None:
    """Two training identities, a test identity, and one in the gallery alone."""
    name = "{:04d}_c{}_f{:07d}.jpg".format
    root = folder / "DukeMTMC-reID"
    write_images(root / "bounding_box_train", ((name(p, c, 46182), p, c) for p in (1, 3) for c in (2, 5)))
    write_images(root / "query", ((name(5, c, 46985), 5, c) for c in (2, 6)))
    write_images(root / "bounding_box_test", ((name(p, c, 47105), p, c) for p, c in ((5, 2), (5, 6), (7, 1))))


def veri776(folder: Path) -> None:
    """Two training and two test identities; queries are in the gallery too."""
    name = "{:04d}_c{:03d}_{:08d}_0.jpg".format
    root = folder / "VeRi"
    write_images(root / "image_train", ((name(p, c, 16450), p, c) for p in (1, 3) for c in (1, 14)))
    write_images(root / "image_query", ((name(p, 2, 30600), p, 2) for p in (2, 5)))
    write_images(root / "image_test", ((name(p, c, 30600), p, c) for p in (2, 5) for c in (2, 20)))


def msmt17(folder: Path) -> None:
    """Two training and two test identities, numbered from 0 each, in both versions."""
    name = "{0:04d}/{0:04d}_{1:03d}_{2:02d}_0303morning_0015_{1}.jpg".format
    lists = {
        "train": [(0, 0, 1), (0, 1, 2), (1, 0, 1)],
        "val": [(1, 1, 15)],
        "query": [(0, 0, 3), (1, 0, 4)],
        "gallery": [(0, 1, 5), (1, 1, 6), (1, 2, 6)],
    }
    for version, train, test in (("V1", "train", "test"), ("V2", "mask_train_v2", "mask_test_v2")):
        root = folder / f"MSMT17_{version}"
        for split, images in lists.items():
            place = root / (train if split in ("train", "val") else test)
            write_images(place, ((name(p, number, c), p, c) for p, number, c in images))
            lines = (f"{name(p, number, c)} {p}\n" for p, number, c in images)
            (root / f"list_{split}.txt").write_text("".join(lines))


def partial_reid(folder: Path) -> None:
    """Two identities, whole, partial and occluded."""
    for camera, kind in enumerate(("whole", "partial", "occluded")):
        names = ((f"{p:03d}_{number:03d}.jpg", p, camera) for p in (1, 2) for number in (1, 2))
        write_images(folder / "Partial_REID" / f"{kind}_body_images", names)


BENCHMARKS = (market1501, dukemtmc_reid, veri776, msmt17, partial_reid)


def main() -> None:
    """Write all of them."""
    for draw in BENCHMARKS:
        folder = DATASETS / draw.__name__ / "dummy_data"
        shutil.rmtree(folder, ignore_errors=True)
        draw(folder)


if __name__ == "__main__":
    main()
