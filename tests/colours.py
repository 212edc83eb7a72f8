"""The colours that a style sheet names in `:root`, and how well one stands out from another (WCAG 2.2, 1.4.3 and 1.4.11)."""

import re
from pathlib import Path


def colours(sheet: Path, scheme: str) -> dict[str, str]:
    """Name -> #rrggbb; `scheme`: light, or dark, which goes over it."""
    blocks = re.findall(r":root \{(.*?)\}", sheet.read_text(), re.DOTALL)[: 1 + (scheme == "dark")]
    return dict(re.findall(r"--([\w-]+): (#\w{6})", " ".join(blocks)))


def contrast(first: str, second: str) -> float:
    high, low = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
