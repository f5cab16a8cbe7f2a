"""Images looked at one by one: damaged, oversized, many."""

from __future__ import annotations

import struct
import threading
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.archives.files import FolderFiles
from san_tf.layouts.checking import checked_images, image_problem
from san_tf.layouts.samples import Sample

PICTURE = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 3, 3), dtype=np.uint8), (32, 64))
JPEG, PNG = (cv2.imencode(suffix, PICTURE)[1].tobytes() for suffix in (".jpg", ".png"))


def png_header(width, height):
    """The first bytes of a PNG file of that size; there are no pixels behind them."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize("content", [JPEG, PNG, cv2.imencode(".jpg", PICTURE[..., 0])[1].tobytes()])
def test_good_images(content):
    assert image_problem(content) is None


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 0.999), png=st.booleans())
def test_an_image_that_was_cut_off_is_seen(share, png):
    content = PNG if png else JPEG
    # The last bytes of a PNG are an empty chunk, which no decoder needs.
    length = min(int(len(content) * share), len(content) - 13)
    assert image_problem(content[:length]) is not None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"GIF89a" + bytes(100), "is neither a JPEG nor a PNG file"),
        (PNG[:20], "is a PNG file that is cut off"),
        (JPEG[:100], "is a JPEG file that is cut off or damaged"),
        (JPEG[:-200], "is damaged: it cannot be decoded"),
        # Nothing is decoded: there is nothing to decode, and these would take 300 MB and 12 GB.
        (png_header(4097, 4096), "has 4097x4096 pixels, more than 4096x4096"),
        (png_header(65_000, 65_000), "has 65000x65000 pixels, more than 4096x4096"),
        (png_header(4096, 4096), "is damaged: it cannot be decoded"),
    ],
)
def test_problems(content, problem):
    assert image_problem(content) == problem


def test_many_images_come_in_order_and_are_not_all_held(tmp_path):
    samples = [Sample(f"{i:04d}.jpg", i, 0, f"{i:04d}.jpg") for i in range(400)]
    for sample in samples:
        (tmp_path / sample.path).write_bytes(JPEG if sample.pid % 50 else b"")
    reads = []

    class Counted(FolderFiles):
        def _read(self, path):
            reads.append(path)
            return super()._read(path)

    stream = checked_images(Counted(tmp_path), samples, threads=4)
    first = next(stream)
    assert (first.sample, first.content, first.problem) == (samples[0], b"", "is empty")
    assert len(reads) <= 80  # read ahead, but not everything
    rest = list(stream)
    assert [item.sample for item in rest] == samples[1:]
    assert [item.sample.pid for item in rest if item.problem] == list(range(50, 400, 50))
    assert all(item.content == JPEG for item in rest if item.problem is None)


def test_threads_end_when_a_build_is_given_up(tmp_path):
    samples = [Sample(f"{i}.jpg", i, 0, f"{i}.jpg") for i in range(200)]
    for sample in samples:
        (tmp_path / sample.path).write_bytes(JPEG)
    before = threading.active_count()
    stream = checked_images(FolderFiles(tmp_path), samples, threads=4)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_a_file_that_vanished_or_may_not_be_read_is_a_problem_of_its_own(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    samples = [Sample(f"{name}.jpg", 1, 0, name) for name in ("gone", "folder")]
    problems = [item.problem for item in checked_images(FolderFiles(tmp_path), samples)]
    assert problems == ["is missing", "cannot be read (Is a directory)"]
