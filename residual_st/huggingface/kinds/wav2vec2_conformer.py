"""wav2vec 2.0 with Conformer layers and rotary or relative positions."""

from residual_st.huggingface.kinds.conformer import known_conformers
from residual_st.huggingface.kinds.kind import MASKED, Kind, through_base
from residual_st.huggingface.words import CtcWords, EncodedStates

KIND = Kind(
    "wav2vec2_conformer",
    models={
        "Wav2Vec2ConformerForCTC": CtcWords(),
        "Wav2Vec2ConformerModel": EncodedStates(),
        "Wav2Vec2ConformerForPreTraining": EncodedStates(),
    },
    encoder=known_conformers("Wav2Vec2ConformerEncoderLayer", masks_convolutions=False),
    encode=through_base,
    may_lack=MASKED,
)
