"""Files and folders that appear whole, beside files of the user's."""

import os
import subprocess
import sys

import pytest

from residual_st.errors import InputError
from residual_st.files import atomically, whole_folder


def write(path, text):
    """A file, or a folder with a file in it."""
    if path.suffix:
        with atomically(path) as partial:
            partial.write_text(text)
    else:
        with whole_folder(path) as partial:
            (partial / "inside").write_text(text)


def read(path):
    return (path if path.is_file() else path / "inside").read_text()


@pytest.mark.parametrize("name", ["x.pt", "x"])
def test_what_stands_beside_it_is_kept(tmp_path, name):
    path, mine = tmp_path / name, tmp_path / f"{name}.partial"
    mine.mkdir()
    (mine / "thesis").write_text("precious")
    for text in ("one", "two"):
        write(path, text)
        assert read(path) == text
    with pytest.raises(ZeroDivisionError), (atomically if path.suffix else whole_folder)(path) as partial:
        assert partial.parent == tmp_path  # on the same disk
        1 / 0  # noqa: B018 - raises
    assert read(path) == "two"
    assert (mine / "thesis").read_text() == "precious"
    assert {file.name for file in tmp_path.iterdir()} == {name, mine.name}


@pytest.mark.parametrize("name", ["x.pt", "x"])
def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path, name):
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
    killed, writing = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    left, alive = killed.stdout.readline().strip(), writing.stdout.readline().strip()
    killed.kill()
    killed.communicate()
    assert (tmp_path / left).exists() and left != alive
    write(tmp_path / name, "whole")
    assert {file.name for file in tmp_path.iterdir()} == {name, alive}
    writing.kill()
    writing.communicate()


def test_the_permissions_are_those_of_any_new_file(tmp_path):
    for name, plain in (("x.pt", 0o666), ("x", 0o777)):
        write(tmp_path / name, "one")
        mask = os.umask(0)
        os.umask(mask)
        assert (tmp_path / name).stat().st_mode & 0o777 == plain & ~mask


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "nowhere" / "x", "one")
