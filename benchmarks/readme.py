"""Fill the tables of README.md, docs/ and the recipe's page, and draw the pictures, from results/*.jsonl and the architectures.

python benchmarks/readme.py

A table stands between `<!-- NAME -->` and `<!-- end -->`; tables/ has a function of that name.
"""

import re
import sys
from pathlib import Path

from tables import compression, from_scratch, quality, speed

from residual_st.benchmark import plots


def main() -> int:
    root = Path(__file__).parent.parent
    tables = {name: table for module in (compression, from_scratch, quality, speed) for name, table in vars(module).items()}
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md")), root / "examples/must_c/README.md"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"^<!-- (\w+) -->$", text, re.MULTILINE):
            if name == "end":
                continue
            if name not in tables:
                print(f"{path.name} has a place for {name}, which is no table", file=sys.stderr)
                return 2
            start, end = f"<!-- {name} -->\n", "<!-- end -->"
            before, _, rest = text.partition(start)
            text = before + start + tables[name]() + "\n" + end + rest.partition(end)[2]
        path.write_text(text, encoding="utf-8")
    picture = quality.picture()
    if picture:
        (root / "docs" / "quality.svg").write_text(picture, encoding="utf-8")
    (root / "docs" / "from_scratch.svg").write_text(from_scratch.picture(), encoding="utf-8")
    plots.draw("speed", speed.newest("speed"), root / "docs" / "speed")
    plots.draw("memory", speed.newest("memory"), root / "docs" / "memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
