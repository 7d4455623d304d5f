"""What is reported of a run: to the console, the log file and TensorBoard."""
