"""Records: the encoded images of one split, in memory, with their labels."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from san_tf.data.headers import read_header
from san_tf.data.images import decode_image, untuned
from san_tf.errors import UserError
from san_tf.image_formats import image_suffixes, is_image_name, jpeg_or_png, read_regular
from san_tf.short_repr import ShortRepr
from san_tf.whole_numbers import WholeNumbers


def first_problem(encoded: np.ndarray, names: np.ndarray, kind: str) -> str | None:
    """Find files that are damaged: check all headers, then decode with training's decoder.

    Args:
        encoded: `(N,)` object array of file contents.
        names: `(N,)` names for the message.
        kind: "image", or "texture of image", which must be square and have three channels.

    Returns:
        None if every file is good; else one sentence that names the first bad file and counts the others.
    """
    problems: dict[int, str] = {}
    for index, content in enumerate(encoded):
        try:
            header = read_header(content)
        except ValueError as error:
            problems[index] = str(error)
            continue
        if kind != "image" and (header.channels != 3 or header.height != header.width):
            problems[index] = (
                f"is {header.width}x{header.height} with {header.channels} channel(s), "
                "but must be a square RGB image"
            )
    if not problems:
        problems = dict.fromkeys(undecodable(encoded), "is damaged: it cannot be decoded")
    if not problems:
        return None
    index = min(problems)
    others = f" ({len(problems) - 1} other file(s) have problems too)" if len(problems) > 1 else ""
    return f"The {kind} {names[index]} {problems[index]}{others}; delete it or copy it again."


def undecodable(encoded: np.ndarray) -> list[int]:
    """Return the indices of the files that TensorFlow cannot decode."""
    if not len(encoded):
        return []
    contents = tf.constant(list(encoded), tf.string)

    def decoded_index(index: tf.Tensor) -> tf.Tensor:
        # The result must depend on a pixel: TensorFlow would optimise a control dependency and the decoding
        # away. Applying the EXIF orientation would find no further damage and makes the graph much larger.
        pixel = decode_image(tf.gather(contents, index), orientation=1)[0, 0, 0]
        return index + tf.minimum(tf.cast(pixel, tf.int64), 0)

    # Errors in a tf.data map do not name their element: drop failing elements, then see which are missing.
    dataset = tf.data.Dataset.range(len(encoded)).map(decoded_index, num_parallel_calls=tf.data.AUTOTUNE)
    good = list(untuned(dataset).ignore_errors().batch(1024).as_numpy_iterator())
    return np.setdiff1d(np.arange(len(encoded)), np.concatenate([*good, np.empty(0, np.int64)])).tolist()


# Market-1501: 0002_c1s1_000451_03.jpg, -1_c1s1_...; DukeMTMC-reID: 0005_c2_f0046985.jpg; VeRi-776:
# 0001_c001_...
_MARKET_NAME = re.compile(r"^(-1|[0-9]{1,18})_c([0-9]{1,18})(?![0-9])")
_MAX_FILE_BYTES = 64 * 2**20
# The column of colour casts, `(N, 3, 4)`: RGB (0-255) in the texture becomes cast[:, :3] @ RGB + cast[:, 3]
# in the image.
CAST = "cast"
# Default that means "no image has a texture"; replaced once the number of images is known.
_NO_TEXTURES = np.empty(0, np.int64)


@dataclass(frozen=True, repr=False)
class Records(ShortRepr):
    """The encoded images of one split, with identity, camera, name and texture of each.

    Images stay encoded, so a whole benchmark takes tens of megabytes; the pipelines decode them. Each
    different texture is stored once and referenced by index, because ten images may share one.

    Args:
        images: `(N,)` object array of JPEG or PNG bytes.
        pids: `(N,)` int64 identities; 0 is a distractor, -1 junk or unknown.
        camids: `(N,)` int64 cameras, from 0; -1 is unknown.
        filenames: `(N,)` object array of str, unique within a split.
        texture_files: `(U,)` object array of JPEG or PNG bytes: the different textures.
        texture_index: `(N,)` int64 into `texture_files`, -1 where an image has no texture.
        extras: other columns by name, N values each (`yaw`, `pose`, `visibility`). With the column `cast`,
            `(N, 3, 4)` float32, the target texture gets the colours it has in the image.

    Example:
        >>> records = Records.from_folder("Market-1501-v15.09.15/bounding_box_train")
        >>> len(records), records.num_identities
        (12936, 751)
    """

    images: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    filenames: np.ndarray
    texture_files: np.ndarray = field(default_factory=lambda: np.empty(0, object))
    texture_index: np.ndarray = field(default_factory=lambda: _NO_TEXTURES)
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        number = len(self.images)
        if self.texture_index is _NO_TEXTURES:
            object.__setattr__(self, "texture_index", np.full(number, -1, np.int64))
        columns: dict[str, Any] = {
            "pids": self.pids,
            "camids": self.camids,
            "filenames": self.filenames,
            "texture_index": self.texture_index,
            **self.extras,
        }
        for name, column in columns.items():
            if len(column) != number:
                raise ValueError(
                    f"Each column needs one value per image. Received: {number} images, {len(column)} {name}."
                )

    @classmethod
    def from_columns(
        cls,
        images: Sequence[bytes],
        pids: Iterable[int],
        camids: Iterable[int] | None = None,
        filenames: Iterable[str] | None = None,
        textures: Sequence[bytes] | None = None,
        extras: Mapping[str, Any] | None = None,
        verify: bool = True,
    ) -> Records:
        """Make records from plain lists.

        Args:
            images: N encoded images.
            pids: N identities.
            camids: N cameras; all 0 by default.
            filenames: N names; `000000`, `000001`, ... by default.
            textures: N encoded textures, `b""` where there is none; equal ones are stored once.
            extras: other columns by name, N values each.
            verify: decode every image and texture once, and refuse damaged ones.

        Raises:
            UserError: an image or texture is empty or damaged, or a texture is not square RGB.
        """
        number = len(images)
        names = [f"{i:06d}" for i in range(number)] if filenames is None else list(filenames)
        files, index = _deduplicated(textures if textures is not None else [b""] * number)
        records = cls(
            images=_object_array(images),
            pids=np.fromiter(pids, np.int64),
            camids=np.zeros(number, np.int64) if camids is None else np.fromiter(camids, np.int64),
            filenames=_object_array(names),
            texture_files=files,
            texture_index=index,
            extras={name: np.asarray(column) for name, column in (extras or {}).items()},
        )
        return records.verified() if verify else records

    @classmethod
    def from_tfds(cls, builder: Any, split: str, verify: bool = True) -> Records:
        """Read a split of a prepared TFDS builder, without decoding its images.

        Args:
            builder: a `tfds.core.DatasetBuilder` whose examples hold `image` and `pid`, and optionally
                `camid`, `filename` and `texture`; other features become `extras`.
            split: for example "train", "query" or "gallery".
            verify: as in `from_columns`.

        Raises:
            UserError: the data set is not prepared, has no such split, or holds a damaged image.
            DamagedDataError: a file of the data set is damaged; the message names it.
        """
        import tensorflow as tf
        import tensorflow_datasets as tfds

        from san_tf.data.builders import DamagedDataError, check_split, damage_of

        check_split(builder, split)
        encoded = {
            name: tfds.decode.SkipDecoding() for name in ("image", "texture") if name in builder.info.features
        }
        # Autocaching would keep a second copy of the bytes; a single reader keeps the written order.
        config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
        columns: dict[str, list[Any]] = {}
        textures: dict[bytes, bytes] = {}
        try:
            dataset = builder.as_dataset(
                split=split, decoders=encoded, shuffle_files=False, read_config=config
            )
            for batch in dataset.batch(512).as_numpy_iterator():
                for name, values in batch.items():
                    if name == "texture":  # ten images may share one: keep a single copy while reading
                        values = [textures.setdefault(texture, texture) for texture in values]
                    columns.setdefault(name, []).extend(values)
        except (tf.errors.OpError, OSError, AssertionError) as error:
            problem = damage_of(builder, [split.split("[")[0]]) or f"{builder.data_path} is damaged"
            raise DamagedDataError(Path(builder.data_path), problem) from error
        number = len(next(iter(columns.values()), ()))
        if number != builder.info.splits[split].num_examples:
            problem = damage_of(builder, [split.split("[")[0]]) or f"{builder.data_path} is damaged"
            raise DamagedDataError(Path(builder.data_path), problem)
        if not columns:
            raise UserError(
                f"The split {split} of {builder.info.full_name} is empty; prepare the data set again."
            )
        filenames = columns.pop("filename", None)
        return cls.from_columns(
            columns.pop("image"),
            columns.pop("pid"),
            columns.pop("camid", None),
            None if filenames is None else [name.decode() for name in filenames],
            columns.pop("texture", None),
            columns,
            verify=verify,
        )

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], verify: bool = True) -> Records:
        """Read all images of a folder, without its subfolders, sorted by name.

        Formats other than JPEG and PNG are converted to PNG without loss, see `san_tf.image_formats`.

        Names as in Market-1501, DukeMTMC-reID and VeRi-776 (`0002_c1s1_000451_03.jpg`) give identity and
        camera. Other names give -1 for both, which is enough for painting or embedding.

        Args:
            folder: the folder of images.
            verify: as in `from_columns`.

        Raises:
            UserError: the folder is missing or holds no image, an image is empty or damaged, or an identity
                is written in two ways, such as `7` and `007`.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"The image folder {folder} does not exist; check the path.")
        paths = sorted(path for path in folder.iterdir() if is_image(path))
        if not paths:
            raise UserError(
                f"The folder {folder} holds no image file ({', '.join(sorted(image_suffixes()))}); name the "
                "folder with the images."
            )
        with ThreadPoolExecutor(8) as threads:
            images = list(threads.map(read_image, paths))
        pids, camids = zip(*(parse_market_name(path.name) for path in paths), strict=True)
        numbers = WholeNumbers()
        for path in paths:
            if match := _MARKET_NAME.match(path.name):
                numbers.check("identity", match[1], str(path))
        return cls.from_columns(images, pids, camids, [path.name for path in paths], verify=verify)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def identities(self) -> np.ndarray:
        """`(C,)` int64 sorted pids of the training identities, without distractors and junk."""
        return np.unique(self.pids[self.pids > 0])

    @property
    def num_identities(self) -> int:
        """Number of training identities, C."""
        return len(self.identities)

    @property
    def labels(self) -> np.ndarray:
        """`(N,)` int32 labels from 0 in the order of the pids; -1 for distractors and junk."""
        labels = np.searchsorted(self.identities, self.pids).astype(np.int32)
        return np.where(self.pids > 0, labels, np.int32(-1))

    @property
    def has_texture(self) -> np.ndarray:
        """`(N,)` bool: which images have a texture."""
        return self.texture_index >= 0

    @property
    def textures(self) -> np.ndarray | None:
        """`(N,)` object array of encoded textures, `b""` where there is none; None if no image has one."""
        if not len(self.texture_files):
            return None
        return np.append(self.texture_files, [b""])[self.texture_index]

    def select(self, indices: np.ndarray) -> Records:
        """Return the records at `indices` (an int array, or a bool array of N values), in that order."""
        return replace(
            self,
            images=self.images[indices],
            pids=self.pids[indices],
            camids=self.camids[indices],
            filenames=self.filenames[indices],
            texture_index=self.texture_index[indices],
            extras={name: column[indices] for name, column in self.extras.items()},
        )

    def without(self, name: str) -> Records:
        """Return the same records without the column `name` of the `extras`, if present."""
        return replace(self, extras={key: column for key, column in self.extras.items() if key != name})

    def with_textures(self, textures: Sequence[bytes]) -> Records:
        """Return the same records with N other encoded textures (`b""` for none)."""
        files, index = _deduplicated(textures)
        return replace(self, texture_files=files, texture_index=index)

    def verified(self) -> Records:
        """Decode every image and texture once, and return self.

        Otherwise a damaged file would stop training hours later, with a message that does not name it.
        Decoding in parallel takes about 0.1 ms per crop, less than reading it.

        Raises:
            UserError: an image or texture is empty, damaged, or neither JPEG nor PNG; a texture is not a
                square RGB image. The message names the first such file and counts the others.
        """
        problem = first_problem(self.images, self.filenames, kind="image")
        if problem is None and len(self.texture_files):
            index, owners = np.unique(self.texture_index, return_index=True)
            used = index >= 0
            problem = first_problem(
                self.texture_files[index[used]], self.filenames[owners[used]], kind="texture of image"
            )
        if problem is not None:
            raise UserError(problem)
        return self


