"""Fill the tables and draw the figures of README.md, docs/ and the recipe's page from results/*.jsonl and the archs.

python benchmarks/readme.py [PREFIX]

Tables are between `<!-- NAME -->` and `<!-- end -->`; tables/ has a function of that name. With a prefix, such as from_scratch,
only tables and figures whose names begin with it are made.
"""

import re
import sys
from pathlib import Path

from tables import (
    compression,
    device,
    faults,
    from_scratch,
    quality,
    real_models,
    refinement,
    speed,
    streaming,
    whisper_translation,
)

from residual_st.benchmark import plots

MODULES = (compression, device, faults, from_scratch, quality, real_models, refinement, speed, streaming, whisper_translation)


def tables_in(text: str) -> list[str]:
    """The names of the tables in a page."""
    return [name for name in re.findall(r"^<!-- (\w+) -->$", text, re.MULTILINE) if name != "end"]


def filled(text: str, name: str) -> str:
    """A page with this table filled in.

    Raises:
        ValueError: if no table or several tables have this name.
    """
    tables = [vars(module)[name] for module in MODULES if name in vars(module)]
    if len(tables) != 1:
        raise ValueError(f"{name} is the name of {len(tables)} tables")
    start, end = f"<!-- {name} -->\n", "<!-- end -->"
    before, _, rest = text.partition(start)
    return before + start + tables[0]() + "\n" + end + rest.partition(end)[2]


def main() -> int:
    root, prefix = Path(__file__).parent.parent, "".join(sys.argv[1:])
    for path in (root / "README.md", *sorted((root / "docs").rglob("*.md")), root / "examples/must_c/README.md"):
        text = path.read_text(encoding="utf-8")
        for name in (name for name in tables_in(text) if name.startswith(prefix)):
            try:
                text = filled(text, name)
            except ValueError as error:
                print(f"{path.name}: {error}", file=sys.stderr)
                return 2
        path.write_text(text, encoding="utf-8")
    pictures = {
        "quality": lambda path: path.with_suffix(".svg").write_text(quality.picture(), encoding="utf-8"),
        "from_scratch": lambda path: path.with_suffix(".svg").write_text(from_scratch.picture(), encoding="utf-8"),
        "device": device.picture,
        "streaming": streaming.picture,
        "speed": lambda path: plots.draw("speed", speed.newest("speed"), path),
        "memory": lambda path: plots.draw("memory", speed.newest("memory"), path),
    }
    for name, draw in pictures.items():
        if name.startswith(prefix):
            draw(root / "docs" / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
