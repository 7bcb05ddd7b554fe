"""residual-st: residual-shared speech-to-text Transformers. As a fairseq user dir it registers models and criterions.

Importing it imports neither torch nor fairseq: fairseq itself imports `residual_st.models`, which registers everything.
"""

import importlib
import logging
import sys

# fairseq logs on every import, at level INFO, that tensorboardX is missing, which only its speech synthesis uses
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

if __name__ != "residual_st":
    # fairseq calls a user dir by the name of its folder, which may be a symbolic link. A second copy of the package would register
    # every model twice, so the other name stands for the one package.
    importlib.import_module("residual_st.models")
    sys.modules |= {
        __name__ + name.removeprefix("residual_st"): module
        for name, module in list(sys.modules.items())
        if name == "residual_st" or name.startswith("residual_st.")
    }
