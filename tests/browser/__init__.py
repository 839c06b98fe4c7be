"""Pages as a person sees them: the report, MLflow and optuna-dashboard in a real browser."""
