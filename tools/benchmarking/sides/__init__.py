"""What is measured: a file for each kind of side, each built once for a problem and a number of threads."""
