"""What goes into a gallery: photographs, embedded part by part, and tables of embeddings; and its export."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from san_tf.archives.archive_types import open_archive
from san_tf.archives.files import DamagedFileError
from san_tf.atomic import atomic_file
from san_tf.data.upright import PhotographError, upright
from san_tf.embedding.bulk import UNDECODABLE, Encoder, NothingEmbeddedError, Progress, embed_photographs
from san_tf.embedding.feature_table import Embedded
from san_tf.embedding.sources import Photograph, left_out_summary, photographs
from san_tf.errors import UserError
from san_tf.image_formats import stamp_of
from san_tf.retrieval.entries import EVERYTHING, Entry, Filter, checked_entry
from san_tf.retrieval.gallery import FIRST_NAMED, Gallery, GalleryInfo, Source, gallery_pictures
from san_tf.retrieval.image_files import ImageFolders, NoPictureError
from san_tf.retrieval.name_reader import NameReader

if TYPE_CHECKING:
    from san_tf.retrieval.embedded import EmbeddedGallery

# Photographs stored in one part, and keys looked up together.
PART_SIZE = 256
_AT_ONCE = 1000
# Times that a gallery may be changed while it moves to another encoder.
_PASSES = 100


@dataclass
class Added:
    """What became of the photographs of `add_photographs`.

    Attributes:
        progress: the last progress; its `left_out` names what could not be used, and why.
        known: number of photographs that were in the gallery and have not changed.
        changed: number of photographs that were in the gallery and were embedded anew.
        deleted: names of photographs that were deleted for good before, and were left out.
        expired: number of photographs that were older than allowed, and were left out.
        gone: keys of entries whose files are no longer in the named places.
        read: what names and tables said of the added entries.
    """

    progress: Progress
    known: int = 0
    changed: int = 0
    deleted: list[str] = field(default_factory=list)
    expired: int = 0
    gone: list[str] = field(default_factory=list)
    read: Read = field(default_factory=lambda: Read())


@dataclass
class Read:
    """What names and tables said of added entries.

    Attributes:
        entries: number of entries.
        numbers: how many of them have an identity, a camera, a time, a tag, by the name of its group.
        example: the first key; "" for none.
    """

    entries: int = 0
    numbers: Counter[str] = field(default_factory=Counter)
    example: str = ""

    def update(self, entries: Iterable[Entry]) -> None:
        """Count some entries."""
        for entry in entries:
            self.entries += 1
            told = {
                "pid": entry.pid is not None,
                "camera": entry.camera != -1,
                "time": entry.time is not None,
                "tags": bool(entry.tags),
            }
            self.numbers.update(name for name, known in told.items() if known)
            self.example = self.example or entry.key


def add_photographs(
    gallery: Gallery,
    places: Sequence[str | os.PathLike[str]],
    encoder: Encoder,
    reader: NameReader,
    batch_size: int = 32,
    report: Callable[[Progress], None] | None = None,
    replace: bool = False,
    since: float | None = None,
    others: Counter[str] | None = None,
    listed: dict[str, str] | None = None,
) -> Added:
    """Embed photographs into a gallery, and skip those that are in it and have not changed.

    The key of a photograph is its path relative to the gallery's folder of images. Photographs from elsewhere
    are added too: the place they come from becomes one more folder of the gallery, and its name begins their
    keys. Photographs from archives have no image path.

    Args:
        gallery: the gallery.
        places: folders, tables, archives and files, as `embedding.sources.photographs` takes them.
        encoder: the gallery's encoder.
        reader: reads identities, cameras, times and tags.
        batch_size: files in a batch of the encoder.
        report: called after each batch.
        replace: also embed photographs that have not changed, and replace their entries.
        since: leave out photographs whose time is before this (seconds since 1970).
        others: counts the files that are not read, by kind.
        listed: is filled with their paths and the reasons.

    Raises:
        NothingEmbeddedError: no photograph can be used, and none is in the gallery.
        UserError: the places hold no photographs, or the gallery refuses.
    """
    others = Counter() if others is None else others
    table = _Table(gallery, reader, replace, since)
    new = table.new_ones((place, photographs([place], others, listed)) for place in places)
    first = next(new, None)
    if first is None and not table.seen:
        told = f" {left_out_summary({}, others)}" if others else ""
        raise UserError(
            f"There are no photographs to add; name folders, tables or archives that hold some.{told}"
        )
    progress = Progress(0, 0, {}, 0.0)
    if first is not None:
        chosen = itertools.chain([first], new)
        try:
            progress = embed_photographs(chosen, encoder, table, batch_size, report, part_size=PART_SIZE)
        except NothingEmbeddedError as error:
            progress = error.progress
            # Nothing is wrong if all others are in the gallery, or may not be in it.
            if not (table.known or table.deleted or table.expired):
                progress.left_out |= table.odd
                raise
    progress.left_out |= table.odd
    progress.done += len(table.odd)
    progress.identities, progress.cameras = len(table.identities), len(table.cameras)
    for name in table.deleted:
        progress.left_out.pop(name, None)
    gone = list(dict.fromkeys(key for place in places for key in table.gone_from(place)))
    return Added(progress, table.known, table.changed, sorted(table.deleted), table.expired, gone, table.read)


class _Table:
    """A gallery as the table that bulk embedding writes to."""

    def __init__(self, gallery: Gallery, reader: NameReader, replace: bool, since: float | None) -> None:
        self._gallery, self._reader, self._replace, self._since = gallery, reader, replace, since
        self._roots = _Roots(gallery)
        self._sources: dict[str, Source] = {}
        self._paths: dict[str, str] = {}
        self._changed: set[str] = set()
        self.seen = self.known = self.changed = self.expired = 0
        self.odd: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.read = Read()
        self.identities: set[int] = set()
        self.cameras: set[int] = set()

    def new_ones(
        self, photographs: Iterable[tuple[str | os.PathLike[str], Iterable[Photograph]]]
    ) -> Iterator[Photograph]:
        """Yield the photographs that are not in the gallery, or have changed since."""
        for place, found in photographs:
            source = iter(found)
            while some := list(itertools.islice(source, _AT_ONCE)):
                self.seen += len(some)
                yield from self._new_of(place, some)

    def _new_of(self, place: str | os.PathLike[str], some: Sequence[Photograph]) -> Iterator[Photograph]:
        gallery = self._gallery
        keys = [self._roots.key(photograph.name, place) for photograph in some]
        known, deleted = gallery.known(keys), gallery.deleted(keys).keys
        noted = gallery.sources(sorted(known)) if not self._replace else {}
        unchanged: dict[str, Source] = {}
        for photograph, key in zip(some, keys, strict=True):
            name = photograph.name
            if key in deleted:
                self.deleted.add(name)
                continue
            if not key.isprintable():
                self.odd[ascii(name)] = "has a name that cannot be printed"
                continue
            if key in known and not self._replace:
                stamp = photograph.stamp()
                former = noted.get(key)
                if former is None or former.stamp == stamp:
                    self.known += 1
                    continue
                content = self._hash(photograph)
                if content is None or content == (former.content or content):
                    self.known += 1
                    if content is not None:
                        unchanged[key] = Source(stamp, content)
                    continue
                self._changed.add(name)
            self._paths[name] = _path_from(place, name)
            # One impossible number in a name must not stop the whole run.
            try:
                entry = checked_entry(self._entry(name, photograph.columns, lambda camera: FIRST_NAMED))
            except UserError as error:
                self.odd[name] = f"cannot be kept: {error}"
                continue
            if self._since is not None and entry.time is not None and entry.time < self._since:
                self.expired += 1
                continue
            yield photograph._replace(read=functools.partial(self._read, photograph))
        if unchanged:
            gallery.set_sources(unchanged)

    def _hash(self, photograph: Photograph) -> bytes | None:
        try:
            return self._gallery.hash_of(photograph.read())
        except DamagedFileError:
            return None

    def _read(self, photograph: Photograph) -> bytes:
        """Read a photograph, and refuse one whose bytes were deleted for good under any name."""
        stamp = photograph.stamp()  # before it is read, so that a change meanwhile is noticed next time
        content = photograph.read()
        source = Source(stamp, self._gallery.hash_of(content))
        if self._gallery.deleted(contents=[source.content]).contents:
            self.deleted.add(photograph.name)
            raise DamagedFileError("was deleted from the gallery for good")
        self._sources[photograph.name] = source
        return content

    def has_part(self, number: int, sources: Sequence[str]) -> dict[str, str] | None:
        return None

    def discard(self) -> None: ...

    def write_part(
        self, number: int, sources: Sequence[str], rows: Sequence[Embedded], left_out: Mapping[str, str]
    ) -> None:
        if rows:
            self._roots.note(self._roots.key(row.name, ".") for row in rows)
            entries = [self._entry(row.name, row.columns, self._gallery.name_camera) for row in rows]
            files = [self._sources.get(row.name, Source()) for row in rows]
            self._gallery.add(np.stack([row.features for row in rows]), entries, files)
            self.identities |= {entry.pid for entry in entries if entry.pid is not None and entry.pid != -1}
            self.cameras |= {entry.camera for entry in entries if entry.camera != -1}
            self.read.update(entries)
        for row in rows:
            self._paths.pop(row.name, None)
            self.changed += row.name in self._changed
        self._sources.clear()

    def finish(self, parts: int) -> int:
        self._gallery.optimize()
        return len(self._gallery)

    def gone_from(self, place: str | os.PathLike[str]) -> Iterator[str]:
        """Yield the keys of entries whose files are no longer in a folder or archive."""
        name = str(place).lower()
        if os.path.isdir(place) or name.endswith((".tar", ".zip")):
            prefix = self._roots.key(os.path.join(place, "\0"), place)[:-1]  # no folder has this name
            yield from gone_files(self._gallery, prefix)

    def _entry(self, name: str, columns: Mapping[str, str], name_camera: Callable[[str], int]) -> Entry:
        key = self._roots.key(name, ".")
        image = key if os.path.isfile(name) else ""
        return self._reader.entry(key, image, columns, self._paths.get(name, ""), name_camera)


class _Roots:
    """The folders of a gallery's photographs, and the keys of photographs in them."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        info = gallery.info
        self._names = {path: name for name, path in info.folders}
        if info.images is not None:
            self._names[info.images] = ""
        self._new: list[tuple[str, str]] = []

    def key(self, name: str, place: str | os.PathLike[str]) -> str:
        """Return the key of a photograph; if no folder holds it, its place becomes one more folder."""
        path = os.path.abspath(name)
        root = self._root_of(path)
        if root is None:
            folder = folder_of([place])
            root = folder if _holds(folder, path) else os.path.dirname(path)
            self._names[root] = self._name_for(root)
            self._new.append((self._names[root], root))
        inside = path[len(root.rstrip("/")) + 1 :]
        if self._names[root]:
            return f"{self._names[root]}/{inside}"
        first = inside.partition("/")[0]
        if any(first == other for other in self._names.values()):
            raise UserError(
                f"{os.path.join(root, first)} would have the keys of another folder of this gallery, {first}"
                "; rename it."
            )
        return inside

    def note(self, keys: Iterable[str]) -> None:
        """Write new folders to the gallery, when it takes the first photograph of them."""
        used = {key.partition("/")[0] for key in keys} if self._new else set()
        for name, folder in self._new:
            if name in used:
                self._gallery.add_folder(name, folder)
        self._new = [(name, folder) for name, folder in self._new if name not in used]

    def _root_of(self, path: str) -> str | None:
        at = path
        while at != os.path.dirname(at):
            at = os.path.dirname(at)
            if at in self._names:
                return at
        return None

    def _name_for(self, folder: str) -> str:
        """Return the name of one more folder, with which no key begins yet."""
        base = os.path.basename(folder) or "images"
        base = base if base.isprintable() else "images"
        main = self._gallery.info.images
        for number in itertools.count(1):
            name = base if number == 1 else f"{base}-{number}"
            taken = name in self._names.values() or (main and os.path.lexists(os.path.join(main, name)))
            if not taken and next(iter(self._gallery.keys_below(f"{name}/")), None) is None:
                return name
        raise AssertionError


