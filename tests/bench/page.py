"""What the scripts beside this one write to docs/performance.md: a section each, between two markers.

A script replaces its own section and leaves the others as they are, so each can be run alone."""
import os
import pathlib
import re
import textwrap

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/performance.md"


def machine():
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    brand = re.search(r"(AMD|Intel)\S* +(EPYC|Ryzen|Xeon|Core)", text)
    name = f"{brand[1]} {brand[2]}" if brand else os.uname().machine
    vectors = next((v for v in ("avx512f", "avx2") if re.search(rf"\b{v}\b", text)), None)
    vectors = {"avx512f": " (AVX-512)", "avx2": " (AVX2)", None: ""}[vectors]
    return f"{os.cpu_count()} cores of an {name}{vectors}"


def table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)] + rows
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def paragraph(text):
    return textwrap.fill(text, 120)


def write(name, parts, page=PAGE):
    """Puts the parts, a blank line between them, where the section of this name was, or at the end."""
    begin, end = f"<!-- {name}: written by make bench -->", f"<!-- {name}: end -->"
    text = "\n\n".join([begin, *parts, end]) + "\n"
    old = page.read_text(encoding="utf-8") if page.exists() else "# Performance\n"
    if begin in old:
        before, rest = old.split(begin, 1)
        new = before + text + rest.split(end, 1)[1].removeprefix("\n")
    else:
        new = old.rstrip("\n") + "\n\n" + text
    page.write_text(new, encoding="utf-8")
    print(text)
