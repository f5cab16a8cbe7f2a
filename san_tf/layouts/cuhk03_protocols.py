"""Training and test sets of CUHK03: the 767/700 protocol, and the 20 classic splits."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.io

from san_tf.archives.files import Files
from san_tf.errors import UserError
from san_tf.layouts.cuhk03_images import Cuhk03Images
from san_tf.layouts.samples import Sample, Source

# DeepReID uses 1,360 people: those of the first three of the five camera pairs.
_CLASSIC_PAIRS = (1, 2, 3)
_MAX_IMAGES = 1_000_000
_INDICES = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}


class _Parts(NamedTuple):
    """Parts of an image name: camera pair, person and view, all from 1."""

    pair: int
    person: int
    view: int


def new_protocol(images: Cuhk03Images, files: Files, name: str) -> Mapping[str, list[Source]]:
    """Return the splits of the 767/700 protocol.

    Source: Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", 2017.

    Args:
        images: all images of CUHK03.
        files: folder or archive with the protocol.
        name: `cuhk03_new_protocol_config_labeled.mat` or `..._detected.mat`, a MATLAB file of version 5 with
            `filelist`, `labels`, `train_idx`, `query_idx` and `gallery_idx` (from 1). Image names contain the
            camera.

    Raises:
        UserError: the protocol is damaged, or names missing images.
    """
    content = files.require(name)
    try:
        wanted = ["filelist", "labels", *_INDICES.values()]
        # A small file can declare billions of cells, and scipy would allocate them before it finds the error.
        declared = {item: shape for item, shape, _ in scipy.io.whosmat(io.BytesIO(content))}
        if any(math.prod(declared[item]) > _MAX_IMAGES for item in wanted):
            raise ValueError("shapes")
        protocol = scipy.io.loadmat(io.BytesIO(content), variable_names=wanted)
        names = [str(np.ravel(cell)[0]) for cell in np.ravel(protocol["filelist"])]
        labels = np.ravel(protocol["labels"]).astype(np.int64)
        indices = {split: np.ravel(protocol[key]).astype(np.int64) - 1 for split, key in _INDICES.items()}
        if len(labels) != len(names) or min(labels) < 1:
            raise ValueError("labels")
        if any(not len(index) or min(index) < 0 or max(index) >= len(names) for index in indices.values()):
            raise ValueError("indices")
        cameras = [_parts(item).view - 1 for item in names]
    except Exception as error:  # scipy raises whatever it stumbles on
        raise UserError(
            f"{files.describe(name)} is damaged or is not the new protocol of CUHK03; copy it again."
        ) from error
    missing = [item for item in names if not images.has(item)]
    if missing:
        raise UserError(
            f"{len(missing):,} of the {len(names):,} images of {files.describe(name)} are not in "
            f"{images.place}, first {missing[0]}; copy both again."
        )
    return {
        split: [Source(images, [Sample(names[i], int(labels[i]), cameras[i], names[i]) for i in index])]
        for split, index in indices.items()
    }


def classic_split(images: Cuhk03Images, number: int) -> Mapping[str, list[Source]]:
    """Return one of the 20 splits of Li et al., "DeepReID", CVPR 2014.

    100 people are for testing, and all others of the first three camera pairs for training. Query and gallery
    both hold all images of the test people. The protocol `cuhk03` of the evaluation then draws one gallery
    image per person, from the other camera than the query's.

    Args:
        images: all images of CUHK03.
        number: number of the split, from 1.

    Raises:
        UserError: the file has no such split.
    """
    sets = images.test_sets()
    if not 1 <= number <= len(sets):
        raise UserError(
            f"{images.place} has {len(sets)} test sets, so there is no number {number}; copy it again."
        )
    tested = set(sets[number - 1])
    parts = {name: _parts(name) for name in images.paths()}
    people = sorted({(part.pair, part.person) for part in parts.values()})
    pids = {person: pid for pid, person in enumerate(people, 1)}
    samples: dict[bool, list[Sample]] = {True: [], False: []}
    for name, part in parts.items():
        person = (part.pair, part.person)
        if person in tested or part.pair in _CLASSIC_PAIRS:
            samples[person in tested].append(Sample(name, pids[person], part.view - 1, name))
    return {split: [Source(images, samples[split != "train"])] for split in ("train", "query", "gallery")}


def _parts(name: str) -> _Parts:
    pair, person, view, _ = name.split("_")
    return _Parts(int(pair), int(person), int(view))
