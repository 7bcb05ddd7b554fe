"""All code that needs fairseq. Importing this package imports nothing; `residual_st.models` registers its contents."""
