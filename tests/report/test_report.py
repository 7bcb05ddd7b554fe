"""`residual-st report` on real runs."""

import base64
import io
import re

import numpy as np
import pytest
import soundfile
import yaml
from conftest import cli, run_recipe

from residual_st.errors import InputError
from residual_st.evaluation.logs import read_log
from residual_st.evaluation.units import units_of
from residual_st.report.audio import Recordings
from residual_st.report.differences import Piece, mark


def report(*arguments, check=True):
    return cli("report", *arguments, check=check)


@pytest.fixture(scope="module")
def runs(matrix_run):
    return matrix_run[0] / "work" / "asr"


@pytest.fixture(scope="module")
def page(runs, data, tmp_path_factory) -> str:
    output = tmp_path_factory.mktemp("report") / "page.html"
    speech = ["--manifest", data / "tst-HE_asr.tsv", "--release", data / "data" / "tst-HE"]
    systems = [f"dense={runs}/dense/1", f"shared & distilled={runs}/distilled/1", f"bypassed={runs}/bypassed/1"]
    report(*systems, "--metric", "wer", "--samples", "5", *speech, "--output", output)
    return output.read_text()


def test_page_is_self_contained(page):
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert [address for address in addresses if not address.startswith(("#", "data:"))] == []
    assert "<script" not in page
    assert "width=device-width" in page


def test_page_contains_every_section(page):
    assert page.count("<svg") >= 3  # size and quality; validation and training curves
    assert page.count('class="sample"') == 5
    assert page.count("data:audio/wav;base64,UklGR") == 5
    for heading in ("Size and quality", "Training", "Residual energy of each layer", "Translations"):
        assert f"<h2>{heading}</h2>" in page
    table = page[page.index("<tbody>") : page.index("</tbody>")]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in table.split("</tr>")]
    assert [row[0] for row in rows if row] == ["dense", "shared &amp; distilled", "bypassed"]
    assert rows[0][1:3] == ["100.0 %", "dense"]
    assert rows[1][2].startswith("K=3, R=2, diagonal")
    assert rows[2][1] == "0.0 %"
    heat = page[page.index('class="heat"') :]
    assert heat[: heat.index("</table>")].count("<tr>") == 1 + 6  # layers


def test_each_sentence_of_a_long_talk_has_its_audio(tmp_path):
    """Sorted by id, offsets from 10 s come before those of 2 s."""
    root, rate = tmp_path / "mustc", 16_000
    rng = np.random.default_rng(1)
    offsets = [0.5, 2.25, 9.25, 10.5, 21.0]
    sounds = [(rng.standard_normal(round((0.8 + 0.1 * index) * rate)) * 3000).astype(np.int16) for index in range(len(offsets))]
    talk = np.zeros(25 * rate, np.int16)
    for offset, sound in zip(offsets, sounds):
        talk[round(offset * rate) :][: len(sound)] = sound
    for split in ("train", "dev", "tst-COMMON", "tst-HE"):
        folder = root / "en-de" / "data" / split
        (folder / "wav").mkdir(parents=True)
        (folder / "txt").mkdir()
        soundfile.write(folder / "wav" / f"{split}.wav", talk, rate)
        segments = [
            {"duration": len(sound) / rate, "offset": offset, "speaker_id": "s", "wav": f"{split}.wav"}
            for offset, sound in zip(offsets, sounds)
        ]
        (folder / "txt" / f"{split}.yaml").write_text(yaml.safe_dump(segments))
        for language in ("en", "de"):
            (folder / "txt" / f"{split}.{language}").write_text("".join(f"sentence {index}\n" for index in range(len(offsets))))
    run_recipe("prepare.py", "-d", root, "--languages", "de", "--task", "st", "--vocab-type", "char", "--vocab-size", 20)
    manifest = root / "en-de" / "tst-HE_st.tsv"
    recordings = Recordings(manifest, root / "en-de" / "data" / "tst-HE")
    lines = manifest.read_text().splitlines()[1:]
    assert len(lines) == len(offsets)
    for number, line in enumerate(lines):
        sound = sounds[int(line.split("\t")[3].split()[1])]
        data = base64.b64decode(recordings.wav(number).partition(",")[2])
        np.testing.assert_array_equal(soundfile.read(io.BytesIO(data), dtype="int16")[0], sound)


def test_existing_page_is_kept_without_force(runs, tmp_path):
    (tmp_path / "page.html").write_text("precious")
    result = report(f"{runs}/dense/1/train.log", "--output", tmp_path / "page.html", check=False)
    assert result.returncode == 2
    assert "page.html already exists" in result.stderr
    assert (tmp_path / "page.html").read_text() == "precious"


def test_logs_and_translations_are_reported_individually(runs, tmp_path):
    folder = runs / "dense" / "1"
    messages = report(folder / "train.log", "--output", tmp_path / "log.html").stderr
    assert (
        "train has no translations: fairseq-generate" in messages
        and "train has no checkpoint" in messages
        and "no training log" not in messages
    )
    assert "train has no translations" in (tmp_path / "log.html").read_text()
    assert "Translations" not in (tmp_path / "log.html").read_text()
    report(f"texts={folder}/generate-tst-HE_asr.txt", "--output", tmp_path / "text.html")
    assert "<h2>Training</h2>" not in (tmp_path / "text.html").read_text()


def test_runs_with_equal_names_are_seeds_of_one_system(runs, tmp_path):
    dense = runs / "dense" / "1"
    report(f"dense={dense}", f"dense={dense}", f"distilled={runs}/distilled/1", "--output", tmp_path / "page.html")
    assert "dense (2 seeds)" in (tmp_path / "page.html").read_text()


