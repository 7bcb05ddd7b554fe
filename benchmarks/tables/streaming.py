"""The table from the rows of benchmarks/streaming_encoder.py."""

from tables.common import github, read, with_range


def streaming_encoder() -> str:
    """A chunk encoded once beside a window encoded again, and what an hour does to memory and time. The newest row of each case."""
    newest = {tuple(row[name] for name in ("left_chunks", "system", "precision")): row for row in read("streaming_encoder")}
    lines = [
        [
            f"{system}, {precision}",
            left,
            f"{1000 * row['chunked_seconds']:.1f}",
            f"{1000 * row['recomputed_seconds']:.0f}",
            with_range(row),
            f"{row['first_minute_bytes'] / 1e6:.1f}",
            f"{row['last_minute_bytes'] / 1e6:.1f} ({row['memory_ratio'] - 1:+.1%})",
            f"{1000 * row['first_minute_chunk_seconds']:.1f} → {1000 * row['last_minute_chunk_seconds']:.1f}",
        ]
        for (left, system, precision), row in sorted(newest.items(), key=lambda item: -item[0][0])
    ]
    headers = [
        "encoder",
        "L",
        "ms a chunk",
        "ms a window",
        "times less",
        "MB after a minute",
        "MB after an hour",
        "ms a chunk, first → last minute",
    ]
    return github(lines, headers)
