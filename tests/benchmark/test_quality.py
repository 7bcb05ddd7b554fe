"""A small matrix, carried out with real commands."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TINY, run

from residual_st.benchmark.comparison import compare
from residual_st.benchmark.quality import read_matrix
from residual_st.benchmark.results import read
from residual_st.errors import InputError

MATRIX = """\
tasks: {asr: asr.yaml}
test-sets: [tst-HE]
systems:
  dense: {seeds: [1, 2]}
  bypassed: {from: "@dense", keep-layers: [], flags: null}
  low-rank: {from: "@dense", low-rank: 0.4, flags: {max-update: 2}}
  distilled:
    from: "@dense"
    compress: {group-size: 3, residual-rank: 2}
    flags: {max-update: 2, distill-from: "@dense", distill-encoder-weight: 1}
"""


def cli(*arguments, check=True):
    return run(sys.executable, "-m", "residual_st", "benchmark", "quality", *arguments, check=check)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    (folder / "matrix.yaml").write_text(MATRIX)
    config = yaml.safe_load(Path("configs/quality_asr.yaml").read_text())
    config |= {name.replace("_", "-"): value for name, value in TINY.items()} | {
        "decoder-embed-dim": 32,
        "decoder-ffn-embed-dim": 48,
    }
    config |= {"config-yaml": "config_asr_plain.yaml", "max-update": 8, "total-num-update": 8, "warmup-updates": 2, "data": "x"}
    (folder / "asr.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def flags(folder, data):
    return [folder / "matrix.yaml", "--data", data, "--work", folder / "work", "--output", folder / "rows.jsonl"]


def test_runs_are_made_scored_compared_and_not_made_again(folder, flags):
    printed = cli(*flags, "--seeds", "1", "--json").stdout
    rows = {row["system"]: row for row in read(folder / "rows.jsonl")}
    assert list(rows) == ["dense", "bypassed", "low-rank", "distilled"]
    table = {entry["system"]: entry for entry in json.loads(printed[printed.index("[\n") :])}
    assert table["dense"]["change_percent"] is None
    assert table["bypassed"]["fraction"] == 0
    assert 0.3 < table["low-rank"]["fraction"] <= 0.4
    for row in rows.values():
        assert len(row["hypotheses"]) == len(row["references"]) == 24
        assert row["commit"] and row["torch"] and row["core_minutes"] > 0
    assert rows["distilled"]["updates"] == 2
    assert "distill_encoder_loss" in (folder / "work" / "asr" / "distilled" / "1" / "train.log").read_text()
    before = (folder / "rows.jsonl").read_bytes()
    cli(*flags, "--seeds", "1")
    assert (folder / "rows.jsonl").read_bytes() == before


def test_a_stopped_matrix_goes_on(folder, flags):
    work = folder / "work" / "asr" / "distilled" / "1"
    rows = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
    (folder / "rows.jsonl").write_text("".join(row for row in rows if '"distilled"' not in row))
    start = (work / "start.pt").stat().st_mtime_ns
    (work / "generate-tst-HE_asr.txt").write_text("T-0\tcut")
    cli(*flags, "--seeds", "1")
    assert (work / "start.pt").stat().st_mtime_ns == start
    assert read(folder / "rows.jsonl")[-1]["system"] == "distilled"
    assert len(read(folder / "rows.jsonl")) == len(rows)


def test_a_failure_is_reported_with_its_log_and_spares_the_rest(folder, flags):
    shutil.rmtree(folder / "work" / "asr" / "dense" / "2", ignore_errors=True)
    broken = folder / "broken.yaml"
    broken.write_text(
        MATRIX + '  broken: {flags: {lr-scheduler: "none"}}\n  after: {from: "@broken", keep-layers: [0], flags: null}\n'
    )
    result = cli(broken, *flags[1:], "--systems", "after,dense", "--seeds", "1", check=False)
    assert result.returncode == 1
    text = result.stdout + result.stderr
    assert "asr/broken/1 failed: " in text
    assert "train.log" in text
    assert "asr/after/1 left out" in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("asr.yaml", "none.yaml"), "none.yaml, which does not exist"),
        (('"@dense", low-rank', '"@danse", low-rank'), "asr/low-rank/1 needs asr/danse/1, which the matrix does not make"),
        (("keep-layers", "keep-layer"), "unknown key 'keep-layer'"),
        (("test-sets", "tests"), "not a matrix with tasks, test-sets and systems"),
    ],
)
def test_refuses_a_matrix_that_cannot_be_made(folder, change, sentence):
    (folder / "wrong.yaml").write_text(MATRIX.replace(*change))
    with pytest.raises(InputError, match=sentence):
        read_matrix(folder / "wrong.yaml")


def test_refuses_in_one_sentence(folder, flags, tmp_path):
    for arguments, sentence in (
        ([tmp_path / "none.yaml", *flags[1:]], "cannot be read"),
        ([*flags, "--systems", "dance"], "the matrix has no system 'dance'; it has dense, bypassed"),
        ([*flags, "--jobs", "0"], "at least one is needed"),
        ([flags[0], "--data", tmp_path / "none", *flags[3:]], "is not a folder"),
    ):
        result = cli(*arguments, check=False)
        assert result.returncode == 2
        assert sentence in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_the_projects_own_matrix_is_whole():
    matrix = read_matrix(Path("configs/quality.yaml"))
    names = [run.name for run in matrix.chosen(None, None, None)]
    assert names.index("asr/dense/1") < names.index("st/dense/1")
    assert len(names) == len(set(names)) == len(matrix.runs)


def test_compares_over_the_seeds_that_both_have_and_takes_the_latest_row():
    def row(system, seed, hypotheses, size=100, **more):
        return {
            "task": "asr", "system": system, "seed": seed, "hypotheses": hypotheses, "references": ["a b", "c d"],
            "encoder_matrix_parameters": size, "wer": 0.0, "chrf": 1.0, "core_minutes": 1.0, **more,
        }  # fmt: skip

    rows = [
        row("dense", 1, ["a b", "c x"]),
        row("small", 1, ["x x", "x x"], 30),
        row("small", 1, ["a x", "c x"], 30),
        row("small", 2, ["x x", "x x"], 30),
    ]
    entry = next(entry for entry in compare(rows) if entry["system"] == "small")
    assert (entry["seeds"], entry["fraction"], entry["score"].value) == (1, 0.3, 50.0)
    assert entry["change_percent"].value == 100.0
