"""One file per study. The file name is the name of the study."""
