/* dtype.h: the table of element types, the only place that lists them. EDGES.md section 2 shows it.
 *
 * Invariant: a code that was ever on a wire keeps its type, name and size. From the rows come the
 * constants, names and sizes of C (dtype.c), the loops of reductions (team/reduce.c), torch's types
 * (rdmatensor/torch/native/tensors.h), Python's (rdmatensor/memory/layout.py, through the marked
 * slice) and the table of EDGES.md. Compiled by C and by C++. */
#ifndef RT_PROTO_DTYPE_H
#define RT_PROTO_DTYPE_H

#include <stdint.h>

/* A row for each type, in the order of the codes, which run on without a gap and are of the wire:
 * never renumbered, so a new type comes last. Its columns:
 *
 * constant  RT_DTYPE_ and this
 * name      as torch spells it, and NumPy where NumPy has the type
 * dlpack    DLPack's type code: 0 int, 1 uint, 2 float, 4 bfloat, 5 complex, 6 bool, 10 and on
 *           float8; the bits are 8 × bytes, the lanes 1
 * torch     its at::ScalarType, or Undefined where torch has none
 * widened   the at::ScalarType in which torch's kernels reduce it: itself, or a wider one
 * element   a C type of this size; the one that the loops compute with
 * loops     the loops of team/reduce.c: WHOLE, FRACTION, BFLOAT, or NONE, which leaves every
 *           reduction to torch's kernels */
/* clang-format off */
#define RT_DTYPES(ROW) \
    /*  constant          code  name               bytes dlpack torch            widened       element          loops */ \
    ROW(BOOL,                1, "bool",                1,  6, Bool,            Bool,          bool,            NONE) \
    ROW(UINT8,               2, "uint8",               1,  1, Byte,            Byte,          uint8_t,         WHOLE) \
    ROW(UINT16,              3, "uint16",              2,  1, UInt16,          Long,          uint16_t,        NONE) \
    ROW(UINT32,              4, "uint32",              4,  1, UInt32,          Long,          uint32_t,        NONE) \
    ROW(UINT64,              5, "uint64",              8,  1, UInt64,          UInt64,        uint64_t,        NONE) \
    ROW(INT8,                6, "int8",                1,  0, Char,            Char,          int8_t,          WHOLE) \
    ROW(INT16,               7, "int16",               2,  0, Short,           Short,         int16_t,         NONE) \
    ROW(INT32,               8, "int32",               4,  0, Int,             Int,           int32_t,         WHOLE) \
    ROW(INT64,               9, "int64",               8,  0, Long,            Long,          int64_t,         WHOLE) \
    ROW(FLOAT16,            10, "float16",             2,  2, Half,            Half,          uint16_t,        NONE) \
    ROW(FLOAT32,            11, "float32",             4,  2, Float,           Float,         float,           FRACTION) \
    ROW(FLOAT64,            12, "float64",             8,  2, Double,          Double,        double,          FRACTION) \
    ROW(BFLOAT16,           13, "bfloat16",            2,  4, BFloat16,        BFloat16,      uint16_t,        BFLOAT) \
    ROW(COMPLEX32,          14, "complex32",           4,  5, ComplexHalf,     ComplexFloat,  uint32_t,        NONE) \
    ROW(COMPLEX64,          15, "complex64",           8,  5, ComplexFloat,    ComplexFloat,  float _Complex,  NONE) \
    ROW(COMPLEX128,         16, "complex128",         16,  5, ComplexDouble,   ComplexDouble, double _Complex, NONE) \
    ROW(FLOAT8_E4M3FN,      17, "float8_e4m3fn",       1, 10, Float8_e4m3fn,   Float,         uint8_t,         NONE) \
    ROW(FLOAT8_E5M2,        18, "float8_e5m2",         1, 12, Float8_e5m2,     Float,         uint8_t,         NONE) \
    ROW(FLOAT8_E4M3FNUZ,    19, "float8_e4m3fnuz",     1, 11, Float8_e4m3fnuz, Float,         uint8_t,         NONE) \
    ROW(FLOAT8_E5M2FNUZ,    20, "float8_e5m2fnuz",     1, 13, Float8_e5m2fnuz, Float,         uint8_t,         NONE) \
    ROW(FLOAT8_E8M0FNU,     21, "float8_e8m0fnu",      1, 14, Float8_e8m0fnu,  Float,         uint8_t,         NONE)

#define RT_DTYPE_CONSTANT(constant, code, name, bytes, dlpack, torch, widened, element, loops) RT_DTYPE_##constant = (code),
typedef enum rt_dtype {
    RT_DTYPE_ANY = 0, /* of an edge that takes every dtype; never of a tensor */
    RT_DTYPES(RT_DTYPE_CONSTANT)
} rt_dtype;
#undef RT_DTYPE_CONSTANT

#define RT_DTYPE_ONE(constant, code, name, bytes, dlpack, torch, widened, element, loops) + 1
enum { RT_DTYPE_COUNT = 1 RT_DTYPES(RT_DTYPE_ONE) };
#undef RT_DTYPE_ONE
/* clang-format on */

#ifdef __cplusplus
extern "C" {
#endif

/* <cffi> */
/* Bytes of one element: 1, 2, 4, 8 or 16; 0 for RT_DTYPE_ANY and for an unknown code. */
uint32_t rt_dtype_size(uint32_t dtype);
/* The name in the table; "any"; "unknown" for an unknown code. */
const char *rt_dtype_name(uint32_t dtype);
/* DLPack's type code; 0 for an unknown code too. */
uint32_t rt_dtype_dlpack(uint32_t dtype);
/* </cffi> */

#ifdef __cplusplus
}
#endif

#endif
