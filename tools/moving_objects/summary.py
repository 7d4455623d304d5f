"""What a run did, in numbers."""

from collections.abc import Mapping
from typing import Any

from .detector import DETECTION_STAGES
from .pipeline import Results

# What is worth a line only where it happened.
REMARKS = {
    "bad_frames": "{} frames were empty or could not be decoded and were left out",
    "restarts": "{} times the picture's size changed and the background started anew",
    "unknown_motion": "in {} frames the camera's motion could not be found; it counted as still",
}


def summarize(results: Results, bad_frames: int) -> dict[str, Any]:
    """Counts, and the speed of each stage."""
    return {
        "frames": results.frames,
        "boxes": sum(map(len, results.boxes.values())),
        "bad_frames": bad_frames,
        "restarts": results.restarts,
        "unknown_motion": results.unknown_motion,
        "speed": speed(results.frames, results.stopwatch.seconds),
    }


def speed(frames: int, seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Milliseconds a frame and frames a second by stage, of detection alone, and of everything."""
    groups = {stage: (stage,) for stage in seconds}
    groups |= {"detection": DETECTION_STAGES, "total": tuple(seconds)}
    times = {name: sum(seconds[stage] for stage in stages) for name, stages in groups.items()}
    return {
        name: {"ms_per_frame": round(1000 * time / frames, 3), "fps": round(frames / time, 1)}
        for name, time in times.items()
        if time and frames
    }


def format_summary(summary: Mapping[str, Any]) -> str:
    """The summary as lines of text; "detection" adds up motion, background and regions."""
    lines = [f"{'stage':<12}{'ms/frame':>10}{'frames/s':>10}"]
    lines += [f"{name:<12}{row['ms_per_frame']:>10.2f}{row['fps']:>10.1f}" for name, row in summary["speed"].items()]
    lines.append(f"{summary['boxes']} boxes in {summary['frames']} frames")
    lines += [text.format(summary[key]) for key, text in REMARKS.items() if summary[key]]
    if "label" in summary:
        lines.append(f"label {summary['label']['class']}: accuracy {_number(summary['label']['accuracy'])}")
    if "scores" in summary:
        lines += [f"{name}: {_number(value)}" for name, value in summary["scores"].items()]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "nothing to count" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
