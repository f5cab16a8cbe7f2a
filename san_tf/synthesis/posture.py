"""Joint angles in anatomical terms, and the bone rotations they give.

The stored mesh has its legs apart and its arms held out. Angles are counted from *attention*: standing
straight, arms hanging down, palms to the thighs. `rotations` first brings each limb to attention (a rotation
that depends on the rest skeleton alone), then applies the angles.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from san_tf.synthesis.body import BodyShape, joints, load_body


@dataclass
class Arm:
    """Angles of one arm, degrees.

    Attributes:
        flexion: Upper arm forward (+) or back (-).
        abduction: Upper arm out to the side.
        turn: Upper arm about its own axis; + carries a bent forearm across the belly.
        elbow: Bend of the elbow, 0 straight.
        twist: Forearm about its own axis; + turns the thumb inwards (palm back).
        wrist: Hand bent towards the palm.
        raise_shoulder: Collar bone upwards.
        grip: Fingers closed, 0 open to 1 fist.
    """

    flexion: float = 0.0
    abduction: float = 5.0
    turn: float = 0.0
    elbow: float = 12.0
    twist: float = 10.0
    wrist: float = 5.0
    raise_shoulder: float = 0.0
    grip: float = 0.3


@dataclass
class Leg:
    """Angles of one leg, degrees.

    Attributes:
        flexion: Thigh forward (+) or back (-).
        abduction: Thigh out to the side.
        turn: Toes out.
        knee: Bend of the knee, 0 straight.
        ankle: Foot up (+) or down (-), counted from a right angle to the shin.
        toes: Toes bent up.
    """

    flexion: float = 0.0
    abduction: float = 0.0
    turn: float = 6.0
    knee: float = 0.0
    ankle: float = 0.0
    toes: float = 0.0


@dataclass
class Trunk:
    """Angles of pelvis, spine and head, each (pitch, yaw, roll) in degrees.

    Pitch leans forward, yaw turns to the person's left, roll leans to the person's left.
    """

    pelvis: tuple[float, float, float] = (0.0, 0.0, 0.0)
    chest: tuple[float, float, float] = (0.0, 0.0, 0.0)
    neck: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass
class Posture:
    """Angles of all joints of a person."""

    trunk: Trunk = field(default_factory=Trunk)
    left_arm: Arm = field(default_factory=Arm)
    right_arm: Arm = field(default_factory=Arm)
    left_leg: Leg = field(default_factory=Leg)
    right_leg: Leg = field(default_factory=Leg)


def about(axis: int, degrees: float) -> np.ndarray:
    """Return the right-handed rotation (3, 3) about axis x (0), y (1) or z (2)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    rotation = np.eye(3)
    rotation[i, i] = rotation[j, j] = c
    rotation[i, j], rotation[j, i] = -s, s
    return rotation


def _turned(angles: tuple[float, float, float], share: float = 1.0) -> np.ndarray:
    pitch, yaw, roll = angles
    return about(1, share * yaw) @ about(0, share * pitch) @ about(2, -share * roll)


def _between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation that turns direction a into direction b."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    v, c = np.cross(a, b), float(a @ b)
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + c)


@lru_cache(maxsize=1)
def _attention() -> dict[str, np.ndarray]:
    """Rotation of each limb bone from rest to attention, in world axes, for the average body."""
    body = load_body()
    heads, tails = joints(BodyShape())
    goal = {
        "LeftArm": (0.03, -1.0, -0.03),
        "LeftForeArm": (0.0, -1.0, 0.05),
        "LeftHand": (0.0, -1.0, 0.1),
        "LeftUpLeg": (-0.005, -1.0, 0.0),
        "LeftLeg": (0.005, -1.0, -0.04),
    }
    # the palms of the stored mesh face down; these turns about the arm make them face the thighs
    untwist = {"LeftArm": 10.0, "LeftForeArm": 35.0, "LeftHand": 60.0}
    result = {}
    for name, direction in goal.items():
        b = body.bone(name)
        end = tails[b]
        if name == "LeftHand":  # its bone points to the index finger; the middle of the fingers hangs down
            end = body.rest_vertices[body.skin_bones[:, 0] == body.bone("LeftHandFinger1")].mean(0)
        rotation = _between((end - heads[b]).astype(float), np.array(direction))
        result[name] = about(1, untwist.get(name, 0.0)) @ rotation
    # the mesh's toes point a few degrees outwards; the angles count from straight ahead
    foot = body.bone("LeftFoot")
    ahead = tails[foot] - heads[foot]
    result["LeftFoot"] = about(1, -float(np.degrees(np.arctan2(ahead[0], ahead[2]))))
    reflection = np.diag([-1.0, 1.0, 1.0])
    return result | {n.replace("Left", "Right"): reflection @ r @ reflection for n, r in result.items()}


