"""Units for comparing texts: words, or characters in scripts without spaces."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sacrebleu.metrics import BLEU

from residual_st.errors import InputError, refusing

# first word of a character's Unicode name -> language
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
_LEAST_SHARE = 0.1  # fraction of letters above which a script counts as the test set's, not that of a name in it


@dataclass(frozen=True)
class Units:
    """Units of one test set.

    Attributes:
        tokenize: name of a sacreBLEU tokenizer, for BLEU.
        characters: whether errors are counted in characters, without spaces, instead of words.
        reason: why this tokenizer is used, for the user.
    """

    tokenize: str
    characters: bool
    reason: str

    @property
    def error_rate(self) -> str:
        return "CER" if self.characters else "WER"

    @property
    def signature(self) -> str:
        """sacreBLEU's signature for BLEU."""
        return str(self.bleu(references=[[""]]).get_signature())

    def bleu(self, **options) -> BLEU:
        return BLEU(tokenize=self.tokenize, **options)

    def split(self, text: str) -> list[str]:
        """A text as characters or words, for error rates."""
        words = text.split()
        return list("".join(words)) if self.characters else words


def units_of(references: Iterable[str], tokenize: str | None = None) -> Units:
    """The units of a test set, chosen by the script of its references, which is more reliable than names of files and flags.

    Args:
        tokenize: tokenizer to use instead of the one that sacreBLEU recommends for the language.

    Raises:
        InputError: if sacreBLEU has no such tokenizer, or a package that it needs is missing.
    """
    language = _language(references)
    characters = language in _UNSPACED
    if tokenize is not None:
        if tokenize not in BLEU.TOKENIZERS:
            raise InputError(f"tokenize {tokenize} must be one of sacreBLEU's tokenizers {', '.join(BLEU.TOKENIZERS)}")
        with refusing(f"tokenize {tokenize} cannot be used"):
            BLEU(tokenize=tokenize)
        return Units(tokenize, characters, "set by tokenize")
    # the choice of sacreBLEU's BLEU(trg_lang=language)
    advised = None if language is None else BLEU._TOKENIZER_MAP.get(language)
    if advised is None:
        return Units("char", True, f"texts in {language} have no spaces") if characters else Units("13a", False, "the default")
    try:
        BLEU(tokenize=advised)
    except RuntimeError:
        instead = "char" if characters else "13a"
        reason = f"instead of {advised}, which sacreBLEU recommends for {language}: pip install 'sacrebleu[{language}]'"
        return Units(instead, characters, reason)
    return Units(advised, characters, f"sacreBLEU's for {language}")


def _language(references: Iterable[str]) -> str | None:
    """The language by the script of the letters; None for scripts with spaces and sacreBLEU's default tokenizer."""
    letters = Counter(letter for text in references for letter in text if letter.isalpha())
    languages: Counter[str | None] = Counter()
    for letter, count in letters.items():
        languages[_SCRIPTS.get(unicodedata.name(letter, "").partition(" ")[0])] += count
    candidates = [language for language in dict.fromkeys(_SCRIPTS.values()) if languages[language] > _LEAST_SHARE * letters.total()]
    return candidates[0] if candidates else None
