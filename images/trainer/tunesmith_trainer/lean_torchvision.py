"""torchvision without torch's compiler.

``torchvision.ops`` imports ``torch._dynamo.utils`` for one function that nothing here calls, and with it the
compiler: 1.3 of the 1.4 seconds that importing torchvision takes. Meanwhile a stand-in has that function; it
and everything else that is asked of the stand-in come from the real module, which is imported then.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_UTILS = "torch._dynamo.utils"


class _Later(ModuleType):
    """Stands in for the module of its name until something of it is needed."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(_UTILS) is self:
            del sys.modules[_UTILS]
        return getattr(importlib.import_module(_UTILS), name)

    def is_compile_supported(self, device_type: str) -> bool:
        """Whether torch can compile for a device; ``torchvision.ops.roi_align`` asks when it is called."""
        return bool(self.__getattr__("is_compile_supported")(device_type))


def _import() -> ModuleType:
    if _UTILS in sys.modules:
        return importlib.import_module("torchvision")
    stand_in = _Later(_UTILS)
    sys.modules[_UTILS] = stand_in
    try:
        return importlib.import_module("torchvision")
    finally:
        if sys.modules.get(_UTILS) is stand_in:
            del sys.modules[_UTILS]


torchvision: Any = _import()
