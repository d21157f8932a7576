"""Host instructions as Numba intrinsics: raw memory, atomics, unsigned arithmetic, calls through a pointer.

Everything is ``int64`` in and out, because Numba turns a mix of signed and unsigned integers into floating point.
Whether an operation is unsigned is a property of the operation, as in the instruction set itself.

Importing this module also takes back a promise that Numba makes to LLVM in our name: that signed arithmetic never
overflows ("nsw"). Guest arithmetic wraps, and LLVM does use the promise: with it, ``a * b != 0`` is true for any two
nonzero numbers, whatever their product modulo 2**64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.cpython import numbers
from numba.extending import intrinsic
from numba.np import arrayobj

if not hasattr(numbers, "_int_arith_flags"):  # a Numba that makes the promise elsewhere would compile wrong code
    raise ImportError("this Numba release is not supported: numba.cpython.numbers._int_arith_flags is gone")
numbers._int_arith_flags = lambda _type: []

_I1 = ir.IntType(1)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_I128 = ir.IntType(128)
_F32 = ir.FloatType()
_F64 = ir.DoubleType()

Builder = Any
_Generate = Callable[[Builder, Any], Any]


def _native(arity: int, generate: _Generate, *, void: bool = False) -> Any:
    """Make an intrinsic of ``arity`` int64 arguments out of a function that emits LLVM."""
    signature = (types.void if void else types.int64)(*[types.int64] * arity)

    def codegen(context: Any, builder: Builder, _signature: Any, args: Any) -> Any:
        value = generate(builder, args)
        return context.get_dummy_value() if void else value

    # intrinsics are typed by the names of their parameters, so each arity needs a function of its own
    typing: dict[int, Any] = {
        1: lambda _ctx, a: (signature, codegen),
        2: lambda _ctx, a, b: (signature, codegen),
        3: lambda _ctx, a, b, c: (signature, codegen),
        4: lambda _ctx, a, b, c, d: (signature, codegen),
        5: lambda _ctx, a, b, c, d, e: (signature, codegen),
    }
    return intrinsic(typing[arity])


def _pointer(builder: Builder, address: Any, bits: int) -> Any:
    return builder.inttoptr(address, ir.IntType(bits).as_pointer())


def _load(bits: int, *, signed: bool) -> Any:
    def generate(b: Builder, a: Any) -> Any:
        value = b.load(_pointer(b, a[0], bits), align=1)
        if bits == 64:
            return value
        return (b.sext if signed else b.zext)(value, _I64)

    return _native(1, generate)


def _store(bits: int) -> Any:
    def generate(b: Builder, a: Any) -> Any:
        value = a[1] if bits == 64 else b.trunc(a[1], ir.IntType(bits))
        b.store(value, _pointer(b, a[0], bits), align=1)

    return _native(2, generate, void=True)


load_i8, load_i16, load_i32, load_i64 = (_load(bits, signed=True) for bits in (8, 16, 32, 64))
load_u8, load_u16, load_u32 = (_load(bits, signed=False) for bits in (8, 16, 32))
store_8, store_16, store_32, store_64 = (_store(bits) for bits in (8, 16, 32, 64))


def _cas(bits: int) -> Any:
    def generate(b: Builder, a: Any) -> Any:
        kind = ir.IntType(bits)
        expected, new = (v if bits == 64 else b.trunc(v, kind) for v in (a[1], a[2]))
        pair = b.cmpxchg(_pointer(b, a[0], bits), expected, new, "seq_cst", "seq_cst")
        old = b.extract_value(pair, 0)
        return old if bits == 64 else b.sext(old, _I64)

    return _native(3, generate)


cas_32, cas_64 = _cas(32), _cas(64)  # (address, expected, new) -> old, sign-extended


def _rmw(operation: str) -> Any:
    return _native(2, lambda b, a: b.atomic_rmw(operation, _pointer(b, a[0], 64), a[1], "seq_cst"))


atomic_or, atomic_add, atomic_swap = _rmw("or"), _rmw("add"), _rmw("xchg")  # (address, operand) -> old
fence = _native(1, lambda b, _a: b.fence("seq_cst"), void=True)  # the argument is ignored

ult = _native(2, lambda b, a: b.zext(b.icmp_unsigned("<", a[0], a[1]), _I64))
slt = _native(2, lambda b, a: b.zext(b.icmp_signed("<", a[0], a[1]), _I64))
shr = _native(2, lambda b, a: b.lshr(a[0], a[1]))  # logical; the amount must be below 64
udiv = _native(2, lambda b, a: b.udiv(a[0], a[1]))
urem = _native(2, lambda b, a: b.urem(a[0], a[1]))
sdiv = _native(2, lambda b, a: b.sdiv(a[0], a[1]))  # truncating, as RISC-V divides
srem = _native(2, lambda b, a: b.srem(a[0], a[1]))


def _mulh(first: str, second: str) -> Any:
    def generate(b: Builder, a: Any) -> Any:
        wide = b.mul(getattr(b, first)(a[0], _I128), getattr(b, second)(a[1], _I128))
        return b.trunc(b.lshr(wide, ir.Constant(_I128, 64)), _I64)

    return _native(2, generate)


mulh, mulhu, mulhsu = _mulh("sext", "sext"), _mulh("zext", "zext"), _mulh("sext", "zext")
clz = _native(1, lambda b, a: b.ctlz(a[0], ir.Constant(_I1, 0)))
ctz = _native(1, lambda b, a: b.cttz(a[0], ir.Constant(_I1, 0)))
cpop = _native(1, lambda b, a: b.ctpop(a[0]))
byte_swap = _native(1, lambda b, a: b.bswap(a[0]))
bit_reverse = _native(1, lambda b, a: b.bitreverse(a[0]))
smin = _native(2, lambda b, a: b.select(b.icmp_signed("<", a[0], a[1]), a[0], a[1]))
smax = _native(2, lambda b, a: b.select(b.icmp_signed("<", a[0], a[1]), a[1], a[0]))
umin = _native(2, lambda b, a: b.select(b.icmp_unsigned("<", a[0], a[1]), a[0], a[1]))
umax = _native(2, lambda b, a: b.select(b.icmp_unsigned("<", a[0], a[1]), a[1], a[0]))


def _rotate_right(b: Builder, a: Any) -> Any:
    """Rotate by the amount modulo 64, as the funnel shift of one word with itself."""
    function = b.module.declare_intrinsic("llvm.fshr", [_I64], ir.FunctionType(_I64, [_I64] * 3))
    return b.call(function, [a[0], a[0], a[1]])


rotate_right = _native(2, _rotate_right)


def _call(arity: int) -> Any:
    def generate(b: Builder, a: Any) -> Any:
        kind = ir.FunctionType(_I64, [_I64] * arity)
        return b.call(b.inttoptr(a[0], kind.as_pointer()), list(a[1:]))

    return _native(arity + 1, generate)


# (function address, arguments...) with the C convention
call_2, call_3, call_4 = _call(2), _call(3), _call(4)


@intrinsic
def vector(_typing: Any, address: Any, length: Any) -> Any:
    """Return the ``int64`` vector at an address: what crosses a call through a pointer is integers alone."""
    kind = types.int64[::1]

    def codegen(context: Any, builder: Builder, _signature: Any, args: Any) -> Any:
        array = context.make_array(kind)(context, builder)
        data = builder.inttoptr(args[0], array.data.type)
        arrayobj.populate_array(  # type: ignore[no-untyped-call]
            array, data=data, shape=[args[1]], strides=[_I64(8)], itemsize=_I64(8), meminfo=None
        )
        return array._getvalue()

    return kind(types.int64, types.int64), codegen


def _float(bits: int, operation: str) -> Any:
    """Return host arithmetic on bit patterns (float32 in the low half of an int64)."""
    kind = _F64 if bits == 64 else _F32

    def generate(b: Builder, a: Any) -> Any:
        values = [b.bitcast(v if bits == 64 else b.trunc(v, _I32), kind) for v in a]
        if operation in ("sqrt", "fma"):
            name = f"llvm.{operation}.f{bits}"
            function = b.module.globals.get(name) or ir.Function(
                b.module, ir.FunctionType(kind, [kind] * len(values)), name
            )
            result = b.call(function, values)
        else:
            result = getattr(b, operation)(*values)
        return b.bitcast(result, _I64) if bits == 64 else b.zext(b.bitcast(result, _I32), _I64)

    return _native({"sqrt": 1, "fma": 3}.get(operation, 2), generate)


host_narrow = _native(  # double to single
    1, lambda b, a: b.zext(b.bitcast(b.fptrunc(b.bitcast(a[0], _F64), _F32), _I32), _I64)
)
_OPERATIONS = ("fadd", "fsub", "fmul", "fdiv", "sqrt", "fma")
host_add_64, host_sub_64, host_mul_64, host_div_64, host_sqrt_64, host_fma_64 = (
    _float(64, name) for name in _OPERATIONS
)
host_add_32, host_sub_32, host_mul_32, host_div_32, host_sqrt_32, host_fma_32 = (
    _float(32, name) for name in _OPERATIONS
)