def rotations(posture: Posture) -> np.ndarray:
    """Return bone rotations for `skeleton.Pose` from anatomical angles.

    Args:
        posture: Angles in degrees.

    Returns:
        (B, 3, 3) float64, each bone's rotation about its head in world-at-rest axes.
    """
    body, trunk = load_body(), posture.trunk
    turned = {"Hips": _turned(trunk.pelvis)}
    # the spine bends over three bones, the neck over two
    for name, parent, angles, share in (
        ("LowerBack", "Hips", trunk.chest, 1 / 3),
        ("Spine", "LowerBack", trunk.chest, 1 / 3),
        ("Spine1", "Spine", trunk.chest, 1 / 3),
        ("Neck", "Spine1", trunk.neck, 1 / 2),
        ("Head", "Neck", trunk.neck, 1 / 2),
    ):
        turned[name] = turned[parent] @ _turned(angles, share)
    goal = dict(turned)
    reflection = np.diag([-1.0, 1.0, 1.0])
    for side, arm, leg in (
        ("Left", posture.left_arm, posture.left_leg),
        ("Right", posture.right_arm, posture.right_leg),
    ):
        chest, pelvis = turned["Spine1"], turned["Hips"]
        if side == "Right":
            chest, pelvis = reflection @ chest @ reflection, reflection @ pelvis @ reflection
        for name, rotation in (_arm(arm, chest) | _leg(leg, pelvis)).items():
            goal[name.replace("Left", side)] = (
                rotation if side == "Left" else reflection @ rotation @ reflection
            )

    result = np.tile(np.eye(3), (len(body.bones), 1, 1))
    world = np.empty_like(result)
    for b, name in enumerate(body.bones):
        above = world[body.parents[b]] if body.parents[b] >= 0 else np.eye(3)
        world[b] = goal.get(name, above)
        result[b] = above.T @ world[b]
    return result


def _arm(arm: Arm, chest: np.ndarray) -> dict[str, np.ndarray]:
    """World rotations of the left arm's bones under a chest's rotation."""
    rest = _attention()
    shoulder = chest @ about(2, arm.raise_shoulder - 6)
    upper = chest @ about(0, -arm.flexion) @ about(2, arm.abduction) @ about(1, -arm.turn)
    fore = upper @ about(0, -arm.elbow)
    twisted = fore @ about(1, -arm.twist)
    hand = twisted @ about(2, -arm.wrist)
    fingers = hand @ rest["LeftHand"]
    # fingers close about z, because the palm faces the thigh at attention
    close = about(2, -55 * arm.grip)
    return {
        "LeftShoulder": shoulder,
        "LeftArm": upper @ rest["LeftArm"],
        "LeftForeArm": fore @ about(1, -0.5 * arm.twist) @ rest["LeftForeArm"],
        "LeftHand": fingers,
        "LeftFingerBase": hand @ about(2, -20 * arm.grip) @ rest["LeftHand"],
        "LeftHandFinger1": hand @ close @ rest["LeftHand"],
    }


def _leg(leg: Leg, pelvis: np.ndarray) -> dict[str, np.ndarray]:
    """World rotations of the left leg's bones under a pelvis's rotation."""
    rest = _attention()
    thigh = pelvis @ about(0, -leg.flexion) @ about(2, leg.abduction) @ about(1, leg.turn)
    shin = thigh @ about(0, leg.knee)
    foot = shin @ about(0, -leg.ankle)
    toes = foot @ about(0, -leg.toes)
    return {
        "LeftUpLeg": thigh @ rest["LeftUpLeg"],
        "LeftLeg": shin @ rest["LeftLeg"],
        "LeftFoot": foot @ rest["LeftFoot"],
        "LeftToeBase": toes @ rest["LeftFoot"],
    }
