"""Whether two exports give the same embeddings: a fingerprint of what these depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from san_tf.errors import UserError

_PREPROCESSING = ("image_size", "embedding_size", "l2_normalized", "flip_averaged", "mean", "std", "weights")


def fingerprint(folder: str | os.PathLike[str], metadata: Mapping[str, Any]) -> str:
    """Return a fingerprint of an export's weights and preprocessing.

    Args:
        folder: `<path>/<version>` of the export.
        metadata: what it says of itself, see `serving.read_metadata`.

    Returns:
        16 hexadecimal digits.

    Raises:
        UserError: its weights cannot be read.

    Example:
        >>> fingerprint("saved_models/market/1", read_metadata("saved_models/market/1"))
        '3f5a0c9be1d2478a'
    """
    known = {name: metadata.get(name) for name in _PREPROCESSING}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    try:
        for path in sorted((Path(folder) / "variables").glob("variables.data-*")):
            with path.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); check its permissions.") from error
    return digest.hexdigest()[:16]
