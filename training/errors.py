"""Why a run that had begun could not go on."""


class RunStopped(RuntimeError):
    """The run had to stop; the message says why in one sentence, for the command line."""


class NonFiniteError(RunStopped):
    """The loss or a weight is infinite or NaN."""


class UnreadablePicture(RunStopped, ValueError):
    """A picture file that cannot be decoded: bad input before the run, a stop within it.

    A worker process makes it anew from its whole traceback, which ends in the sentence.
    """

    def __init__(self, message: str):
        super().__init__(message.rstrip().rpartition(f"{type(self).__name__}: ")[2])
