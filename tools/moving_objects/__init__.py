"""Find and classify objects that move in front of a moving camera; the guide is READMEs/moving_objects.md."""
