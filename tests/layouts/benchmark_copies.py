"""Drawn copies of every benchmark in its published layout, to be packed, broken and built."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from san_tf.errors import UserError
from san_tf.layouts.benchmark_preparation import open_benchmark, prepare_benchmark

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
# The builder (and its configuration), the benchmark's folder, and what every copy has in it.
COPIES = {
    "market1501": ("Market-1501-v15.09.15", ("bounding_box_train", "query", "bounding_box_test")),
    "dukemtmc_reid": ("DukeMTMC-reID", ("bounding_box_train", "query", "bounding_box_test")),
    "veri776": ("VeRi", ("image_train", "image_query", "image_test")),
    "msmt17/v1": (
        "MSMT17_V1",
        ("train", "test", "list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt"),
    ),
    "msmt17/v2": (
        "MSMT17_V2",
        (
            "mask_train_v2",
            "mask_test_v2",
            "list_train.txt",
            "list_val.txt",
            "list_query.txt",
            "list_gallery.txt",
        ),
    ),
    "partial_reid": ("Partial_REID", ("partial_body_images", "whole_body_images")),
    "cuhk03": ("cuhk03_release", ("cuhk-03.mat",)),
}


def pack(folder: Path, suffix: str, top: str | None = None) -> Path:
    """Put a folder into an archive beside it and remove it; `top` stands before the names."""
    top = folder.name + "/" if top is None else top
    archive = folder.with_name(folder.name + suffix)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in files:
                packed.write(path, top + path.relative_to(folder).as_posix())
    else:
        with tarfile.open(archive, "w" if suffix == ".tar" else "w:gz") as packed:
            for path in files:
                packed.add(path, top + path.relative_to(folder).as_posix())
    shutil.rmtree(folder)
    return archive


def cut(path: Path, share: float) -> None:
    """Leave the beginning of a file only."""
    os.truncate(path, int(path.stat().st_size * share))


def build(name: str, downloads: Path, **options):
    builder = open_benchmark(name, downloads.parent / "data", check_counts=False, **options)
    prepare_benchmark(builder, downloads)
    return builder


def sentence(name: str, downloads: Path, **options) -> str:
    """What a user is told; and nothing half-built is left."""
    builder = open_benchmark(name, downloads.parent / "data", **{"check_counts": False, **options})
    before = set((downloads.parent / "data").rglob("*.tfrecord*"))
    with pytest.raises(UserError) as caught:
        prepare_benchmark(builder, downloads)
    assert set((downloads.parent / "data").rglob("*.tfrecord*")) == before
    return str(caught.value)


def written(builder) -> dict[str, bytes]:
    """The files of a data set; TFDS orders records by a hash of their names."""
    return {path.name: path.read_bytes() for path in Path(builder.data_path).glob("*.tfrecord*")}
