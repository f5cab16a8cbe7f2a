"""cuhk03: CUHK03, both kinds of boxes and both protocols, from a user's copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from san_tf.archives.files import Files, FolderFiles
from san_tf.errors import UserError
from san_tf.layouts.benchmark_builder import BenchmarkBuilder, BenchmarkConfig
from san_tf.layouts.cuhk03_images import Boxes, Cuhk03Images
from san_tf.layouts.cuhk03_protocols import classic_split, new_protocol
from san_tf.layouts.layout import Layout
from san_tf.layouts.samples import Counts, Source

MAT = "cuhk-03.mat"
PROTOCOLS = "https://github.com/zhunzhong07/person-re-ranking"
LAYOUT = Layout(
    name="CUHK03",
    folders=("cuhk03_release",),
    parts=(MAT,),
    homepage="http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html",
    terms="The page of its authors states the terms.",
    besides=(
        "For the 767/700 protocol put cuhk03_new_protocol_config_labeled.mat and "
        f"cuhk03_new_protocol_config_detected.mat of {PROTOCOLS} next to it."
    ),
)
COUNTS = {
    "labeled": {"train": Counts(7_368, 767), "query": Counts(1_400, 700), "gallery": Counts(5_328, 700)},
    "detected": {"train": Counts(7_365, 767), "query": Counts(1_400, 700), "gallery": Counts(5_332, 700)},
}
CLASSIC_COUNTS = {
    "train": Counts(identities=1_260),
    "query": Counts(identities=100),
    "gallery": Counts(identities=100),
}


@dataclasses.dataclass(kw_only=True)
class Cuhk03Config(BenchmarkConfig):
    """Builder configuration of CUHK03.

    Attributes:
        boxes: "labeled" or "detected".
        split: number of the classic split, from 1; 0 is the 767/700 protocol.
    """

    boxes: Boxes
    split: int = 0


def _configs() -> list[Cuhk03Config]:
    shown: dict[Boxes, str] = {"labeled": "Boxes drawn by hand", "detected": "Boxes of a detector"}
    new = [
        Cuhk03Config(name=boxes, description=f"{words}, 767/700 protocol.", boxes=boxes)
        for boxes, words in shown.items()
    ]
    classic = [
        Cuhk03Config(
            name=f"{boxes}_classic_{number:02d}",
            description=f"{words}, classic split {number} of 20.",
            boxes=boxes,
            split=number,
        )
        for boxes, words in shown.items()
        for number in range(1, 21)
    ]
    return new + classic


class Builder(BenchmarkBuilder):
    """Builder of CUHK03."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012  # TFDS wants a plain class attribute
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT.instructions
    BUILDER_CONFIGS = _configs()

    def _layout(self) -> Layout:
        return LAYOUT

    def _published(self) -> Mapping[str, Counts]:
        return CLASSIC_COUNTS if self.builder_config.split else COUNTS[self.builder_config.boxes]

    def _stamps(self, files: Files, manual_dir: Path) -> list[str]:
        # These files determine all records. They are not opened here, because the large one may be packed.
        protocols = () if self.builder_config.split else self._protocols(files, manual_dir)
        return [files.stamp(MAT), *(place.stamp(self._protocol) for place in protocols)]

    @property
    def _protocol(self) -> str:
        return f"cuhk03_new_protocol_config_{self.builder_config.boxes}.mat"

    def _protocols(self, files: Files, manual_dir: Path) -> list[Files]:
        """The files with the 767/700 protocol, next to the benchmark or in it; empty if there are none."""
        return [place for place in (FolderFiles(manual_dir), files) if place.has(self._protocol)][:1]

    def _sources(self, files: Files, manual_dir: Path) -> Mapping[str, Sequence[Source]]:
        config = self.builder_config
        images = Cuhk03Images(self._held.enter_context(files.local(MAT)), config.boxes)
        if config.split:
            return classic_split(images, config.split)
        for place in self._protocols(files, manual_dir):
            return new_protocol(images, place, self._protocol)
        raise UserError(f"{manual_dir} holds no {self._protocol}; put it there, it is at {PROTOCOLS} .")
