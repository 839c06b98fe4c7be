"""What the files in a trial's folder are called, for whoever looks for them and need not wait for torch."""

CHECKPOINT = "checkpoint.pt"
SAMPLES = "samples.png"
SET_ASIDE = "damaged.pt"
"""Where a checkpoint goes that cannot be believed; the next one replaces it."""
