"""A run as a picture: lines of blocks for a terminal, or SVG."""

from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

from posthouse.sim.record import Sample

BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH, HEIGHT, LEFT, GAP = 960, 200, 60, 40
"""Of each SVG panel, in pixels."""
COLOURS = {
    "load": "#f2b441",
    "need": "#888888",
    "ready": "#1f6f8b",
    "coming": "#8fc1d4",
    "cold": "#c9d3d7",
    "wait": "#c44536",
}


def blocks(samples: Sequence[Sample], columns: int) -> list[tuple[str, str, float]]:
    """(name, blocks, highest value) for load, ready capacity, workers not stopped, and waiting requests."""
    rows: dict[str, Callable[[Sample], float]] = {
        "load": lambda s: s.load,
        "capacity ready": lambda s: s.ready,
        "workers not stopped": lambda s: s.hot + s.coming,
        "requests waiting": lambda s: s.waiting,
    }
    drawn = []
    top = max([*(s.load for s in samples), *(s.ready for s in samples)], default=0.0)
    for name, value in rows.items():
        cells = _cells([value(s) for s in samples], columns)
        highest = max(cells, default=0.0)
        scale = top if name in ("load", "capacity ready") else highest
        text = "".join(BLOCKS[round(cell / scale * (len(BLOCKS) - 1))] if scale > 0 else " " for cell in cells)
        drawn.append((name, text, highest))
    return drawn


def _cells(values: Sequence[float], columns: int) -> list[float]:
    """The mean of the values in each column."""
    columns = min(columns, len(values))
    cuts = [len(values) * i // columns for i in range(columns + 1)] if columns else []
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]


def svg(samples: Sequence[Sample], title: str) -> str:
    """Load against capacity, workers by tier, and waiting requests, one above the other."""
    samples = samples[:: max(1, len(samples) // WIDTH)]
    span_s = max((s.t for s in samples), default=1.0) or 1.0
    upper = [
        ("load", COLOURS["load"], [s.load for s in samples]),
        ("capacity needed", COLOURS["need"], [s.need for s in samples]),
        ("capacity ready", COLOURS["ready"], [s.ready for s in samples]),
    ]
    middle = [
        ("ready", COLOURS["ready"], [float(s.hot) for s in samples]),
        ("on their way", COLOURS["coming"], [float(s.coming) for s in samples]),
        ("stopped", COLOURS["cold"], [float(s.cold) for s in samples]),
    ]
    lower = [("requests waiting", COLOURS["wait"], [float(s.waiting) for s in samples])]
    times = [s.t / span_s for s in samples]
    panels = [_panel(i, times, lines) for i, lines in enumerate((upper, middle, lower))]
    height = 3 * (HEIGHT + GAP) + GAP
    hours = f"{span_s / 3600:.4g} h" if span_s >= 7200 else f"{span_s:.4g} s"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + LEFT + 20} {height}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="{LEFT}" y="20" font-size="15">{escape(title)}</text>\n'
        + "\n".join(panels)
        + f'\n<text x="{LEFT + WIDTH}" y="{height - 12}" text-anchor="end">{hours}</text>\n</svg>\n'
    )


def _panel(index: int, times: Sequence[float], lines: Sequence[tuple[str, str, list[float]]]) -> str:
    top = GAP + index * (HEIGHT + GAP)
    highest = max((max(values, default=0.0) for _, _, values in lines), default=0.0) or 1.0
    parts = [
        f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{top + HEIGHT}" y2="{top + HEIGHT}" stroke="#333"/>',
        f'<text x="{LEFT - 6}" y="{top + 12}" text-anchor="end">{highest:.4g}</text>',
        f'<text x="{LEFT - 6}" y="{top + HEIGHT}" text-anchor="end">0</text>',
    ]
    for number, (name, colour, values) in enumerate(lines):
        points: list[str] = []
        before = None
        for share, value in zip(times, values, strict=True):
            x, y = LEFT + share * WIDTH, top + HEIGHT - value / highest * HEIGHT
            if before is not None:
                points.append(f"{x:.1f},{before:.1f}")
            points.append(f"{x:.1f},{y:.1f}")
            before = y
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{" ".join(points)}"/>')
        parts.append(f'<text x="{LEFT + 10 + 150 * number}" y="{top - 6}" fill="{colour}">{escape(name)}</text>')
    return "\n".join(parts)
