"""An export that is not as it was written is told before it answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from san_tf.embedding.exported_encoder import ExportedEncoder
from san_tf.errors import UserError
from san_tf.serving.fingerprint import runtime_digests, verify_export, verify_runtime_file
from san_tf.serving.kit import write_kit
from san_tf.serving.runtimes import read_source

SAMPLE = Path(__file__).resolve().parents[2] / "saved_models" / "synthetic" / "1"
DATA = "variables/variables.data-00000-of-00001"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE, tmp_path / "market" / "1"))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize(
    "file", [DATA, "variables/variables.index", "saved_model.pb", "assets.extra/tf_serving_warmup_requests"]
)
def test_one_bit_is_told_wherever_an_export_is_used(export: Path, file: str) -> None:
    verify_export(export)
    flip(export / file, (export / file).stat().st_size // 2)
    with pytest.raises(UserError, match=rf"1 is damaged: {file} is not as it was written"):
        verify_export(export)
    if file == DATA:  # which TensorFlow itself does not notice
        for use in (ExportedEncoder, read_source, lambda folder: write_kit(folder.parent)):
            with pytest.raises(UserError, match="is not as it was written; copy or export it again"):
                use(export)


def test_missing_added_and_changed_files(export: Path) -> None:
    notes = export / "assets.extra" / "san_tf.json"
    text = notes.read_text()
    notes.write_text(text.replace('"l2_normalized": true', '"l2_normalized": false'))
    with pytest.raises(UserError, match="description of the preprocessing is not as it was written"):
        verify_export(export)
    # Notes of one's own may be added, and a calibration.
    notes.write_text(json.dumps(json.loads(text) | {"scores": {"mAP": 0.5}}))
    (export / "assets.extra" / "calibration.json").write_text("{}")
    verify_export(export)
    (export / "variables" / "variables.data-00001-of-00002").write_bytes(b"x")
    with pytest.raises(UserError, match=r"data-00001-of-00002 is not as it was written"):
        verify_export(export)
    (export / "variables" / "variables.data-00001-of-00002").unlink()
    (export / DATA).unlink()
    with pytest.raises(UserError, match=rf"{DATA} is missing"):
        verify_export(export)


def test_exports_without_digests_pass(export: Path) -> None:
    notes = export / "assets.extra" / "san_tf.json"
    former = json.loads(notes.read_text())
    del former["sha256"]
    notes.write_text(json.dumps(former))
    flip(export / DATA, 1000)
    verify_export(export)
    shutil.rmtree(export / "assets.extra")
    verify_export(export)


def test_files_for_other_runtimes(tmp_path: Path) -> None:
    (tmp_path / "encoder.xml").write_bytes(b"<xml/>")
    (tmp_path / "encoder.bin").write_bytes(b"weights")
    (tmp_path / "san_tf.json").write_text(json.dumps({"sha256": runtime_digests(tmp_path)}))
    verify_runtime_file(tmp_path / "encoder.xml")
    flip(tmp_path / "encoder.bin", 3)
    with pytest.raises(UserError, match=r"encoder\.bin is damaged"):
        verify_runtime_file(tmp_path / "encoder.xml")
    (tmp_path / "encoder.bin").unlink()
    with pytest.raises(UserError, match=r"encoder\.xml lacks .*encoder\.bin; copy it along"):
        verify_runtime_file(tmp_path / "encoder.xml")
