"""One file per figure: rows in, figure out."""
