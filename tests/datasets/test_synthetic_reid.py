"""The synthetic_reid builder, on its smallest sizes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from san_tf.synthesis import generator
from san_tf.synthesis.crop_plans import ReidConfig

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
sys.path.insert(0, str(DATASETS))

from synthetic_reid.synthetic_reid_dataset_builder import Builder, SyntheticReidConfig  # noqa: E402

SMALL = ReidConfig(
    "small", 3, 3, train_images=8, queries=7, gallery_images=8, distractors=1, junk=1, image_height=64
)

MEDIUM = ReidConfig("medium", 40, 3, train_images=600, queries=7, gallery_images=8, distractors=1, junk=1)


class SyntheticReidTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [SyntheticReidConfig(name="small", rendering=SMALL)]  # noqa: RUF012
    EXAMPLE_DIR = str(DATASETS / "synthetic_reid")  # nothing is downloaded, so there is no dummy data
    MOCK_OUT_FORBIDDEN_OS_FUNCTIONS = False  # the body's asset is a package resource, read by path
    SPLITS = {"train": 8, "query": 7, "gallery": 10}  # noqa: RUF012


def test_records_hold_what_the_contract_says(tmp_path: Path) -> None:
    builder = Builder(config=SyntheticReidConfig(name="small", rendering=SMALL), data_dir=str(tmp_path))
    builder.download_and_prepare()
    records = list(builder.as_dataset(split="gallery").as_numpy_iterator())
    assert {record["pid"] for record in records} <= {-1, 0, 4, 5, 6}
    for record in records:
        assert record["image"].shape == (64, 32, 3) and record["image"].dtype == np.uint8
        assert record["pid"].dtype == record["camid"].dtype == np.int64
        pid, camera = re.match(rb"(-1|\d{4})_c(\d)s", record["filename"]).groups()  # type: ignore[union-attr]
        assert int(pid) == record["pid"] and int(camera) == record["camid"] + 1
        assert -180 < record["yaw"] <= 180 and 0 <= record["visibility"] <= 1
    assert builder.info.features["pose"].names == ["walking", "standing", "carrying", "phoning"]


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_for_terminals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    builder = Builder(config=SyntheticReidConfig(name="small", rendering=SMALL), data_dir=str(tmp_path))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    builder.download_and_prepare()
    out, err = capsys.readouterr()
    assert out == f"  building synthetic_reid/small/1.0.0 in {tmp_path / 'synthetic_reid' / 'small'} ...\n"
    assert ("Rendering train" in err) == terminal
    # Whatever others draw with TFDS is drawn as before.
    with tfds.core.utils.tqdm(total=1, desc="Mine") as bar:
        bar.update()
    assert "Mine" in capsys.readouterr().err


def test_named_configurations_are_those_of_the_generator() -> None:
    assert list(Builder.builder_configs) == [
        *("tiny", "market_sized", "ablation", "smoke", "world", "world_smoke")
    ]
    assert "100 training and 60 test identities" in Builder.builder_configs["tiny"].description


@pytest.mark.slow
def test_an_interrupted_build_leaves_nothing_to_be_read_and_goes_on(tmp_path: Path) -> None:
    # What a shell starts in the background is deaf to SIGINT, and so are its children.
    code = f"""
import signal; signal.signal(signal.SIGINT, signal.default_int_handler)
import sys; sys.path.insert(0, {str(DATASETS)!r})
from test_synthetic_reid import MEDIUM
from synthetic_reid.synthetic_reid_dataset_builder import Builder, SyntheticReidConfig
config = SyntheticReidConfig(name="medium", rendering=MEDIUM)
Builder(config=config, data_dir={str(tmp_path)!r}).download_and_prepare()
"""
    paths = os.pathsep.join([str(DATASETS.parent), str(Path(__file__).parent)])
    place = tmp_path / "synthetic_reid" / "medium"
    parts = place / "unfinished_1.0.0"
    for number, end in enumerate((signal.SIGINT, signal.SIGKILL), 1):
        build = subprocess.Popen(
            [sys.executable, "-c", code], env=dict(os.environ, PYTHONPATH=paths), start_new_session=True
        )
        deadline = time.monotonic() + 120
        while len(list(parts.glob("train-*.npz"))) < number and time.monotonic() < deadline:
            time.sleep(0.02)
        assert build.poll() is None
        os.kill(build.pid, end)
        assert build.wait(timeout=60) != 0
        assert not (place / "1.0.0").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("[!.]*.npz")}
    assert len(kept) >= 2
    drawn: list[int] = []
    render = generator.render_crops

    def counted(specs):
        drawn.append(len(specs))
        return render(specs)

    config = SyntheticReidConfig(name="medium", rendering=MEDIUM)
    builder = Builder(config=config, data_dir=str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "render_crops", counted)
        builder.download_and_prepare()
    assert sum(drawn) == 600 + 7 + 10 - 256 * len(kept)
    assert [path.name for path in place.iterdir() if not path.name.startswith(".")] == ["1.0.0"]
    undisturbed = Builder(config=config, data_dir=str(tmp_path / "undisturbed"))
    undisturbed.download_and_prepare()
    for path in undisturbed.data_path.glob("*.tfrecord*"):
        assert (builder.data_path / path.name).read_bytes() == path.read_bytes()
