"""benchmarks/quality.py on a small matrix with real training runs."""

import copy
import fcntl
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, cli, same_weights
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from residual_st.benchmark.results import read
from residual_st.errors import InputError
from residual_st.evaluation.generated import Sentence
from residual_st.evaluation.scores import Estimate, error_counts, ngram_counts
from residual_st.fairseq.checkpoints import save_checkpoint
from residual_st.fairseq.conversion import read_model
from residual_st.fairseq.standalone import load_model

sys.path.append(str(ROOT / "benchmarks"))

from quality import main  # noqa: E402
from training_runs.comparison import compare, verdicts  # noqa: E402
from training_runs.counts import counted, counts_of  # noqa: E402
from training_runs.keep_layers import keep_layers  # noqa: E402
from training_runs.making import RunFailed, _command, _read_whole  # noqa: E402
from training_runs.matrix import read_matrix  # noqa: E402


def quality(*arguments, check=True):
    return cli(*arguments, check=check, program=main)


@pytest.fixture(scope="module")
def folder(matrix_run):
    return matrix_run[0]


@pytest.fixture(scope="module")
def flags(matrix_run):
    return matrix_run[1]


def test_runs_are_trained_scored_and_compared_once(folder, flags):
    rows = {row["system"]: row for row in read(folder / "rows.jsonl")}
    assert list(rows) == ["dense", "bypassed", "low-rank", "distilled"]
    before = (folder / "rows.jsonl").read_bytes()
    bypassed = folder / "work" / "asr" / "bypassed"
    bypassed.rename(folder / "moved")
    printed = quality(*flags, "--seeds", "1", "--json").stdout
    assert not bypassed.exists()
    (folder / "moved").rename(bypassed)
    assert (folder / "rows.jsonl").read_bytes() == before
    entries = json.loads(printed[printed.index("[\n") :])
    assert [entry["metric"] for entry in entries[:2]] == ["wer", "ctc_wer"]
    table = {entry["system"]: entry for entry in entries if entry["metric"] == "wer"}
    assert table["dense"]["change_percent"] is None
    assert table["bypassed"]["fraction"] == 0
    assert 0.3 < table["low-rank"]["fraction"] <= 0.4
    for row in rows.values():
        assert len(row["errors"]) == len(row["ctc_errors"]) == len(row["words"]) == 24
        assert round(100 * sum(row["errors"]) / sum(row["words"]), 3) == row["wer"]
        assert row["commit"] and row["torch"] and row["core_minutes"] > 0
    assert rows["distilled"]["updates"] == 2
    assert "distill_encoder_loss" in (folder / "work" / "asr" / "distilled" / "1" / "train.log").read_text()


def test_interrupted_matrix_resumes(folder, flags):
    work = folder / "work" / "asr" / "distilled" / "1"
    rows = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
    (folder / "rows.jsonl").write_text("".join(row for row in rows if '"distilled"' not in row))
    made = {name: (work / name).stat().st_mtime_ns for name in ("start.pt", "checkpoint_last.pt")}
    (work / "generate-tst-HE_asr.txt").write_text("T-0\tcut")
    quality(*flags, "--seeds", "1")
    assert {name: (work / name).stat().st_mtime_ns for name in made} == made
    assert read(folder / "rows.jsonl")[-1]["system"] == "distilled"
    assert len(read(folder / "rows.jsonl")) == len(rows)


def test_dry_run_lists_which_runs_are_finished(folder, flags):
    text = quality(*flags, "--seeds", "1", "--dry-run").stdout.splitlines()
    assert [line.split() for line in text[1:]] == [
        [f"asr/{name}/1", "made"] for name in ("dense", "bypassed", "low-rank", "distilled")
    ]
    text = quality(*flags[:-1], folder / "other.jsonl", "--systems", "bypassed", "--seeds", "1", "--dry-run").stdout.splitlines()
    assert [line.split() for line in text[1:]] == [["asr/dense/1"], ["asr/bypassed/1"]]


def test_failed_run_is_reported_with_its_log_and_the_others_continue(folder, flags):
    broken = folder / "broken.yaml"
    broken.write_text(
        flags[0].read_text()
        + '  broken: {flags: {lr-scheduler: "none"}}\n  after: {from: "@broken", keep-layers: [0], flags: null}\n'
    )
    result = quality(broken, *flags[1:], "--systems", "after,dense", "--seeds", "1", check=False)
    assert result.returncode == 1
    text = result.stdout + result.stderr
    assert "asr/broken/1 failed: " in text
    assert "train.log" in text
    assert "asr/after/1 left out" in text


def test_unreadable_checkpoint_fails_only_its_run(folder, flags):
    start = folder / "work" / "asr" / "bypassed" / "1" / "start.pt"
    rows = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
    (folder / "rows.jsonl").write_text("".join(row for row in rows if '"bypassed"' not in row))
    start.rename(folder / "kept.pt")
    start.write_bytes(b"no checkpoint")
    result = quality(*flags, "--systems", "bypassed", "--seeds", "1", check=False)
    (folder / "kept.pt").rename(start)
    (folder / "rows.jsonl").write_text("".join(rows))
    assert result.returncode == 1
    assert "asr/bypassed/1 failed: " in result.stdout + result.stderr
    assert "dense" in result.stdout  # finished runs are still compared


