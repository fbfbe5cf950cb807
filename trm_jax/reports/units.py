"""Numbers as people read them: unit prefixes, digits, means with their spread."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trm_jax.reports.statistics import Spread


class Scale(NamedTuple):
    """One way to write a quantity: divided by `factor`, named `label`, with fixed `decimals` or four digits."""

    factor: float
    label: str
    decimals: int | None = None

    def number(self, value: float) -> str:
        scaled = value / self.factor
        if self.decimals is None:
            return digits(scaled)
        return f"{round(scaled, self.decimals) + 0.0:,.{self.decimals}f}"  # what rounds to zero has no sign

    def signed(self, difference: float) -> str:
        """With its sign, unless it rounds to nothing: '+0.0123', '-4', '0.0000'."""
        text = self.number(difference)
        return text if text.startswith("-") or not text.strip("0.,") else f"+{text}"

    def text(self, found: Spread | None, exact: bool = False) -> str:
        """'0.8731 ± 0.0042 (n = 3)'; of an `exact` figure without spread the number alone."""
        if found is None:
            return "not recorded"
        mean = self.number(found.mean)
        if exact and not found.deviation:
            return mean
        around = "" if found.deviation is None else f" ± {self.number(found.deviation)}"
        return f"{mean}{around} (n = {found.n})"


Unit = tuple[Scale, ...]  # ascending factors; the first is what files hold
FRACTION: Unit = (Scale(1, "", 4),)
PLAIN: Unit = (Scale(1, ""),)
UPDATES: Unit = (Scale(1, "updates"),)
HALT_STEPS: Unit = (Scale(1, "supervision steps", 3),)
EPOCHS: Unit = (Scale(1, "epochs"),)
SECONDS: Unit = (Scale(1, "s"), Scale(60, "min"), Scale(3600, "h"))
BYTES: Unit = (Scale(1, "bytes"), Scale(2**20, "MiB"), Scale(2**30, "GiB"))
COUNT: Unit = (Scale(1, ""), Scale(1e3, "thousand"), Scale(1e6, "million"))
RATE: Unit = (Scale(1, "examples/s"), Scale(1e3, "thousand examples/s"))
FLOPS: Unit = tuple(Scale(1000.0**k, f"{prefix}FLOP") for k, prefix in enumerate(("", "k", "M", "G", "T", "P", "E")))


def scale_for(unit: Unit, values: Iterable[float]) -> Scale:
    """The largest scale of a unit in which the smallest value is at least 1, the first when there is none."""
    least = min((abs(value) for value in values if value), default=0.0)
    return next((scale for scale in reversed(unit) if least >= scale.factor), unit[0])


def headed(name: str, scale: Scale) -> str:
    """A name with its unit, unless it holds that already."""
    return f"{name} ({scale.label})" if scale.label and scale.label not in name.split() else name


def digits(value: float) -> str:
    """Four significant digits without an exponent where that is short: 12.35, 5,028,866, 1.2e-07."""
    value += 0.0  # -0.0 is 0
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"


def compact(value: float) -> str:
    """Three digits and a letter: 1.48M, 20k."""
    for least, factor, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / factor:.3g}{letter}"
    return digits(value)


def plain(value) -> str:
    """A setting: numbers as `digits`, an empty text as '(empty)'."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return digits(value) if is_number else str(value) or "(empty)"


def setting_name(key: str) -> str:
    """The last part of a dotted setting, as tables name it."""
    return "optimiser" if key == "optim.name" else key.rsplit(".", 1)[-1]


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def listed(words: Iterable[str]) -> str:
    """'a, b and c'."""
    words = list(words)
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def shortened(words: Sequence[str], most: int, between: str = ", ") -> str:
    """'a, b, c and 2 more'."""
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return between.join(words[:most]) + rest
