"""Show the output of `residual-st train` as a bar with the time left: residual-st train … 2>&1 | python show_training.py

Expects `--log-format simple`. The last lines are printed if the training did not end as it should.
"""

import re
import sys
from collections import deque
from collections.abc import Iterable

from tqdm import tqdm

LAST = re.compile(r" --max-update (\d+)")
RESUMED = re.compile(r"\| Loaded checkpoint .* @ (\d+) updates")
UPDATES = re.compile(r"\| train_inner \|.* loss=([\d.]+).* num_updates=(\d+)")
SCORE = re.compile(r"\| valid on .* \| accuracy ([\d.]+)")
DONE = re.compile(r"\| done training|already contains a run of")


def show(lines: Iterable[str]) -> None:
    bar = tqdm(desc="training", unit="update", mininterval=0.1 if sys.stderr.isatty() else 10)
    recent, done = deque(maxlen=30), False
    for line in lines:
        recent.append(line)
        done = done or bool(DONE.search(line))
        if last := LAST.search(line):
            bar.total = int(last[1])
        elif resumed := RESUMED.search(line):
            bar.initial = bar.n = int(resumed[1])  # the time left is counted from there
        elif update := UPDATES.search(line):
            bar.set_postfix(loss=update[1], refresh=False)
            bar.update(int(update[2]) - bar.n)
        elif score := SCORE.search(line):
            bar.write(f"validation: {score[1]} % of the words are right")
    bar.close()
    if not done:
        sys.stderr.writelines(recent)


if __name__ == "__main__":
    show(sys.stdin)
