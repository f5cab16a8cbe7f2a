"""Who walks the street: `sample_identity`."""

import colorsys
from collections import Counter

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.synthesis.body import PARTS
from san_tf.synthesis.texels import texel_map
from san_tf.synthesis.wardrobe import paint_texture, sample_identity
from san_tf.synthesis.wardrobe.bags import BAG_KINDS
from san_tf.synthesis.wardrobe.cloth import PATTERNS
from san_tf.synthesis.wardrobe.colors import contrast
from san_tf.synthesis.wardrobe.garments import LOWER_KINDS, NECKWEAR_KINDS, SHOE_KINDS, UPPER_KINDS
from san_tf.synthesis.wardrobe.hair import HAIR_STYLES, HEADWEAR


@pytest.fixture(scope="module")
def people():
    return [sample_identity(seed) for seed in range(500)]


def test_a_seed_is_a_person(people):
    assert [sample_identity(seed) for seed in range(20)] == people[:20]
    assert sample_identity(np.int64(7)) == people[7]


def test_people_differ(people):
    looks = {(p.upper, p.lower, p.hair, p.shape) for p in people}
    assert len(looks) == len(people)


def test_every_kind_occurs(people):
    assert {p.upper.kind for p in people} == set(UPPER_KINDS)
    assert {p.lower.kind for p in people} == set(LOWER_KINDS)
    assert {p.shoes.kind for p in people} == set(SHOE_KINDS)
    assert {p.bag.kind for p in people} == set(BAG_KINDS) - {"front bag"}
    assert {p.hair.style for p in people} == set(HAIR_STYLES)
    assert {p.hair.headwear for p in people} == set(HEADWEAR)
    assert {g.pattern.kind for p in people for g in (p.upper, p.lower)} == set(PATTERNS)
    assert {p.neckwear.kind for p in people} == set(NECKWEAR_KINDS)
    assert any(p.upper.opening > 0 for p in people)
    assert {p.face.beard for p in people} >= {"none", "stubble", "full"}
    assert {p.face.glasses for p in people} == {"none", "clear", "sun"}


def test_skin_tones_span_a_wide_range(people):
    levels = np.array([np.mean(p.skin.rgb) for p in people])
    assert levels.min() < 60 and levels.max() > 195
    # red above green above blue: all of them are skin
    rgb = np.array([p.skin.rgb for p in people])
    assert (rgb[:, 0] > rgb[:, 1]).all() and (rgb[:, 1] > rgb[:, 2]).all()


def test_streets_are_grey_and_colours_are_shared(people):
    tops = Counter(p.upper.color.name for p in people)
    quiet = sum(tops[name] for name in ("black", "charcoal", "grey", "light grey", "white", "navy", "beige"))
    assert 0.5 < quiet / len(people) < 0.9
    pairs = Counter((p.upper.color.name, p.lower.color.name) for p in people)
    shared = sum(count for count in pairs.values() if count >= 2)
    assert shared > 0.6 * len(people)


def test_garments_keep_their_lengths(people):
    for p in people:
        assert -0.1 <= p.upper.sleeve <= 0.47 and 0.3 <= p.upper.hem <= 1.05
        assert 0.02 <= p.lower.hem <= 1.0
        if p.lower.kind == "shorts":
            assert p.lower.hem > 0.4
        if p.upper.kind == "dress":
            assert p.lower.kind in ("bare legs", "leggings")


@pytest.mark.parametrize("seed", [-1, 1.5, "7", None, True])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(UserError, match="seed"):
        sample_identity(seed)


def test_dyed_people_wear_every_colour_and_stay_the_same_people(people):
    dyed = [sample_identity(seed, dye=0.5) for seed in range(500)]
    assert dyed[:20] == [sample_identity(seed, dye=0.5) for seed in range(20)]
    share = np.mean([person.upper.color.name == "dyed" for person in dyed])
    assert 0.43 < share < 0.57  # 500 draws of probability 0.5: three standard deviations are 0.07
    for before, after in zip(people, dyed, strict=True):
        assert (before.skin, before.hair, before.face, before.shape) == (
            after.skin, after.hair, after.face, after.shape
        )  # fmt: skip
        assert (before.upper.kind, before.lower.kind) == (after.upper.kind, after.lower.kind)
        if after.upper.color.name != "dyed" and after.upper.kind != "dress":
            assert after.upper == before.upper
    hues = [
        colorsys.rgb_to_hsv(*(value / 255 for value in person.upper.color.rgb))[0]
        for person in dyed
        if person.upper.color.name == "dyed"
    ]
    counts = np.histogram(hues, 6, (0, 1))[0]
    assert counts.min() > len(hues) / 6 * 0.5  # no sixth of the colour circle is rare


