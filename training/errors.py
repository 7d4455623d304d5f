"""Why a run that had begun could not go on."""


class RunStopped(RuntimeError):
    """The run had to stop; the message says why in one sentence, for the command line."""


class NonFiniteError(RunStopped):
    """The loss or a weight is infinite or NaN."""
