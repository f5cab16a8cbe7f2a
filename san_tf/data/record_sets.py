"""Sets of records: several joined into one, and your own validation set held out of the training people.

Settings chosen on a benchmark's test set make its scores too good. No re-ID benchmark comes with a
validation set in the test's protocol, so this module splits one off the training set, by identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

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


# Separates this stream of random numbers from those of sampling and augmentation.
_HOLD_OUT_STREAM = 3


class HeldOut(NamedTuple):
    """A training set, and a query and gallery of the identities held out of it."""

    train: Records
    query: Records
    gallery: Records


def hold_out(records: Records, identities: int, seed: int = 0) -> HeldOut:
    """Split training records by identity into training and validation.

    Only identities seen by at least two cameras are drawn; the others have no true match under the
    Market-1501 protocol. As in that protocol, the query is one image for each identity and camera, and the
    gallery is the rest. If an identity has one image from a camera, that image is a query.

    Args:
        records: N training images with known cameras.
        identities: number of identities to hold out, drawn at random.
        seed: seed of the draw; the split depends only on it, the pids, the cameras and the file names.

    Returns:
        `HeldOut`. Distractors and junk stay with the training records.

    Raises:
        UserError: too few identities are seen by two cameras, or none would be left to train on.

    Example:
        >>> split = hold_out(records, 80)
        >>> np.intersect1d(split.train.identities, split.query.identities).size
        0
    """
    if identities < 1:
        raise UserError(
            f"validation_identities is {identities}; hold out at least 1 identity, or none at all."
        )
    known = (records.pids > 0) & (records.camids >= 0)
    pairs = np.unique(np.stack([records.pids[known], records.camids[known]], axis=1), axis=0)
    pids, cameras = np.unique(pairs[:, 0], return_counts=True)
    eligible = pids[cameras > 1]
    most = min(len(eligible), records.num_identities - 1)
    if most < 1:
        unknown = int((records.camids < 0).sum())
        raise UserError(
            f"validation_identities is {identities}, but {len(eligible)} of the {records.num_identities} "
            f"training identities are seen by two cameras ({unknown:,} of {len(records):,} images have no "
            "known camera), and some must be left to train on, so none can be held out; give the images "
            "cameras, or leave --validation_identities and what needs it out."
        )
    if identities > most:
        raise UserError(
            f"validation_identities is {identities}, but only {len(eligible)} of the "
            f"{records.num_identities} training identities are seen by two cameras, and some must be left to "
            f"train on; hold out fewer, at most {most}."
        )
    chosen = np.random.default_rng((seed, _HOLD_OUT_STREAM)).permutation(eligible)[:identities]
    held = np.flatnonzero(np.isin(records.pids, chosen))
    # By identity, camera and name: the first of each pair is the query, whatever the order of the records.
    order = np.lexsort((records.filenames[held].astype(str), records.camids[held], records.pids[held]))
    held = held[order]
    keys = np.stack([records.pids[held], records.camids[held]], axis=1)
    first = np.ones(len(held), bool)
    first[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    rest = np.setdiff1d(np.arange(len(records)), held)
    return HeldOut(records.select(rest), records.select(held[first]), records.select(held[~first]))
