"""The pipeline holds files, not pixels: an epoch adds far less to the process than its decoded images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from san_tf.data.pipeline import train_dataset
from san_tf.data.records import Records

STATUS = Path("/proc/self/status")
HEIGHT, WIDTH, IMAGES = 512, 256, 1200


def resident_megabytes() -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


@pytest.mark.skipif(not STATUS.exists(), reason="reads Linux's account of the process")
def test_an_epoch_adds_no_decoded_images() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(file, "JPEG")
    # Different bytes, so that nothing can be shared: what follows a JPEG's end is left alone.
    images = [file.getvalue() + index.to_bytes(4, "big") for index in range(IMAGES)]
    encoded, decoded = sum(map(len, images)) / 1e6, IMAGES * HEIGHT * WIDTH * 3 / 1e6
    records = Records.from_columns(images, np.arange(IMAGES) // 4 + 1, verify=False)
    iterator = iter(train_dataset(records, 4, 4, (32, 16)))
    for _ in range(10):  # threads and their buffers
        next(iterator)
    before = resident_megabytes()
    for _ in range(IMAGES // 16):
        next(iterator)
    added = resident_megabytes() - before
    # 6 MB of files, 472 MB of pixels; what allocators keep of a few images at work is a tenth of that.
    assert encoded < 10
    assert added < encoded + 0.15 * decoded
