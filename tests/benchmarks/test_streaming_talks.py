"""benchmarks/streaming.py: talks made of a corpus are streamed and scored by simulstream's commands."""

import sys

import numpy as np
import pytest
import yaml
from conftest import ROOT, run

pytest.importorskip("simulstream", reason="simulstream is not installed: pip install simulstream mweralign")
pytest.importorskip("mweralign", reason="mweralign is not installed: pip install mweralign")
from residual_st.benchmark import results  # noqa: E402
from residual_st.evaluation.scores import bleu, error_rate  # noqa: E402

BENCHMARK = ROOT / "benchmarks" / "streaming.py"


def test_talks_are_created_streamed_and_scored(streaming_ctc, data, tmp_path):
    talks, rows = tmp_path / "talks", tmp_path / "rows.jsonl"
    run(sys.executable, BENCHMARK, "make", talks, "--corpus", data, "--transcripts", "--seconds", "8", "--number", "2")
    spoken = yaml.safe_load((talks / "talks.yaml").read_text())
    assert {sentence["wav"] for sentence in spoken} == {"0.wav", "1.wav"}
    arguments = [talks, f"tiny={streaming_ctc[-1]}", "--policies", "offline-ctc", "ctc", "--chunks", "0.5", "--output", rows]
    for _ in range(2):  # finished rows are not measured again
        run(sys.executable, BENCHMARK, "run", *arguments)
        offline, streamed = results.read(rows)
    assert (offline["policy"], streamed["policy"], streamed["chunk_seconds"]) == ("offline-ctc", "ctc", 0.5)
    for row in (offline, streamed):
        assert len(row["counts"]) == len(row["errors"]) == len(spoken)
        assert bleu(np.array(row["counts"]).sum(0)) == pytest.approx(row["bleu"], abs=0.01)  # the output of simulstream's scorer
        assert error_rate(np.array(row["errors"], float).sum(0)) == pytest.approx(row["wer"], abs=0.01)
        assert row["real_time_factor"] > 0 and "seconds" in row
    assert streamed["stream_laal"] < offline["stream_laal"]
    assert streamed["stream_laal"] <= streamed["stream_laal_computation_aware"]
