"""A fuzz test of the files that training reads: see __main__."""
