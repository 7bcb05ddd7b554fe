"""The table from the rows of benchmarks/streaming_encoder.py."""

from tables.common import github, read, with_range


def streaming_encoder() -> str:
    """A chunk encoded once beside a window encoded again, and what a long stream does to memory and time: the longest row of each
    case."""
    rows = sorted(read("streaming_encoder"), key=lambda row: row["hours"])
    longest = {(-row["left_chunks"], row["system"], row["precision"]): row for row in rows}
    lines = [
        [
            f"{row['system']}, {row['precision']}",
            row["left_chunks"],
            f"{1000 * row['chunked_seconds']:.1f}",
            f"{1000 * row['recomputed_seconds']:.0f}",
            with_range(row),
            f"{60 * row['hours']:.0f}",
            f"{row['first_minute_bytes'] / 1e6:.1f} → {row['last_minute_bytes'] / 1e6:.1f} ({row['memory_ratio'] - 1:+.1%})",
            f"{1000 * row['first_minute_chunk_seconds']:.1f} → {1000 * row['last_minute_chunk_seconds']:.1f}",
        ]
        for _, row in sorted(longest.items(), key=lambda item: item[0])
    ]
    stream = ["minutes of the stream", "MB, after the first minute → at the end", "ms a chunk, first → last minute"]
    return github(lines, ["encoder", "L", "ms a chunk", "ms a window", "times less", *stream])
