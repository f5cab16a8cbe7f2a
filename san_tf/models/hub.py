"""Presets on the Hugging Face hub: `hf://user/name` or `hf://user/name@revision`, fetched once."""

from __future__ import annotations

import re
from pathlib import Path

from san_tf.errors import UserError

PREFIX = "hf://"
# The files of a preset, which are all that is fetched.
FILES = ("config.json", "encoder.safetensors", "decoder.safetensors", "README.md")
_ADDRESS = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w.-]*))?")


def download(address: str) -> Path:
    """Fetch a preset's files from the hub, or find them in its cache.

    Args:
        address: `hf://user/name`, with `@branch`, `@tag` or `@commit` for another than the newest version.

    Returns:
        The folder they lie in.

    Raises:
        UserError: it is no address, `huggingface_hub` is not installed, or the hub does not give the files.

    Example:
        >>> download("hf://user/name@main")
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in address:
        raise UserError(
            f"{address!r} is no address on the hub; write hf://user/name or hf://user/name@revision."
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"{address} is fetched with huggingface_hub, which is not installed: pip install 'san-tf[hub]', "
            "or download the folder yourself and pass its path."
        ) from error
    name, revision = match.groups()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # of several libraries: the hub's own, its HTTP client's, the disk's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{address} could not be fetched ({reason}); check the name and the connection, or download the "
            "folder elsewhere and pass its path."
        ) from error
