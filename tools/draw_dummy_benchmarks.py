"""Draws the dummy data of the benchmark builders: `python tools/draw_dummy_benchmarks.py`.

It writes every folder `datasets/<name>/dummy_data` anew, in the exact layout of the benchmark, with a few
drawn images of 16x8 pixels. They show no real people.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import cv2
import h5py
import numpy as np
import scipy.io

DATASETS = Path(__file__).resolve().parents[1] / "datasets"


def figure(pid: int, camera: int, height: int = 16, width: int = 8) -> np.ndarray:
    """Draw a figure in the colours of its identity on a camera's grey.

    Args:
        pid: identity; sets shirt and trousers.
        camera: camera id; sets the grey of the background.
        height: pixels.
        width: pixels.

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
    """Return an image as the bytes of a file."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 70] if suffix == ".jpg" else []
    return cv2.imencode(suffix, image[..., ::-1], quality)[1].tobytes()


def write_images(folder: Path, names: Iterable[tuple[str, int, int]]) -> None:
    """Write drawn images.

    Args:
        folder: where to write.
        names: path in the folder, identity and camera of each image.
    """
    for name, pid, camera in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(figure(pid, camera), Path(name).suffix))


def market1501(folder: Path) -> None:
    """Write two training and two test identities, distractors and junk."""
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
    """Write two training identities, a test identity, and one in the gallery only."""
    name = "{:04d}_c{}_f{:07d}.jpg".format
    root = folder / "DukeMTMC-reID"
    write_images(root / "bounding_box_train", ((name(p, c, 46182), p, c) for p in (1, 3) for c in (2, 5)))
    write_images(root / "query", ((name(5, c, 46985), 5, c) for c in (2, 6)))
    write_images(root / "bounding_box_test", ((name(p, c, 47105), p, c) for p, c in ((5, 2), (5, 6), (7, 1))))


def veri776(folder: Path) -> None:
    """Write two training and two test identities; queries are in the gallery too."""
    name = "{:04d}_c{:03d}_{:08d}_0.jpg".format
    root = folder / "VeRi"
    write_images(root / "image_train", ((name(p, c, 16450), p, c) for p in (1, 3) for c in (1, 14)))
    write_images(root / "image_query", ((name(p, 2, 30600), p, 2) for p in (2, 5)))
    write_images(root / "image_test", ((name(p, c, 30600), p, c) for p in (2, 5) for c in (2, 20)))


def msmt17(folder: Path) -> None:
    """Write two training and two test identities, each from 0, in both versions."""
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
    """Write two identities, whole, partial and occluded."""
    for camera, kind in enumerate(("whole", "partial", "occluded")):
        names = ((f"{p:03d}_{number:03d}.jpg", p, camera) for p in (1, 2) for number in (1, 2))
        write_images(folder / "Partial_REID" / f"{kind}_body_images", names)


def cuhk03(folder: Path) -> None:
    """Write five camera pairs; two of their people are test identities."""
    people = {1: 3, 2: 2, 3: 1, 4: 1, 5: 1}
    (folder / "cuhk03_release").mkdir(parents=True)
    names = []
    # MATLAB writes a block of text before the HDF5 part.
    with h5py.File(
        folder / "cuhk03_release" / "cuhk-03.mat", "w", libver="latest", userblock_size=512
    ) as file:
        empty = file.create_dataset("#refs#/empty", data=np.zeros(2, np.uint64)).ref
        for kind in ("labeled", "detected"):
            cells = []
            for pair, number in people.items():
                cell = np.empty((10, number), h5py.ref_dtype)
                for (shot, person), _ in np.ndenumerate(np.empty(cell.shape)):
                    place = f"#refs#/{kind}_{pair}_{person}_{shot}"
                    there = shot in (0, 1, 5, 6)
                    image = figure(100 * pair + person, 2 * pair + shot + (kind == "labeled"))
                    cell[shot, person] = empty
                    if there:
                        array = image.transpose(2, 1, 0)
                        cell[shot, person] = file.create_dataset(place, data=array).ref
                    if there and kind == "labeled":
                        name = f"{pair}_{person + 1:03d}_{1 if shot < 5 else 2}_{shot + 1:02d}.png"
                        names.append((pair, person, shot, name))
                cells.append(file.create_dataset(f"#refs#/{kind}_{pair}", data=cell).ref)
            file.create_dataset(kind, data=np.array([cells], h5py.ref_dtype))
        tested = np.array([[1, 2], [3, 1]], float)  # person 3 of pair 1 and person 1 of pair 2
        sets = [
            file.create_dataset(f"#refs#/set_{i}", data=tested[:, :: 1 - 2 * (i % 2)]).ref for i in range(20)
        ]
        file.create_dataset("testsets", data=np.array([sets], h5py.ref_dtype))
    names.sort(key=lambda item: item[3])
    labels = [10 * pair + person + 1 for pair, person, _, _ in names]
    tested_labels = (13, 21)
    for kind in ("labeled", "detected"):
        test = [i for i, label in enumerate(labels, 1) if label in tested_labels]
        queries = [i for i in test if names[i - 1][2] in (0, 5)]
        column = "{}_idx".format
        protocol = {
            "filelist": np.array([[name] for *_, name in names], object),
            "labels": np.array(labels, float)[:, None],
            "camId": np.array([1 if shot < 5 else 2 for _, _, shot, _ in names], float)[:, None],
            column("train"): np.array([i for i in range(1, len(labels) + 1) if i not in test], float)[
                :, None
            ],
            column("query"): np.array(queries, float)[:, None],
            column("gallery"): np.array([i for i in test if i not in queries], float)[:, None],
        }
        scipy.io.savemat(folder / f"cuhk03_new_protocol_config_{kind}.mat", protocol, do_compression=True)


def custom(folder: Path) -> None:
    """Write two training and two test identities in each of the three layouts."""
    images = [(split, p, c) for split, people in (("train", (2, 7)), ("query", (5,)), ("gallery", (5, 8)))
              for p in people for c in (1, 3)]  # fmt: skip
    write_images(folder / "names", ((f"{split}/{p:04d}_c{c}_{split}.jpg", p, c) for split, p, c in images))
    write_images(folder / "folders", ((f"{split}/person {p}/{c}.jpg", p, c) for split, p, c in images))
    write_images(folder / "table", ((f"{split}-{p}-{c}.png", p, c) for split, p, c in images))
    rows = (f"{split}-{p}-{c}.png,{p},{c if c > 1 else ''},{split}\n" for split, p, c in images)
    (folder / "table" / "images.csv").write_text("path,identity,camera,split\n" + "".join(rows))


BENCHMARKS = (market1501, dukemtmc_reid, veri776, msmt17, partial_reid, cuhk03, custom)


def main() -> None:
    """Write the dummy data of all benchmarks."""
    for draw in BENCHMARKS:
        folder = DATASETS / draw.__name__ / "dummy_data"
        shutil.rmtree(folder, ignore_errors=True)
        draw(folder)


if __name__ == "__main__":
    main()
