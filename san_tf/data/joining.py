"""Joins several data sets into one, for cross-domain training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from san_tf.data.records import Records
from san_tf.errors import UserError


def joined(parts: Mapping[str, Records]) -> Records:
    """Join data sets, renumbered so that no two share an identity or a camera.

    Identities and cameras are numbered on from those of the data set before. Distractors (0), junk (-1) and
    unknown cameras (-1) stay unchanged. File names get the name of their data set as a folder. A single data
    set is returned unchanged.

    Args:
        parts: records by the name of their data set, with or without `/config`, in the order to join them.

    Returns:
        The records one after the other, with the `extras` that all of them have.

    Raises:
        UserError: there is nothing to join.

    Example:
        >>> both = joined({"market1501": market, "msmt17/v2": msmt17})
        >>> both.num_identities == market.num_identities + msmt17.num_identities
        True
    """
    if not parts:
        raise UserError("There is no data set to train on; name one with --dataset or --train.")
    if len(parts) == 1:
        return next(iter(parts.values()))
    pids, camids, filenames, texture_index = [], [], [], []
    first_pid = first_camid = first_texture = 0
    for name, records in parts.items():
        pids.append(np.where(records.pids > 0, records.pids + first_pid, records.pids))
        camids.append(np.where(records.camids >= 0, records.camids + first_camid, records.camids))
        names = [f"{name.replace('/', '-')}/{filename}" for filename in records.filenames]
        filenames.append(np.array(names, object))
        index = records.texture_index
        texture_index.append(np.where(index >= 0, index + first_texture, index))
        first_pid += int(records.pids.max(initial=0))
        first_camid += int(records.camids.max(initial=-1)) + 1
        first_texture += len(records.texture_files)
    shared = set.intersection(*(set(records.extras) for records in parts.values()))
    return Records(
        images=np.concatenate([records.images for records in parts.values()]),
        pids=np.concatenate(pids),
        camids=np.concatenate(camids),
        filenames=np.concatenate(filenames),
        texture_files=np.concatenate([records.texture_files for records in parts.values()]),
        texture_index=np.concatenate(texture_index),
        extras={
            key: np.concatenate([records.extras[key] for records in parts.values()]) for key in sorted(shared)
        },
    )
