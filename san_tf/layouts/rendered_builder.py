"""Base class of TFDS builders that render; their source is the background photographs, if any."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tensorflow_datasets as tfds

from san_tf.data.resumable_builder import MadeFrom, ResumableBuilder, fingerprint
from san_tf.image_formats import stamp_of
from san_tf.synthesis.backdrops import photograph_paths


class RenderedBuilder(ResumableBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A builder whose configuration has `rendering`, with a folder of photographs as `backgrounds`."""

    def _made_from(self, manual_dir: Path | None) -> MadeFrom | None:
        folder = self.builder_config.rendering.backgrounds
        if folder is None:
            return None
        paths = self._photographs()
        state = fingerprint(f"{path} {stamp_of(path)}" for path in paths)
        return MadeFrom(state, places=(folder,))

    def _difference(self, made_from: MadeFrom | None, manual_dir: Path | None) -> str | None:
        # Data sets of earlier versions do not record their source.
        if made_from is None or made_from.content == self._content():
            return None
        return f"The photographs in {self.builder_config.rendering.backgrounds} differ from those of"

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        made_from = self._made_from(None)
        super()._download_and_prepare(dl_manager, download_config)
        if made_from is not None:
            dataclasses.replace(made_from, content=self._content()).write(self.data_dir)

    def _content(self) -> str:
        return fingerprint(item for path in self._photographs() for item in (path.name, path.read_bytes()))

    def _photographs(self) -> list[Path]:
        photograph_paths.cache_clear()  # the folder may have changed
        return [Path(path) for path in photograph_paths(self.builder_config.rendering.backgrounds)]
