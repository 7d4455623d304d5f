"""Mutation testing: one operator, number or keyword of a core module is changed, and its nearest tests have to fail."""
