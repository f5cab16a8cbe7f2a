"""Opens an archive by its suffix."""

from __future__ import annotations

from pathlib import Path

from san_tf.archives.files import Files
from san_tf.archives.tar_files import GzipTarFiles, TarFiles
from san_tf.archives.zip_files import ZipFiles


def open_archive(archive: Path) -> Files:
    """Return the files of a `.zip`, `.tar`, `.tgz` or `.tar.gz` archive.

    Raises:
        UserError: the file is truncated, is not an archive, or holds something unsafe.
    """
    name = archive.name.lower()
    return (ZipFiles if name.endswith(".zip") else GzipTarFiles if name.endswith("gz") else TarFiles)(archive)
