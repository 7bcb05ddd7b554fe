from setuptools import setup

# Everything else is in pyproject.toml. There a licence is either a table, which setuptools drops in 2027, or a string, which
# setuptools before 77 refuses; a new environment of Python 3.11 has 65.5, and fairseq is built with what is there.
setup(license="MIT")
