"""The base of this package's TFDS builders: builds go on where they were and know their source."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils

from san_tf.atomic import atomic_file
from san_tf.command_line import printable
from san_tf.data.builders import damage_of, set_aside
from san_tf.data.parts import Parts
from san_tf.errors import UserError
from san_tf.file_lock import file_lock
from san_tf.image_formats import stamp_of

# In the folder of a data set: what it was made from.
MADE_FROM = "made_from.json"


@dataclasses.dataclass(frozen=True)
class MadeFrom:
    """What a data set was made from, and what was found there.

    Attributes:
        state: fingerprint of names, labels, sizes and times of the files; it changes when they do.
        content: fingerprint of their bytes, where the records do not hold them; else empty.
        places: the folders and archives.
        archives: sizes and times of those places that are archives.
        manual_dir: the folder in which they were looked for; empty for data that are rendered.
        left_out: how many files there were not taken, by kind.
        notes: sentences on what a user may not expect.
    """

    state: str
    content: str = ""
    places: tuple[str, ...] = ()
    archives: Mapping[str, str] = dataclasses.field(default_factory=dict)
    manual_dir: str = ""
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def is_of_the_same_archives(self) -> bool:
        """Whether it was made from archives alone, and none of them was written since."""
        return set(self.places) == set(self.archives) and all(
            stamp_of(place) == stamp for place, stamp in self.archives.items()
        )

    def write(self, folder: str | Path) -> None:
        """Write it into the folder of a data set."""
        with atomic_file(Path(folder, MADE_FROM)) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, folder: str | Path) -> MadeFrom | None:
        """What is written in the folder; None for a data set of an earlier version, or a damaged file."""
        try:
            values = json.loads(Path(folder, MADE_FROM).read_text())
            return cls(
                **{
                    **values,
                    "places": tuple(map(str, values["places"])),
                    "notes": tuple(map(str, values["notes"])),
                    "archives": {str(place): str(stamp) for place, stamp in values["archives"].items()},
                    "left_out": {str(kind): int(number) for kind, number in values["left_out"].items()},
                }
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


def fingerprint(lines: Iterable[str | bytes]) -> str:
    """A digest of lines, in their order."""
    digest = hashlib.sha256()
    for line in lines:
        content = line.encode("utf-8", "surrogateescape") if isinstance(line, str) else line
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


class ResumableBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A builder whose examples are kept, as they are made, until the build is finished.

    TFDS writes into a folder `incomplete.*` and renames it at the end, so a reader never meets half a data
    set; but what is in there is of no use after an interruption. So examples pass through `parts`, in a
    folder `unfinished_<version>` beside the data set. The next build reads them from there instead of making
    them, and removes the folder when it is done; until then a build takes the room of two.

    One process builds at a time; whatever a killed one left behind is removed.

    Attributes:
        made_anew: whether this builder replaced a data set by another one.
    """

    made_anew = False

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

        One that is there is held against what it was made from. It is made anew if that changed, or if it
        is damaged on the disk; a file that only has other times is compared by its bytes.

        Raises:
            UserError: another process is building it; or the manual folder that is named is not the one it
                was made from, and holds nothing to compare it with.
        """
        config = kwargs.get("download_config") or tfds.download.DownloadConfig()
        named = None if config.manual_dir is None else Path(config.manual_dir).expanduser()
        if self.data_path.exists():
            damage = damage_of(self)
            changed = None if damage else self.changed(named)
            if not damage and not changed:
                super().download_and_prepare(**kwargs)  # TFDS decides whether that will do
                return
            reason = damage or f"{changed} {self.info.full_name}"
            print(printable(f"  {reason}; it is made anew"), flush=True)
            self.made_anew = True
            made_from = MadeFrom.read(self.data_path)
            if named is None and made_from is not None and made_from.manual_dir:
                config = dataclasses.replace(config, manual_dir=made_from.manual_dir)
                kwargs = {**kwargs, "download_config": config}
        with self._alone(), _bars_for_terminals(), contextlib.ExitStack() as stack:
            if self.data_path.exists():
                stack.enter_context(set_aside(Path(self.data_path)))
            super().download_and_prepare(**kwargs)
            shutil.rmtree(self.parts.folder, ignore_errors=True)

    def changed(self, manual_dir: Path | None = None) -> str | None:
        """What changed since the data set was made, as a sentence that its name ends; None if nothing did.

        Names, sizes and times tell it in a moment. Where they differ, bytes are compared, and the new times
        are noted if those are the same. What is gone cannot be compared: `source_is_gone` says so.

        Args:
            manual_dir: the folder that is named; None takes the one that the data set was made from.

        Raises:
            UserError: the folder that is named is another one, and holds nothing to compare with.
        """
        made_from = MadeFrom.read(self.data_path)
        place = manual_dir or (Path(made_from.manual_dir) if made_from and made_from.manual_dir else None)
        try:
            now = self._made_from(place)
        except UserError as error:
            same = manual_dir is None or (made_from and made_from.manual_dir == _absolute(manual_dir))
            if made_from is None or (same and self.source_is_gone()):
                return None
            if same:
                raise
            raise UserError(
                f"{error} The data set in {self.data_path} was made from {made_from.manual_dir}: name that "
                "folder, or none, to use it."
            ) from error
        if now is None or (made_from is not None and made_from.state == now.state):
            return None
        with _bars_for_terminals():
            difference = self._difference(made_from, place)
        if difference is None:
            with contextlib.suppress(UserError, OSError):  # data that cannot be written serve as well
                dataclasses.replace(now, content=made_from.content if made_from else "").write(self.data_path)
        return difference

    def source_is_gone(self) -> bool:
        """Whether a folder or archive that the data set was made from is not there any more."""
        made_from = MadeFrom.read(self.data_path)
        return made_from is not None and not all(Path(place).exists() for place in made_from.places)

    def _made_from(self, manual_dir: Path | None) -> MadeFrom | None:
        """What the data set would be made from now; None if from code alone.

        Args:
            manual_dir: None is TFDS's own place for downloads by hand.

        Raises:
            UserError: it is missing, or cannot be used.
        """
        del manual_dir
        return None

    def _difference(self, made_from: MadeFrom | None, manual_dir: Path | None) -> str | None:
        """What differs by bytes, as a sentence that the name of the data set ends; None if nothing does.

        Args:
            made_from: what the data set was made from, where that is known.
            manual_dir: as in `_made_from`.
        """
        raise NotImplementedError

    def _log_download_bytes(self) -> None:
        """Say what begins: TFDS's own line speaks of a download of unknown size, and there is none."""
        print(printable(f"  building {self.info.full_name} in {self.data_path.parent} ..."), flush=True)

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
            if self.data_path.exists():  # who was killed while it was replaced left both
                shutil.rmtree(self._place / f"former_{self.version}", ignore_errors=True)
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


def _absolute(path: str | Path) -> str:
    return str(Path(path).absolute())
