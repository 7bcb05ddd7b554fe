"""residual-st: speech-to-text Transformers with residual-shared layers. As a fairseq user dir it registers models and criterions.

Importing it imports neither torch nor fairseq: fairseq itself imports `residual_st.models`, which registers everything.
"""

import importlib
import logging
import sys

# fairseq logs at every import (INFO) that tensorboardX is missing, which only its speech synthesis needs
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

if __name__ != "residual_st":
    # fairseq imports a user dir under the name of its folder, which may be a symbolic link. A second copy of the package would
    # register every model twice, so the other name becomes an alias of this package.
    importlib.import_module("residual_st.models")
    sys.modules |= {
        __name__ + name.removeprefix("residual_st"): module
        for name, module in list(sys.modules.items())
        if name == "residual_st" or name.startswith("residual_st.")
    }
