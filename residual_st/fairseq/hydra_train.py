"""fairseq-hydra-train with the flags of sharing: `python -m residual_st.fairseq.hydra_train … +model.encoder_group_size=3`.

fairseq's own command checks its configuration before it imports a user dir, and does not know the flags then.
"""

from fairseq_cli.hydra_train import cli_main

from residual_st.fairseq.user_dir import register

if __name__ == "__main__":
    register()
    cli_main()
