"""The base of this package's TFDS builders: a build that was interrupted goes on where it was."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils

from san_tf.data.parts import Parts
from san_tf.errors import UserError
from san_tf.file_lock import file_lock


class ResumableBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A builder whose examples are kept, as they are made, until the build is finished.

    TFDS writes into a folder `incomplete.*` and renames it at the end, so a reader never meets half a data
    set; but what is in there is of no use after an interruption. So examples pass through `parts`, in a
    folder `unfinished_<version>` beside the data set. The next build reads them from there instead of making
    them, and removes the folder when it is done; until then a build takes the room of two.

    One process builds at a time; whatever a killed one left behind is removed.
    """

    @property
    def parts(self) -> Parts:
        """What is done already; `_generate_examples` passes its examples through `parts.items`."""
        return Parts(self._place / f"unfinished_{self.version}")

    @property
    def _place(self) -> Path:
        """The folder of all versions of this configuration; the same during a build, in `incomplete.*`."""
        return Path(self.data_dir).parent

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Build the data set unless it is there; see `tfds.core.DatasetBuilder.download_and_prepare`.

        Raises:
            UserError: another process is building it.
        """
        if self.data_path.exists():  # TFDS decides whether that will do
            super().download_and_prepare(**kwargs)
            return
        with self._alone(), _bars_for_terminals():
            super().download_and_prepare(**kwargs)
            shutil.rmtree(self.parts.folder, ignore_errors=True)

    def _log_download_bytes(self) -> None:
        """Say what begins: TFDS's own line speaks of a download of unknown size, and there is none."""
        print(f"  building {self.info.full_name} in {self.data_path.parent} ...", flush=True)

    def _log_download_done(self) -> None:
        """Nothing: who builds says what there is now, and nothing was downloaded."""

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._place.mkdir(parents=True, exist_ok=True)
        with file_lock(self._place / f".{self.version}.lock", remove=True) as mine:
            if not mine:
                raise UserError(
                    f"Another process is building {self.info.full_name} in {self.data_dir}; wait for its "
                    "end, or choose another folder of data sets."
                )
            for left in self._place.glob(f"incomplete.*_{self.version}"):
                shutil.rmtree(left, ignore_errors=True)
            yield


@contextlib.contextmanager
def _bars_for_terminals() -> Iterator[None]:
    """Let TFDS draw its bars only where they can be redrawn: in a file they are thousands of lines."""
    wanted = getattr(tqdm_utils, "_active", True)
    tfds.display_progress_bar(wanted and sys.stderr.isatty())
    try:
        yield
    finally:
        tfds.display_progress_bar(wanted)
