"""What people run, a script a command line; nothing imports it."""
