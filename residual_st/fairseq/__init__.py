"""All that needs fairseq. Importing this package imports nothing; `residual_st.models` registers what is in it."""
