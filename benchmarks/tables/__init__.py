"""The tables of README.md and docs/, each a function of that name, from the rows of ../results."""
