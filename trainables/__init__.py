"""One trial: weak labels in, a trained and scored segmentation network out."""
