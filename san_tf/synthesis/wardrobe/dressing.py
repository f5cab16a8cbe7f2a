"""Draws a person from a seed: build, skin, hair and matching street clothes."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from san_tf.errors import UserError
from san_tf.synthesis.body import BodyShape
from san_tf.synthesis.wardrobe import colors
from san_tf.synthesis.wardrobe.hair import draw_hair
from san_tf.synthesis.wardrobe.person import (
    Bag,
    Color,
    Face,
    Identity,
    Lower,
    Neckwear,
    Pattern,
    Shoes,
    Upper,
)
from san_tf.synthesis.wardrobe.skin import draw_skin

# Highest hem of garments that end above the knee, in metres on the average body.
_SHORTEST = {"shorts": 0.74, "skirt": 0.74, "dress": 0.74}


def dyed(identity: Identity, share: float, rng: np.random.Generator) -> Identity:
    """Give garments and bag arbitrary colours, so that a generator sees rare ones.

    People on the street wear black, grey, white and blue. A texture generator that learns from them alone
    paints a yellow shirt orange. With the same probability, shorts, skirts and dresses become shorter: a
    generator that has seen no very short ones takes them for skin. Skin, hair and kinds of pattern do not
    change.

    Args:
        identity: a person in street clothes.
        share: probability for each of upper garment, lower garment, shoes and bag, 0 to 1.
        rng: source of randomness.

    Returns:
        `Identity`; equal to `identity` if `share` is 0.

    Example:
        >>> dyed(sample_identity(3), 1.0, np.random.default_rng(0)).upper.color.name
        'dyed'
    """
    upper, lower, shoes, bag = identity.upper, identity.lower, identity.shoes, identity.bag
    chosen = rng.random(4) < share
    if chosen[0]:
        color = _any_color(rng)
        upper = replace(upper, color=color, pattern=_against(rng, upper.pattern, color))
    if chosen[1]:
        color = _any_color(rng)
        lower = replace(lower, color=color, pattern=_against(rng, lower.pattern, color), fade=0.0)
    if chosen[2]:
        shoes = replace(shoes, color=_any_color(rng))
    if chosen[3]:
        bag = replace(bag, color=_any_color(rng))
    if lower.kind in _SHORTEST and rng.random() < share:
        lower = replace(lower, hem=_shortened(rng, lower.hem, lower.kind))
    if upper.kind in _SHORTEST and rng.random() < share:
        upper = replace(upper, hem=_shortened(rng, upper.hem, upper.kind))
    return replace(identity, upper=upper, lower=lower, shoes=shoes, bag=bag)


def _shortened(rng: np.random.Generator, hem: float, kind: str) -> float:
    return round(float(rng.uniform(hem, max(hem, _SHORTEST[kind]))), 3)


def _any_color(rng: np.random.Generator) -> Color:
    """Draw hue, saturation and brightness evenly, but never pure black or white."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.95), rng.uniform(0.2, 0.96))
    red, green, blue = np.clip(np.array(rgb) * 255, 12, 246).astype(int).tolist()
    return Color("dyed", (red, green, blue))


def _against(rng: np.random.Generator, pattern: Pattern, color: Color) -> Pattern:
    """Give a pattern colours that differ clearly from its new ground."""
    return replace(
        pattern,
        color=colors.draw_contrasting(rng, colors.ACCENT_WEIGHTS, color),
        accent=colors.draw_contrasting(rng, colors.ACCENT_WEIGHTS, color, 30.0),
    )


