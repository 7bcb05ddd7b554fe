import json
import xml.etree.ElementTree as ElementTree

import pytest
from conftest import ROOT

from residual_st.benchmark.results import read
from residual_st.benchmark.timing import alternate, ratios_to
from residual_st.cli import main

SMALL = ["--widths", "64", "--ranks", "4", "--layers", "8,12", "--repeats", "1"]
SPEED = ["benchmark", "speed", *SMALL, "--seconds", "0.3,0.5", "--batches", "1", "--threads", "1", "--frames", "400"]


def test_speed_compares_with_stock_and_resumes(tmp_path, capsys):
    output = tmp_path / "speed.jsonl"
    assert main([*SPEED, "--dropouts", "0.1", "--output", str(output), "--plot", str(tmp_path / "picture")]) == 0
    table = capsys.readouterr().out
    rows = read(output)
    assert {row["system"] for row in rows} == {"compact", "fast", "residual"}
    for row in rows:
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["median_seconds"] > 0 and row["stock_seconds"] > 0
        assert {"torch", "machine", "threads", "seed", "rank", "group_size"} <= row.keys()
        assert f"{row['ratio']:g}" in table
    assert {row["layers"] for row in rows} == {8, 12}
    ElementTree.parse(tmp_path / "picture.svg")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")

    kept = output.read_text().splitlines()[:2]  # as after an interruption
    output.write_text("\n".join(kept) + "\n")
    assert main([*SPEED, "--dropouts", "0.1", "--output", str(output)]) == 0
    assert output.read_text().splitlines()[:2] == kept
    assert len(read(output)) == len(rows)


def test_speed_with_tuned_products(tmp_path):
    output = tmp_path / "speed.jsonl"
    flags = ["--measures", "encoder", "--devices", "cpu", "--output", str(output)]
    assert main([*SPEED, *flags, "--tuned", "--plot", str(tmp_path / "picture")]) == 0
    assert {row["system"] for row in read(output)} == {"compact", "fast", "tuned"}


def test_speed_of_a_conformer(tmp_path):
    output, flags = tmp_path / "speed.jsonl", "--attn-type espnet --pos-enc-type rel_pos"
    arguments = ["--measures", "encoder,update", "--seconds", "0.3", "--dropouts", "0", "--devices", "cpu", "--output", str(output)]
    assert main([*SPEED, *arguments, "--arch", "s2t_conformer", "--model-flags", flags]) == 0
    rows = read(output)
    assert [row["system"] for row in rows] == ["compact", "fast", "residual"]
    assert {(row["arch"], row["model_flags"]) for row in rows} == {("s2t_conformer", flags)}


def test_memory_of_the_shared_form_is_smaller(tmp_path, capsys):
    output = tmp_path / "memory.jsonl"
    flags = [*SMALL, "--widths", "512", "--layers", "12", "--output", str(output), "--plot", str(tmp_path / "picture")]
    assert main(["benchmark", "memory", *flags]) == 0
    rows = {(row["part"], row["system"]): row for row in read(output)}
    assert {part for part, _ in rows} == {"layers", "encoder", "model", "training"}
    compact, fast = rows["layers", "compact"], rows["layers", "fast"]
    assert compact["steady_bytes_ratio"] < 0.45  # 0.352 of the weights
    assert 0.9 < fast["steady_bytes_ratio"] < 1.1
    assert compact["stock_steady_bytes"] > 12 * 12 * 512**2 * 4, "the process holds all weights of the stock model"
    assert 0.9 < compact["bytes_read_ratio"] / compact["file_ratio"] < 1.1
    assert 0 < compact["seconds_to_load"] < compact["seconds_to_first_output"]
    assert rows["training", "compact"]["steady_bytes_ratio"] < 0.75
    assert (tmp_path / "picture.svg").exists()


def test_systems_alternate_and_ratios_are_taken_within_a_repeat():
    calls = []
    times = alternate({"stock": lambda: calls.append("s"), "residual": lambda: calls.append("o")}, 2, lambda: None)
    assert {name: len(values) for name, values in times.items()} == {"stock": 2, "residual": 2}
    order = "".join(calls).replace("ss", "s").replace("oo", "o")
    while "ss" in order or "oo" in order:
        order = order.replace("ss", "s").replace("oo", "o")
    assert order.endswith("sos"), "the second repeat runs in reverse order"
    rows = ratios_to("stock", {"stock": [1.0, 2.0, 4.0], "residual": [2.0, 2.0, 2.0]})
    assert list(rows) == ["residual"]
    figures = {key: rows["residual"][key] for key in ("ratio", "ratio_low", "ratio_high", "stock_seconds", "repeats")}
    assert figures == {"ratio": 1.0, "ratio_low": 0.5, "ratio_high": 2.0, "stock_seconds": 2.0, "repeats": 3}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--measures", "latency"], "--measures 'latency' is not known; it must be one of encoder, layers, update, both"),
        (["--repeats", "0"], "--repeats 0 must be at least 1"),
        (
            ["--arch", "transformer"],
            "--arch transformer must be an architecture whose input is frames of features, such as s2t_conformer",
        ),
        (["--arch", "s2t_transformer_t"], "architecture 's2t_transformer_t' is not known"),
        (["--layers", "10"], "--layers 10 must be a multiple of 4"),
    ],
)
def test_wrong_usage_is_refused(flags, message, tmp_path, capsys):
    assert main([*SPEED, "--output", str(tmp_path / "speed.jsonl"), *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--threads", "0"], ["--seconds", "1,-1"], ["--frames", "many"], ["--ranks", "-1"]])
def test_numbers_out_of_range_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*SPEED, *flags])
    assert exit_.value.code == 2
    assert f"argument {flags[0]}: " in capsys.readouterr().err


def test_unwritable_output_is_refused_before_measuring(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([*SPEED, "--output", str(tmp_path / "file" / "speed.jsonl")]) == 2
    assert "speed.jsonl cannot be written: " in capsys.readouterr().err


def test_output_that_contains_no_rows_is_refused(tmp_path, capsys):
    (tmp_path / "speed.jsonl").write_text(json.dumps({"a": 1}) + "\nnot a row\n")
    assert main([*SPEED, "--output", str(tmp_path / "speed.jsonl")]) == 2
    assert "line 2 is not a row of results: 'not a row'" in capsys.readouterr().err


def test_committed_results_are_valid_rows_with_their_origin():
    files = list((ROOT / "benchmarks" / "results").glob("*.jsonl"))
    assert files
    for file in files:
        for row in read(file):
            assert {"system", "seed", "torch", "python", "machine", "commit"} <= row.keys(), file