def test_dyed_clothes_that_end_above_the_knee_may_end_anywhere(people):
    dyed = [sample_identity(seed, dye=0.5) for seed in range(500)]
    ends = []
    for before, after in zip(people, dyed, strict=True):
        for old, new in ((before.upper, after.upper), (before.lower, after.lower)):
            if old.kind in ("shorts", "skirt", "dress"):
                ends.append((old.hem, new.hem))
            else:
                assert old.hem == new.hem
    old, new = np.array(ends).T
    # Half of them; 0.74 m is high on the thigh, where nobody's clothes end on the street.
    assert 0.4 < np.mean(new > old) < 0.6 and (new >= old).all()
    assert old.max() <= 0.66 < 0.7 < np.sort(new)[-5] and new.max() <= 0.74


def test_a_dyed_garment_is_painted_in_its_colour():
    seed = next(
        seed
        for seed in range(200)
        if (person := sample_identity(seed, dye=1.0)).upper.kind == "t-shirt"
        and person.upper.pattern.kind == "plain"
    )
    person = sample_identity(seed, dye=1.0)
    texels = texel_map(128)
    height = texels.position[..., 1]
    chest = texels.inside & (texels.part == PARTS.index("torso")) & (height > 1.15) & (height < 1.3)
    painted = np.median(paint_texture(person, 128)[chest].astype(float), axis=0)
    # Folds and occlusion shade the cloth, so its direction in colour space is compared, not its strength.
    wanted = np.array(person.upper.color.rgb, float)
    cosine = painted @ wanted / np.linalg.norm(painted) / np.linalg.norm(wanted)
    assert cosine > 0.99


def test_without_dye_nobody_changes(people):
    assert [sample_identity(seed, dye=0.0) for seed in range(20)] == people[:20]


def test_everyday_people_are_dark_below_open_above_and_carry_bags(people):
    everyday = [sample_identity(seed, everyday=1.0) for seed in range(160)]
    assert everyday[:5] == [sample_identity(seed, everyday=1.0) for seed in range(5)]
    assert len({(p.upper, p.lower, p.hair, p.shape) for p in everyday}) == 160

    def share(condition):
        return np.mean([condition(p) for p in everyday])

    legs = [p for p in everyday if p.lower.kind != "bare legs"]
    assert np.mean([max(p.lower.color.rgb) < 110 for p in legs]) > 0.6
    assert np.mean([p.lower.pattern.kind == "plain" for p in legs]) > 0.85
    assert share(lambda p: p.lower.kind in ("trousers", "jeans", "leggings")) > 0.7
    assert 0.2 < share(lambda p: p.upper.opening > 0) < 0.6
    assert 0.6 < share(lambda p: p.bag.kind != "none") < 0.8
    assert {p.bag.kind for p in everyday} == set(BAG_KINDS)
    assert share(lambda p: p.hair.color.name in ("black", "dark brown", "grey", "white")) > 0.85
    # Half of the people: the others are as ever.
    as_ever = [sample_identity(one.seed, everyday=0.5) == one for one in people[:160]]
    assert 0.38 < np.mean(as_ever) < 0.62


def test_people_who_look_alike_share_an_outfit_but_for_what_tells_them_apart(people):
    differences = Counter()
    for model in people[:60]:
        other = sample_identity(1000 + model.seed, model=model.seed)
        assert other.upper.kind == model.upper.kind and other.lower.kind == model.lower.kind
        parts = ("upper", "lower", "bag", "shoes", "hair")
        changed = [part for part in parts if getattr(other, part) != getattr(model, part)]
        # The first change is one that shows; hair alone would not do.
        assert 1 <= len(changed) <= 3 and changed != ["hair"]
        for part in {"upper", "lower", "shoes"} & set(changed):
            theirs, models = getattr(other, part).color, getattr(model, part).color
            assert contrast(theirs, models) >= 40
        differences.update(changed)
        assert other.shape != model.shape and other.neckwear == model.neckwear
    assert set(differences) == {"upper", "lower", "bag", "shoes", "hair"}
