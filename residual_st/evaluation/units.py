"""What texts are compared by: words, or characters in scripts that put no space between words."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sacrebleu.metrics import BLEU

from residual_st.errors import InputError, refusing

# the first word of a letter's name in Unicode -> language
_SCRIPTS = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "zh",
    "HANGUL": "ko",
    "THAI": "th",
    "LAO": "lo",
    "KHMER": "km",
    "MYANMAR": "my",
}
_UNSPACED = ("ja", "zh", "th", "lo", "km", "my")
_LEAST_SHARE = 0.1  # of the letters, by which a script is that of a test set and not of a name in it


@dataclass(frozen=True)
class Units:
    """How the texts of one test set are divided.

    Attributes:
        tokenize: sacreBLEU's name of a tokenizer, for BLEU.
        characters: whether errors are counted by characters, without spaces, or by words.
        reason: of the tokenizer, to be read by people.
    """

    tokenize: str
    characters: bool
    reason: str

    @property
    def error_rate(self) -> str:
        return "CER" if self.characters else "WER"

    @property
    def signature(self) -> str:
        """sacreBLEU's, of BLEU."""
        return str(self.bleu(references=[[""]]).get_signature())

    def bleu(self, **options) -> BLEU:
        return BLEU(tokenize=self.tokenize, **options)

    def split(self, text: str) -> list[str]:
        """Characters or words, for error rates."""
        words = text.split()
        return list("".join(words)) if self.characters else words


def units_of(references: Iterable[str], tokenize: str | None = None) -> Units:
    """The units of a test set, by the script of its references, which says more than the names of files and flags.

    Args:
        tokenize: a tokenizer to take in place of the one that sacreBLEU advises for the language.

    Raises:
        InputError: if sacreBLEU has no such tokenizer, or a package of it is missing.
    """
    language = _language(references)
    characters = language in _UNSPACED
    if tokenize is not None:
        if tokenize not in BLEU.TOKENIZERS:
            raise InputError(f"tokenize {tokenize} must be one of sacreBLEU's {', '.join(BLEU.TOKENIZERS)}")
        with refusing(f"tokenize {tokenize} cannot be used"):
            BLEU(tokenize=tokenize)
        return Units(tokenize, characters, "as tokenize says")
    advised = BLEU._TOKENIZER_MAP.get(language)  # what sacreBLEU's BLEU(trg_lang=language) takes
    if advised is None:
        return Units("char", True, f"texts in {language} have no spaces") if characters else Units("13a", False, "the default")
    try:
        BLEU(tokenize=advised)
    except RuntimeError:
        instead = "char" if characters else "13a"
        reason = f"in place of {advised}, which sacreBLEU advises for {language}: pip install 'sacrebleu[{language}]'"
        return Units(instead, characters, reason)
    return Units(advised, characters, f"sacreBLEU's for {language}")


def _language(references: Iterable[str]) -> str | None:
    """By the script of the letters; None for one that has spaces and sacreBLEU's default tokenizer."""
    letters = Counter(letter for text in references for letter in text if letter.isalpha())
    languages = Counter()
    for letter, count in letters.items():
        languages[_SCRIPTS.get(unicodedata.name(letter, "").partition(" ")[0])] += count
    found = [language for language in dict.fromkeys(_SCRIPTS.values()) if languages[language] > _LEAST_SHARE * letters.total()]
    return found[0] if found else None
