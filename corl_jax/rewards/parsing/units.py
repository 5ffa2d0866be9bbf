"""Units behind formulas: ``4 cm`` is not ``4 m``, but it is ``40 mm``."""

from __future__ import annotations

import dataclasses
import fractions
import re


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of measurement, or words that stand in its place.

    Attributes:
      dimension: what it measures, for example ``length^2``; for other words the words themselves.
      scale: its size, in a basic unit of the dimension.
      is_letter: whether it is one letter right behind a number (``4m``), so that it may also be a
        variable.
    """

    dimension: str
    scale: fractions.Fraction
    is_letter: bool = False


# Basic units: millimetre, milligram, second, degree; a litre is a million cubic millimetres.
SIZES = {
    "length": {
        "nm": "1/1000000",
        "µm μm um micron microns": "1/1000",
        "mm": "1",
        "cm": "10",
        "dm": "100",
        "m": "1000",
        "km": "1000000",
        "in inch inches": "25.4",
        "ft foot feet": "304.8",
        "yd yard yards": "914.4",
        "mi mile miles": "1609344",
    },
    "length^3": {"ml": "1000", "cl": "10000", "l liter liters litre litres": "1000000"},
    "mass": {
        "mg": "1",
        "g gram grams": "1000",
        "kg kilogram kilograms": "1000000",
        "lb lbs": "453592.37",
    },
    "time": {
        "ms": "1/1000",
        "s sec secs second seconds": "1",
        "min mins minute minutes": "60",
        "h hr hrs hour hours": "3600",
        "day days": "86400",
    },
    "angle": {r"° deg degree degrees ^\circ \circ ^{\circ} \degree": "1"},
    "radian": {"rad rads radian radians": "1"},
    "celsius": {"°C": "1"},
    "fahrenheit": {"°F": "1"},
    "length/time": {"mph": "1609344/3600", "kmh kph": "1000000/3600"},
    # A number of units has no unit.
    "": {"unit units": "1"},
}
PREFIXES = {"milli": "1", "centi": "10", "deci": "100", "kilo": "1000000", "": "1000"}
METRES = {
    f"{prefix}{stem}{plural}": ("length", fractions.Fraction(size))
    for prefix, size in PREFIXES.items()
    for stem in ("meter", "metre")
    for plural in ("", "s")
}
UNITS = METRES | {
    name: (dimension, fractions.Fraction(size))
    for dimension, sizes in SIZES.items()
    for names, size in sizes.items()
    for name in names.split()
}
"""Name to dimension and size."""

# Longer names come first; "mL" and "L" are written with a capital, too.
NAMES = "|".join(map(re.escape, sorted({*UNITS, "mL", "cL", "L"}, key=len, reverse=True)))
# "cm", "square cm", "cm^2", "cm2"
TERM = (
    rf"(square |cubic |sq\.? )?({NAMES})(?![A-Za-z])(?:\s?\^\s?\{{?([23])\}}?|(?<=[a-z]m)([23]))?"
)
TRAILING_UNIT = re.compile(
    rf"(?:(?<=[0-9}})\]π])|(?P<space>(?<=\s))){TERM}(?:\s?(?:/|per )\s?{TERM})?\.?$"
)
# "5 \text{ apples}", "5\mathrm{cm}^2"
TRAILING_COMMAND = re.compile(
    r"(?<=\S)\s*\\(?:text|textrm|mathrm|mbox|operatorname|rm)\s?\{([^{}]*)\}(\s?\^\s?\{?[23]\}?)?$"
)
POWERS = {"square ": 2, "sq ": 2, "sq. ": 2, "cubic ": 3}
LATEX_COMMAND = re.compile(r"\\[A-Za-z]+")


def split_unit(text: str) -> tuple[str, Unit | None]:
    """A formula without the unit at its end, and the unit, or None if it has none.

    Other words in a LaTeX command at the end (``5 \\text{ apples}``) count as a unit of their own.
    """
    command = TRAILING_COMMAND.search(text)
    plain = text if command is None else f"{text[: command.start()]} {command[1]}{command[2] or ''}"
    match = TRAILING_UNIT.search(plain)
    if match is None:
        if command is None:
            return text, None
        words = " ".join(command[1].lower().split())
        return text[: command.start()], Unit(words, fractions.Fraction(1))

    # One letter behind other letters is a variable: "2x + 3m".
    rest = plain[: match.start()].rstrip()
    is_letter = len(match[3]) == 1 and match[3].isalpha()
    if is_letter and re.search("[A-Za-z]", LATEX_COMMAND.sub("", rest)):
        return text, None

    dimension, scale = _measure(*match.group(2, 3, 4, 5))
    if match[7]:
        divisor, divisor_scale = _measure(*match.group(6, 7, 8, 9))
        dimension, scale = f"{dimension}/{divisor}", scale / divisor_scale
    is_ambiguous = is_letter and match["space"] is None and not match[7]
    return rest, Unit(dimension, scale, is_ambiguous) if dimension else None


def _measure(
    adjective: str | None, name: str, exponent: str | None, digit: str | None
) -> tuple[str, fractions.Fraction]:
    """Dimension and size of a unit such as ``square cm`` or ``cm^2``."""
    dimension, scale = UNITS[name] if name in UNITS else UNITS[name.lower()]
    power = int(exponent or digit or POWERS.get(adjective or "", 1))
    return f"{dimension}^{power}" if dimension and power > 1 else dimension, scale**power
