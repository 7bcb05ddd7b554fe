"""fairseq-hydra-train with the sharing flags: `python -m residual_st.fairseq.hydra_train … +model.encoder_group_size=3`.

fairseq's own command checks its configuration before importing a user dir, when it does not know the flags yet.
"""

from fairseq_cli.hydra_train import cli_main

from residual_st.fairseq.user_dir import register

if __name__ == "__main__":
    register()
    cli_main()
