"""benchmarks/gpu/run.sh on tiny models without a GPU: its steps run and write complete rows."""

import os
import subprocess
from collections import Counter

from conftest import ROOT, run

from residual_st.benchmark.results import read

SCRIPT = ROOT / "benchmarks" / "gpu" / "run.sh"


def test_steps_run_without_a_gpu_and_add_rows(data, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "benchmarks" / "results").iterdir()}
    environment = {**os.environ, "DEMO_ROOT": str(data.parent)}
    run("bash", SCRIPT, "--cpu", "--tiny", "--output", tmp_path, "smoke", "speed", "width", env=environment)
    speed = read(tmp_path / "gpu.jsonl")
    assert Counter(row["measure"] for row in speed) == {"update": 1, "encoder": 2, "product": 1, "beam": 2}
    assert all(row["ratio"] > 0 and row["device"] == "cpu" and {"machine", "torch"} <= row.keys() for row in speed)
    (width,) = read(tmp_path / "width.jsonl")
    assert (width["system"], width["updates"], width["flags"]["encoder-group-size"]) == ("k3-r2-2e-3", 2, 3)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_unknown_step_is_refused(tmp_path):
    refused = subprocess.run(["bash", SCRIPT, "--tiny", "spead"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.strip() == (
        "run.sh: spead must be one of smoke, speed, width, width-distilled, real, all, --cpu, --tiny, --output DIR"
    )
