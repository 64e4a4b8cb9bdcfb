"""What the hardware layer refuses, in the user's words: it knows no recipe, we name its keys."""

from collections.abc import Iterator
from contextlib import contextmanager

from trivet import UserError
from trivet.hw.errors import DesignError


@contextmanager
def recipe_keys() -> Iterator[None]:
    """A DesignError inside becomes a UserError that names the key of `[fpga]`."""
    try:
        yield
    except DesignError as error:
        key = f"fpga.{error.parameter}" if error.parameter else "fpga"
        value = "" if error.value is None else f" = {error.value!r}"
        raise UserError(f"{key}{value}: {error.reason}") from error
