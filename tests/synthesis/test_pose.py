"""Skinning, kinematics and the actions."""

from __future__ import annotations

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.synthesis.body import BodyShape, load_body, shaped
from san_tf.synthesis.pose import ACTIONS, leg_angles, sample_pose, walking
from san_tf.synthesis.posture import Arm, Leg, Posture, Trunk, about, rotations
from san_tf.synthesis.skeleton import Pose, bone_transforms, joints, mirrored, pose_vertices, rest_pose, skin

SHAPE = BodyShape(sex=1.0)


def bone_head(name: str, pose: Pose) -> np.ndarray:
    """Where a bone's head lies in a pose."""
    b = load_body().bone(name)
    transform = bone_transforms(SHAPE, pose)[b]
    return transform[:, :3] @ joints(SHAPE)[0][b] + transform[:, 3]


def test_identity_gives_the_rest_vertices():
    np.testing.assert_allclose(pose_vertices(shaped(SHAPE), SHAPE, rest_pose()), shaped(SHAPE), atol=1e-5)


def test_skinning_against_a_naive_loop():
    body, rng = load_body(), np.random.default_rng(0)
    transforms = rng.normal(size=(len(body.bones), 3, 4))
    which = rng.integers(0, len(body.skin_bones), 50)
    vertices, bones, weights = shaped(SHAPE)[which], body.skin_bones[which], body.skin_weights[which]
    expected = [
        sum(w * (transforms[b, :, :3] @ v + transforms[b, :, 3]) for b, w in zip(bs, ws, strict=True))
        for v, bs, ws in zip(vertices.astype(float), bones, weights.astype(float), strict=True)
    ]
    np.testing.assert_allclose(skin(vertices, bones, weights, transforms), expected, atol=1e-5)


def test_a_bone_carries_its_children():
    """The left shin bent by 90 degrees takes the ankle back and up; nothing else moves."""
    body, turned = load_body(), np.tile(np.eye(3), (31, 1, 1))
    turned[body.bone("LeftLeg")] = about(0, 90)
    pose = Pose(turned, grounded=False)
    knee, ankle = joints(SHAPE)[0][body.bone("LeftLeg")], joints(SHAPE)[0][body.bone("LeftFoot")]
    np.testing.assert_allclose(bone_head("LeftFoot", pose), knee + about(0, 90) @ (ankle - knee), atol=1e-6)
    np.testing.assert_allclose(bone_head("LeftLeg", pose), knee, atol=1e-6)
    moved = np.linalg.norm(pose_vertices(shaped(SHAPE), SHAPE, pose) - shaped(SHAPE), axis=1) > 1e-3
    assert moved.any() and shaped(SHAPE)[moved, 1].max() < 0.75, "only what hangs below the knee has moved"


def test_attention_brings_the_arms_down_and_the_legs_together():
    straight = Posture(left_arm=Arm(abduction=0, elbow=0), right_arm=Arm(abduction=0, elbow=0))
    pose = Pose(rotations(straight))
    shoulder, elbow, wrist = (bone_head(f"Left{b}", pose) for b in ("Arm", "ForeArm", "Hand"))
    for upper, lower in ((shoulder, elbow), (elbow, wrist)):
        down = (lower - upper) / np.linalg.norm(lower - upper)
        assert down[1] < -0.97
    assert bone_head("LeftFoot", pose)[0] < 0.15


@pytest.mark.parametrize(
    ("arm", "check"),
    [
        (Arm(flexion=60), lambda d: d[2] > 0.1),
        (Arm(flexion=-40), lambda d: d[2] < -0.1),
        (Arm(abduction=60), lambda d: d[0] > 0.15),
    ],
)
def test_arm_angles_move_the_elbow_the_way_their_names_say(arm, check):
    pose, still = Pose(rotations(Posture(left_arm=arm))), Pose(rotations(Posture()))
    assert check(bone_head("LeftForeArm", pose) - bone_head("LeftForeArm", still))
    np.testing.assert_allclose(
        bone_head("RightForeArm", pose),
        bone_head("RightForeArm", still),
        atol=1e-6,
        err_msg="the other arm rests",
    )


def test_leg_and_trunk_angles_move_the_way_their_names_say():
    still = Pose(rotations(Posture()), grounded=False)

    def shift(bone, **parts):
        return bone_head(bone, Pose(rotations(Posture(**parts)), grounded=False)) - bone_head(bone, still)

    assert shift("LeftLeg", left_leg=Leg(flexion=40))[2] > 0.15
    assert shift("RightLeg", right_leg=Leg(abduction=30))[0] < -0.1
    assert shift("LeftFoot", left_leg=Leg(knee=60))[2] < -0.2
    assert shift("LeftToeBase", left_leg=Leg(ankle=20))[1] > 0.02
    assert shift("Head", trunk=Trunk(chest=(30, 0, 0)))[2] > 0.1
    assert shift("Head", trunk=Trunk(chest=(0, 0, 20)))[0] > 0.05
    assert shift("LeftHand", trunk=Trunk(chest=(0, 40, 0)))[2] < -0.05, (
        "turning left takes the left hand back"
    )


