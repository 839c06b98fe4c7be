-- Run once, when the server starts on an empty volume; Optuna's database is the server's default one.
CREATE DATABASE mlflow;
