import csv

from conftest import run_recipe


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def generated(path, texts: dict[int, tuple[str, str]]):
    lines = [f"T-{line}\t{reference}\nH-{line}\t-0.1\tx\nD-{line}\t-0.1\t{text}\n" for line, (reference, text) in texts.items()]
    path.write_text("".join(lines) + "Generate teach_st with beam=5: BLEU = 1\n", encoding="utf-8")
    return path


def test_only_targets_are_replaced_by_the_teachers_texts(data, tmp_path):
    before = rows(data / "train_st.tsv")
    replaced = {line: (row["tgt_text"], f'„Satz" {line}') for line, row in enumerate(before) if line % 10}
    replaced[1] = (before[1]["tgt_text"], "  ")
    output = generated(tmp_path / "out.txt", replaced)
    printed = run_recipe("replace_targets.py", data / "train_st.tsv", output, tmp_path / "train_kd_st.tsv").stdout
    assert f"{len(before)} sentences, {len(replaced) - 1} with the teacher's text" in printed
    for line, (old, new) in enumerate(zip(before, rows(tmp_path / "train_kd_st.tsv"))):
        expected = replaced[line][1] if line % 10 and line != 1 else old["tgt_text"]
        assert new == {**old, "tgt_text": expected}


def test_translations_of_another_manifest_and_overwriting_the_input_are_refused(data, tmp_path):
    before = (data / "train_st.tsv").read_bytes()
    whole = rows(data / "train_st.tsv")
    mismatched = generated(tmp_path / "mismatched.txt", {0: ("ein anderer Satz", "x")})
    longer = generated(tmp_path / "longer.txt", {len(whole): (whole[0]["tgt_text"], "x")})
    right = generated(tmp_path / "right.txt", {0: (whole[0]["tgt_text"], "x")})
    for arguments, sentence in (
        ((data / "train_st.tsv", mismatched, tmp_path / "out.tsv"), "their references differ"),
        ((data / "train_st.tsv", longer, tmp_path / "out.tsv"), "their references differ"),
        ((data / "train_st.tsv", right, data / "train_st.tsv"), "is the manifest itself"),
        ((tmp_path / "none.tsv", right, tmp_path / "out.tsv"), "cannot be read"),
        ((data / "train_st.tsv", tmp_path / "none.txt", tmp_path / "out.tsv"), "cannot be read"),
    ):
        result = run_recipe("replace_targets.py", *arguments, check=False)
        assert result.returncode == 2
        assert sentence in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert (data / "train_st.tsv").read_bytes() == before
    assert not (tmp_path / "out.tsv").exists()