def test_mirrored_posture_is_the_mirrored_pose():
    left = Posture(
        Trunk((3, 5, 2), (1, -9, 4), (7, 8, -9)), Arm(40, 20, 30, 60), Arm(), Leg(20, 3, 9, 40, 5), Leg()
    )
    right = Posture(
        Trunk((3, -5, -2), (1, 9, -4), (7, -8, 9)), Arm(), Arm(40, 20, 30, 60), Leg(), Leg(20, 3, 9, 40, 5)
    )
    np.testing.assert_allclose(mirrored(Pose(rotations(left))).rotations, rotations(right), atol=1e-12)


def test_mirrored_pose_gives_the_mirrored_body():
    body, pose = load_body(), sample_pose(np.random.default_rng(3), "phoning")
    one = pose_vertices(shaped(SHAPE), SHAPE, pose)
    other = pose_vertices(shaped(SHAPE), SHAPE, mirrored(pose))
    gap = np.abs(other[body.vertex_mirror] * [-1, 1, 1] - one).max(1)
    middle = body.vertex_mirror == np.arange(len(gap))
    assert gap[~middle].max() < 1e-5
    assert gap[middle].max() < 2e-3, "four weights a vertex cannot always hold two sides of a spine"


def test_walking_half_a_cycle_later_is_the_mirrored_step():
    np.testing.assert_allclose(mirrored(walking(0.2)).rotations, walking(0.7).rotations, atol=1e-12)
    assert mirrored(walking(0.2)).phase == pytest.approx(0.7)


def test_gait():
    assert leg_angles(0.0)[0] > 20 > 0 > leg_angles(0.5)[0], (
        "the hip flexes at heel strike, extends at push-off"
    )
    phases = np.linspace(0, 1, 200, endpoint=False)
    knee = np.array([leg_angles(p)[1] for p in phases])
    assert knee.min() > 0 and 55 < knee.max() < 68 and 0.65 < phases[knee.argmax()] < 0.8
    np.testing.assert_allclose(leg_angles(1.3), leg_angles(0.3), atol=1e-9)
    steps = np.array([leg_angles(p) for p in np.linspace(0, 1, 400)])
    assert np.abs(np.diff(steps, axis=0)).max() < 2, "no jumps"
    stride = [
        bone_head("LeftFoot", walking(0.0, s))[2] - bone_head("RightFoot", walking(0.0, s))[2]
        for s in (0.6, 1)
    ]
    assert 0.2 < stride[0] < stride[1] < 0.95, "the left foot leads at its strike"
    arms = bone_head("LeftHand", walking(0.0))[2] - bone_head("RightHand", walking(0.0))[2]
    assert arms < -0.15, "arms swing against the legs"


@pytest.mark.parametrize("action", ACTIONS)
def test_sampled_poses_are_whole(action):
    """Grounded, upright, nothing torn: no edge of the mesh grows beyond reason in twenty draws."""
    body, rest = load_body(), shaped(SHAPE)
    edge = body.faces[:, [0, 1]]
    length = np.linalg.norm(rest[edge[:, 0]] - rest[edge[:, 1]], axis=1)
    rng = np.random.default_rng(7)
    for _ in range(20):
        pose = sample_pose(rng, action)
        assert pose.action == action
        np.testing.assert_allclose(
            pose.rotations @ pose.rotations.transpose(0, 2, 1), np.eye(3)[None].repeat(31, 0), atol=1e-9
        )
        moved = pose_vertices(rest, SHAPE, pose)
        assert abs(moved[:, 1].min()) < 1e-4
        assert 1.5 < moved[:, 1].max() < 1.8
        now = np.linalg.norm(moved[edge[:, 0]] - moved[edge[:, 1]], axis=1)
        assert (now - length).max() < 0.05


def test_actions_look_like_themselves():
    rng = np.random.default_rng(1)
    assert {sample_pose(rng, "carrying").bag_hand for _ in range(20)} == {"left", "right"}
    assert all(sample_pose(rng, "standing").bag_hand is None for _ in range(5))
    for _ in range(10):
        pose = sample_pose(rng, "phoning")
        hands = [bone_head(f"{side}Hand", pose) for side in ("Left", "Right")]
        assert max(h[1] for h in hands) > 1.0 and max(h[2] for h in hands) > 0.05, "a hand is up in front"


def test_sampling_is_a_function_of_the_generator_alone():
    one, two = (sample_pose(np.random.default_rng(5), "walking") for _ in range(2))
    np.testing.assert_array_equal(one.rotations, two.rotations)
    other = sample_pose(np.random.default_rng(6), "walking")
    assert not np.allclose(one.rotations, other.rotations)


def test_bad_input():
    with pytest.raises(UserError, match=r"walking, standing.*'flying'"):
        sample_pose(np.random.default_rng(0), "flying")
    with pytest.raises(UserError, match="rotations"):
        Pose(np.eye(3))
    with pytest.raises(UserError, match="Body vertices"):
        pose_vertices(np.zeros((4, 3)), SHAPE, rest_pose())
    with pytest.raises(UserError, match="bones and weights"):
        skin(np.zeros((4, 3)), np.zeros((4, 2), int), np.zeros((3, 2)), np.zeros((31, 3, 4)))