_PATTERNS: Mapping[str, Mapping[str, float]] = {
    "t-shirt": {"plain": 38, "print": 20, "logo": 14, "horizontal stripes": 14, "blocks": 8, "camouflage": 1,
                "dots": 2, "floral": 3},
    "long sleeve": {"plain": 52, "horizontal stripes": 18, "logo": 8, "print": 10, "blocks": 8, "dots": 3},
    "polo": {"plain": 52, "horizontal stripes": 24, "blocks": 14, "logo": 10},
    "shirt": {"plain": 46, "plaid": 28, "vertical stripes": 14, "dots": 5, "floral": 5},
    "tank top": {"plain": 56, "print": 14, "horizontal stripes": 14, "floral": 10, "logo": 6},
    "hoodie": {"plain": 48, "print": 22, "logo": 16, "blocks": 12, "camouflage": 2},
    "sweater": {"plain": 56, "horizontal stripes": 22, "argyle": 8, "blocks": 10, "dots": 4},
    "jacket": {"plain": 66, "blocks": 20, "logo": 10, "camouflage": 4},
    "coat": {"plain": 88, "plaid": 12},
    "dress": {"plain": 42, "floral": 24, "dots": 11, "horizontal stripes": 10, "vertical stripes": 4,
              "plaid": 6, "blocks": 3},
    "skirt": {"plain": 60, "plaid": 14, "floral": 14, "dots": 8, "horizontal stripes": 4},
    "trousers": {"plain": 90, "side stripe": 6, "plaid": 2, "camouflage": 2},
    "jeans": {"plain": 100},
    "shorts": {"plain": 78, "plaid": 8, "side stripe": 7, "floral": 3, "camouflage": 4},
    "leggings": {"plain": 92, "side stripe": 8},
}  # fmt: skip
_PERIOD: Mapping[str, tuple[float, float]] = {
    "horizontal stripes": (0.035, 0.11), "vertical stripes": (0.03, 0.07), "plaid": (0.06, 0.14),
    "dots": (0.04, 0.08), "floral": (0.045, 0.09), "camouflage": (0.09, 0.14), "argyle": (0.09, 0.13),
}  # fmt: skip


def _pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    share = np.array(list(weights.values()), np.float64)
    return list(weights)[int(rng.choice(len(share), p=share / share.sum()))]


def _pattern(rng: np.random.Generator, garment: str, color: Color) -> Pattern:
    kind = _pick(rng, _PATTERNS[garment])
    low, high = _PERIOD.get(kind, (0.08, 0.08))
    return Pattern(
        kind=kind,
        color=colors.draw_contrasting(rng, colors.ACCENT_WEIGHTS, color),
        accent=colors.draw_contrasting(rng, colors.ACCENT_WEIGHTS, color, 30.0),
        scale=round(float(rng.uniform(low, high)), 4),
        variant=int(rng.integers(1 << 16)),
    )


def _upper(rng: np.random.Generator, feminine: bool, season: str) -> Upper:
    if season == "warm":
        weights = {"t-shirt": 50.0, "polo": 10, "shirt": 10, "tank top": 5, "long sleeve": 6, "hoodie": 1}
        if feminine:
            weights |= {"dress": 17, "tank top": 11, "polo": 4, "shirt": 7}
    elif season == "mild":
        weights = {"t-shirt": 14.0, "long sleeve": 18, "shirt": 20, "hoodie": 18, "sweater": 10, "jacket": 20}
        if feminine:
            weights |= {"dress": 8}
    else:
        weights = {"jacket": 44.0, "coat": 30, "hoodie": 16, "sweater": 10}
    kind = _pick(rng, weights)
    outer = kind in ("jacket", "coat")
    color = colors.draw_color(rng, colors.COAT_WEIGHTS if outer else colors.TOP_WEIGHTS)
    inner = colors.draw_contrasting(rng, colors.TOP_WEIGHTS, color, 40.0)
    sleeve = {"t-shirt": (0.11, 0.22), "polo": (0.14, 0.23), "tank top": (-0.06, -0.02)}.get(
        kind, (0.42, 0.46)
    )
    hem = {"dress": (0.36, 0.66), "coat": (0.42, 0.72), "jacket": (0.86, 0.96), "tank top": (0.86, 0.98)}
    low, high = hem.get(kind, (0.84, 0.93))
    sleeve_length = float(rng.uniform(*sleeve))
    if kind == "dress":
        sleeve_length = float(rng.choice([-0.04, rng.uniform(0.08, 0.2), 0.44], p=[0.35, 0.45, 0.2]))
    if kind in ("shirt", "long sleeve") and rng.random() < (0.6 if season == "warm" else 0.25):
        sleeve_length = float(rng.uniform(0.17, 0.34))  # short-sleeved, or rolled up
    if feminine and kind in ("t-shirt", "sweater", "long sleeve") and rng.random() < 0.25:
        low, high = 0.95, 1.02
    neckline = {
        "polo": "collar",
        "shirt": "collar",
        "hoodie": "crew",
        "jacket": "high",
        "coat": "collar",
    }.get(kind, _pick(rng, {"crew": 60, "v": 20, "scoop": 25 if feminine else 6, "high": 5}))
    layered = kind in ("hoodie", "sweater", "jacket", "long sleeve")
    chance_open = {"jacket": 0.45, "coat": 0.35, "hoodie": 0.22, "shirt": 0.18}.get(kind, 0.0)
    return Upper(
        kind=kind,
        color=color,
        pattern=_pattern(rng, kind, color),
        sleeve=round(sleeve_length, 3),
        hem=round(float(rng.uniform(low, high)), 3),
        neckline=neckline,
        looseness=round(float(rng.beta(1.6, 2.6) if feminine else rng.beta(2.2, 2.2)), 3),
        opening=round(float(rng.uniform(0.025, 0.085)), 3) if rng.random() < chance_open else 0.0,
        inner=inner,
        inner_pattern=_pattern(rng, "t-shirt", inner),
        tail=round(float(rng.uniform(0.02, 0.06)), 3) if layered and rng.random() < 0.3 else 0.0,
    )


