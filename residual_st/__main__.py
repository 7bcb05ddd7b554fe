"""`python -m residual_st` is the `residual-st` command."""

import sys

from residual_st.cli import main

sys.exit(main())
