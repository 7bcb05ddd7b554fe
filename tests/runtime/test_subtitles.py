"""Subtitles have at most two lines of 42 columns, and do not overlap."""

import re
import unicodedata

import pytest

from residual_st.runtime import subtitles
from residual_st.runtime.translator import Segment, Transcript

GERMAN = (
    "Alle sehen, dass die Mutter in der Küche die kleine Blume findet. Ich hoffe, dass der Arzt im Garten elf Lampen tragen soll, "
    "weil der Fahrer vor dem Haus dem Bruder den Tisch gibt und die Königin um Viertel nach neun den Küchenbrief gemalt hat."
)
CHINESE = "今天天气很好，我们一起去公园散步吧。昨天下雨了，所以地上还有很多水，孩子们都穿着雨鞋出去玩。老师说明天学校放假。"
KOREAN = "안녕하세요 오늘은 날씨가 매우 좋아서 우리는 공원에 산책을 하러 갔습니다 그리고 거기에서 많은 사람들을 만났습니다"


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line)


@pytest.mark.parametrize("text", [GERMAN, CHINESE, KOREAN, "x" * 300, "kurz", "a " * 200], ids=str)
@pytest.mark.parametrize("end", [25.0, 0.001])
def test_cues_fit_two_lines_and_follow_each_other(text, end):
    transcript = Transcript(30.0, [Segment(0.0, end, text, []), Segment(end, end + 2, "Ende.", [])])
    cues = list(subtitles.cues(transcript))
    assert all(1 <= len(cue.lines) <= 2 and all(0 < columns(line) <= 42 for line in cue.lines) for cue in cues)
    assert "".join("".join(cue.lines) for cue in cues).replace(" ", "") == text.replace(" ", "") + "Ende."
    assert all(cue.start < cue.end for cue in cues)
    assert all(one.end <= other.start for one, other in zip(cues, cues[1:]))
    assert cues[0].start == 0
    if end == 25.0:
        assert cues[-1].start == 25_000
        assert (len(cues) > 2) == (columns(text) > 84)


def test_cues_end_at_sentences_or_clauses_and_durations_follow_the_text():
    first, *others, _ = subtitles.cues(Transcript(30.0, [Segment(0.0, 25.0, GERMAN, []), Segment(25.0, 26.0, "Ende.", [])]))
    assert " ".join(first.lines) == "Alle sehen, dass die Mutter in der Küche die kleine Blume findet."
    assert first.end == pytest.approx(25_000 * 65 / len(GERMAN), rel=0.05)
    assert others[0].lines[-1].endswith(",")
    for cue in subtitles.cues(Transcript(30.0, [Segment(0.0, 25.0, CHINESE, [])])):
        assert not re.match("[，。]", cue.lines[-1]), "no line starts with a clause-final mark"


def test_srt_and_vtt_files():
    segments = [Segment(0.0, 1.5, "a < b", []), Segment(2.0, 3.0, "", []), Segment(3661.0425, 3662.0, "c", [])]
    transcript = Transcript(4000.0, segments)
    assert subtitles.srt(transcript) == "1\n00:00:00,000 --> 00:00:01,500\na < b\n\n2\n01:01:01,042 --> 01:01:02,000\nc\n"
    assert subtitles.vtt(transcript) == "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na &lt; b\n\n01:01:01.042 --> 01:01:02.000\nc\n"
