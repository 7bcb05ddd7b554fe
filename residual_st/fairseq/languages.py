"""The target languages of a fairseq model."""

from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDataset

from residual_st.languages import Languages


def languages_of(symbols: list[str], config: S2TDataConfig) -> Languages:
    """The languages with tags in the dictionary, if texts begin with a language tag in the data configuration."""
    if not config.prepend_tgt_lang_tag:
        return Languages()
    tags = {symbol: number for number, symbol in enumerate(symbols) if SpeechToTextDataset.is_lang_tag(symbol)}
    return Languages(targets={tag.removeprefix("<lang:").removesuffix(">"): [number] for tag, number in tags.items()})