def _lower(rng: np.random.Generator, feminine: bool, season: str, upper: Upper) -> Lower:
    if upper.kind == "dress":
        weights = (
            {"bare legs": 70.0, "leggings": 30} if season == "warm" else {"bare legs": 35.0, "leggings": 65}
        )
    elif season == "warm":
        weights = {"trousers": 26.0, "jeans": 28, "shorts": 44, "leggings": 0.5}
        if feminine:
            weights = {"trousers": 16.0, "jeans": 26, "shorts": 30, "skirt": 20, "leggings": 8}
    else:
        weights = {"trousers": 46.0, "jeans": 48, "shorts": 3}
        if feminine:
            weights = {"trousers": 26.0, "jeans": 40, "skirt": 13, "leggings": 20}
    kind = _pick(rng, weights)
    palette = {"jeans": colors.JEANS_WEIGHTS, "skirt": colors.SKIRT_WEIGHTS}.get(kind, colors.TROUSER_WEIGHTS)
    if kind == "shorts" and rng.random() < 0.3:
        palette = colors.JEANS_WEIGHTS
    color = colors.draw_color(rng, palette)
    if kind == "leggings" and rng.random() < 0.65:
        color = colors.draw_color(rng, {"black": 1.0})
    low, high = {"shorts": (0.42, 0.64), "skirt": (0.26, 0.64), "leggings": (0.07, 0.16)}.get(
        kind, (0.035, 0.1)
    )
    if kind == "shorts" and not feminine:
        high = 0.54
    hem = float(rng.uniform(low, high))
    if kind in ("trousers", "jeans") and rng.random() < 0.14:
        hem = float(rng.uniform(0.14, 0.24))  # cropped or rolled up
    loose = {"leggings": (0.0, 0.05), "jeans": (0.08, 0.6), "shorts": (0.35, 1.0)}.get(kind, (0.15, 1.0))
    belt = colors.draw_color(rng, {"black": 5.0, "brown": 3, "dark brown": 2, "white": 1})
    return Lower(
        kind=kind,
        color=color,
        pattern=_pattern(rng, "leggings" if kind == "bare legs" else kind, color),
        hem=0.9 if kind == "bare legs" else round(hem, 3),
        looseness=round(float(rng.uniform(*loose)), 3),
        fade=round(float(rng.uniform(0.2, 1.0)), 3) if "denim" in color.name else 0.0,
        belt=belt if kind in ("trousers", "jeans", "shorts") and rng.random() < 0.4 else None,
    )


