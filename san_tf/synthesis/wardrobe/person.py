"""Descriptions of synthetic people: frozen, human-readable dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from san_tf.synthesis.body import BodyShape


class Color(NamedTuple):
    """A colour with its everyday name.

    Args:
        name: `str`. Name of the colour, such as `"navy"`.
        rgb: `(3,)` integers in [0, 255], sRGB.
    """

    name: str
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Pattern:
    """The print or weave of a garment.

    Args:
        kind: one of `patterns.PATTERNS`.
        color: second colour of the pattern.
        accent: third colour, for large prints and plaids.
        scale: period of the pattern in metres.
        variant: integer that selects a motif of the kind.
    """

    kind: str
    color: Color
    accent: Color
    scale: float
    variant: int


@dataclass(frozen=True)
class Face:
    """Features of a face: irises, brows, lips, beard, glasses.

    Args:
        eye: colour of the iris.
        brow: strength of the brows, 0 (faint) to 1 (thick).
        lips: strength of the lip colour, 0 to 1.
        beard: `"none"`, `"stubble"`, `"moustache"`, `"goatee"` or `"full"`.
        glasses: `"none"`, `"clear"` or `"sun"`.
    """

    eye: Color
    brow: float
    lips: float
    beard: str
    glasses: str


@dataclass(frozen=True)
class Hair:
    """Hair and headwear.

    Args:
        style: one of `hair.HAIR_STYLES`.
        color: colour of the hair.
        length: metres that long hair hangs below the crown; 0 for short styles.
        volume: thickness on the scalp in metres, 0 to 0.04.
        parting: sideways position of the parting in [-1, 1].
        headwear: `"none"`, `"cap"`, `"beanie"` or `"hijab"`.
        headwear_color: colour of the headwear.
    """

    style: str
    color: Color
    length: float
    volume: float
    parting: float
    headwear: str
    headwear_color: Color


@dataclass(frozen=True)
class Upper:
    """The garment of the upper body, and the shirt under it.

    Args:
        kind: one of `garments.UPPER_KINDS`.
        color: main colour.
        pattern: print on the main colour.
        sleeve: length along the arm from the shoulder joint, metres; about 0.45 ends at the wrist.
        hem: height of the hem above the ground of the average body, metres; 1.0 is the waist.
        neckline: `"crew"`, `"v"`, `"scoop"`, `"collar"` or `"high"`.
        looseness: 0 (tight) to 1 (very loose).
        opening: half-width of an open front in metres; 0 when closed.
        inner: colour of the shirt under the garment.
        inner_pattern: print of that shirt.
        tail: metres of that shirt that show below the hem; 0 for none.
    """

    kind: str
    color: Color
    pattern: Pattern
    sleeve: float
    hem: float
    neckline: str
    looseness: float
    opening: float
    inner: Color
    inner_pattern: Pattern
    tail: float


@dataclass(frozen=True)
class Neckwear:
    """Scarf or tie.

    Args:
        kind: `"none"`, `"scarf"` or `"tie"`.
        color: main colour.
        accent: colour of its stripes.
        striped: whether it has stripes.
        side: +1 or -1, the side on which a scarf's end hangs.
    """

    kind: str
    color: Color
    accent: Color
    striped: bool
    side: int


@dataclass(frozen=True)
class Lower:
    """The garment of the lower body.

    Args:
        kind: one of `garments.LOWER_KINDS`.
        color: main colour.
        pattern: print on the main colour.
        hem: height of the hem above the ground of the average body, metres; 0.07 is the ankle.
        looseness: 0 (leggings) to 1 (wide).
        fade: strength of denim fading on thighs, 0 to 1.
        belt: colour of the belt, or None.
    """

    kind: str
    color: Color
    pattern: Pattern
    hem: float
    looseness: float
    fade: float
    belt: Color | None


@dataclass(frozen=True)
class Shoes:
    """Shoes and socks.

    Args:
        kind: one of `shoes.SHOE_KINDS`.
        color: colour of the upper.
        sole: colour of the sole.
        accent: colour of stripes and laces.
        sock: colour of the socks.
        sock_top: height of the socks' upper edge above the ground, metres; 0 for hidden socks.
    """

    kind: str
    color: Color
    sole: Color
    accent: Color
    sock: Color
    sock_top: float


@dataclass(frozen=True)
class Bag:
    """A bag that the person always carries.

    Args:
        kind: one of `bags.BAG_KINDS`.
        color: main colour.
        accent: colour of pockets, flap or strap.
        side: +1 for the left side, -1 for the right; 0 for backpacks and without a bag.
        size: factor on the usual size, about 0.8 to 1.2.
    """

    kind: str
    color: Color
    accent: Color
    side: int
    size: float


@dataclass(frozen=True)
class Identity:
    """A synthetic person: everything that is the same in all of their pictures.

    Args:
        seed: seed of the person; also places the folds of the cloth.
        shape: body build, see `san_tf.synthesis.body.BodyShape`.
        skin: skin tone.
        face: features of the face.
        hair: hair and headwear.
        upper: garment of the upper body; a dress or coat reaches further down.
        neckwear: scarf or tie.
        lower: garment of the lower body; bare legs or leggings under a dress.
        shoes: shoes and socks.
        bag: the bag that they carry.
        relief: factor on the contrast of the clothes' folds.

    Example:
        >>> from san_tf.synthesis.wardrobe import sample_identity
        >>> person = sample_identity(7)
        >>> person == sample_identity(7)
        True
    """

    seed: int
    shape: BodyShape
    skin: Color
    face: Face
    hair: Hair
    upper: Upper
    neckwear: Neckwear
    lower: Lower
    shoes: Shoes
    bag: Bag
    relief: float = 1.0
