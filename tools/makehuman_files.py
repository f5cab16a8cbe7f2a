"""Readers of MakeHuman's mesh, targets, rig and weights; lengths are decimetres."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import numpy as np

GROUPS = ("body", "helper-l-eye", "helper-r-eye", "helper-skirt", "helper-hair")
ANCESTRIES = ("african", "asian", "caucasian")
SEXES, AGES = ("female", "male"), ("young", "old")
LEVELS = ("min", "average", "max")


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Read a mesh.

    Returns:
        Vertices (N, 3) in decimetres, UVs (M, 2), and group -> quads (Q, 4, 2) of (vertex, uv) indices.
    """
    vertices, uvs, groups, group = [], [], {}, ""
    for line in path.read_text().splitlines():
        word = line.split()
        if not word:
            continue
        if word[0] == "v":
            vertices.append([float(x) for x in word[1:4]])
        elif word[0] == "vt":
            uvs.append([float(x) for x in word[1:3]])
        elif word[0] == "g":
            group = word[1]
        elif word[0] == "f":
            groups.setdefault(group, []).append([[int(k) - 1 for k in c.split("/")[:2]] for c in word[1:]])
    return np.array(vertices), np.array(uvs), {g: np.array(q) for g, q in groups.items() if g in GROUPS}


def read_target(path: Path, count: int) -> np.ndarray:
    """Read the offsets (count, 3) in decimetres of one sparse target file."""
    offsets = np.zeros((count, 3))
    with gzip.open(path, "rt") as lines:
        for line in lines:
            if line.startswith("#") or not line.strip():
                continue
            index, *xyz = line.split()
            offsets[int(index)] += [float(x) for x in xyz]
    return offsets


def adult_targets(folder: Path, count: int) -> np.ndarray:
    """Read the offsets of adults, mean ancestry plus universal target.

    Returns:
        (2 sexes * 2 ages * 3 muscles * 3 weights, count, 3) decimetres.
    """
    ancestry = {
        (sex, age): sum(read_target(folder / f"{a}-{sex}-{age}.target.gz", count) for a in ANCESTRIES) / 3
        for sex, age in itertools.product(SEXES, AGES)
    }
    return np.stack(
        [
            ancestry[sex, age]
            + read_target(folder / f"universal-{sex}-{age}-{muscle}muscle-{weight}weight.target.gz", count)
            for sex, age, muscle, weight in itertools.product(SEXES, AGES, LEVELS, LEVELS)
        ]
    )


def middle_body(macro: Path, count: int) -> np.ndarray:
    """Read the offsets (count, 3) of a young adult between the sexes, for part labels."""
    return sum(
        read_target(macro / f"universal-{s}-young-averagemuscle-averageweight.target.gz", count)
        + sum(read_target(macro / f"{a}-{s}-young.target.gz", count) for a in ANCESTRIES) / 3
        for s in SEXES
    ) / len(SEXES)


def read_rig(rigs: Path, cubes: dict, count: int) -> tuple[list[str], list[int], np.ndarray, np.ndarray]:
    """Read bones and weights.

    Args:
        rigs: folder of the rig's files.
        cubes: vertex groups of the joints, by name.
        count: number of vertices.

    Returns:
        Bone names (parents first), parents, joint matrix (2 * bones, count), dense weights (count, bones).
        Row b of the joint matrix averages the vertices around bone b's head, row bones + b around its tail.
    """
    rig = json.loads((rigs / "rig.cmu_mb.json").read_text())
    order: list[str] = []

    def add(name: str) -> None:
        if name not in order:
            if rig[name]["parent"]:
                add(rig[name]["parent"])
            order.append(name)

    for name in rig:
        add(name)

    def indices(end: dict) -> list[int]:
        if end["strategy"] == "CUBE":
            group = cubes[end["cube_name"]]
            if isinstance(group[0], list):
                return [i for first, last in group for i in range(first, last + 1)]
            return group
        if end["strategy"] == "VERTEX":
            return [end["vertex_index"]]
        return end["vertex_indices"]

    joints = np.zeros((2 * len(order), count))
    for b, name in enumerate(order):
        for row, end in ((b, "head"), (len(order) + b, "tail")):
            which = indices(rig[name][end])
            joints[row, which] = 1 / len(which)
    weights = np.zeros((count, len(order)))
    table = json.loads((rigs / "weights.cmu_mb.json").read_text())["weights"]
    for name, pairs in table.items():
        for vertex, weight in pairs:
            weights[vertex, order.index(name)] = weight
    parents = [order.index(rig[n]["parent"]) if rig[n]["parent"] else -1 for n in order]
    return order, parents, joints, weights
