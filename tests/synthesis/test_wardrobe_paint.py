"""What the texture shows: seams that meet, lengths that are kept, mirrors that stay plausible."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KDTree

from san_tf.errors import UserError
from san_tf.synthesis.body import PARTS
from san_tf.synthesis.crop_plans import Wearer
from san_tf.synthesis.people import clothes_texture, dressed_person
from san_tf.synthesis.texels import mirror_map, texel_map
from san_tf.synthesis.wardrobe import Color, dress, paint_texture, sample_identity

RED, BLUE, WHITE = Color("red", (200, 30, 30)), Color("blue", (30, 40, 200)), Color("white", (235, 235, 235))


def person(seed=3, **parts):
    """A plain person: red long sleeves, blue trousers, no bag; `parts` replaces fields of fields."""
    base = sample_identity(seed)
    plain = replace(base.upper.pattern, kind="plain")
    fields = {
        "hair": {"style": "short", "headwear": "none", "length": 0.0, "volume": 0.01},
        "upper": {
            "kind": "long sleeve", "color": RED, "pattern": plain, "sleeve": 0.44, "hem": 0.9,
            "neckline": "crew", "looseness": 0.3, "opening": 0.0, "tail": 0.0,
        },
        "lower": {
            "kind": "trousers", "color": BLUE, "pattern": plain, "hem": 0.06, "fade": 0.0, "belt": None,
        },
        "shoes": {"kind": "sneakers", "color": WHITE, "sock_top": 0.0},
        "neckwear": {"kind": "none"},
        "bag": {"kind": "none"},
        "face": {"beard": "none", "glasses": "none"},
    }  # fmt: skip
    for name, values in parts.items():
        fields[name] |= values
    built = {name: replace(getattr(base, name), **values) for name, values in fields.items()}
    return replace(base, skin=Color("fair", (225, 185, 160)), **built)


@pytest.fixture(scope="module")
def texels():
    return texel_map(256)


def painted(identity, mask):
    return paint_texture(identity)[mask].astype(float)


def near(rgb, color, distance=75):
    """Share of colours that could be this cloth or skin in light and shade."""
    return float((np.abs(rgb - np.array(color)).max(1) < distance).mean())


def region(texels, parts, low=0.0, high=2.0):
    names = [PARTS.index(p) for p in parts]
    height = texels.position[..., 1]
    return texels.inside & np.isin(texels.part, names) & (height > low) & (height < high)


def test_painting_depends_on_the_identity_alone():
    assert np.array_equal(paint_texture(person()), paint_texture(person()))
    first, again = dress(sample_identity(11)), dress(sample_identity(11))
    assert np.array_equal(first.texture, again.texture)
    assert np.array_equal(first.offsets, again.offsets)
    assert all(
        np.array_equal(a.vertices, b.vertices) for a, b in zip(first.extras, again.extras, strict=True)
    )


def test_other_seeds_paint_other_textures():
    textures = [paint_texture(sample_identity(seed)).astype(int) for seed in range(8)]
    for i, one in enumerate(textures):
        for other in textures[:i]:
            assert np.abs(one - other).mean() > 4


def test_colours_meet_across_the_seams_of_islands(texels):
    """Neighbours on the body that lie far apart in the picture have the same colour."""
    inside = np.argwhere(texels.inside)
    place = texels.position[texels.inside]
    normal = texels.normal[texels.inside]
    distance, index = KDTree(place).query(place, k=24)
    apart = np.abs(inside[index] - inside[:, None]).max(-1) > 12
    facing = np.einsum("nkd,nd->nk", normal[index], normal) > 0.9
    same_part = texels.part[texels.inside][index] == texels.part[texels.inside][:, None]
    pair = apart & facing & same_part & (distance < 0.007)
    row, column = np.nonzero(pair)
    head = np.isin(
        texels.part[texels.inside][row], [PARTS.index(p) for p in ("face", "scalp", "head", "neck")]
    )
    assert head.sum() > 300 and (~head).sum() > 300  # the atlas has seams, and this finds them
    striped = replace(
        sample_identity(3).upper.pattern, kind="horizontal stripes", variant=1, color=WHITE, scale=0.08
    )
    for identity in (person(), person(upper={"pattern": striped}), person(lower={"hem": 0.5})):
        rgb = paint_texture(identity)[texels.inside].astype(float)
        step = np.abs(rgb[row] - rgb[index[row, column]]).max(1)
        for rows in (head, ~head):
            # edges of hems and stripes may fall between two texels 7 mm apart; strangers differ by 21 and 0.6
            assert np.median(step[rows]) < 8
            assert (step[rows] < 60).mean() > 0.9


def test_a_mirrored_symmetric_person_stays_nearly_the_same(texels):
    mirror = mirror_map(256)
    texture = paint_texture(person()).astype(float)
    flipped = texture[mirror[..., 0], mirror[..., 1]]
    step = np.abs(texture - flipped).max(-1)[texels.inside]
    assert np.median(step) < 12 and (step < 60).mean() > 0.95
    # while one-sided things change sides: halves in two colours swap
    halves = replace(sample_identity(3).upper.pattern, kind="blocks", variant=3, color=WHITE)
    texture = paint_texture(person(upper={"pattern": halves})).astype(float)
    flipped = texture[mirror[..., 0], mirror[..., 1]]
    left = region(texels, ["torso"], 1.0, 1.3) & (texels.position[..., 0] > 0.03)
    assert near(texture[left], WHITE.rgb) > 0.9 and near(flipped[left], RED.rgb) > 0.9


@pytest.mark.parametrize("hem", [0.45, 0.6])
def test_shorts_leave_the_legs_below_the_hem_bare(texels, hem):
    identity = person(lower={"kind": "shorts", "hem": hem})
    legs = ["thigh_l", "thigh_r", "shin_l", "shin_r"]
    assert near(painted(identity, region(texels, legs, 0.12, hem - 0.02)), identity.skin.rgb) > 0.93
    assert near(painted(identity, region(texels, legs, hem + 0.02, 0.8)), BLUE.rgb) > 0.95


def test_trousers_cover_the_shins(texels):
    assert near(painted(person(), region(texels, ["shin_l", "shin_r"], 0.1)), BLUE.rgb) > 0.95


def test_sleeves_reach_as_far_as_they_should(texels):
    arms = region(texels, ["forearm_l", "forearm_r"])
    middle = arms & (np.abs(texels.position[..., 0]) < 0.42)
    assert near(painted(person(), middle), RED.rgb) > 0.95
    short = person(upper={"kind": "t-shirt", "sleeve": 0.15})
    assert near(painted(short, arms), short.skin.rgb) > 0.95
    tank = person(upper={"kind": "tank top", "sleeve": -0.04})
    upper_arm = region(texels, ["upper_arm_l"]) & (texels.position[..., 0] > 0.25)
    assert near(painted(tank, upper_arm), tank.skin.rgb) > 0.95


def test_a_dress_and_a_skirt_are_painted_on_the_thighs(texels):
    thighs = region(texels, ["thigh_l", "thigh_r"], 0.55, 0.8)
    bare = {"kind": "bare legs", "hem": 0.9}
    gown = person(upper={"kind": "dress", "hem": 0.5}, lower=bare)
    assert near(painted(gown, thighs), RED.rgb) > 0.95
    assert near(painted(gown, region(texels, ["shin_l", "shin_r"], 0.15, 0.45)), gown.skin.rgb) > 0.9
    skirt = person(lower={"kind": "skirt", "hem": 0.5})
    assert near(painted(skirt, thighs), BLUE.rgb) > 0.95


def test_an_open_jacket_shows_the_shirt_under_it(texels):
    plain = person().upper.pattern
    opened = {"kind": "jacket", "opening": 0.07, "neckline": "high", "inner": WHITE, "inner_pattern": plain}
    chest = region(texels, ["torso"], 1.1, 1.25) & (texels.normal[..., 2] > 0.5)
    middle = chest & (np.abs(texels.position[..., 0]) < 0.03)
    outer = chest & (np.abs(texels.position[..., 0]) > 0.11)
    rgb = paint_texture(person(upper=opened)).astype(float)
    assert near(rgb[middle], WHITE.rgb) > 0.9 and near(rgb[outer], RED.rgb) > 0.9


def test_bags_leave_straps_on_the_chest(texels):
    black = Color("black", (20, 20, 20))
    chest = region(texels, ["torso"], 1.15, 1.35) & (texels.normal[..., 2] > 0.2)
    assert near(painted(person(), chest), black.rgb, 40) < 0.01
    for kind, side in (("backpack", 0), ("shoulder bag", 1), ("shoulder bag", -1)):
        bag = {"kind": kind, "side": side, "color": black, "size": 1.0}
        assert 0.05 < near(painted(person(bag=bag), chest), black.rgb, 40) < 0.5


def test_scarf_and_tie_are_seen_from_the_front(texels):
    green = Color("green", (20, 160, 60))
    front = region(texels, ["torso"], 1.1, 1.38) & (texels.normal[..., 2] > 0.2)
    for kind in ("scarf", "tie"):
        worn = person(neckwear={"kind": kind, "color": green, "striped": False, "side": 1})
        assert 0.04 < near(painted(worn, front), green.rgb) < 0.4
        assert near(painted(worn, region(texels, ["torso"], 0.95, 1.05)), green.rgb) < 0.05


def test_folds_give_cloth_light_and_shade(texels):
    rgb = painted(person(), region(texels, ["torso"], 0.95, 1.3))
    assert 6 < rgb[:, 0].std() < 40


def test_padding_continues_the_islands(texels):
    texture = paint_texture(person())
    padding = texels.mask & ~texels.inside
    ground = texture[~texels.mask]
    assert (ground == ground[0]).all()
    assert (texture[padding] != ground[0]).any(axis=1).mean() > 0.98


def test_textures_of_other_sizes_agree():
    large, small = paint_texture(person(), 256), paint_texture(person(), 128)
    halved = large.reshape(128, 2, 128, 2, 3).mean((1, 3))
    inside = texel_map(128).inside
    assert np.median(np.abs(halved - small).max(-1)[inside]) < 12


def test_dress_refuses_what_is_no_identity():
    with pytest.raises(UserError, match="Identity"):
        dress(7)


@pytest.mark.parametrize("kind", ["backpack", "shoulder bag", "handbag", "none"])
def test_clothes_are_what_is_painted_without_the_bag(kind):
    seed = next(seed for seed in range(300) if sample_identity(seed).bag.kind == kind)
    worn, clothes = dressed_person(Wearer(seed)).texture, clothes_texture(Wearer(seed))
    changed = (worn != clothes).any(-1) & texel_map(256).inside
    height = texel_map(256).position[..., 1][changed]
    if kind in ("none", "handbag"):  # a handbag is a mesh of its own
        assert not changed.any()
    else:
        assert 200 < changed.sum() < 0.2 * texel_map(256).inside.sum()
        assert height.min() > 0.75 and height.max() < 1.5  # hip to shoulder