def test_wrong_usage_is_refused_in_one_line(runs, data, tmp_path):
    dense, mismatched = runs / "dense" / "1", tmp_path / "mismatched.txt"
    mismatched.write_text("T-0\tx\nD-0\t-1\tx\nGenerate a with beam=5: BLEU = 1\n")
    (tmp_path / "empty").mkdir()
    for arguments, sentence in (
        ([tmp_path / "none"], "does not exist"),
        ([tmp_path / "empty"], "contains no log of fairseq-train, no generate-*.txt and no checkpoint"),
        ([data / "config_asr.yaml"], "contains no update or validation of fairseq-train"),
        ([dense, mismatched], "translations of other sentences"),
        ([dense, "--manifest", data / "tst-HE_asr.tsv"], "give --release"),
        ([dense, "--release", data], "--release needs --manifest"),
        ([dense, "--manifest", data / "tst-HE_asr.tsv", "--release", data], "not a test set in MuST-C's layout"),
        ([dense, "--samples", "-1"], "must be at least 0"),
        ([dense, "--output", tmp_path / "no" / "page.html"], "cannot be written"),
    ):
        output = [] if "--output" in arguments else ["--output", tmp_path / "page.html"]
        result = report(*arguments, *output, check=False)
        assert result.returncode == 2, result.stderr
        assert sentence in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "page.html").exists()


def test_chinese_is_tokenized_and_counted_by_characters(tmp_path):
    """Unicode line separators inside of texts do not end a line."""
    text = "T-0\t他买了三本\u2028新书。\nD-0\t-1\t他买了三本\u2028书。\nT-1\t天气很好\x85。\nD-1\t-1\t天气很好。\nGenerate a\n"
    (tmp_path / "a.txt").write_text(text)
    for arguments, shown in (
        ([], ["<th>BLEU</th>", "tok:zh", "sacreBLEU&#39;s for zh"]),
        (["--tokenize", "char"], ["tok:char", "set by tokenize"]),
        (["--metric", "wer"], ["<th>CER</th>", ">7.69 (", "by characters"]),
    ):
        report(tmp_path / "a.txt", "--output", tmp_path / "page.html", "--force", *arguments)
        page = (tmp_path / "page.html").read_text()
        assert all(part in page for part in shown), arguments
    assert "Test set of 2 sentences." in page and '三本<span class="gap">‸</span>书。<' in page
    (tmp_path / "a.txt").write_text(text.replace("T-1", "T-3").replace("D-1", "D-3"))
    report(tmp_path / "a.txt", "--output", tmp_path / "page.html", "--force")
    assert "Test set of 2 sentences; 2 lines of its manifest are missing." in (tmp_path / "page.html").read_text()
    result = report(tmp_path / "a.txt", "--output", tmp_path / "page.html", "--force", "--tokenize", "words", check=False)
    assert result.returncode == 2 and "tokenize words must be one of sacreBLEU's" in result.stderr


def test_folder_with_several_test_sets_needs_a_choice(runs, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"generate-{name}.txt").write_text((runs / "dense" / "1" / "generate-tst-HE_asr.txt").read_text())
    result = report(tmp_path, "--output", tmp_path / "page.html", check=False)
    assert result.returncode == 2
    assert "choose one of a, b by --test-set" in result.stderr
    report(tmp_path, "--test-set", "b", "--output", tmp_path / "page.html")


def test_differing_words_are_marked():
    words, characters = units_of(["der alte Mann"]), units_of(["老人看房子"])
    pieces = mark("der alte Mann sieht das Haus", "der Mann sieht ein Haus heute", words)
    assert pieces == [
        Piece("der", True),
        Piece("", False),  # alte
        Piece("Mann sieht", True),
        Piece("ein", False),
        Piece("Haus", True),
        Piece("heute", False),
    ]
    assert mark("gleich", "gleich", words) == [Piece("gleich", True)]
    assert mark("老人看房子", "老人 看大房子", characters) == [Piece("老人看", True), Piece("大", False), Piece("房子", True)]


@pytest.mark.parametrize("style", ["simple", "json", "tqdm"])
def test_every_log_format_of_fairseq_is_read(fairseq_train, data, tmp_path, caplog, style):
    caplog.set_level("INFO", logger="fairseq")  # commands raise the level
    log = tmp_path / "train.log"
    options = {"log_format": style, "log_interval": 2, "log_file": log, "max_update": 20}
    fairseq_train(data, tmp_path / "run", **options)
    curves = read_log(log)
    assert [update for update, _ in curves.validation["nll_loss"]] == [14, 20]
    if style != "tqdm":  # its progress bars are not written to files
        assert [update for update, _ in curves.training["loss"]] == list(range(2, 21, 2))
    assert curves.validation["nll_loss"][-1][1] < curves.validation["nll_loss"][0][1]
    assert all(value > 0 for _, value in curves.validation["loss"])


def test_resumed_run_has_one_curve_of_its_latest_lines(tmp_path):
    line = "2026-01-01 | INFO | train_inner | epoch 001: {0} / 9 loss={1}, nll_loss=1.5, num_updates={0}, lr=1e-05\n"
    (tmp_path / "a.log").write_text(line.format(2, 9.0) + line.format(4, 8.0) + line.format(4, 7.5) + line.format(6, 7.0))
    assert read_log(tmp_path / "a.log").training["loss"] == [(2, 9.0), (4, 7.5), (6, 7.0)]
    (tmp_path / "b.log").write_text("nothing of the kind\n")
    with pytest.raises(InputError, match="must be the log of a training run"):
        read_log(tmp_path / "b.log")
