#!/usr/bin/python3
"""Some plots of a report as one picture, in its light colours: `picture.py REPORT.html PICTURE.svg`."""
import pathlib
import re
import sys

WIDTH, GAP, TITLE = 800, 26, 24
PLOTS = ("Lift against the control", "CTR over time")


def main():
    html = pathlib.Path(sys.argv[1]).read_text()
    style = re.search(r"<style>(.*?)</style>", html, re.S).group(1)
    style = re.sub(r"@media.*?\}\}", "", style)
    style = re.sub(r"svg\{max-width[^}]*\}", "", style)
    colours = dict(re.findall(r"--(\w+):([^;}]+)", style))
    parts, top = [], GAP
    for title, svg in re.findall(r"<h3>([^<]*)</h3>(?:(?!<h3>).)*?(<svg.*?</svg>)", html, re.S):
        if not title.startswith(PLOTS):
            continue
        height = float(re.search(r'height="([\d.]+)"', svg).group(1))
        parts.append(f'<text x="20" y="{top}" style="font-weight:600;fill:var(--fg)">{title}</text>')
        parts.append(svg.replace("<svg ", f'<svg x="20" y="{top + TITLE - 10}" ', 1))
        top += height + TITLE + GAP
    if len(parts) != 2 * len(PLOTS):
        sys.exit(f"picture.py: {sys.argv[1]} has not the plots {PLOTS}")
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}" width="{WIDTH}" height="{top:.0f}">\n'
        f'<style>{style}</style>\n<rect width="100%" height="100%" style="fill:var(--bg)"/>\n' + "\n".join(parts) + "\n</svg>\n")
    pathlib.Path(sys.argv[2]).write_text(re.sub(r"var\(--(\w+)\)", lambda name: colours[name[1]], picture))


if __name__ == "__main__":
    main()