@pytest.fixture
def dense_as_residual_arch(fairseq_train, data, tmp_path):
    form = {"encoder_group_size": 1, "encoder_residual_rank": 0, "no_encoder_residual_diagonal": True}
    fairseq_train(data, tmp_path / "dense", "asr", **form, max_update=2)
    return read_model(tmp_path / "dense" / "checkpoint_last.pt", residual=False)


def test_layers_can_be_removed_from_a_dense_model_of_the_residual_arch(dense_as_residual_arch, tmp_path):
    state, whole = dense_as_residual_arch
    for kept in ([], [0, 3]):
        save_checkpoint(keep_layers(state, copy.deepcopy(whole), kept), tmp_path / "fewer.pt")
        fewer = load_model(tmp_path / "fewer.pt")[1]
        assert type(fewer) is S2TTransformerModel
        assert len(fewer.encoder.transformer_layers) == len(kept)
        assert same_weights(fewer.decoder.state_dict(), whole.decoder.state_dict())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("asr.yaml", "none.yaml"), "none.yaml cannot be read: No such file"),
        (('"@dense", compress', '"@danse", compress'), "asr/low-rank/1 needs asr/danse/1, which the matrix does not make"),
        (("keep-layers", "keep-layer"), "unknown key 'keep-layer'"),
        (("test-sets", "tests"), "not a matrix with tasks, test-sets and systems"),
        (("seeds: [1, 2]", "rates: {fast: [1]}"), "not a matrix .* could not convert string to float: 'fast'"),
    ],
)
def test_invalid_matrix_is_refused(folder, flags, change, sentence):
    (folder / "wrong.yaml").write_text(flags[0].read_text().replace(*change))
    with pytest.raises(InputError, match=sentence):
        read_matrix(folder / "wrong.yaml")


def test_work_folder_with_other_flags_is_refused(folder, flags):
    changed = folder / "changed.yaml"
    changed.write_text(flags[0].read_text().replace("=5/=5", "=4/=4"))
    result = quality(changed, *flags[1:], "--seeds", "1", check=False)
    assert result.returncode == 2
    assert "low-rank/1 holds a run with other flags" in result.stderr


def test_wrong_usage_is_refused_in_one_line(folder, flags, tmp_path):
    (tmp_path / "12:30").mkdir()
    for arguments, sentence in (
        ([tmp_path / "none.yaml", *flags[1:]], "cannot be read"),
        ([*flags, "--systems", "dance"], "the matrix has no system 'dance'; it has dense, bypassed"),
        ([*flags, "--reference", "dance"], "the matrix has no system 'dance'; it has dense, bypassed"),
        ([*flags, "--jobs", "0"], "must be at least 1"),
        ([*flags, "--set", "cpu"], "--set cpu must be of the form KEY=VALUE"),
        ([flags[0], "--data", tmp_path / "none", *flags[3:]], "is not a folder"),
        ([flags[0], "--data", tmp_path / "12:30", *flags[3:]], "12:30 contains ':', where fairseq splits paths"),
        ([*flags[:3], "--work", tmp_path / "12:30", *flags[5:]], "12:30 contains ':', where fairseq splits paths"),
        ([*flags[:-1], tmp_path], "cannot be written"),
    ):
        result = quality(*arguments, check=False)
        assert result.returncode == 2
        assert sentence in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_each_learning_rate_is_a_system(folder, flags):
    text = flags[0].read_text() + "  small:\n    flags: {encoder-layers: 4}\n    rates: {2.8e-3: [1, 2], 1.0e-4: [1]}\n"
    (folder / "rates.yaml").write_text(text)
    runs = [run for run in read_matrix(folder / "rates.yaml").runs if run.system.startswith("small")]
    assert [(run.system, run.seed) for run in runs] == [("small-2.8e-3", 1), ("small-2.8e-3", 2), ("small-1e-4", 1)]
    assert runs[0].flags == {"encoder-layers": 4, "lr": 0.0028}


@pytest.mark.parametrize(
    ("name", "first", "later"),
    [
        ("quality", "asr/dense", "st/dense"),
        ("quality_forms", "asr/dense", "asr/k3-r2"),
        ("from_scratch", "asr/dense-2.8e-3", "asr/k3-r2-taught-2.8e-3"),
        ("quality_conformer", "asr/dense", "asr/k3-r16-distilled"),
    ],
)
def test_committed_matrices_are_valid(name, first, later):
    matrix = read_matrix(ROOT / "benchmarks" / f"{name}.yaml")
    names = [run.name for run in matrix.chosen(None, None, None)]
    assert names.index(f"{first}/1") < names.index(f"{later}/1")
    assert len(names) == len(set(names)) == len(matrix.runs)


