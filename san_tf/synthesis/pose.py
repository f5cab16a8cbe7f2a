"""Random poses of people who walk, stand, carry a bag or use a phone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from san_tf.errors import UserError
from san_tf.synthesis.posture import Arm, Leg, Posture, Trunk, rotations
from san_tf.synthesis.skeleton import Pose, mirrored

# joint angles over a gait cycle in degrees; flexion and dorsiflexion are positive
_HIP = (28.0, 25.0, 17.0, 7.0, -2.0, -9.0, -6.0, 9.0, 22.0, 29.0)
_KNEE = (4.0, 15.0, 17.0, 11.0, 5.0, 9.0, 34.0, 60.0, 53.0, 20.0)
_ANKLE = (0.0, -5.0, 3.0, 7.0, 9.0, 6.0, -14.0, -9.0, 0.0, 2.0)
_TOES = (12.0, 2.0, 0.0, 0.0, 3.0, 20.0, 26.0, 6.0, 4.0, 8.0)


def _cyclic(values: tuple[float, ...], phase: float) -> float:
    """Catmull-Rom interpolation of a closed curve at phase 0..1."""
    n = len(values)
    place = (phase % 1.0) * n
    i, t = int(place) % n, place - int(place)
    a, b, c, d = (values[(i + k) % n] for k in (-1, 0, 1, 2))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def leg_angles(phase: float, stride: float = 1.0) -> tuple[float, float, float, float]:
    """Return the joint angles of one walking leg, in degrees.

    Args:
        phase: 0..1 of the gait cycle, 0 at this leg's heel strike.
        stride: Stride length relative to a brisk walk, about 0.5..1.2.

    Returns:
        Hip flexion, knee flexion, ankle dorsiflexion, toe extension.

    Example:
        >>> round(leg_angles(0.0)[0])
        28
    """
    middle = float(np.mean(_HIP))
    hip = middle + stride * (_cyclic(_HIP, phase) - middle)
    knee = 5 + (0.4 + 0.6 * stride) * (_cyclic(_KNEE, phase) - 5)
    return hip, knee, stride * _cyclic(_ANKLE, phase), stride * _cyclic(_TOES, phase)


ACTIONS: tuple[str, ...] = ("walking", "standing", "carrying", "phoning")


def walking(
    phase: float,
    stride: float = 1.0,
    swing: float = 1.0,
    lean: float = 3.0,
    rng: np.random.Generator | None = None,
) -> Pose:
    """Return the pose of a person in mid-walk.

    Args:
        phase: 0..1 of the gait cycle, 0 at the left heel strike.
        stride: Stride length relative to a brisk walk, about 0.5..1.2.
        swing: Arm swing relative to the average.
        lean: Forward lean of the trunk, degrees.
        rng: Source of small deviations of every joint; None for no deviations.

    Returns:
        The pose.

    Example:
        >>> walking(0.25).action
        'walking'
    """
    return _finish("walking", phase % 1.0, _walk(phase, stride, swing, lean), rng)


def sample_pose(rng: np.random.Generator, action: str) -> Pose:
    """Return a random pose of an action.

    Args:
        rng: Source of randomness.
        action: One of `ACTIONS`.

    Returns:
        The pose; `bag_hand` names the hand that holds the bag when carrying.

    Raises:
        UserError: If the action is unknown.

    Example:
        >>> sample_pose(np.random.default_rng(0), "standing").action
        'standing'
    """
    if action == "walking":
        return walking(rng.random(), rng.uniform(0.6, 1.15), rng.uniform(0.4, 1.3), rng.uniform(0, 6), rng)
    makers = {"standing": _standing, "carrying": _carrying, "phoning": _phoning}
    if action not in makers:
        raise UserError(f"An action must be one of {', '.join(ACTIONS)}. Received: action={action!r}.")
    pose = makers[action](rng)
    return mirrored(pose) if rng.random() < 0.5 else pose


def _walk(phase: float, stride: float, swing: float, lean: float) -> Posture:
    """Angles of a walk."""
    turn = 2 * np.pi * phase
    trunk = Trunk(
        pelvis=(lean * 0.4, -5 * stride * np.cos(turn), 2.5 * np.sin(turn)),
        chest=(lean * 0.6, 8 * stride * np.cos(turn), -2.5 * np.sin(turn)),
        neck=(-lean * 0.5, -3 * stride * np.cos(turn), 0.0),
    )
    arms, legs = [], []
    for side in (0.0, 0.5):
        hip, knee, ankle, toes = leg_angles(phase + side, stride)
        legs.append(Leg(flexion=hip, abduction=0.0, turn=6.0, knee=knee, ankle=ankle, toes=toes))
        forward = -np.cos(turn + 2 * np.pi * side)  # opposite to the leg on the same side
        arms.append(
            Arm(
                flexion=-2 + 17 * swing * stride * forward,
                abduction=4.0,
                turn=12.0,
                elbow=16 + 12 * swing * stride * (0.5 + 0.5 * forward),
                twist=15.0,
                grip=0.45,
            )
        )
    return Posture(trunk, arms[0], arms[1], legs[0], legs[1])


def _stand(rng: np.random.Generator) -> Posture:
    """Angles of standing: on both legs, or on the left leg with the right knee bent."""
    weight = rng.choice([0.0, 1.0]) * rng.uniform(0.4, 1.0)
    hip_out = 6 * weight
    stance = rng.uniform(1, 6)
    trunk = Trunk(
        pelvis=(rng.uniform(-2, 3), rng.uniform(-6, 6), -hip_out),
        chest=(rng.uniform(-3, 5), rng.uniform(-8, 8), 1.3 * hip_out),
        neck=(rng.uniform(-5, 15), rng.uniform(-25, 25), -0.3 * hip_out + rng.uniform(-4, 4)),
    )
    slack = rng.uniform(10, 24) * weight
    left = Leg(abduction=stance * 0.6 - hip_out, turn=rng.uniform(2, 14))
    right = Leg(
        flexion=0.75 * slack,
        abduction=stance + hip_out,
        turn=rng.uniform(6, 22),
        knee=1.6 * slack,
        ankle=0.85 * slack,
    )
    arms = [
        Arm(
            flexion=rng.uniform(-6, 8),
            abduction=rng.uniform(2, 9),
            turn=rng.uniform(5, 25),
            elbow=rng.uniform(8, 28),
        )
        for _ in range(2)
    ]
    return Posture(trunk, arms[0], arms[1], left, right)


def _walk_or_stand(rng: np.random.Generator, walks: float) -> tuple[float, Posture]:
    """Phase and posture of walking with probability `walks`, else of standing."""
    if rng.random() < walks:
        phase = rng.random()
        return phase, _walk(phase, rng.uniform(0.55, 1.0), rng.uniform(0.3, 1.0), rng.uniform(0, 5))
    return 0.0, _stand(rng)


def _standing(rng: np.random.Generator) -> Pose:
    posture = _stand(rng)
    share = {
        "relaxed": 0.4,
        "pockets": 0.14,
        "one pocket": 0.14,
        "crossed": 0.1,
        "clasped": 0.08,
        "behind": 0.06,
    }
    share["akimbo"] = 1 - sum(share.values())
    kind = rng.choice(list(share), p=list(share.values()))
    both = {
        "pockets": Arm(flexion=-26, abduction=15, turn=23, elbow=57, grip=0.1),
        "clasped": Arm(flexion=14, abduction=-2, turn=60, elbow=26, twist=20, grip=0.4),
        "behind": Arm(flexion=-39, abduction=0, turn=61, elbow=38, grip=0.4),
        "akimbo": Arm(flexion=-34, abduction=32, turn=33, elbow=90, twist=-18, wrist=20, grip=0.4),
    }
    if kind in both:
        posture.left_arm = both[kind]
        if kind != "akimbo" or rng.random() < 0.5:
            posture.right_arm = replace(both[kind])
    elif kind == "one pocket":
        posture.left_arm = both["pockets"]
    elif kind == "crossed":
        posture.left_arm = Arm(flexion=41, abduction=-4, turn=86, elbow=86, grip=0.2)
        posture.right_arm = Arm(flexion=29, abduction=-4, turn=90, elbow=83, grip=0.2)
    return _finish("standing", 0.0, posture, rng)


def _carrying(rng: np.random.Generator) -> Pose:
    phase, posture = _walk_or_stand(rng, 0.7)
    posture.left_arm = Arm(
        flexion=0.3 * posture.left_arm.flexion,
        abduction=rng.uniform(8, 13),
        turn=8,
        elbow=rng.uniform(3, 12),
        wrist=0,
        grip=1,
    )
    pitch, yaw, roll = posture.trunk.chest
    posture.trunk.chest = (pitch, yaw, roll - rng.uniform(0, 4))  # leaning away from the load
    return _finish("carrying", phase, posture, rng, bag_hand="left")


def _phoning(rng: np.random.Generator) -> Pose:
    phase, posture = _walk_or_stand(rng, 0.5)
    pitch, yaw, roll = posture.trunk.neck
    if rng.random() < 0.45:  # at the ear
        posture.left_arm = Arm(
            flexion=48, abduction=38, turn=6, elbow=143, twist=4, wrist=-12, raise_shoulder=6, grip=0.6
        )
        posture.trunk.neck = (pitch + 4, yaw, roll + 6)
    else:  # in front of the eyes
        posture.left_arm = Arm(flexion=18, abduction=6, turn=29, elbow=95, twist=-42, grip=0.6)
        if rng.random() < 0.4:
            posture.right_arm = Arm(flexion=18, abduction=6, turn=29, elbow=90, twist=-42, grip=0.6)
        posture.trunk.neck = (rng.uniform(18, 34), 0.3 * yaw, 0.0)
    return _finish("phoning", phase, posture, rng)


def _finish(
    action: str,
    phase: float,
    posture: Posture,
    rng: np.random.Generator | None = None,
    bag_hand: str | None = None,
) -> Pose:
    """The pose of a posture, with random deviations of a few degrees if there is an `rng`."""
    if rng is not None:
        for arm in (posture.left_arm, posture.right_arm):
            arm.flexion += rng.normal(0, 2)
            arm.abduction += abs(rng.normal(0, 1.5))
            arm.turn += rng.normal(0, 4)
            arm.elbow = max(2.0, arm.elbow + rng.normal(0, 3))
        for leg in (posture.left_leg, posture.right_leg):
            leg.flexion += rng.normal(0, 1)
            leg.turn += rng.normal(0, 3)
        pitch, yaw, roll = posture.trunk.neck
        posture.trunk.neck = (pitch + rng.normal(0, 3), yaw + rng.normal(0, 3), roll + rng.normal(0, 3))
    return Pose(rotations(posture), action, phase, bag_hand)