def _shoes(rng: np.random.Generator, feminine: bool, season: str, lower: Lower) -> Shoes:
    weights = {"sneakers": 58.0, "leather": 22, "boots": 6 if season == "warm" else 18}
    if season == "warm":
        weights |= {"sandals": 14}
    if feminine:
        weights |= {"flats": 26, "leather": 6}
    kind = _pick(rng, weights)
    palette = colors.LEATHER_WEIGHTS if kind in ("boots", "leather") else colors.SHOE_WEIGHTS
    color = colors.draw_color(rng, palette)
    sole = "white" if kind == "sneakers" and rng.random() < 0.7 else "black" if kind != "sandals" else "brown"
    sock_top = {"sneakers": float(rng.choice([0.0, 0.13, 0.2, 0.3], p=[0.4, 0.33, 0.19, 0.08]))}.get(
        kind, 0.0
    )
    if lower.kind in ("trousers", "jeans", "leggings"):
        sock_top = min(sock_top, 0.13)
    return Shoes(
        kind=kind,
        color=color,
        sole=colors.draw_color(rng, {sole: 1.0}),
        accent=colors.draw_contrasting(rng, colors.ACCENT_WEIGHTS, color),
        sock=colors.draw_color(
            rng, {"white": 6.0, "black": 5, "grey": 3, "navy": 1, "red": 0.4, "yellow": 0.3}
        ),
        sock_top=sock_top,
    )


def _neckwear(rng: np.random.Generator, feminine: bool, season: str, upper: Upper) -> Neckwear:
    weights = {"none": 1.0}
    if season != "warm" and upper.kind in ("jacket", "coat", "sweater"):
        weights |= {"scarf": 0.45 if season == "cold" else 0.12}
    if (
        not feminine
        and season != "warm"
        and (upper.kind == "shirt" or (upper.kind == "coat" and upper.opening > 0))
    ):
        weights |= {"tie": 0.12}
    color = colors.draw_contrasting(rng, colors.TOP_WEIGHTS, upper.color, 40.0)
    return Neckwear(
        kind=_pick(rng, weights),
        color=color,
        accent=colors.draw_contrasting(rng, colors.ACCENT_WEIGHTS, color),
        striped=bool(rng.random() < 0.4),
        side=int(rng.choice([-1, 1])),
    )


def _face(rng: np.random.Generator, feminine: bool, age: float, skin: Color) -> Face:
    beard = "none"
    if not feminine and age > 0.3:
        beard = _pick(rng, {"none": 62, "stubble": 16, "moustache": 4, "goatee": 7, "full": 11})
    eyes = {"dark brown": 6.0, "brown": 3, "denim": 1, "olive": 1}
    return Face(
        eye=colors.draw_color(rng, {"dark brown": 1.0} if np.mean(skin.rgb) < 145 else eyes),
        brow=round(float(rng.uniform(0.15, 0.6) if feminine else rng.uniform(0.4, 1.0)), 3),
        lips=round(float(rng.uniform(0.25, 1.0) if feminine else rng.uniform(0.1, 0.35)), 3),
        beard=beard,
        glasses=_pick(rng, {"none": 74, "clear": 19, "sun": 7}),
    )


