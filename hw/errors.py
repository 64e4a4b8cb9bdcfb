"""What can go wrong on the way to a chip, in the words of the function that was called.

No recipe and no command is known here: a caller that has one says there which key to change.
Not here: what would be an error of ours; that is a RuntimeError or a plain ValueError.
"""


class DesignError(ValueError):
    """The network, its sizes, the data or a folder cannot go on a chip as asked.

    `reason` is one paragraph: what does not fit, and what to do. `parameter` names the argument of
    the called function whose value it is, where it is one's, and `value` is that value.
    """

    def __init__(self, reason: str, *, parameter: str | None = None, value: object = None) -> None:
        self.reason, self.parameter, self.value = reason, parameter, value
        where = parameter if value is None else f"{parameter} = {value!r}"
        super().__init__(f"{where}: {reason}" if parameter else reason)


class ToolError(DesignError):
    """A tool that the design needs is missing, failed or did not end in time."""
