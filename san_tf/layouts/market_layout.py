"""The layout that Market-1501 gave the field: three folders, names that begin with identity and camera."""

from __future__ import annotations

from collections.abc import Sequence

from san_tf.archives.files import Files
from san_tf.layouts.file_names import NamePattern, refuse_junk, samples_in
from san_tf.layouts.samples import Source

SPLITS = ("train", "query", "gallery")


def three_folders(
    files: Files, benchmark: str, folders: Sequence[str], pattern: NamePattern
) -> dict[str, list[Source]]:
    """The sources of training set, queries and gallery, a folder each.

    Args:
        files: the copy.
        benchmark: its name, for messages.
        folders: of `train`, `query` and `gallery`, in this order.
        pattern: of the names of images.

    Raises:
        UserError: a folder is empty, a file is misplaced or named otherwise, or junk is not in the gallery.
    """
    samples = {
        split: samples_in(files, folder, benchmark, pattern)
        for split, folder in zip(SPLITS, folders, strict=True)
    }
    for split in ("train", "query"):
        refuse_junk(files, benchmark, split, samples[split])
    return {split: [Source(files, samples[split])] for split in SPLITS}
