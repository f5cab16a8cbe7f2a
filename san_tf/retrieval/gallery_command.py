"""Galleries: photographs or embeddings that are kept to be searched (`san-tf search`).

    san-tf gallery add DB --images FOLDER --model saved_models/market/1
    san-tf gallery add DB --features features.parquet [--images FOLDER]
    san-tf gallery info|list|delete|export|check DB

DB is a folder that is made, `milvus:FILE.db` for Milvus in a file, or `http://host:19530` for a Milvus
server (its token in the environment variable MILVUS_TOKEN). `san-tf gallery add --help` and so on tell more.
A gallery answers with what is in it: take one only from people whose answers you would take.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TextColumn

from san_tf.atomic import atomic_file
from san_tf.command_line import Parser, Terminal, printable, run_as_command
from san_tf.embedding.bulk import Encoder, NothingEmbeddedError, Progress, embed_photographs
from san_tf.embedding.feature_table import Embedded
from san_tf.embedding.sources import Photograph
from san_tf.errors import UserError
from san_tf.retrieval.checks import checked_entry
from san_tf.retrieval.entries import EVERYTHING, Entry, Filter
from san_tf.retrieval.filter_flags import (
    add_filter_flags,
    as_json,
    entry_table,
    filter_of,
    print_table,
    whole_number,
)
from san_tf.retrieval.gallery import Gallery, GalleryInfo
from san_tf.retrieval.name_reader import MARKET, NameReader
from san_tf.retrieval.opening import check_gallery, open_gallery
from san_tf.start import import_tensorflow
from san_tf.trusted import remember_export, remember_images

if TYPE_CHECKING:
    from san_tf.embedding import bulk


_NOTES = b"san_tf"
_ROWS = 4096
_COLUMNS = ("pids", "camids", "time", "tags")


class FeatureRows:
    """A Parquet file with the columns `path` and `features`, and some of `pids`, `camids`, `time`, `tags`.

    Args:
        path: of the file.

    Raises:
        UserError: it is missing, broken, or has other columns; or pyarrow is missing.
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

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def batches(
        self, reader: NameReader, images: Path | None, left_out: dict[str, str] | None = None
    ) -> Iterator[tuple[np.ndarray, dict[int, Entry]]]:
        """Yield embeddings, and entries by their rows, some thousand at a time.

        Args:
            reader: tells what columns do not.
            images: folder of the photographs: keys are relative to it, of those that lie there.
            left_out: gets the paths whose entries cannot be kept, and why; None refuses them.

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
                        entry = reader.entry(*_key_and_image(path, images), columns)
                        entries[number] = checked_entry(entry)
                    except UserError as error:
                        if left_out is None:
                            raise
                        left_out[path] = str(error)
                yield features.reshape(len(batch), self.size), entries
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self._path} is damaged ({error}); write it anew.") from error


def export_rows(gallery: Gallery, path: str | Path, where: Filter = EVERYTHING) -> int:
    """Write entries and embeddings into a Parquet file, which `FeatureRows` and `san-tf evaluate` read.

    Returns:
        How many there were.

    Raises:
        UserError: another suffix, the disk is full, or nothing passes the filter.
    """
    if Path(path).suffix.lower() != ".parquet":
        raise UserError(f"{path} is not the name of a Parquet file; let it end in .parquet.")
    pa, parquet = _pyarrow()
    info: GalleryInfo = gallery.info
    notes = {"model": info.model, "fingerprint": info.fingerprint}
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
                # -1 is who is not known, whom no ranking counts.
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
    """Key and image of a row: its path may be as `san-tf embed` was given it, or relative to `images`."""
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


# Photographs that are kept, for good, at a time; keys that are looked up at once.
PART_SIZE = 256
_AT_ONCE = 1000


def add_photographs(
    gallery: Gallery,
    photographs: Iterable[Photograph],
    encoder: Encoder,
    reader: NameReader,
    batch_size: int = 32,
    report: Callable[[Progress], None] | None = None,
    replace: bool = False,
) -> tuple[Progress, int]:
    """Embed photographs into a gallery; those of keys that are in it are not embedded again.

    Keys are paths relative to the gallery's folder of images. A photograph of an archive has no image in it.

    Args:
        gallery: where they go; its `info.images` is a folder above all of them.
        photographs: from `embedding.sources`.
        encoder: the gallery's.
        reader: tells cameras, identities and times.
        batch_size: files that the encoder gets at once.
        report: called after each batch.
        replace: embed those of known keys anew too, and put them in the place of the former.

    Returns:
        The last progress, and how many were passed over.

    Raises:
        UserError: a photograph lies elsewhere, or nothing can be used; and what the gallery raises.
    """
    table = _Table(gallery, reader, replace)
    new = table.new_ones(photographs)
    first = next(new, None)
    if first is None:
        if table.passed_over or table.odd:
            return Progress(len(table.odd), 0, table.odd, 0.0), table.passed_over
        raise UserError("There are no photographs to add; name folders, tables or archives that hold some.")
    chosen = itertools.chain([first], new)
    try:
        progress = embed_photographs(chosen, encoder, table, batch_size, report, part_size=PART_SIZE)
    except NothingEmbeddedError as error:
        # The same command again, of which only what cannot be used is new.
        if not table.passed_over:
            raise
        progress = error.progress
    progress.left_out |= table.odd
    progress.done += len(table.odd)
    progress.identities, progress.cameras = len(table.identities), len(table.cameras)
    return progress, table.passed_over


class _Table:
    """A gallery as the bulk embedding sees it."""

    def __init__(self, gallery: Gallery, reader: NameReader, replace: bool) -> None:
        self._gallery, self._reader, self._replace = gallery, reader, replace
        self.passed_over = 0
        self.odd: dict[str, str] = {}
        self.identities: set[int] = set()
        self.cameras: set[int] = set()

    def new_ones(self, photographs: Iterable[Photograph]) -> Iterator[Photograph]:
        """Yield those that are not in the gallery."""
        source = iter(photographs)
        while some := list(itertools.islice(source, _AT_ONCE)):
            keys = [self._key(photograph.name) for photograph in some]
            known = set() if self._replace else self._gallery.known(keys)
            for photograph, key in zip(some, keys, strict=True):
                if key in known:
                    self.passed_over += 1
                elif not key.isprintable():
                    self.odd[ascii(photograph.name)] = "has a name that cannot be printed"
                else:
                    # One absurd number in a name is not a reason to stop.
                    try:
                        checked_entry(self._entry(photograph.name, photograph.columns))
                    except UserError as error:
                        self.odd[photograph.name] = f"cannot be kept: {error}"
                    else:
                        yield photograph

    def has_part(self, number: int, sources: Sequence[str]) -> dict[str, str] | None:
        return None

    def discard(self) -> None: ...

    def write_part(
        self, number: int, sources: Sequence[str], rows: Sequence[Embedded], left_out: Mapping[str, str]
    ) -> None:
        if rows:
            entries = [self._entry(row.name, row.columns) for row in rows]
            self._gallery.add(np.stack([row.features for row in rows]), entries)
            self.identities |= {entry.pid for entry in entries if entry.pid is not None and entry.pid != -1}
            self.cameras |= {entry.camera for entry in entries if entry.camera != -1}

    def finish(self, parts: int) -> int:
        self._gallery.optimize()
        return len(self._gallery)

    def _key(self, name: str) -> str:
        root, path = Path(self._gallery.info.images or "."), Path(os.path.abspath(name))
        if not path.is_relative_to(root):
            raise UserError(
                f"{name} does not lie in the folder of this gallery's images, {root}; make another gallery."
            )
        return path.relative_to(root).as_posix()

    def _entry(self, name: str, columns: Mapping[str, str]) -> Entry:
        key = self._key(name)
        return self._reader.entry(key, key if os.path.isfile(name) else "", columns)


def folder_of(places: Sequence[str | os.PathLike[str]]) -> str:
    """Return the absolute path of the folder that holds all photographs of `places`."""
    folders = []
    for place in places:
        path = Path(os.path.abspath(place))
        folders.append(path if path.is_dir() else path.parent)
    return os.path.commonpath(folders)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see `--help`."""

    def action() -> None:
        options = _parse(argv)
        options.action(options)

    run_as_command(action)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="san-tf gallery",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    actions = {
        "add": (_add, "photographs, or a table of embeddings; what is in the gallery is passed over"),
        "info": (_info, "how many entries, whose embeddings, which cameras and tags"),
        "list": (_list, "entries, by their keys"),
        "delete": (_delete, "entries, by key or filter"),
        "export": (_export, "entries and embeddings into a Parquet file, as `san-tf evaluate` reads it"),
        "check": (_check, "hold everything against its digests, and make anew what can be"),
    }
    parsers = {}
    for name, (action, told) in actions.items():
        parsers[name] = commands.add_parser(name, help=told, description=f"{told[0].upper()}{told[1:]}.")
        parsers[name].set_defaults(action=action)
        parsers[name].add_argument(
            "gallery", metavar="DB", help="a folder, milvus:FILE.db, or a Milvus address"
        )
    _add_flags(parsers["add"])
    for name in ("list", "delete", "export"):
        add_filter_flags(parsers[name])
    parsers["list"].add_argument(
        "--start", type=whole_number(0, 2**62), metavar="N", default=0, help="entries to pass over"
    )
    parsers["list"].add_argument(
        "--limit", type=whole_number(1, 2**62), metavar="N", default=50, help="entries at most"
    )
    for name in ("list", "info"):
        parsers[name].add_argument("--json", action="store_true", help="print JSON")
    parsers["delete"].add_argument("--keys", nargs="+", metavar="KEY", default=[], help="these entries")
    parsers["delete"].add_argument("--all", action="store_true", help="every entry")
    parsers["check"].add_argument(
        "--drop", action="store_true", help="delete the entries that are damaged, to add them again"
    )
    parsers["export"].add_argument("--out", metavar="FILE", required=True, help="the file, .parquet")
    parsers["export"].add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    options: argparse.Namespace = parser.parse_args(argv)
    return options


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", nargs="+", metavar="PLACE", help="folders, .csv, .tar, .zip, image files")
    parser.add_argument("--model", metavar="EXPORT", help="saved_models/market, or one of its versions")
    parser.add_argument("--features", metavar="FILE", help="a table that `san-tf embed` wrote, .parquet")
    parser.add_argument(
        "--camera_pattern",
        metavar="REGEX",
        default=MARKET,
        help="finds the groups `camera`, `pid` and `time` in a file's name; Market-1501's unless given",
    )
    parser.add_argument("--tags", nargs="+", metavar="WORD", default=[], help="of all that is added")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="also take what is in the gallery already, in place of the former: files, names or tags changed",
    )
    parser.add_argument(
        "--batch", type=whole_number(1, 2**16), metavar="N", default=32, help="pictures embedded at once"
    )


