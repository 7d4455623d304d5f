"""Find and classify objects that move in front of a moving camera; the guide is READMEs/moving_objects.md."""

try:
    import cv2  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "tools/moving_objects needs OpenCV, which is not installed; install it with: pip install -e '.[video]'",
        name=error.name,
    ) from error
