"""Identities as text: two people never become one because their numbers are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from san_tf.data.records import Records
from san_tf.embedding.sources import photographs
from san_tf.errors import UserError
from san_tf.evaluation.feature_files import read_features
from san_tf.retrieval.name_reader import NameReader
from san_tf.whole_numbers import WholeNumbers

TOLD = "07 is written 7 elsewhere, and both are the number 7"


def test_numbers_are_read_and_what_is_none_is_told():
    numbers = WholeNumbers()
    assert [numbers.read("identity", text, "a") for text in ("7", " 7 ", "-1", "0010", "+3")] == [
        7,
        7,
        -1,
        10,
        3,
    ]
    assert numbers.read("camera", "07", "a") == 7  # of another kind
    for text in ("1_000", "", "7.0", "\N{ARABIC-INDIC DIGIT SEVEN}", "9" * 30, "9" * 5000, "a\x1b[2J"):
        with pytest.raises(UserError, match=r"^line 3: the identity is .* whole numbers, -1 where unknown"):
            WholeNumbers().read("identity", text, "line 3")
    with pytest.raises(UserError, match=f"^line 3: the identity {TOLD}; write each identity in one way"):
        numbers.read("identity", "07", "line 3")


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        Image.fromarray(np.zeros((8, 4, 3), np.uint8)).save(folder / name)
    return folder


def test_a_table_of_photographs_with_7_and_07(tmp_path: Path):
    pictures(tmp_path / "crops", "a.png", "b.png")
    table = tmp_path / "crops.csv"
    table.write_text("path,pid,camid\ncrops/a.png,0007,7\ncrops/b.png,0007,7\n")
    assert [found.columns["pid"] for found in photographs([table])] == ["0007", "0007"]
    for header, first, second in (("path,pid", "7", "07"), ("path,camid", "7", "07")):
        table.write_text(f"{header}\ncrops/a.png,{first}\ncrops/b.png,{second}\n")
        with pytest.raises(UserError, match=rf"crops.csv, line 3: the (identity|camera) {TOLD}"):
            list(photographs([table]))


def test_features_beside_a_table_with_7_and_07(tmp_path: Path):
    np.save(tmp_path / "query.npy", np.eye(2, dtype=np.float32))
    (tmp_path / "query.csv").write_text("pid,camid\n7,0\n07,1\n")
    with pytest.raises(UserError, match=f"query.csv, line 3: the identity {TOLD}"):
        read_features(tmp_path / "query.npy", "query")


def test_names_with_7_and_07(tmp_path: Path):
    reader = NameReader()
    assert reader.entry("7_c1.jpg", "", {}).pid == reader.entry("a/7_c2.jpg", "", {}).pid == 7
    with pytest.raises(UserError, match=f"^07_c1.jpg: the identity {TOLD}"):
        reader.entry("07_c1.jpg", "", {})
    with pytest.raises(UserError, match="whole number"):
        NameReader().entry("a.jpg", "", {"pid": "1_000"})
    assert Records.from_folder(pictures(tmp_path / "sound", "07_c1.png", "08_c1.png")).pids.tolist() == [7, 8]
    with pytest.raises(UserError, match=r"7_c1.png: the identity 7 is written 07 elsewhere"):
        Records.from_folder(pictures(tmp_path / "mixed", "07_c1.png", "7_c1.png"))
