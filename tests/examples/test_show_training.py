import sys

import yaml
from conftest import ROOT, run
from test_end_to_end import BIN, config

SHOW = [sys.executable, ROOT / "examples" / "must_c" / "show_training.py"]


def test_progress_of_a_resumed_run_starts_at_its_first_new_update(data, tmp_path):
    options = {"log_format": "simple", "log_interval": 1, "save_interval_updates": 2, "report_accuracy": True}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config(data, **options, save_dir="run")))
    for updates, begun in ((2, 0), (4, 2), (4, 4)):
        trained = run(BIN / "residual-st", "train", "run.yaml", f"max-update={updates}", cwd=tmp_path)
        shown = run(*SHOW, input=trained.stdout + trained.stderr)
        if begun < updates:
            assert f"{updates}/{updates} " in shown.stderr and "loss=" in shown.stderr
            assert "% of the words are right" in shown.stdout
        assert "INFO" not in shown.stderr + shown.stdout  # the run's folder contains the log
    assert "already contains a run of 4 updates" not in shown.stderr


def test_last_lines_of_a_failed_run_are_printed(data, tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config(data, save_dir="run")))
    failed = run(BIN / "residual-st", "train", "run.yaml", "lr=fast", cwd=tmp_path, check=False)
    assert failed.returncode == 2
    assert "argument --lr: invalid" in run(*SHOW, input=failed.stdout + failed.stderr).stderr
