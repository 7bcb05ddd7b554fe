"""Print what the demo's two models scored when they were measured: committed rows, not runs on this machine."""

from pathlib import Path
from statistics import mean

from residual_st.benchmark import results

ROWS = Path(__file__).parents[2] / "benchmarks" / "results" / "demo.jsonl"
RATES = {"residual": 3e-3, "dense": 2e-3}  # each system's best


def main() -> None:
    rows = results.read(ROWS)
    print(f"For comparison, from {ROWS.relative_to(ROWS.parents[2])} (measured before, 900 updates, not on this machine):")
    for system, rate in RATES.items():
        runs = [row for row in rows if row["system"] == system and row["lr"] == rate]
        scores = ", ".join(f"{row['bleu']:.1f}" for row in runs)
        size = f"{runs[0]['encoder_parameters'] / 1e6:.1f} million weights in its encoder"
        print(f"  {system:9} BLEU {mean(row['bleu'] for row in runs):.1f} (seeds: {scores}), {size}")


if __name__ == "__main__":
    main()
