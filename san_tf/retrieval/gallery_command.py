"""Galleries: stored embeddings of photographs, for `san-tf search`.

    san-tf gallery add DB --images FOLDER --model saved_models/market/1
    san-tf gallery add DB --features features.parquet [--images FOLDER]
    san-tf gallery info|list|delete|lift|prune|audit|backup|restore|reembed|export|check DB

DB is a folder, `milvus:FILE.db` for Milvus in a file, or `http://host:19530` for a Milvus server (its token
in the environment variable MILVUS_TOKEN). See also `san-tf gallery add --help` and so on.
Use galleries only from people you trust: a gallery decides what a search finds.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, SpinnerColumn, TextColumn

from san_tf.atomic import atomic_file
from san_tf.command_line import Parser, Terminal, printable, run_as_command
from san_tf.errors import UserError
from san_tf.retrieval.embedded import EmbeddedGallery
from san_tf.retrieval.entries import Entry, Filter, Hit
from san_tf.retrieval.filter_flags import (
    add_filter_flags,
    as_json,
    duration,
    entry_table,
    filter_of,
    print_table,
    unknown_values,
    whole_number,
)
from san_tf.retrieval.gallery import FIRST_NAMED, Gallery, GalleryInfo
from san_tf.retrieval.name_reader import MARKET, NameReader
from san_tf.retrieval.opening import (
    backup_gallery,
    check_gallery,
    encoder_of,
    folder_record,
    open_embedded,
    open_gallery,
    restore_gallery,
)
from san_tf.retrieval.search_command import embedded_queries, query_content
from san_tf.start import import_tensorflow
from san_tf.trusted import remember_export, remember_images

if TYPE_CHECKING:
    from san_tf.embedding import bulk
    from san_tf.retrieval.adding import Added, Read

# What the audit log says in its own columns, or as hashes.
_AUDITED = ("time", "user", "action", "entries", "keys", "query")


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
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    actions = {
        "add": (_add, "add photographs or a table of embeddings; what is in the gallery is skipped"),
        "info": (_info, "show the number of entries, the encoder, folders, cameras and tags"),
        "list": (_list, "list entries in the order of their keys"),
        "delete": (_delete, "delete entries for good: by key, filter, age or query picture"),
        "lift": (_lift, "allow what was deleted for good to be added again"),
        "prune": (_prune, "delete the entries of photographs whose files are gone"),
        "audit": (_audit, "show who searched and deleted, and when"),
        "backup": (_backup, "copy a gallery, also while it is used"),
        "restore": (_restore, "put a backup in the place of a gallery; later deletions are done again"),
        "reembed": (_reembed, "move a gallery to another encoder: embed all photographs, then swap"),
        "export": (_export, "export entries and embeddings to a Parquet file for `san-tf evaluate`"),
        "check": (_check, "check everything against its digests, and rebuild what can be rebuilt"),
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
        "--start", type=whole_number(0, 2**62), metavar="N", default=0, help="entries to skip"
    )
    parsers["list"].add_argument(
        "--limit", type=whole_number(1, 2**62), metavar="N", default=50, help="most entries to list"
    )
    for name in ("list", "info", "audit"):
        parsers[name].add_argument("--json", action="store_true", help="print JSON")
    _delete_flags(parsers["delete"])
    parsers["lift"].add_argument(
        "--keys", nargs="+", metavar="KEY", default=[], help="keys that were deleted"
    )
    parsers["lift"].add_argument(
        "--files", nargs="+", metavar="FILE", default=[], help="photographs that were deleted, by their bytes"
    )
    parsers["prune"].add_argument("--dry_run", action="store_true", help="only list the entries")
    parsers["audit"].add_argument(
        "--keys", nargs="+", metavar="KEY", default=[], help="only lines about these entries, deleted or not"
    )
    parsers["backup"].add_argument("--out", metavar="FOLDER", required=True, help="folder of the backup")
    parsers["backup"].add_argument("--overwrite", action="store_true", help="replace an older backup")
    parsers["restore"].add_argument("--backup", metavar="FOLDER", required=True, help="folder of the backup")
    parsers["restore"].add_argument(
        "--overwrite", action="store_true", help="replace the gallery; what was deleted from it stays deleted"
    )
    parsers["reembed"].add_argument("--model", metavar="EXPORT", required=True, help="the new encoder")
    parsers["reembed"].add_argument(
        "--drop", action="store_true", help="leave out entries without a usable photograph"
    )
    parsers["reembed"].add_argument(
        "--batch", type=whole_number(1, 2**16), metavar="N", default=32, help="photographs in a batch"
    )
    parsers["check"].add_argument(
        "--drop", action="store_true", help="delete damaged entries, so that they can be added again"
    )
    parsers["export"].add_argument("--out", metavar="FILE", required=True, help="file to write, .parquet")
    parsers["export"].add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    options: argparse.Namespace = parser.parse_args(argv)
    return options


def _delete_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", nargs="+", metavar="KEY", default=[], help="these entries")
    parser.add_argument("--all", action="store_true", help="every entry")
    parser.add_argument(
        "--query", metavar="FILE", help="entries that look like this photograph; with --min_score"
    )
    parser.add_argument(
        "--min_score", type=float, metavar="X", help="lowest similarity to the query, in [-1, 1]"
    )
    parser.add_argument(
        "--model", metavar="EXPORT", help="the gallery's encoder, if it has moved or is new here"
    )
    parser.add_argument(
        "--keep",
        type=duration,
        metavar="TIME",
        help="entries that are older than this: 12h, 30d, 4w; without a time, their addition counts",
    )
    parser.add_argument("--dry_run", action="store_true", help="only list the entries")
    parser.add_argument(
        "--may_return", action="store_true", help="let `add` take the same keys and files again"
    )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", nargs="+", metavar="PLACE", help="folders, .csv, .tar, .zip, image files")
    parser.add_argument("--model", metavar="EXPORT", help="saved_models/market, or one of its versions")
    parser.add_argument("--features", metavar="FILE", help="a table of `san-tf embed`, .parquet")
    parser.add_argument(
        "--camera_pattern",
        metavar="REGEX",
        default=MARKET,
        help="pattern of file names with groups `camera`, `pid`, `time`, `tags`; with a / in it, of paths "
        "from the named folder on; default: that of Market-1501",
    )
    parser.add_argument(
        "--camera_folders",
        action="store_true",
        help="the camera is the folder of a photograph below the named one, such as door or hall/2",
    )
    parser.add_argument("--tags", nargs="+", metavar="WORD", default=[], help="tags of all added entries")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace entries that are in the gallery already, for other patterns or tags; changed files are "
        "taken anew without it",
    )
    parser.add_argument(
        "--keep",
        type=duration,
        metavar="TIME",
        help="take nothing that is older than this, and delete what has become older: 12h, 30d, 4w",
    )
    parser.add_argument(
        "--batch", type=whole_number(1, 2**16), metavar="N", default=32, help="photographs in a batch"
    )


def _add(options: argparse.Namespace) -> None:
    reader = NameReader(options.camera_pattern, tuple(options.tags), options.camera_folders)
    if options.features:
        if options.model:
            raise UserError("--model goes with --images; leave it out, since the table names its encoder.")
        _add_features(options, reader)
    elif options.images and options.model:
        _add_images(options, reader)
    else:
        raise UserError("Give --images and --model, or --features; see `san-tf gallery add --help`.")


@contextlib.contextmanager
def _opened_to_add(options: argparse.Namespace, info: GalleryInfo) -> Iterator[Gallery]:
    """Open a gallery, or make one; a new one that took nothing is removed, so that it binds nobody."""
    in_milvus = "://" in options.gallery or options.gallery.startswith("milvus:")
    is_new = not in_milvus and not Path(options.gallery).exists()
    if not in_milvus and not is_new:
        with open_embedded(options.gallery) as former:
            former.bind(info)  # one that an earlier version left empty
    empty = False
    try:
        with open_gallery(options.gallery, create=info) as gallery:
            try:
                yield gallery
            finally:
                empty = is_new and len(gallery) == 0
    finally:
        if empty:
            shutil.rmtree(options.gallery)


def _add_images(options: argparse.Namespace, reader: NameReader) -> None:
    from san_tf.embedding.sources import photographs

    # Report wrong places before TensorFlow starts, which takes seconds.
    for place in options.images:
        next(photographs([place]), None)
    import_tensorflow()
    from san_tf.embedding.bulk import NothingEmbeddedError
    from san_tf.embedding.exported_encoder import ExportedEncoder
    from san_tf.retrieval.adding import Added, add_photographs, folder_of

    console, began = Terminal(), time.monotonic()
    encoder = ExportedEncoder(options.model)
    folder = folder_of(options.images)
    info = GalleryInfo(encoder.size, str(encoder.folder.resolve()), encoder.fingerprint, folder)
    columns = (SpinnerColumn(), TextColumn("Adding"), TextColumn("{task.fields[note]}"))
    since = None if options.keep is None else time.time() - options.keep
    others: Counter[str] = Counter()
    listed: dict[str, str] = {}
    with (
        _opened_to_add(options, info) as gallery,
        Progress(*columns, console=console, transient=True) as shown,
    ):
        task = shown.add_task("", total=None, note="")

        def report(progress: bulk.Progress) -> None:
            shown.update(task, note=f"{progress.done:,} photographs · {progress.rate:,.0f} a second")

        try:
            added = add_photographs(
                gallery, options.images, encoder, reader, options.batch, report, options.replace, since,
                others, listed,
            )  # fmt: skip
        except NothingEmbeddedError as error:
            shown.stop()
            _tell_left_out(options.gallery, console, Added(error.progress), others, listed)
            raise
        remember_export(encoder.folder, encoder.fingerprint)
        for name, path in (("", gallery.info.images), *gallery.info.folders):
            if path is not None and any(
                _within(place, path) or _within(path, os.path.abspath(place)) for place in options.images
            ):
                remember_images(folder_record(options.gallery, name) if name else options.gallery, path, path)
        expired = 0 if since is None else gallery.expire(since)
        total = len(gallery)
    _tell_left_out(options.gallery, console, added, others, listed)
    _tell_added(options, console, added, expired, total, began)
    _warn_of_what_is_unread(options, reader, added.read)


def _within(place: str, folder: str) -> bool:
    path = os.path.abspath(place)
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _add_features(options: argparse.Namespace, reader: NameReader) -> None:
    from san_tf.embedding.bulk import Progress as Done
    from san_tf.retrieval.adding import Added, FeatureRows

    console, began = Terminal(), time.monotonic()
    rows, added = FeatureRows(options.features), Added(Done(0, 0, {}, 0.0))
    left_out = added.progress.left_out
    if options.images and not (len(options.images) == 1 and Path(options.images[0]).is_dir()):
        raise UserError("With --features, --images must be the one folder that holds the photographs.")
    images = None if not options.images else os.path.abspath(options.images[0])
    since = None if options.keep is None else time.time() - options.keep
    info = GalleryInfo(rows.size, rows.model, rows.fingerprint, images)
    with _opened_to_add(options, info) as gallery, console.status("Adding") as shown:
        if images is not None and images == gallery.info.images:
            remember_images(options.gallery, images, images)
        root = gallery.info.images
        for features, entries in rows.batches(
            gallery, reader, None if root is None else Path(root), left_out
        ):
            added.progress.embedded += rows.add(gallery, features, entries, options.replace, since, added)
            shown.update(f"Adding {added.progress.embedded + added.known:,} of {len(rows):,}")
        gallery.optimize()
        expired = 0 if since is None else gallery.expire(since)
        total = len(gallery)
    if left_out:
        _tell_left_out(options.gallery, console, added, Counter(), {})
    _tell_added(options, console, added, expired, total, began)
    _warn_of_what_is_unread(options, reader, added.read)


def _tell_added(
    options: argparse.Namespace, console: Terminal, added: Added, expired: int, total: int, began: float
) -> None:
    known = f"; {added.known:,} were in it already and were skipped (--replace adds them again)"
    parts = [f"{options.gallery}: {added.progress.embedded:,} added{known if added.known else ''}"]
    if added.changed:
        parts.append(f"; {added.changed:,} of them had changed and were embedded anew")
    if expired:
        parts.append(f"; {expired:,} deleted that were older than allowed")
    seconds = time.monotonic() - began
    parts.append(f"; {total:,} entries now, {seconds:.0f} s")
    console.print("".join(parts), markup=False, soft_wrap=True)
    for number, told in (
        (
            len(added.deleted),
            "stay out, because they were deleted for good; `san-tf gallery lift` allows them",
        ),
        (added.expired, "stay out, because they are older than allowed"),
        (
            len(added.gone),
            f"are gone from the disk; `san-tf gallery prune {options.gallery}` deletes their entries",
        ),
    ):
        if number:
            console.print(f"{number:,} photographs {told}.", markup=False, soft_wrap=True)


def _warn_of_what_is_unread(options: argparse.Namespace, reader: NameReader, read: Read) -> None:
    """Warn if the names said nothing: a wrong pattern is noticed only when a filter finds nothing."""
    meant = reader.groups if options.camera_pattern != MARKET else {"camera"}
    what = {"pid": "identity", "camera": "camera", "time": "time", "tags": "tag"}
    unread = [what[name] for name in what if name in meant and read.entries and not read.numbers[name]]
    if unread:
        print(
            printable(
                f"Warning: no {' and no '.join(unread)} was read from {read.entries:,} names, such as "
                f"{read.example}; give another --camera_pattern, or --camera_folders."
            ),
            file=sys.stderr,
        )


def _tell_left_out(
    gallery: str, console: Terminal, added: Added, others: Counter[str], listed: Mapping[str, str]
) -> None:
    """Count what was left out by kind, and list it: in a file beside a gallery here, else on the screen."""
    from san_tf.embedding.sources import left_out_summary

    progress = added.progress
    console.print(
        f"Taken: {progress.embedded:,} photographs, {progress.identities:,} identities, "
        f"{progress.cameras:,} cameras. {left_out_summary(progress.left_out, others)}",
        markup=False,
        soft_wrap=True,
    )
    left_out, number = {**progress.left_out, **listed}, len(progress.left_out)
    place = Path(f"{gallery.removeprefix('milvus:').rstrip('/')}.left_out.csv")
    if not left_out:
        if "://" not in gallery:
            place.unlink(missing_ok=True)  # of an earlier run
        return
    if "://" in gallery:
        for name, problem in list(left_out.items())[:20]:
            console.print(f"{name} {problem}", markup=False, soft_wrap=True)
        if number:
            console.print(f"{number:,} photographs could not be used.")
        return
    _write_table(place, [("path", "problem"), *left_out.items()])
    told = f"{number:,} photographs could not be used; " if number else ""
    console.print(
        f"{told}{place} lists {'them' if number else 'what was not read'} with the reasons.",
        markup=False,
        soft_wrap=True,
    )


def _write_table(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([printable(cell) for cell in row] for row in rows)


def _info(options: argparse.Namespace) -> None:
    with open_gallery(options.gallery, read_only=True) as gallery:
        cameras = gallery.cameras()
        info = gallery.info
        named = [number if number < FIRST_NAMED else info.camera_name(number) for number in cameras]
        facts: dict[str, Any] = {
            "entries": len(gallery),
            "embedding_size": info.size,
            "model": info.model or None,
            "fingerprint": info.fingerprint or None,
            "images": info.images,
            "folders": dict(info.folders),
            "cameras": named,
            "tags": gallery.tags(),
            "deleted_for_good": gallery.deletions(),
        }
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            for alias, path in value.items():
                print(printable(f"{'folder':17}{alias}: {path}"))
            continue
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        print(printable(f"{name.replace('_', ' '):17}{'' if shown is None else shown}"))


def _list(options: argparse.Namespace) -> None:
    filter_of(options)
    with open_gallery(options.gallery, read_only=True) as gallery:
        where = filter_of(options, gallery.info)
        entries = gallery.entries(where, options.start, options.limit)
        total, info = len(gallery), gallery.info
        for value in unknown_values(gallery, where):
            print(printable(f"Note: {options.gallery} has no {value}."), file=sys.stderr)
    if options.json:
        print(json.dumps([as_json(info, entry) for entry in entries], indent=2))
        return
    console = Terminal()
    print_table(console, entry_table(info, entries))
    console.print(f"{len(entries):,} of {total:,} entries")


def _delete(options: argparse.Namespace) -> None:
    filtered = filter_of(options) != Filter() or bool(options.cameras or options.excluded_cameras)
    ways = [bool(options.keys), filtered or options.query is not None, options.all, options.keep is not None]
    if sum(ways) != 1:
        raise UserError(
            "Name the entries to delete by --keys, a filter such as --cameras, --query, --keep or --all."
        )
    if (options.query is None) != (options.min_score is None):
        raise UserError("Give --query and --min_score together; `san-tf search` shows the scores.")
    if options.min_score is not None and not -1 <= options.min_score <= 1:
        raise UserError(f"--min_score is {options.min_score}; a similarity is a number from -1 to 1.")
    if options.keep is not None and options.may_return:
        raise UserError("--keep deletes for good, or the same files would be added again; leave one out.")
    content = None if options.query is None else query_content(options.query)
    with open_gallery(options.gallery, read_only=options.dry_run) as gallery:
        where = filter_of(options, gallery.info)
        _refuse_mistyped(gallery, options, where)
        if content is not None:
            hits = _alike(options, gallery, content, where)
            chosen, scores = [hit.entry for hit in hits], [hit.score for hit in hits]
        else:
            chosen, scores = _listed(options, gallery, where) if options.dry_run else [], None
        if options.dry_run:
            console = Terminal()
            print_table(console, entry_table(gallery.info, chosen, scores))
            console.print(f"{len(chosen):,} of {len(gallery):,} entries would be deleted")
            return
        if options.keep is not None:
            deleted = gallery.expire(time.time() - options.keep)
        elif content is not None:
            deleted = gallery.delete([entry.key for entry in chosen], for_good=not options.may_return)
        elif options.keys:
            deleted = gallery.delete(options.keys, for_good=not options.may_return)
        else:
            deleted = gallery.delete(where=where, for_good=not options.may_return)
        left, remembered = len(gallery), gallery.remembers
    print(printable(f"{options.gallery}: {deleted:,} deleted, {left:,} entries now"))
    if not remembered and not options.may_return:
        print(
            "Note: Milvus does not remember deletions; what was deleted comes back if it is added again.",
            file=sys.stderr,
        )


def _alike(options: argparse.Namespace, gallery: Gallery, content: bytes, where: Filter) -> list[Hit]:
    """Return the entries that look like the query, best first."""
    model = encoder_of(options.gallery, gallery.info, options.model)
    query = embedded_queries([options.query], [content], model, gallery)[0]
    hits = gallery.similar(query, options.min_score, where)
    if not hits:
        raise UserError(
            f"No entry of {options.gallery} has a similarity of {options.min_score:g} or more to "
            f"{options.query}, so nothing was deleted; `san-tf search` shows the scores."
        )
    return hits


def _listed(options: argparse.Namespace, gallery: Gallery, where: Filter) -> list[Entry]:
    if options.keep is not None:
        return gallery.expired(time.time() - options.keep)
    return gallery.get(options.keys) if options.keys else gallery.entries(where)


def _refuse_mistyped(gallery: Gallery, options: argparse.Namespace, where: Filter) -> None:
    """Refuse keys and filters without entries: after a typo, users would believe them deleted."""
    known = gallery.known(options.keys)
    unknown = [key for key in options.keys if key not in known]
    if unknown:
        more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        raise UserError(
            f"{options.gallery} holds no entry {unknown[0]}{more}, so nothing was deleted; "
            "`san-tf gallery list` shows its keys."
        )
    if values := unknown_values(gallery, where):
        raise UserError(
            f"{options.gallery} has no {values[0]}, so nothing was deleted; `san-tf gallery info` shows its "
            "cameras and tags."
        )
    if where != Filter() and not gallery.entries(where, limit=1):
        raise UserError(
            f"No entry of {options.gallery} passes these filters, so nothing was deleted; "
            "`san-tf gallery info` shows its cameras and tags."
        )


def _lift(options: argparse.Namespace) -> None:
    if not options.keys and not options.files:
        raise UserError("Name what may come back by --keys or --files.")
    contents = [query_content(path) for path in options.files]
    with open_gallery(options.gallery) as gallery:
        if not gallery.remembers:
            raise UserError(
                f"{options.gallery} is in Milvus, which remembers no deletions; just add it again."
            )
        lifted = gallery.lift(options.keys, [gallery.hash_of(content) for content in contents])
    if not lifted:
        raise UserError(
            f"None of these was deleted from {options.gallery} for good; write keys as they were, or give "
            "the same files."
        )
    print(printable(f"{options.gallery}: {lifted:,} deletions lifted; add the files again"))


def _prune(options: argparse.Namespace) -> None:
    from san_tf.retrieval.adding import gone_files

    with open_gallery(options.gallery, read_only=options.dry_run) as gallery:
        folders = [path for path in (gallery.info.images, *dict(gallery.info.folders).values()) if path]
        missing = [path for path in folders if not os.path.isdir(path)]
        gone = sorted(gone_files(gallery))
        if options.dry_run:
            print_table(Terminal(), entry_table(gallery.info, gallery.get(gone)))
        # If a file comes back, so may its entry.
        deleted = 0 if options.dry_run else gallery.delete(gone, for_good=False)
        left = len(gallery)
    for path in missing:
        print(
            printable(f"Note: {path} is not there, so its entries were kept; delete them with --keys."),
            file=sys.stderr,
        )
    would = f"{len(gone):,} would be deleted" if options.dry_run else f"{deleted:,} deleted"
    print(printable(f"{options.gallery}: {would}, whose files are gone; {left:,} entries now"))


def _audit(options: argparse.Namespace) -> None:
    with open_gallery(options.gallery, read_only=True) as gallery:
        if not isinstance(gallery, EmbeddedGallery):
            raise UserError(f"{options.gallery} is in Milvus, where no audit log is kept.")
        lines = list(gallery.audit(options.keys))
    if options.json:
        print(json.dumps(lines, indent=2))
        return
    for line in lines:
        facts = {name: value for name, value in line.items() if name not in _AUDITED and value is not None}
        told = f"{line.get('time')}  {line.get('user')}  {line.get('action')}  {line.get('entries')} entries"
        print(printable(f"{told}  {json.dumps(facts)}"))
    print(printable(f"{options.gallery}: {len(lines):,} lines"))


def _backup(options: argparse.Namespace) -> None:
    entries = backup_gallery(options.gallery, options.out, options.overwrite)
    print(printable(f"{options.out}: {entries:,} entries"))


def _restore(options: argparse.Namespace) -> None:
    restored = restore_gallery(options.backup, options.gallery, options.overwrite)
    again = f"; {restored.deleted:,} were deleted again" if restored.deleted else ""
    print(printable(f"{options.gallery}: {restored.entries:,} entries now{again}"))


def _check(options: argparse.Namespace) -> None:
    console = Terminal()
    with console.status("Checking"):
        found = check_gallery(options.gallery, options.drop)
    for what in found.made:
        console.print(f"{what}: rebuilt")
    if not found.damaged:
        print(printable(f"{options.gallery}: {found.entries:,} entries, all as they were written"))
        return
    listed = Path(f"{options.gallery.rstrip('/')}.damaged.csv")
    _write_table(listed, [("key",), *((key,) for key in found.damaged)])
    number = len(found.damaged)
    if not options.drop:
        raise UserError(
            f"{number:,} of {found.entries:,} entries of {options.gallery} are damaged, listed in {listed}; "
            "restore a backup, or delete them with --drop and add them again."
        )
    print(
        printable(
            f"{options.gallery}: {number:,} damaged entries deleted, listed in {listed}; add them again"
        )
    )


def _reembed(options: argparse.Namespace) -> None:
    with open_embedded(options.gallery, read_only=True):
        pass  # report mistakes before TensorFlow starts
    import_tensorflow()
    from san_tf.embedding.exported_encoder import ExportedEncoder
    from san_tf.retrieval.adding import reembed

    console, began, encoder = Terminal(), time.monotonic(), ExportedEncoder(options.model)
    info = GalleryInfo(encoder.size, str(encoder.folder.resolve()), encoder.fingerprint)
    columns = (SpinnerColumn(), TextColumn("Embedding"), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=None, note="")

        def report(done: int, total: int) -> None:
            shown.update(task, note=f"{done:,} of {total:,} entries")

        moved = reembed(options.gallery, encoder, info, options.batch, options.drop, report)
    remember_export(encoder.folder, encoder.fingerprint)
    listed = Path(f"{options.gallery.rstrip('/')}.left_out.csv")
    if moved.left_out:
        _write_table(listed, [("key", "problem"), *moved.left_out.items()])
    if not moved.swapped:
        raise UserError(
            f"{len(moved.left_out):,} entries of {options.gallery} have no usable photograph, listed in "
            f"{listed}; bring the files back and give the command again, or leave these "
            "out with --drop. The gallery is unchanged."
        )
    left_out = f"; {len(moved.left_out):,} left out, listed in {listed}" if moved.left_out else ""
    console.print(
        f"{options.gallery}: {moved.entries:,} entries of the new encoder{left_out}, "
        f"{time.monotonic() - began:.0f} s",
        markup=False,
        soft_wrap=True,
    )


def _export(options: argparse.Namespace) -> None:
    from san_tf.retrieval.adding import export_rows

    if Path(options.out).exists() and not options.overwrite:
        raise UserError(f"{options.out} exists already; name another file, or add --overwrite.")
    filter_of(options)
    with open_gallery(options.gallery, read_only=True) as gallery:
        written = export_rows(gallery, options.out, filter_of(options, gallery.info))
    print(printable(f"{options.out}: {written:,} entries"))