def _everyday(identity: Identity, rng: np.random.Generator) -> Identity:
    """Dress a person as most people are who pass a surveillance camera between home and work or school.

    Trousers are long, dark and plain. Jackets, shirts and hoodies hang open over a light shirt. Every second
    person has a bag, mostly a dark rucksack, some in front. Hair is black or nearly so.
    """
    feminine = identity.shape.sex < 0.5
    season = _pick(rng, {"warm": 46.0, "mild": 36, "cold": 18})
    upper = _upper(rng, feminine, season)
    if upper.kind in ("tank top", "dress") and rng.random() < 0.6:
        upper = _upper(rng, feminine, "mild")
    if upper.kind in ("jacket", "hoodie", "shirt", "coat", "long sleeve") and rng.random() < 0.5:
        kind = "jacket" if upper.kind == "long sleeve" else upper.kind
        upper = replace(upper, kind=kind, opening=round(float(rng.uniform(0.04, 0.13)), 3))
    if upper.pattern.kind not in ("plain", "logo", "print") and rng.random() < 0.35:
        upper = replace(upper, pattern=replace(upper.pattern, kind="plain"))
    lower = _lower(rng, feminine, season, upper)
    if lower.kind in ("shorts", "skirt") and rng.random() < 0.5:
        lower = _lower(rng, feminine, "mild", upper)
    if lower.kind in ("trousers", "shorts", "skirt", "leggings"):
        color = colors.draw_color(rng, colors.PLAIN_WEIGHTS, 8.0)
        lower = replace(lower, color=color, fade=0.0)
    elif lower.kind == "jeans" and rng.random() < 0.5:
        lower = replace(lower, color=colors.draw_color(rng, {"dark denim": 3.0, "black": 2, "navy": 1}))
    if rng.random() < 0.85:
        lower = replace(lower, pattern=replace(lower.pattern, kind="plain"))
    kinds = {"none": 30.0, "backpack": 38, "front bag": 4, "shoulder bag": 17}
    bag = _pick(rng, kinds | {"handbag": 16.0 if feminine else 7})
    color = colors.draw_color(rng, colors.BAG_WEIGHTS)
    hair = draw_hair(rng, feminine, identity.shape.age, season, identity.skin)
    if hair.color.name not in ("black", "dark brown", "grey", "white") or hair.headwear == "hijab":
        hair = draw_hair(rng, feminine, identity.shape.age, season, identity.skin)
    # Bodies are slimmer, and cameras' contrast brings out the folds of cloth.
    shape = replace(identity.shape, weight=round(0.8 * identity.shape.weight, 3))
    return replace(
        identity,
        shape=shape,
        relief=round(float(rng.uniform(1.2, 2.4)), 3),
        hair=hair,
        upper=upper,
        neckwear=_neckwear(rng, feminine, season, upper),
        lower=lower,
        shoes=_shoes(rng, feminine, season, lower),
        bag=replace(
            identity.bag,
            kind=bag,
            color=color,
            accent=colors.draw_contrasting(rng, colors.ACCENT_WEIGHTS, color, 30.0),
            side=int(rng.choice([-1, 1])) if bag in ("shoulder bag", "handbag") else 0,
        ),
    )


# Changed clothes differ from the model's by at least this `colors.contrast`, so that two people who look
# alike can be told apart.
_TOLD_APART = 45.0


def _lookalike(own: Identity, model: Identity, rng: np.random.Generator) -> Identity:
    """Give a person the model's outfit and hair, with one or two things of their own."""
    keeps = {str(rng.choice(["upper", "lower", "bag"], p=[0.35, 0.4, 0.25]))}
    if rng.random() < 0.5:
        keeps.add(str(rng.choice(["upper", "lower", "bag", "hair"])))
    upper, lower, bag = model.upper, model.lower, model.bag
    if "upper" in keeps and upper.kind != "dress":
        color = colors.draw_contrasting(rng, colors.TOP_WEIGHTS, upper.color, _TOLD_APART)
        upper = replace(upper, color=color, pattern=_pattern(rng, upper.kind, color))
    if "lower" in keeps and lower.kind != "bare legs":
        color = colors.draw_contrasting(rng, colors.TROUSER_WEIGHTS, lower.color, _TOLD_APART)
        lower = replace(lower, color=color, fade=0.0)
    if "bag" in keeps:
        kinds = [kind for kind in ("none", "backpack", "shoulder bag", "handbag") if kind != bag.kind]
        kind = str(rng.choice(kinds))
        side = int(rng.choice([-1, 1])) if kind in ("shoulder bag", "handbag") else 0
        bag = replace(bag, kind=kind, side=side)
    if ("upper" in keeps and upper is model.upper) or ("lower" in keeps and lower is model.lower):
        # A dress stays what it is; its wearer has other shoes.
        color = colors.draw_contrasting(rng, colors.SHOE_WEIGHTS, model.shoes.color, _TOLD_APART)
        shoes = replace(model.shoes, color=color)
    else:
        shoes = model.shoes
    # The same sex, so that clothes and hair fit, but another build.
    same = (own.shape.sex < 0.5) == (model.shape.sex < 0.5)
    return replace(
        own,
        shape=replace(own.shape, sex=model.shape.sex),
        face=own.face if same else model.face,
        hair=own.hair if "hair" in keeps else model.hair,
        upper=upper,
        neckwear=model.neckwear,
        lower=lower,
        shoes=shoes,
        bag=bag,
        relief=model.relief,
    )


