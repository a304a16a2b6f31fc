"""Run a model on fake tensors and write down every ATen op that it calls, in order.

The recorder sits above autograd, so that it sees ``linear`` where the user wrote one, and
below it only the ops that are not worth keeping are taken apart. What it writes down may still
change tensors in place and look at them through views: ``functional`` takes that out.
"""

from __future__ import annotations

import inspect
import linecache
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher, no_python_dispatcher
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from autodual.errors import CaptureError
from autodual.front.capture.decompositions import PARTS
from autodual.front.capture.diagnose import GRADIENTS, depends_on_values, is_foreign
from autodual.front.capture.tape import Call, Tape, on_tensors, tensors_in
from autodual.front.ir import Literal, Parameter, Source
from autodual.front.stand_ins import Reals, Uncompiled, is_straight, stand_ins
from autodual.inputs import Inputs

aten = torch.ops.aten

REFUSALS = (
    CaptureError,
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
    NotImplementedError,
)
"""What only a recorded run raises; the model itself would go on."""


def record(model: nn.Module, inputs: Inputs, names: Names, kept: frozenset[OpOverload]) -> Tape:
    """Run ``model`` on fakes of ``inputs``.

    Args:
        model: the module, with its real parameters.
        inputs: real arguments; only their shapes, dtypes and devices count.
        names: what the model's tensors and modules are called.
        kept: ops that are not taken apart.

    Raises:
        CaptureError: the model does what no graph can say.
    """
    fake = stand_ins(is_straight(model))
    tape = Tape(fake, [])

    def faked(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            leaf = tape.start(fake.from_tensor(leaf.detach()))
        tape.inputs.append(leaf)
        return leaf

    given = inputs.map(faked)
    recorder = Recorder(tape, names, kept)
    modes = Watch(recorder), fake, Below(recorder), enable_python_dispatcher(), recorder
    with torch.enable_grad(), ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        tape.returned = _run(model, given)
    if recorder.refused is not None:  # the model caught it, and went another way than it would
        raise recorder.refused
    tape.returned = pytree.tree_map_only(Tensor, recorder.known, tape.returned)
    return tape


def _run(model: nn.Module, given: Inputs) -> Any:
    return model(*given.args, **given.kwargs)


class Names:
    """What the tensors and modules of a model are called, by identity."""

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
        self.modules = {id(module): name for name, module in reversed(list(modules.items()))}
        self.tensors: dict[int, str] = {}
        for named in (model.named_buffers, model.named_parameters):
            self.tensors |= {id(t): name for name, t in named()}


class Recorder(Uncompiled, ProxyTorchDispatchMode):
    """Writes a tape. By its kind it is one of the modes that torch lets run above autograd."""

    def __init__(self, tape: Tape, names: Names, keep: frozenset[OpOverload]) -> None:
        TorchDispatchMode.__init__(self, _dispatch_key=torch._C.DispatchKey.PreDispatch)
        self.tape, self.names, self.keep = tape, names, keep
        self.twins: dict[int, tuple[Tensor, Tensor]] = {}
        self.grad, self.busy = True, False
        self.refused: Exception | None = None

    def __enter__(self) -> Recorder:
        TorchDispatchMode.__enter__(self)
        return self

    def __exit__(self, *error: Any) -> None:
        TorchDispatchMode.__exit__(self, *error)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take an op apart, or run it and write it down."""
        kwargs = kwargs or {}
        if func is aten.lift_fresh.default and not isinstance(args[0], FakeTensor):
            return self._literal(args[0])
        if func is aten.detach_.default:
            with self.noting():
                return self._detached(args[0])
        if torch._C._functorch.maybe_current_level() is not None:
            return func(*args, **kwargs)  # to be seen below, without vmap's dimensions
        with self.noting():
            args, kwargs = on_tensors(self.known, (args, kwargs))
        if func not in self.keep:
            parts = PARTS.get(func, func.decompose if func._can_decompose() else None)
            if parts is not None:
                with self:
                    result = parts(*args, **kwargs)
                if result is not NotImplemented:
                    return result
        return self.run(func, args, kwargs)

    def run(self, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an op on known tensors and write it down."""
        with self.noting():
            result = self._unseen(func, *args, **kwargs)
            self._write(func, args, kwargs, result)
        return result

    def noting(self) -> Noting:
        """Remember a refusal inside, which the model may catch."""
        return Noting(self)

    def note(self, error: BaseException | None) -> None:
        """Remember the first refusal, and where it was."""
        if self.refused is None and isinstance(error, REFUSALS):
            looked = isinstance(error, DataDependentOutputException | DynamicOutputShapeException)
            self.refused = depends_on_values(_at(self._source()).strip()) if looked else error

    def _unseen(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function without writing down what it calls."""
        self.busy = True
        # real tensors need no shapes worked out in Python, which loads sympy
        alone = no_python_dispatcher if isinstance(self.tape.fake, Reals) else nullcontext
        try:
            with alone():
                return function(*args, **kwargs)
        finally:
            self.busy = False

    def _write(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Write down a call, if it makes or changes a tensor."""
        made = tensors_in(result)
        if not made and not func._schema.is_mutable:
            return
        grad = self.grad and not torch.is_inference_mode_enabled()
        sizes = tuple(tensor.shape for tensor in made)
        call = Call(func, args, kwargs, result, sizes, grad, self._source())
        device = made[0].device.type if made else "cpu"
        if device != "meta" and torch.is_autocast_enabled(device):
            raise CaptureError(
                f"autocast{_at(call.source)}: it rounds what depends on x to another dtype. A "
                "bound is computed in the dtype of x: leave autocast out, or pass enabled=False."
            )
        self.tape.calls.append(call)
        for tensor in made:
            self.tape.known[id(tensor)] = tensor

    def unheard_of(self, tensor: Tensor) -> bool:
        """Return whether neither the model holds this tensor nor the tape made it."""
        if id(tensor) in self.tape.known:
            return False
        own = type(tensor) in (Tensor, nn.Parameter)
        return not own or torch._C._functorch.is_functorch_wrapped_tensor(tensor)

    def known(self, tensor: Tensor) -> Tensor:
        """Return the fake tensor that stands for one, the same each time."""
        if id(tensor) in self.tape.known:
            return tensor
        if self.unheard_of(tensor):
            raise CaptureError(
                f"a {type(tensor).__name__} comes from where no graph can follow"
                f"{_at(self._source())}: autograd.grad, backward, torch.func.vjp and subclasses of "
                f"tensors are not captured. {GRADIENTS}"
            )
        if id(tensor) not in self.twins:
            name = self.names.tensors.get(id(tensor))
            twin = self._unseen(self.tape.fake.from_tensor, tensor)
            constant = Literal(tensor) if name is None else Parameter(name)
            self.twins[id(tensor)] = tensor, self._unseen(self.tape.start, twin, constant)
        return self.twins[id(tensor)][1]

    def _literal(self, real: Tensor) -> Tensor:
        """Return the fake of a tensor written in the code; torch remembers its value."""
        fake = self._unseen(aten.lift_fresh.default, real)
        return self._unseen(self.tape.start, fake, Literal(real))

    def _detached(self, tensor: Tensor) -> Tensor:
        """Allow ``detach_`` where it changes nothing, as at the end of ``torch.tensor``."""
        if tensor.requires_grad:
            raise CaptureError(f"detach_(){_at(self._source())}: write z = z.detach().")
        return tensor

    def _source(self) -> Source | None:
        """Return the last line of the user's own code that led here, and the module it ran in."""
        frame: FrameType | None = sys._getframe(1)
        line, module = None, ""
        while frame is not None and frame.f_code is not _run.__code__:
            code = frame.f_code
            if not module and code is _CALL:
                module = self.names.modules.get(id(frame.f_locals["self"]), "")
            if line is None and not is_foreign(code.co_filename):
                line = code.co_filename, frame.f_lineno
            if line is not None and module:
                break
            frame = frame.f_back
        if line is not None:
            text = linecache.getline(*line).strip()
            return Source(*line, text, module)
        return Source("", 0, "", module) if module else None


class Noting:
    """A context in which refusals are remembered."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.recorder.note(error)


class Below(Uncompiled, TorchDispatchMode):
    """Sees what the recorder cannot: what torch calls below autograd of its own accord.

    Factory functions hand out a copy of what they made, ``.data`` is such a copy, and vmap turns
    into other ops.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an op; write it down if the recorder has not, and knows what it reads."""
        recorder, kwargs = self.recorder, kwargs or {}
        if recorder.busy or any(map(recorder.unheard_of, tensors_in((args, kwargs)))):
            return func(*args, **kwargs)
        args, kwargs = on_tensors(recorder.known, (args, kwargs))
        return recorder.run(func, args, kwargs)


_CALL = nn.Module._call_impl.__code__
_APPLY: CodeType = inspect.unwrap(torch.autograd.Function.apply.__func__).__code__  # type: ignore[attr-defined]
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
_OUT_OF_TORCH: tuple[Callable[..., Any], ...] = (Tensor.numpy, Tensor.tolist, Tensor.__array__)


class Watch(TorchFunctionMode):
    """Sees what is no op: gradients turned off and on, ``.data``, and ways out of torch."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Pass a call on, once it is understood."""
        if func is torch._C._set_grad_enabled and not _inside_function():
            self.recorder.grad = bool(args[0])
        elif func == _DATA:
            return args[0].detach()
        elif func == _SET_DATA or func in _OUT_OF_TORCH:
            with self.recorder.noting():
                self._refuse(func)
        return func(*args, **(kwargs or {}))

    def _refuse(self, func: Any) -> None:
        where = _at(self.recorder._source())
        if func == _SET_DATA:
            raise CaptureError(
                f"forward assigns to .data{where}. Compute with the new tensor, or write .copy_() "
                "under torch.no_grad()."
            )
        raise depends_on_values(where.strip())


def _inside_function() -> bool:
    """Return whether an autograd Function's forward runs: torch turns gradients off for it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not _run.__code__:
        if frame.f_code is _APPLY:
            return True
        frame = frame.f_back
    return False


def _at(source: Source | None) -> str:
    return "" if source is None else f" at {source}"
