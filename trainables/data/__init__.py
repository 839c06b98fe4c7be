"""The Parquet format, importers, phantoms, splits and augmentation."""
