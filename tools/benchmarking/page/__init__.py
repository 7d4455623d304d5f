"""READMEs/performance.md: its tables and its pictures."""
