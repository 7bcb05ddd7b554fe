"""Files and folders are written atomically, and the user's files next to them are kept."""

import os
import subprocess
import sys

import pytest

from residual_st.errors import InputError
from residual_st.files import atomically, whole_folder


def write(path, text):
    """Write a file, or a folder that contains a file."""
    if path.suffix:
        with atomically(path) as partial:
            partial.write_text(text)
    else:
        with whole_folder(path) as partial:
            (partial / "inside").write_text(text)


def read(path):
    return (path if path.is_file() else path / "inside").read_text()


@pytest.mark.parametrize("name", ["x.pt", "x"])
def test_files_of_the_user_are_kept(tmp_path, name):
    path, user_folder = tmp_path / name, tmp_path / f"{name}.partial"
    user_folder.mkdir()
    (user_folder / "thesis").write_text("precious")
    for text in ("one", "two"):
        write(path, text)
        assert read(path) == text
    with pytest.raises(ZeroDivisionError), (atomically if path.suffix else whole_folder)(path) as partial:
        assert partial.parent == tmp_path  # on the same file system
        1 / 0  # noqa: B018 - raises
    assert read(path) == "two"
    assert (user_folder / "thesis").read_text() == "precious"
    assert {file.name for file in tmp_path.iterdir()} == {name, user_folder.name}


@pytest.mark.parametrize("name", ["x.pt", "x"])
def test_leftovers_of_killed_processes_are_removed_and_running_writers_kept(tmp_path, name):
    program = """
import os, sys, time
from pathlib import Path
from residual_st.files import atomically, whole_folder
path = Path(sys.argv[1])
with (atomically if path.suffix else whole_folder)(path) as partial:
    (partial if path.suffix else partial / "inside").write_text("half")
    print(partial.name, flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", program, tmp_path / name]
    killed, running = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    leftover, unfinished = killed.stdout.readline().strip(), running.stdout.readline().strip()
    killed.kill()
    killed.communicate()
    assert (tmp_path / leftover).exists() and leftover != unfinished
    write(tmp_path / name, "whole")
    assert {file.name for file in tmp_path.iterdir()} == {name, unfinished}
    running.kill()
    running.communicate()


def test_permissions_are_those_of_a_new_file(tmp_path):
    for name, plain in (("x.pt", 0o666), ("x", 0o777)):
        write(tmp_path / name, "one")
        mask = os.umask(0)
        os.umask(mask)
        assert (tmp_path / name).stat().st_mode & 0o777 == plain & ~mask


def test_unwritable_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "nowhere" / "x", "one")
