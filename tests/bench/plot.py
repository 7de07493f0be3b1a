"""A plot of lines with logarithmic axes, as SVG, with each line's name at its end."""
import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 50, 50
COLOURS = ["#1f6fb4", "#d1495b", "#2e8b57", "#8a6d3b"]
STYLE = ("text{font:13px sans-serif;fill:#222}.title{font-weight:bold}.grid{stroke:#ddd}"
         ".end{text-anchor:end}.middle{text-anchor:middle}polyline{fill:none;stroke-width:2}")


def short(n):
    """1000000 -> 1 M."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if n >= size:
            return f"{n / size:g}{unit}"
    return f"{n:g}"


def ticks(values):
    """1, 2 and 5 times powers of ten, so that all values lie between the first and the last."""
    low, high = min(values), max(values)
    all_ = [m * 10.0 ** e for e in range(-9, 10) for m in (1, 2, 5)]
    return [tick for tick, after in zip(all_, all_[1:]) if low < after and tick < high] + [
        next(tick for tick in all_ if tick >= high)]


class Axis:
    def __init__(self, ticks_, begin, end):
        self.ticks, self.low, self.high = ticks_, min(ticks_), max(ticks_)
        self.begin, self.end = begin, end

    def at(self, value):
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.begin + share * (self.end - self.begin), 1)


def text(x, y, words, kind=""):
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(words)}</text>'


def spread(positions, apart):
    """The same order, moved so that no two are closer than `apart`."""
    placed = {}
    for name, y in sorted(positions.items(), key=lambda item: item[1]):
        placed[name] = max(y, max(placed.values(), default=-apart) + apart)
    return placed


def lines(path, title, x_name, y_name, series):
    """`series`: {name: [(x, y), ...]}."""
    points = [point for line in series.values() for point in line]
    x = Axis(sorted({p[0] for p in points}), LEFT, WIDTH - RIGHT)
    y = Axis(ticks([p[1] for p in points]), HEIGHT - BOTTOM, TOP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
           f'height="{HEIGHT}"><style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
           text(LEFT, 22, title, "title"), text(LEFT - 60, TOP - 10, y_name),
           text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_name, "middle")]
    for tick in y.ticks:
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.at(tick)}" '
                   f'y2="{y.at(tick)}"/>' + text(LEFT - 6, y.at(tick) + 4, short(tick), "end"))
    for tick in x.ticks:
        out.append(f'<line class="grid" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="{x.at(tick)}" '
                   f'x2="{x.at(tick)}"/>' + text(x.at(tick), HEIGHT - BOTTOM + 18, short(tick), "middle"))
    names = spread({name: y.at(line[-1][1]) for name, line in series.items()}, 16)
    for (name, line), colour in zip(series.items(), COLOURS):
        out.append(f'<polyline stroke="{colour}" points="' +
                   " ".join(f"{x.at(a)},{y.at(b)}" for a, b in line) + '"/>')
        out += [f'<circle cx="{x.at(a)}" cy="{y.at(b)}" r="3" fill="{colour}"/>' for a, b in line]
        out.append(f'<text x="{x.at(line[-1][0]) + 8}" y="{names[name] + 4}" style="fill:{colour}">'
                   f'{escape(name)}</text>')
    path.write_text("\n".join([*out, "</svg>"]) + "\n", encoding="utf-8")
