"""From a user dir fairseq imports the files in `models/`, never that package itself: this one is there to be found."""
