"""What a packed layer's state_dict says of it: beside the bits a header, by which another layer's state is refused."""

from typing import Any

from torch import Tensor

from .. import packing

STATE_VERSION = 1  # of what state_dict holds


def state_problems(
    header: Any, weight_bits: Tensor | None, expected: dict[str, Any], filters: tuple[int, ...]
) -> list[str]:
    """Why a state is not that of a layer with the header ``expected`` and ``filters``, of shape (out, c, kh, kw).

    A header or bits that are None are missing, which is no problem here.
    """
    problems = [] if header is None else _header_problems(header, expected)
    if weight_bits is not None:
        try:
            packing.check_weights(weight_bits, filters)
        except ValueError as error:
            problems.append(str(error))
    return problems


def _header_problems(found: Any, expected: dict[str, Any]) -> list[str]:
    if not isinstance(found, dict):
        return [f"its header is a {type(found).__name__}, not a dict: damaged data"]
    if found.get("version") != expected["version"]:
        version, needed = found.get("version"), expected["version"]
        return [f"its packed state has version {version!r}; this xnorkit reads version {needed}"]
    return [
        f"{key} is {found.get(key)!r} in the state and {value!r} in the model: it is of another model, or the model "
        "was converted in another way"
        for key, value in expected.items()
        if found.get(key) != value
    ]
