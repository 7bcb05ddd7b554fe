"""Tables of docs/faults.md."""

from collections import defaultdict

from tables.common import github, read


def faults_kills() -> str:
    """Kills of each command."""
    by_case = defaultdict(list)
    for row in read("faults_kills"):
        by_case[row["system"]].append(row)
    table = [
        (
            case,
            len(kills),
            sum(row["kill"] == "while writing" for row in kills),
            sum(row["hit"] for row in kills),
            sum(row["unfinished"] > 0 for row in kills),
            sum(bool(row["problems"]) for row in kills),
        )
        for case, kills in by_case.items()
    ]
    table.append(("all", *(sum(column) for column in list(zip(*table))[1:])))
    return github(table, ["command", "kills", "while writing", "before its end", "unfinished files left", "lost or wrong"])


def faults_corruption() -> str:
    """Files of each family, and how commands on them ended."""
    by_family = defaultdict(list)
    for row in read("faults_corruption"):
        by_family[row["family"]].append(row)
    table = [
        (
            family,
            len({row["system"].rpartition(": ")[0] for row in cases}),
            len(cases),
            sum(row["status"] == 2 for row in cases),
            sum(row["status"] == 0 for row in cases),
            sum(bool(row["fault"]) for row in cases),
            round(max(row["seconds"] for row in cases), 1),
            max(row["bytes"] for row in cases) // 2**20,
        )
        for family, cases in by_family.items()
    ]
    totals = [sum(column) for column in list(zip(*table))[1:6]]
    table.append(("all", *totals, max(row[6] for row in table), max(row[7] for row in table)))
    headers = ["files", "how many", "commands", "refused in a line", "ended well", "faults", "longest, s", "most memory, MiB"]
    return github(table, headers)