def reembed(
    gallery: str,
    encoder: Encoder,
    info: GalleryInfo,
    batch_size: int = 32,
    drop: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> Reembedded:
    """Embed all photographs of a gallery on this machine by another encoder, then swap.

    The gallery can be searched and changed meanwhile. What is done is kept beside it, and an interrupted move
    goes on there. Entries, deletions and the audit log stay as they are.

    Args:
        gallery: path of the gallery.
        encoder: the new encoder.
        info: size, export and fingerprint of the new encoder.
        batch_size: photographs in a batch.
        drop: leave out entries without a usable photograph.
        report: called after each batch with the numbers of moved entries and of all.

    Raises:
        UserError: the gallery has this encoder already, its folders may not be read, or the disk is full.
    """
    from san_tf.retrieval.embedded import EmbeddedGallery
    from san_tf.retrieval.opening import open_embedded, open_to_search

    with open_embedded(gallery) as own:
        if info.fingerprint and own.info.fingerprint == info.fingerprint:
            raise UserError(f"The gallery {gallery} holds embeddings of this encoder already; name another.")
        own.upgrade()
    place = Path(os.path.abspath(gallery))
    half = place.with_name(f".{place.name}.reembed")
    with open_to_search(gallery, info.model).gallery as old:
        if not isinstance(old, EmbeddedGallery):
            raise UserError(f"{gallery} is in Milvus; make another gallery beside it, and change over.")
        if old.noted.images != old.info.images or old.noted.folders != old.info.folders:
            raise UserError(
                f"The photographs of {gallery} are in {old.noted.images} and other folders that were not "
                "named here before; search it once with --images, or add to it here."
            )
        _begin(half, old, info)
        for _ in range(_PASSES):
            with EmbeddedGallery(half) as new:
                version = old.version
                left_out = _moved(old, new, encoder, batch_size, report)
                if left_out and not drop:
                    return Reembedded(len(new), left_out, False)
                with open_embedded(gallery) as own:
                    if own.replace_all(new, version) is None:
                        continue  # it was changed meanwhile
                    number = len(own)
            shutil.rmtree(half)
            return Reembedded(number, left_out, True)
    raise UserError(f"The gallery {gallery} is changed all the time; try again when nothing is added.")


class Reembedded(NamedTuple):
    """Result of `reembed`.

    Attributes:
        entries: number of entries of the new encoder.
        left_out: problems of entries without a usable photograph, by key.
        swapped: whether the gallery is now of the new encoder.
    """

    entries: int
    left_out: dict[str, str]
    swapped: bool


def _begin(half: Path, old: EmbeddedGallery, info: GalleryInfo) -> None:
    """Make the gallery of the new encoder, unless an interrupted move has left it."""
    from san_tf.retrieval.embedded import EmbeddedGallery

    secret = old.deletion_record()[0]
    if half.exists():
        try:
            with EmbeddedGallery(half) as there:
                fits = (there.info.size, there.info.fingerprint) == (info.size, info.fingerprint)
                fits = fits and there.deletion_record()[0] == secret
        except UserError:
            fits = False
        if fits:
            return
        shutil.rmtree(half)
    noted = replace(old.noted, size=info.size, model=info.model, fingerprint=info.fingerprint)
    EmbeddedGallery.create(half, noted)
    with EmbeddedGallery(half) as there:
        there.set_secret(secret)


def _moved(
    old: EmbeddedGallery,
    new: EmbeddedGallery,
    encoder: Encoder,
    batch_size: int,
    report: Callable[[int, int], None] | None,
) -> dict[str, str]:
    """Bring one gallery up to the other; return the problems of entries without a photograph."""
    left_out: dict[str, str] = {}
    new.take_folders(old.noted)
    pictures, roots, start = gallery_pictures(old.info), dict(old.info.folders), 0
    while entries := old.entries(start=start, limit=_AT_ONCE):
        start += len(entries)
        keys = [entry.key for entry in entries]
        noted = old.sources(keys)
        there = {key: candidate.entry for key, candidate in new.lookup(keys).items()}
        done = new.sources(keys)
        touched, wanted = {}, []
        for entry in entries:
            source, former = noted.get(entry.key, Source()), done.get(entry.key, Source())
            if there.get(entry.key) != entry or former._replace(stamp=source.stamp) != source:
                wanted.append(entry)
            elif former != source:
                touched[entry.key] = source
        if touched:
            new.set_sources(touched)
        for batch in (wanted[at : at + batch_size] for at in range(0, len(wanted), batch_size)):
            contents: dict[str, bytes] = {}
            for entry in batch:
                try:
                    contents[entry.key] = upright(_stored(entry, pictures, roots, old.info.images))
                except (PhotographError, NoPictureError, DamagedFileError, UserError) as error:
                    left_out[entry.key] = str(error)
            rows = encoder.embed_each(list(contents.values()))
            kept = [
                (row, entry)
                for entry, row in zip((e for e in batch if e.key in contents), rows, strict=True)
                if row is not None
            ]
            embedded = {entry.key for _, entry in kept}
            left_out |= {key: UNDECODABLE for key in contents if key not in embedded}
            if kept:
                files = [noted.get(entry.key, Source()) for _, entry in kept]
                new.add(np.stack([row for row, _ in kept]), [entry for _, entry in kept], files)
            if report:
                report(len(new), len(old))
    gone = [key for key, _ in list(new.keys_below("")) if not old.known([key])]
    new.delete([*gone, *new.known(list(left_out))], for_good=False)
    return left_out


def _stored(entry: Entry, pictures: ImageFolders, roots: Mapping[str, str], images: str | None) -> bytes:
    """Return the bytes of an entry's photograph, in a folder or in an archive."""
    if entry.image:
        return pictures.read(entry.image)
    name, _, rest = entry.key.partition("/")
    root, inside = (roots[name], rest) if name in roots else (images, entry.key)
    archive = _archive_of(inside)
    if root is None or archive is None:
        raise NoPictureError("has no photograph")
    return open_archive(Path(root, archive)).read(inside[len(archive) + 1 :])


def gone_files(gallery: Gallery, prefix: str = "") -> Iterator[str]:
    """Yield the keys of entries whose files are gone, of all folders that are there.

    Args:
        gallery: the gallery.
        prefix: only keys that start so.
    """
    roots = {name: path for name, path in gallery.info.folders}
    archives: dict[str, frozenset[str] | None] = {}
    main = gallery.info.images
    for key, image in gallery.keys_below(prefix):
        name, _, rest = key.partition("/")
        root, inside = (roots[name], rest) if name in roots else (main, key)
        if root is None:
            continue
        if image:
            if os.path.isdir(root) and not os.path.exists(os.path.join(root, inside)):
                yield key
            continue
        archive = _archive_of(inside)
        if archive is None or not os.path.isdir(root):
            continue
        path = os.path.join(root, archive)
        if path not in archives:
            archives[path] = _members(path)
        members = archives[path]
        if members is not None and inside[len(archive) + 1 :] not in members:
            yield key


def _archive_of(path: str) -> str | None:
    """Return the part of a path that names an archive; None without one."""
    parts = path.split("/")
    for number, part in enumerate(parts[:-1], 1):
        if part.lower().endswith((".tar", ".zip")):
            return "/".join(parts[:number])
    return None


def _members(archive: str) -> frozenset[str] | None:
    """Return the files of an archive; none of one that is gone, and None of one that cannot be read."""
    if not os.path.exists(archive):
        return frozenset()
    try:
        return frozenset(open_archive(Path(archive)).paths())
    except UserError:
        return None


def _holds(folder: str, path: str) -> bool:
    return path.startswith(f"{folder.rstrip('/')}/")


def _path_from(place: str | os.PathLike[str], name: str) -> str:
    """Return the path of a photograph from the named folder or archive on, with its name: `crops/a/b.jpg`."""
    top, path = os.path.abspath(place), os.path.abspath(name)
    if not _holds(top, path):  # a single file, or a row of a table
        top = os.path.dirname(path)
    return path[len(os.path.dirname(top).rstrip("/")) + 1 :]


def folder_of(places: Sequence[str | os.PathLike[str]]) -> str:
    """Return the absolute path of the folder that holds all `places`."""
    folders = []
    for place in places:
        path = Path(os.path.abspath(place))
        folders.append(path if path.is_dir() else path.parent)
    return os.path.commonpath(folders)


_NOTES = b"san_tf"
_ROWS = 4096
_COLUMNS = ("pids", "camids", "camera", "time", "tags")


class FeatureRows:
    """Reader of a Parquet file of features.

    The file has the columns `path` and `features`, and may have `pids`, `camids` or `camera`, `time`, `tags`.

    Args:
        path: path of the file.

    Raises:
        UserError: the file is missing, broken, or has other columns; or pyarrow is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        if not Path(path).is_file():
            raise UserError(f"There is no file {path}; write one with `san-tf embed`.")
        pa, parquet = _pyarrow()
        try:
            self._file = parquet.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path} is broken or no Parquet file; write it anew.") from error
        schema = self._file.schema_arrow
        for name in ("path", "features"):
            if name not in schema.names:
                raise UserError(
                    f"{path} has no column {name!r}, only {', '.join(schema.names)}; write it with "
                    "`san-tf embed`."
                )
        if not pa.types.is_fixed_size_list(schema.field("features").type):
            raise UserError(f"{path}: features are not lists of one length; write it with `san-tf embed`.")
        notes = json.loads((schema.metadata or {}).get(_NOTES, b"{}"))
        self.size = int(schema.field("features").type.list_size)
        self.model, self.fingerprint = str(notes.get("model", "")), str(notes.get("fingerprint", ""))
        self._cameras = GalleryInfo(1, cameras=tuple(map(str, notes.get("cameras", ()))))

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def batches(
        self,
        gallery: Gallery,
        reader: NameReader,
        images: Path | None,
        left_out: dict[str, str] | None = None,
    ) -> Iterator[tuple[np.ndarray, dict[int, Entry]]]:
        """Yield `(n, D)` embeddings, and entries by row number, some thousand rows at a time.

        Args:
            gallery: the gallery, which numbers the cameras that have names.
            reader: reads from names what the columns do not hold.
            images: folder of the photographs; keys of photographs in it are relative to it.
            left_out: is filled with the paths of impossible entries and the reasons; None raises instead.

        Raises:
            UserError: the file is damaged or has empty cells.
        """
        pa, _ = _pyarrow()
        names = [name for name in ("path", "features", *_COLUMNS) if name in self._file.schema_arrow.names]
        try:
            for batch in self._file.iter_batches(_ROWS, columns=names):
                if batch.column("features").null_count or batch.column("path").null_count:
                    raise UserError(f"{self._path} has empty cells; write it anew.")
                features = batch.column("features").flatten().to_numpy(zero_copy_only=False)
                others = {name: batch.column(name).to_pylist() for name in names if name != "features"}
                entries = {}
                for number, path in enumerate(others.pop("path")):
                    columns = {name: _text(values[number]) for name, values in others.items()}
                    try:
                        camera = columns.get("camids", "")
                        if camera.isdecimal() and int(camera) >= FIRST_NAMED:  # of a gallery's export
                            columns["camera"] = self._cameras.camera_name(int(columns.pop("camids")))
                        key, image = _key_and_image(path, images)
                        entry = reader.entry(key, image, columns, "", gallery.name_camera)
                        entries[number] = checked_entry(entry)
                    except UserError as error:
                        if left_out is None:
                            raise
                        left_out[path] = str(error)
                yield features.reshape(len(batch), self.size), entries
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self._path} is damaged ({error}); write it anew.") from error

    def add(
        self,
        gallery: Gallery,
        features: np.ndarray,
        entries: Mapping[int, Entry],
        replace: bool,
        since: float | None,
        added: Added,
    ) -> int:
        """Add a batch, but for what is in the gallery or was deleted for good.

        Args:
            gallery: the gallery.
            features: `(n, D)` embeddings.
            entries: entries by row number.
            replace: replace the entries that are in the gallery.
            since: leave out entries whose time is before this.
            added: is told what became of the rows.

        Returns:
            The number of added entries.
        """
        keys = [entry.key for entry in entries.values()]
        known = set() if replace else gallery.known(keys)
        sources = {number: _source(gallery, entry) for number, entry in entries.items()}
        deleted = gallery.deleted(keys, [source.content for source in sources.values()])
        new = []
        for number, entry in entries.items():
            if entry.key in deleted.keys or sources[number].content in deleted.contents:
                added.deleted.append(entry.key)
            elif entry.key in known:
                added.known += 1
            elif since is not None and entry.time is not None and entry.time < since:
                added.expired += 1
            else:
                new.append(number)
        gallery.add(features[new], [entries[number] for number in new], [sources[number] for number in new])
        added.read.update(entries[number] for number in new)
        return len(new)


def _source(gallery: Gallery, entry: Entry) -> Source:
    """Return what can be noted of the photograph of a row."""
    if not entry.image or gallery.info.images is None or not gallery.remembers:
        return Source()
    path = os.path.join(gallery.info.images, entry.image)
    stamp = stamp_of(path)
    try:
        return Source(stamp, gallery.hash_of(gallery_pictures(gallery.info).read(entry.image)))
    except NoPictureError:
        return Source()


def export_rows(gallery: Gallery, path: str | Path, where: Filter = EVERYTHING) -> int:
    """Write entries and embeddings to a Parquet file, which `FeatureRows` and `san-tf evaluate` read.

    Args:
        gallery: the gallery.
        path: path of the file, `.parquet`.
        where: which entries to write.

    Returns:
        The number of entries.

    Raises:
        UserError: another suffix, the disk is full, or no entry passes the filter.
    """
    if Path(path).suffix.lower() != ".parquet":
        raise UserError(f"{path} is not the name of a Parquet file; let it end in .parquet.")
    pa, parquet = _pyarrow()
    info: GalleryInfo = gallery.info
    notes = {"model": info.model, "fingerprint": info.fingerprint, "cameras": list(info.cameras)}
    schema = pa.schema(
        [
            ("path", pa.string()), ("features", pa.list_(pa.float32(), info.size)), ("pids", pa.int64()),
            ("camids", pa.int64()), ("time", pa.float64()), ("tags", pa.string()),
        ],
        {_NOTES: json.dumps(notes)},
    )  # fmt: skip
    written = 0
    with atomic_file(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        while entries := gallery.entries(where, written, _ROWS):
            rows = gallery.embeddings([entry.key for entry in entries])
            columns = [
                pa.array([entry.key for entry in entries]),
                pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), info.size),
                # Unknown identities become -1, junk, which no ranking counts.
                pa.array([-1 if entry.pid is None else entry.pid for entry in entries], pa.int64()),
                pa.array([entry.camera for entry in entries], pa.int64()),
                pa.array([entry.time for entry in entries], pa.float64()),
                pa.array([" ".join(entry.tags) for entry in entries]),
            ]
            writer.write_table(pa.table(columns, schema=schema))
            written += len(entries)
        if not written:
            raise UserError(f"No entry of the gallery {gallery.name} passes, so {path} was not written.")
    return written


def _key_and_image(path: str, images: Path | None) -> tuple[str, str]:
    """Key and image of a row, whose path is as given to `san-tf embed`, or relative to `images`."""
    if images is not None:
        for place in (Path(os.path.abspath(path)), images / path):
            if place.is_relative_to(images) and place.is_file():
                key = place.relative_to(images).as_posix()
                return key, key
    return path, ""


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Tables of features need pyarrow: pip install 'san-tf[parquet]'.") from error
    return pyarrow, pyarrow.parquet