def _add(options: argparse.Namespace) -> None:
    reader = NameReader(options.camera_pattern, tuple(options.tags))
    if options.features:
        if options.model:
            raise UserError("--model goes with --images; the table says which encoder its features are of.")
        _add_features(options, reader)
    elif options.images and options.model:
        _add_images(options, reader)
    else:
        raise UserError("Give --images and --model, or --features; see `san-tf gallery add --help`.")


def _add_images(options: argparse.Namespace, reader: NameReader) -> None:
    from san_tf.embedding.sources import left_out_summary, photographs

    # Wrong places are told before TensorFlow takes its seconds to start.
    for place in options.images:
        next(photographs([place]), None)
    import_tensorflow()
    from san_tf.embedding.exported_encoder import ExportedEncoder

    console, began = Terminal(), time.monotonic()
    encoder = ExportedEncoder(options.model)
    folder = folder_of(options.images)
    info = GalleryInfo(encoder.size, str(encoder.folder.resolve()), encoder.fingerprint, folder)
    columns = (SpinnerColumn(), TextColumn("Adding"), TextColumn("{task.fields[note]}"))
    with (
        open_gallery(options.gallery, create=info) as gallery,
        Bars(*columns, console=console, transient=True) as shown,
    ):
        remember_export(encoder.folder, encoder.fingerprint)
        if gallery.info.images == folder:
            remember_images(options.gallery, folder, folder)
        task = shown.add_task("", total=None, note="")

        def report(progress: bulk.Progress) -> None:
            shown.update(task, note=f"{progress.done:,} photographs · {progress.rate:,.0f} a second")

        others: Counter[str] = Counter()
        places = photographs(options.images, others)
        progress, passed = add_photographs(
            gallery, places, encoder, reader, options.batch, report, options.replace
        )
        total = len(gallery)
    console.print(
        f"Taken: {progress.embedded:,} photographs, {progress.identities:,} identities, "
        f"{progress.cameras:,} cameras. {left_out_summary(progress.left_out, others)}",
        markup=False,
        soft_wrap=True,
    )
    _tell_left_out(options.gallery, console, progress.left_out)
    _tell_added(options, console, progress.embedded, passed, total, began)