def is_image(path: Path) -> bool:
    """Whether the path is a visible file with an image suffix."""
    return is_image_name(path.name) and not path.name.startswith(".") and path.is_file()


def read_image(path: Path, kind: str = "image") -> bytes:
    """Read an image file and return it as JPEG or PNG bytes.

    Args:
        path: the file.
        kind: word for the file in error messages.

    Raises:
        UserError: the file cannot be read, is a pipe or device, or has an unknown format.
    """
    try:
        content = read_regular(path, _MAX_FILE_BYTES)
        return jpeg_or_png(content) if content else content  # `verified` reports an empty file
    except ValueError as error:
        raise UserError(f"The {kind} {path} {error}; delete it or copy it again.") from None
    except OSError as error:
        raise UserError(f"The {kind} {path} cannot be read ({error.strerror}); check it.") from error


def parse_market_name(name: str) -> tuple[int, int]:
    """Return identity and camera (from 0) of a Market-1501-like file name, else (-1, -1).

    Example:
        >>> parse_market_name("0002_c1s1_000451_03.jpg")
        (2, 0)
    """
    match = _MARKET_NAME.match(name)
    return (int(match[1]), int(match[2]) - 1) if match else (-1, -1)


def _object_array(values: Iterable[Any]) -> np.ndarray:
    values = list(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _deduplicated(textures: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return the different textures, and each texture's index among them; -1 for `b""`."""
    known: dict[bytes, int] = {}
    index = [known.setdefault(texture, len(known)) if texture else -1 for texture in textures]
    return _object_array(known), np.array(index, np.int64)
