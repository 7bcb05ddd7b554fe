"""Reading the output of fairseq-generate, of any model."""

from pathlib import Path
from typing import NamedTuple

from residual_st.errors import InputError
from residual_st.files import read_lines
from residual_st.pieces import with_letters


class Sentence(NamedTuple):
    """One sentence of a test set: reference and hypothesis."""

    reference: str
    hypothesis: str


def read_generated(path: str | Path) -> dict[int, Sentence]:
    """Line of the manifest, from 0 -> sentence, in the manifest's order.

    Reads the detokenized text (`D-`), which sacreBLEU needs, and the best of several hypotheses. Byte pieces in stock fairseq's
    output, such as `<0xE7><0x88><0xB1>`, are replaced by the characters they encode.

    Raises:
        InputError: if the file cannot be read or is not a complete output of fairseq-generate.
    """
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    references: dict[int, str] = {}
    hypotheses: dict[int, str] = {}
    for line in lines:
        kind, _, rest = line.partition("-")
        number, _, text = rest.partition("\t")
        if kind == "T" and number.isdigit():
            references[int(number)] = text
        elif kind == "D" and number.isdigit():
            hypotheses.setdefault(int(number), text.partition("\t")[2])
    whole = any(line.startswith("Generate ") for line in lines)
    if not whole or not hypotheses or set(hypotheses) != set(references):
        raise InputError(f"{path} is not a complete output of fairseq-generate, with T- and D- lines and a score at its end")
    return {number: Sentence(*map(with_letters, (references[number], hypotheses[number]))) for number in sorted(hypotheses)}
