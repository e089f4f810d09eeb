"""The examples that the written contracts hold."""

import textwrap
from types import ModuleType


def example_of(contract: ModuleType) -> ModuleType:
    """The whole method in a base module's docstring, as a module."""
    text = contract.__doc__.partition("::\n\n")[2]
    module = ModuleType("example")
    exec(compile(textwrap.dedent(text), "example", "exec", dont_inherit=True), vars(module))
    return module
