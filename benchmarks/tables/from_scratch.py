"""Tables of docs/from_scratch.md."""

from tables.common import github, read


def from_scratch_starts() -> str:
    """Starts and rates: losses of dev after 2,000 updates."""
    rows = []
    for row in sorted(read("from_scratch_tried"), key=lambda row: (row["system"], row["dev_nll_loss"])):
        ends = f"{row['branch_ends']:.2g}" + ("" if row["branch_rate"] == 1 else f", rate too {row['branch_rate']:.2g}")
        down = (f"{row['down_factor']:g}", f"{row['up_rate']:g}") if "K" in row["system"] else ("", "")
        losses = f"{row['dev_nll_loss']:.3f}", f"{row['dev_ctc_loss']:.3f}"
        rows.append([row["system"], f"{row['lr']:g}", row["seed"], ends, *down, *losses])
    return github(rows, ["form", "rate", "seed", "ends of branches", "down", "rate of up", "dev nll", "dev CTC"])
