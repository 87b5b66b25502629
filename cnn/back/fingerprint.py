# Written by book/back/fingerprint.md. To keep edits: tangle.py --back.
"""How a result is named: by the code that made it, and by its values."""

import dis
import hashlib
import inspect
import pickle
import sys
from importlib import import_module
from itertools import pairwise
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np


def code_fingerprint(code: CodeType) -> list[Any]:
    """What compiled code does, from its last instruction to its first.

    code: of a function. Its comments, docstrings and line numbers do not
    count, nor do the texts of its errors.
    """
    does = []
    error = False  # whether this instruction belongs to a raise statement
    for step in reversed(list(dis.get_instructions(code))):
        ends = "POP", "STORE", "JUMP", "RAISE"  # where a statement ends
        if any(end in step.opname for end in ends):
            error = step.opname == "RAISE_VARARGS"
        text = step.opname == "LOAD_CONST" and isinstance(step.argval, str)
        does.append((step.opname, None if error and text else step.argval))
    return [does, code.co_exceptiontable, *inspect.getargs(code)]


def version_of(module: str) -> str | None:
    """The version of the library that a module, by its name, belongs to."""
    library = sys.modules.get(module.partition(".")[0])
    return getattr(library, "__version__", None)


class Walk(pickle.Pickler):
    """Pickles values into a hash; met: the functions and classes in them.

    page: the module whose code is followed, as that of cnn is.
    """

    def __init__(self, page: str) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        super().__init__(self, protocol=4)
        self.fast = True  # equal values are equal bytes, shared or not
        self.page, self.packages = page, {"cnn", page.partition(".")[0]}
        self.met: list[Any] = []

    def write(self, data: bytes) -> None:
        """Take into the hash what would go to a file.

        data: what pickle makes of a part of a value.
        """
        self.hash.update(data)

    def persistent_id(self, value: Any) -> Any:
        """What stands for value; None lets pickle look into it."""
        if isinstance(value, CodeType):
            return code_fingerprint(value)
        if isinstance(value, set | frozenset):  # it has no order of its own
            return sorted(fingerprint(item, self.page) for item in value)
        kinds = ModuleType | FunctionType | type | property
        if not isinstance(value, kinds) and not hasattr(value, "__wrapped__"):
            return None
        if value not in self.met:
            self.met.append(value)
        return self.met.index(value)

    def follows(self, module: str | None) -> bool:
        """Whether the code of a module is followed, or only named."""
        return not module or module.partition(".")[0] in self.packages

    def reads(self, code: CodeType, scope: dict[str, Any]) -> dict[str, Any]:
        """What code reads by name; for cnn.relu the function, not all of cnn.

        code: of a function. scope: the globals of that function.
        """
        found: dict[str, Any] = {}
        for step, after in pairwise(dis.get_instructions(code)):
            name = step.argval
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and name in scope:
                value = scope[name]
                dotted = after.opname in ("LOAD_ATTR", "LOAD_METHOD")
                module = isinstance(value, ModuleType) and value.__name__
                if dotted and module and self.follows(module):
                    name = f"{name}.{after.argval}"
                    value = getattr(value, after.argval)
                found[name] = value
            elif step.opname == "IMPORT_NAME" and self.follows(name):
                found[name] = import_module(name)
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                found |= self.reads(inner, scope)
        return found

    def parts(self, value: Any) -> Any:
        """What a function, a class or the like is made of.

        value: one of those in met.
        ValueError if it is all of cnn, so that no name can be followed, or
          if it reads data files.
        """
        match value:
            case ModuleType():
                if self.follows(value.__name__):
                    raise ValueError(
                        f"the experiment uses all of {value.__name__}; name "
                        "what it uses, as in cnn.relu, and import it outside."
                    )
                return [value.__name__, version_of(value.__name__)]
            case property():
                return [value.fget, value.fset, value.fdel]
            case FunctionType() if value.__module__ == "cnn.back.files":
                raise ValueError(
                    "the experiment reads data files, and no fingerprint sees "
                    "what is in them. Load the data outside, and pass them "
                    "as an argument."
                )
            case FunctionType() | type() if not self.follows(value.__module__):
                place = value.__module__, value.__qualname__
                return [*place, version_of(value.__module__)]
            case FunctionType():
                held = [cell.cell_contents for cell in value.__closure__ or ()]
                given = [value.__defaults__, value.__kwdefaults__, vars(value)]
                read = self.reads(value.__code__, value.__globals__)
                return [value.__code__, read, held, given]
            case type():
                members = {
                    name: member
                    for name, member in sorted(vars(value).items())
                    if isinstance(member, FunctionType)
                    or not name.startswith(("__", "_abc_"))
                }
                return [value.__name__, value.__bases__, members]
        return value.__wrapped__  # of @cache or @staticmethod


def fingerprint(value: Any, page: str) -> str:
    """32 letters that stand for a value and for all code that it can run.

    value: an experiment, or a list of it and its arguments.
    page: the module that defined the experiment. Its code is followed, as
      that of cnn is; what other packages define is only named.
    ValueError if it uses cnn in a way that cannot be followed.
    """
    walk = Walk(page)
    walk.dump([sys.version, np.__version__, value])
    for item in walk.met:  # which grows as we go
        walk.dump([type(item), walk.parts(item)])
    return walk.hash.hexdigest()