def test_comparison_uses_common_seeds_and_the_latest_rows():
    def row(system, seed, errors, size=100, **more):
        return {
            "task": "asr", "system": system, "seed": seed, "errors": errors, "words": [2, 2], "wer_units": "WER",
            "encoder_matrix_parameters": size, "wer": 0.0, "chrf": 1.0, "core_minutes": 1.0, **more,
        }  # fmt: skip

    rows = [row("dense", 1, [0, 1]), row("small", 1, [2, 2], 30), row("small", 1, [1, 1], 30), row("small", 2, [2, 2], 30)]
    entry = next(entry for entry in compare(rows) if entry["system"] == "small")
    assert (entry["seeds"], entry["fraction"], entry["score"].value) == (1, 0.3, 50.0)
    assert entry["change_percent"].value == 100.0


@pytest.mark.parametrize(
    ("metric", "scores", "shallow", "expected"),
    [
        ("wer", (20, 110, 60), (23, 15, 12), True),
        ("wer", (20, 70, 60), (23, 15, 12), False),  # the decoder works without the encoder
        ("wer", (20, 110, 25), (23, 15, 12), False),
        ("wer", (20, 110, 60), (23, 15, -1), False),  # not significant
        ("wer", (20, 110, 60), (21, 5, 2), False),
        ("bleu", (60, 10, 25), (55, -8, -12), True),
        ("bleu", (60, 13, 25), (55, -8, -12), False),
        ("bleu", (60, 10, 25), (58, -4, -6), False),
    ],
)
def test_verdict_says_whether_a_task_can_tell_encoders_apart(metric, scores, shallow, expected):
    def entry(system, score, change=0.0, low=None):
        width = abs(change - low) if low is not None else 1.0
        estimate = Estimate(change, change - width, change + width)
        return {"task": "t", "metric": metric, "system": system, "score": Estimate(score, score, score), "change_percent": estimate}

    dense, bypassed, third = scores
    entries = [
        entry("dense", dense),
        entry("bypassed", bypassed),
        entry("every-third-layer", third, 100 * (third / dense - 1)),
        entry("four-layers", shallow[0], shallow[1], shallow[2]),
    ]
    assert [answer["can tell"] for answer in verdicts(entries)] == [expected]
    assert verdicts(entries[:3]) == []


def test_incomplete_test_set_is_not_scored(tmp_path):
    manifest, generated = tmp_path / "tst.tsv", tmp_path / "generate-tst.txt"
    manifest.write_text("id\taudio\tn_frames\ttgt_text\n0\ta.npy\t9\ta\n1\tb.npy\t9\tb\n")
    generated.write_text("T-0\ta\nD-0\t-1\ta\nGenerate tst with beam=5: BLEU = 1\n")
    with pytest.raises(RunFailed, match="has 1 of the 2 sentences"):
        _read_whole(generated, manifest)
    generated.write_text("T-1\tb\nD-1\t-1\tc\n" + generated.read_text())
    assert [sentence.hypothesis for sentence in _read_whole(generated, manifest)] == ["a", "c"]


TEXTS = [
    Sentence("the cat sat on the mat", hypothesis) for hypothesis in ("the cat sat on a mat", "cat", "", "the the the the cat sat")
]


def test_scores_from_the_counts_in_a_row_equal_scores_from_texts():
    """Rows hold counts instead of texts."""
    row = json.loads(json.dumps({**counted("wer", TEXTS), **counted("bleu", TEXTS)}))
    assert np.array_equal(counts_of(row, "wer"), error_counts(TEXTS))
    assert np.array_equal(counts_of(row, "bleu"), ngram_counts(TEXTS))
    assert counts_of(row, "ctc_wer") is None


def test_paired_bootstrap_from_counts_equals_sacrebleus_from_texts():
    references = [f"the {number} cats sat on the mat of {number} dogs" for number in range(20)]
    texts = {
        "dense": [text if number % 3 else text.replace("cats", "bats") for number, text in enumerate(references)],
        "small": [text if number % 4 else text.replace("the mat", "a mat") for number, text in enumerate(references)],
    }
    test = PairedTest(list(texts.items()), {"BLEU": BLEU(references=[references])}, None, test_type="bs", n_samples=1000)
    expected = test()[1]["BLEU"][1].p_value
    rows = [
        {
            "task": "st", "system": name, "seed": 1, **counted("bleu", list(map(Sentence, references, hypotheses))),
            "bleu_signature": "", "encoder_matrix_parameters": 1, "chrf": 1.0, "core_minutes": 1.0,
        }
        for name, hypotheses in texts.items()
    ]  # fmt: skip
    (entry,) = [entry for entry in compare(rows, significance=True) if entry["system"] == "small"]
    assert entry["p_value"] == expected
    assert 0.01 < expected < 1


def test_log_that_another_process_still_writes_is_refused(tmp_path):
    log = tmp_path / "train.log"
    with open(log, "a") as left_behind:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=left_behind)
        fcntl.flock(left_behind, fcntl.LOCK_EX)
    with pytest.raises(RunFailed, match="still writes"):
        _command(["-c", "print(1)"], log)
    process.communicate(b"\n")
    _command(["-c", "print(1)"], log)
    assert log.read_text() == "1\n"