def _add_features(options: argparse.Namespace, reader: NameReader) -> None:

    console, began, added, passed = Terminal(), time.monotonic(), 0, 0
    left_out: dict[str, str] = {}
    rows = FeatureRows(options.features)
    if options.images and not (len(options.images) == 1 and Path(options.images[0]).is_dir()):
        raise UserError("With --features, --images names the one folder that the photographs are in.")
    images = None if not options.images else os.path.abspath(options.images[0])
    with (
        open_gallery(
            options.gallery, GalleryInfo(rows.size, rows.model, rows.fingerprint, images)
        ) as gallery,
        console.status("Adding") as shown,
    ):
        if images is not None and images == gallery.info.images:
            remember_images(options.gallery, images, images)
        root = gallery.info.images
        for features, entries in rows.batches(reader, None if root is None else Path(root), left_out):
            known = set() if options.replace else gallery.known([entry.key for entry in entries.values()])
            new = [number for number, entry in entries.items() if entry.key not in known]
            gallery.add(features[new], [entries[number] for number in new])
            added, passed = added + len(new), passed + len(entries) - len(new)
            shown.update(f"Adding {added + passed:,} of {len(rows):,}")
        gallery.optimize()
        total = len(gallery)
    _tell_left_out(options.gallery, console, left_out)
    _tell_added(options, console, added, passed, total, began)


