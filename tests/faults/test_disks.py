"""On a full or read-only disk, commands report the error and leave no partial output."""

import shutil
import subprocess
import sys

import pytest

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
COMMANDS = {
    "average": ["average", "{checkpoint}", "--output", "{disk}/out.pt"],
    "strip": ["strip", "{checkpoint}", "--output", "{disk}/out.pt"],
    "expand": ["expand", "{checkpoint}", "--output", "{disk}/out.pt"],
    "export": ["export", "{checkpoint}", "--data", "{data}", "--output", "{disk}/out"],
    "cache-teacher": ["cache-teacher", "{checkpoint}", "--data", "{data}", "--output", "{disk}/out"],
}


def on_disk(options: str, disk, command: list[str]) -> subprocess.CompletedProcess:
    """Run a command with a separate file system mounted at `disk`, and list the files that it leaves there."""
    script = f'mount -t tmpfs -o {options} none {disk} && "$@"; status=$?; ls -A {disk}; exit $status'
    return subprocess.run([*NAMESPACE, script, "sh", *command], capture_output=True, text=True)


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if not shutil.which("unshare") or on_disk("size=64k", folder, ["true"]).returncode:
        pytest.skip("needs Linux and permission to mount a file system in a new namespace")
    return folder


@pytest.mark.parametrize("options", ["size=32k", "ro"])
@pytest.mark.parametrize("name", COMMANDS)
def test_disk_errors_are_reported_and_leave_no_files(disk, shared_checkpoint, data, name, options):
    places = {"checkpoint": str(shared_checkpoint), "data": str(data), "disk": str(disk)}
    command = [sys.executable, "-m", "residual_st", *(part.format(**places) for part in COMMANDS[name])]
    result = on_disk(options, disk, command)
    assert result.returncode == 2, result.stderr[-2000:]
    assert len(result.stderr.splitlines()) == 1 and "cannot be written" in result.stderr, result.stderr
    assert result.stdout == ""
