"""One file per public dataset layout. The file name is the KIND of `data import KIND SOURCE DEST`."""
