"""Read-only tables and pictures of a study, drawn from its ledger and its spec."""