def sample_identity(seed: int, dye: float = 0.0, everyday: float = 0.0, model: int | None = None) -> Identity:
    """Draws one person.

    Half of the people wear summer clothes, as in Market-1501; clothes match season and build. Colours follow
    the street: many people share black, grey, white, navy and denim.

    Args:
        seed: `int`, 0 or more. The only source of randomness: equal seeds give equal people, and different
            seeds give different people.
        dye: `float`, 0 to 1. Probability that a garment has an arbitrary colour; see `dressing.dyed`.
        everyday: `float`, 0 to 1. Probability that the person wears what most people wear: dark and plain
            clothes, open layers, school bags.
        model: seed of another person, whose outfit this one copies but for one or two things; None for an
            outfit of their own.

    Returns:
        `Identity`.

    Raises:
        UserError: `seed` is not an integer of 0 or more.

    Example:
        >>> from san_tf.synthesis.wardrobe import sample_identity
        >>> sample_identity(3) == sample_identity(3)
        True
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UserError(f"An identity's seed must be an integer of 0 or more. Received: seed={seed!r}.")
    rng = np.random.default_rng([0x5A4E, int(seed)])
    feminine = bool(rng.random() < 0.47)
    season = str(rng.choice(["warm", "mild", "cold"], p=[0.52, 0.3, 0.18]))
    shape = BodyShape(
        sex=round(float(rng.beta(1.5, 7.0) if feminine else rng.beta(7.0, 1.5)), 3),
        age=round(float(rng.beta(2.2, 2.6)), 3),
        weight=round(float(rng.beta(2.2, 2.4)), 3),
        muscle=round(float(rng.beta(2.5, 2.5)), 3),
        height=round(float(np.clip(rng.normal(0.44 if feminine else 0.54, 0.17), 0.02, 0.98)), 3),
    )
    skin = draw_skin(rng)
    upper = _upper(rng, feminine, season)
    lower = _lower(rng, feminine, season, upper)
    bag = _pick(rng, {"none": 50, "backpack": 25, "shoulder bag": 15, "handbag": 14 if feminine else 6})
    bag_color = colors.draw_color(rng, colors.BAG_WEIGHTS)
    identity = Identity(
        seed=int(seed),
        shape=shape,
        skin=skin,
        face=_face(rng, feminine, shape.age, skin),
        hair=draw_hair(rng, feminine, shape.age, season, skin),
        upper=upper,
        neckwear=_neckwear(rng, feminine, season, upper),
        lower=lower,
        shoes=_shoes(rng, feminine, season, lower),
        bag=Bag(
            kind=bag,
            color=bag_color,
            accent=colors.draw_contrasting(rng, colors.ACCENT_WEIGHTS, bag_color, 30.0),
            side=0 if bag in ("none", "backpack") else int(rng.choice([-1, 1])),
            size=round(float(rng.uniform(0.8, 1.2)), 3),
        ),
    )
    if everyday and (rng := np.random.default_rng([0xDA11, int(seed)])).random() < everyday:
        identity = _everyday(identity, rng)
    if dye:
        identity = dyed(identity, dye, np.random.default_rng([0xD1E, int(seed)]))
    if model is not None:
        other = sample_identity(model, dye, everyday)
        identity = _lookalike(identity, other, np.random.default_rng([0xA11CE, int(seed)]))
    return identity
