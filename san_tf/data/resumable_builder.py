"""Base class of this package's TFDS builders: builds are resumable and remember their source."""

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

# File in the folder of a data set that describes its source.
MADE_FROM = "made_from.json"


@dataclasses.dataclass(frozen=True)
class MadeFrom:
    """The source files of a data set, and what was found there.

    Attributes:
        state: fingerprint of the names, labels, sizes and times of the files.
        content: fingerprint of their bytes, if the records do not hold them; else empty.
        places: the folders and archives.
        archives: size and time of each place that is an archive.
        manual_dir: folder in which the source was searched; empty for rendered data.
        left_out: number of files not used, by kind.
        notes: sentences for the user about anything unexpected.
    """

    state: str
    content: str = ""
    places: tuple[str, ...] = ()
    archives: Mapping[str, str] = dataclasses.field(default_factory=dict)
    manual_dir: str = ""
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def is_of_the_same_archives(self) -> bool:
        """Whether the source is archives only, and none of them was written since."""
        return set(self.places) == set(self.archives) and all(
            stamp_of(place) == stamp for place, stamp in self.archives.items()
        )

    def write(self, folder: str | Path) -> None:
        """Write this description into the folder of a data set."""
        with atomic_file(Path(folder, MADE_FROM)) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, folder: str | Path) -> MadeFrom | None:
        """Read the description in a folder; None if it is damaged or missing (earlier versions)."""
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
    """Return a digest of lines; their order matters."""
    digest = hashlib.sha256()
    for line in lines:
        content = line.encode("utf-8", "surrogateescape") if isinstance(line, str) else line
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


class ResumableBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A TFDS builder that can resume an interrupted build.

    TFDS writes into a folder `incomplete.*` and renames it at the end, so nobody reads half a data set. After
    an interruption that folder is useless. So this builder also keeps its examples as `parts`, in a folder
    `unfinished_<version>` beside the data set. The next build reads them from there, and removes the folder
    when it is done. Until then a build takes twice the disk space.

    One process builds at a time. It removes the remains of killed builds.

    Attributes:
        made_anew: whether this builder replaced an existing data set.
    """

    made_anew = False

    @property
    def parts(self) -> Parts:
        """The finished parts; `_generate_examples` passes its examples through `parts.items`."""
        return Parts(self._place / f"unfinished_{self.version}")

    @property
    def _place(self) -> Path:
        """Folder of all versions of this configuration, also while building in `incomplete.*`."""
        return Path(self.data_dir).parent

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Build the data set unless it exists; see `tfds.core.DatasetBuilder.download_and_prepare`.

        An existing data set is compared with its source. It is built again if the source changed or the data
        set is damaged. If only the times of a file differ, its bytes are compared.

        Raises:
            UserError: another process is building the data set; or `manual_dir` is not the folder it was made
                from, and holds nothing to compare.
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
            print(printable(f"  {reason}; it is built again"), flush=True)
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
        """Return what changed in the source since the data set was made; None if nothing did.

        The result is a sentence to which the caller adds the name of the data set. Names, sizes and times
        are compared first. If they differ, bytes are compared; if the bytes are equal, the new times are
        stored. A missing source counts as unchanged, see `source_is_gone`.

        Args:
            manual_dir: the folder to compare with; None takes the one the data set was made from.

        Raises:
            UserError: `manual_dir` is another folder, and holds nothing to compare.
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
            with contextlib.suppress(UserError, OSError):  # a read-only data set is still usable
                dataclasses.replace(now, content=made_from.content if made_from else "").write(self.data_path)
        return difference

    def source_is_gone(self) -> bool:
        """Whether a folder or archive that the data set was made from no longer exists."""
        made_from = MadeFrom.read(self.data_path)
        return made_from is not None and not all(Path(place).exists() for place in made_from.places)

    def _made_from(self, manual_dir: Path | None) -> MadeFrom | None:
        """Describe the present source; None if the data set is made by code only.

        Args:
            manual_dir: folder of the source; None is TFDS's default folder for manual downloads.

        Raises:
            UserError: the source is missing, or cannot be used.
        """
        del manual_dir
        return None

    def _difference(self, made_from: MadeFrom | None, manual_dir: Path | None) -> str | None:
        """Return which bytes differ, as a sentence like that of `changed`; None if none do.

        Args:
            made_from: the source of the data set, if known.
            manual_dir: as in `_made_from`.
        """
        raise NotImplementedError

    def _log_download_bytes(self) -> None:
        """Announce the build; TFDS's own line would announce a download, and there is none."""
        print(printable(f"  building {self.info.full_name} in {self.data_path.parent} ..."), flush=True)

    def _log_download_done(self) -> None:
        """Do nothing: nothing was downloaded, and the caller reports the result."""

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
            if self.data_path.exists():  # a process killed while replacing it left both
                shutil.rmtree(self._place / f"former_{self.version}", ignore_errors=True)
            yield


@contextlib.contextmanager
def _bars_for_terminals() -> Iterator[None]:
    """Show TFDS's progress bars only on terminals: in a file they are thousands of lines."""
    wanted = getattr(tqdm_utils, "_active", True)
    tfds.display_progress_bar(wanted and sys.stderr.isatty())
    try:
        yield
    finally:
        tfds.display_progress_bar(wanted)


def _absolute(path: str | Path) -> str:
    return str(Path(path).absolute())