def _tell_added(
    options: argparse.Namespace, console: Terminal, added: int, passed: int, total: int, began: float
) -> None:
    known = (
        f"; {passed:,} were in it already and stay as they are (--replace takes them anew)" if passed else ""
    )
    seconds = time.monotonic() - began
    console.print(
        f"{options.gallery}: {added:,} added{known}; {total:,} entries now, {seconds:.0f} s",
        markup=False,
        soft_wrap=True,
    )


def _tell_left_out(gallery: str, console: Terminal, left_out: Mapping[str, str]) -> None:
    """List what could not be used: beside a gallery on this machine, else on the screen."""
    if not left_out:
        return
    if "://" in gallery:
        for name, problem in list(left_out.items())[:20]:
            console.print(f"{name} {problem}", markup=False, soft_wrap=True)
        console.print(f"{len(left_out):,} photographs could not be used.")
        return
    listed = Path(f"{gallery.removeprefix('milvus:')}.left_out.csv")
    _write_table(listed, [("path", "problem"), *left_out.items()])
    console.print(
        f"{len(left_out):,} photographs could not be used; {listed} says which and why.",
        markup=False,
        soft_wrap=True,
    )


def _write_table(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([printable(cell) for cell in row] for row in rows)


def _info(options: argparse.Namespace) -> None:
    with open_gallery(options.gallery, read_only=True) as gallery:
        info = gallery.info
        facts = {
            "entries": len(gallery),
            "embedding_size": info.size,
            "model": info.model or None,
            "fingerprint": info.fingerprint or None,
            "images": info.images,
            "cameras": gallery.cameras(),
            "tags": gallery.tags(),
        }
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        print(printable(f"{name.replace('_', ' '):15}{'' if shown is None else shown}"))


def _list(options: argparse.Namespace) -> None:
    where = filter_of(options)
    with open_gallery(options.gallery, read_only=True) as gallery:
        entries = gallery.entries(where, options.start, options.limit)
        total = len(gallery)
    if options.json:
        print(json.dumps([as_json(entry) for entry in entries], indent=2))
        return
    console = Terminal()
    print_table(console, entry_table(entries))
    console.print(f"{len(entries):,} of {total:,} entries")


def _delete(options: argparse.Namespace) -> None:
    where = filter_of(options)
    chosen = [bool(options.keys), where != Filter(), options.all]
    if sum(chosen) != 1:
        raise UserError("Name the entries to delete by --keys, by a filter such as --cameras, or with --all.")
    with open_gallery(options.gallery) as gallery:
        _refuse_mistyped(gallery, options, where)
        deleted = gallery.delete(options.keys) if options.keys else gallery.delete(where=where)
        left = len(gallery)
    print(printable(f"{options.gallery}: {deleted:,} deleted, {left:,} entries now"))


def _refuse_mistyped(gallery: Gallery, options: argparse.Namespace, where: Filter) -> None:
    """Refuse keys and filters that name nothing: whoever mistypes one believes it deleted."""
    known = gallery.known(options.keys)
    unknown = [key for key in options.keys if key not in known]
    if unknown:
        more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        raise UserError(
            f"{options.gallery} holds no entry {unknown[0]}{more}, so nothing was deleted; "
            "`san-tf gallery list` shows its keys."
        )
    if where != Filter() and not gallery.entries(where, limit=1):
        raise UserError(
            f"No entry of {options.gallery} passes these filters, so nothing was deleted; "
            "`san-tf gallery info` shows its cameras and tags."
        )


def _check(options: argparse.Namespace) -> None:
    console = Terminal()
    with console.status("Checking"):
        found = check_gallery(options.gallery, options.drop)
    for what in found.made:
        console.print(f"{what}: made anew")
    if not found.damaged:
        print(printable(f"{options.gallery}: {found.entries:,} entries, all as they were written"))
        return
    listed = Path(f"{options.gallery.rstrip('/')}.damaged.csv")
    _write_table(listed, [("key",), *((key,) for key in found.damaged)])
    number = len(found.damaged)
    if not options.drop:
        raise UserError(
            f"{number:,} of {found.entries:,} entries of {options.gallery} are damaged, {listed} says which; "
            "take a backup, or delete them with --drop and add them again."
        )
    print(
        printable(
            f"{options.gallery}: {number:,} damaged entries deleted, {listed} says which; add them again"
        )
    )


def _export(options: argparse.Namespace) -> None:

    if Path(options.out).exists() and not options.overwrite:
        raise UserError(f"{options.out} exists already; name another file, or add --overwrite.")
    where = filter_of(options)
    with open_gallery(options.gallery, read_only=True) as gallery:
        written = export_rows(gallery, options.out, where)
    print(printable(f"{options.out}: {written:,} entries"))
