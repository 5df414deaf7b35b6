// A decoding step's work on a CPU: products of a few rows with a weight matrix, and attention to the cache.
//
// Each weight is read once from memory, whatever the number of rows. Every result is summed in an order of its own,
// which depends neither on the other rows nor on the threads: five rows together give the bits that one by one gives.
//
// Vectors are GCC's and Clang's, of the width that -march allows. Intrinsics are used where the compilers find no
// instruction by themselves: for sums of products of bytes and of 16-bit numbers.

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define ROWS 8                 // of a weight matrix that share a segment of several rows of x
#define AT_ONCE 8              // rows of x that meet a weight while it is in a register
#define NEAR 24576             // bytes of x that the nearest cache holds beside a stream of weights
#define GROUP 32               // numbers that share a scale: of x for int4, weights of int4
#define SEGMENT 1280           // most columns whose products with int8 are added as integers
#define MOST 13210             // x for int8 is rounded to ±this: SEGMENT · 127 · MOST is below 2^31
#define GROUP_BYTES 18         // of int4: 32 halves of bytes and a scale
#define OCTET 8                // groups of int4 that are multiplied at once, each in a lane of its own
#define ROUND 12582912.0f      // 1.5 · 2^23: adding it to a small number rounds that to an integer
#define FEW 4096               // numbers whose norm or gelu one thread computes
#define SERIAL (1L << 19)      // multiplications that one thread does: on a busy machine it waits long for another

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint32_t loose_words __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef int16_t shorts __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef int8_t bytes32 __attribute__((vector_size(32), aligned(1), may_alias));
typedef int8_t bytes16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef int16_t shorts16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef int32_t sums8 __attribute__((vector_size(32)));
typedef int32_t loose_sums8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float floats8 __attribute__((vector_size(32)));
typedef float loose8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t words8 __attribute__((vector_size(32)));
typedef uint16_t halves8 __attribute__((vector_size(16), aligned(2), may_alias));
typedef int8_t bytes8 __attribute__((vector_size(8), aligned(1), may_alias));
typedef int16_t shorts32 __attribute__((vector_size(64)));

#if (defined(__AVX512VNNI__) && defined(__AVX512VL__)) || defined(__AVXVNNI__)
#define VNNI                   // an instruction for sums of four products of bytes
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum { FP32, BF16, INT8, INT4 };

INLINE float from_bf16(uint16_t half) {
    uint32_t word = (uint32_t)half << 16;
    float number;
    memcpy(&number, &word, 4);
    return number;
}

INLINE uint16_t to_bf16(float number) {
    uint32_t word;
    memcpy(&word, &number, 4);
    if (number != number) return 0x7fc0;
    return (uint16_t)((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

// 2 · LANES columns of fp32 or bf16: the first half and the second. Of bf16, those with even and those with odd numbers,
// which are the low and the high halves of words.
INLINE void load_two(int kind, const void *from, long index, floats *to) {
    if (kind == BF16) {
        words both = *(const loose_words *)((const uint16_t *)from + index);
        to[0] = (floats)(both << 16), to[1] = (floats)(both & 0xffff0000u);
    } else {
        const float *numbers = (const float *)from + index;
        to[0] = *(const floats *)numbers, to[1] = *(const floats *)(numbers + LANES);
    }
}

INLINE void store_one(int half, void *to, long index, float number) {
    if (half) ((uint16_t *)to)[index] = to_bf16(number);
    else ((float *)to)[index] = number;
}

// Finite numbers only.
INLINE void store8(int half, void *to, long index, floats8 numbers) {
    if (half) {
        words8 word = (words8)numbers;
        word = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
        *(halves8 *)((uint16_t *)to + index) = __builtin_convertvector(word, halves8);
    } else
        *(loose8 *)((float *)to + index) = numbers;
}

// Numbers that fit a byte each.
INLINE void store_bytes(integers numbers, int8_t *to) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    __m128i low = _mm256_castsi256_si128((__m256i)numbers), high = _mm256_extracti128_si256((__m256i)numbers, 1);
    __m128i shorts = _mm_packs_epi32(low, high);
    _mm_storel_epi64((__m128i *)to, _mm_packs_epi16(shorts, shorts));
#else
    *(bytes *)to = __builtin_convertvector(numbers, bytes);
#endif
}

INLINE float load_one(int kind, const void *from, long index) {
    if (kind == BF16) return from_bf16(((const uint16_t *)from)[index]);
    if (kind == INT8) return ((const int8_t *)from)[index];
    return ((const float *)from)[index];
}

INLINE float total8(floats8 v) {
#ifdef __AVX__
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
#else
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
#endif
}

INLINE float total(floats v) {
    floats8 parts[LANES / 8];
    memcpy(parts, &v, sizeof v);
    return total8(LANES == 8 ? parts[0] : parts[0] + parts[LANES / 8 - 1]);
}

// The largest of finite numbers.
INLINE float largest(floats v) {
    floats8 parts[LANES / 8];
    memcpy(parts, &v, sizeof v);
#ifdef __AVX__
    __m256 eight = _mm256_max_ps((__m256)parts[0], (__m256)parts[LANES / 8 - 1]);
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
#else
    float most = parts[0][0];
    for (int lane = 1; lane < 8; lane++) most = parts[0][lane] > most ? parts[0][lane] : most;
    return most;
#endif
}

// Eight numbers from memory, as fp32.
INLINE floats8 load8(int kind, const void *from, long index) {
    if (kind == BF16) {
        const uint16_t *eight = (const uint16_t *)from + index;
#ifdef __AVX2__
        return (floats8)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)eight)), 16);
#else
        return (floats8)(__builtin_convertvector(*(const halves8 *)eight, words8) << 16);
#endif
    }
    if (kind == INT8) {
        const int8_t *eight = (const int8_t *)from + index;
#ifdef __AVX2__
        return (floats8)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)eight)));
#else
        return __builtin_convertvector(*(const bytes8 *)eight, floats8);
#endif
    }
    return *(const loose8 *)((const float *)from + index);
}

// The larger of two numbers; b if either is not a number.
INLINE floats larger(floats a, floats b) {
    integers keep = a > b;
    return (floats)(((integers)a & keep) | ((integers)b & ~keep));
}

INLINE long bytes_of(int kind, long numbers) {
    if (kind == INT4) return numbers / GROUP * GROUP_BYTES;
    return kind == FP32 ? 4 * numbers : kind == BF16 ? 2 * numbers : numbers;
}

// ---------------------------------------------------------------------------------------------- products

// Segments of equal lengths, the last may be shorter: (1,280, 896) would often end the inner loop.
INLINE long segments_of(long columns) { return (columns + SEGMENT - 1) / SEGMENT; }
INLINE long segment_of(long columns) {
    long segments = segments_of(columns);
    return (columns + segments * GROUP - 1) / (segments * GROUP) * GROUP;
}

// Rows of x are taken in lots of 8, then 4, then what is left. Lots of 5, 6 and 7 would save a twelfth of the
// instructions, but take longer to compile.
INLINE int lot_from(long first, long n) { return n - first >= 8 ? 8 : n - first >= 4 ? 4 : (int)(n - first); }

INLINE long octets_of(long columns) { return (columns / GROUP + OCTET - 1) / OCTET; }

// Asks for memory that will soon be read. A processor does so by itself, but not far enough where many instructions lie
// between two reads: at these distances, in bytes, one core read bf16 1.3, int8 1.35 and int4 1.2 times as fast. For
// fp32 there was none that helped.
#define AHEAD_BF16 1024
#define AHEAD_INT8 2048
#define AHEAD_INT4 4096
INLINE void ahead(const void *from, long distance) { __builtin_prefetch((const char *)from + distance); }

INLINE int lanes_from(long group, long groups) { return groups - group < OCTET ? (int)(groups - group) : OCTET; }

typedef struct {
    int kind;
    long rows, columns;     // of the weight; columns of int8 and int4 are a multiple of GROUP
    const void *weight;
    const float *scales;    // (rows) for int8
    long n, given_columns;  // at most `columns`
    const float *given;     // x as it is given, (n, given_columns)
    void *x;                // x as it is multiplied. bf16: (n, columns) fp32, `split`. Quantised, for each lot:
                            // int8 (columns / 16, lot, 16) int16, int4 (octets, lot, 8 lines, OCTET, 4) int8
    float *x_scales;        // for each lot: int8 (segments, lot), int4 (octets, lot, OCTET)
    float *shifts;          // int4, like x_scales: a group's sum of x, times -8
    float *y;               // (n, rows)
} product;

// A row of the weight times `count` rows of x, a constant where this is inlined. Each sum has four parts: an addition
// waits for the one before it, and with two, a core of an EPYC without AVX-512 multiplied four numbers a cycle.
INLINE void dense_row(const product *p, int kind, long row, long first, const int count) {
    long columns = p->columns, column = 0;
    const char *weight = (const char *)p->weight + bytes_of(kind, row * columns);
    const float *x = (const float *)p->x + first * columns;
    floats sums[4][4], w[2];
    UNROLL for (int i = 0; i < count; i++) UNROLL for (int part = 0; part < 4; part++) sums[i][part] = (floats){0};
    for (; column + 4 * LANES <= columns; column += 4 * LANES) {
        if (kind == BF16) ahead(weight + 2 * column, AHEAD_BF16);
        UNROLL for (int half = 0; half < 4; half += 2) {
            load_two(kind, weight, column + half * LANES, w);
            UNROLL for (int i = 0; i < count; i++)
                UNROLL for (int part = half; part < half + 2; part++)
                    sums[i][part] += w[part - half] * *(const floats *)(x + i * columns + column + part * LANES);
        }
    }
    for (; column + 2 * LANES <= columns; column += 2 * LANES) {
        load_two(kind, weight, column, w);
        UNROLL for (int i = 0; i < count; i++)
            UNROLL for (int part = 0; part < 2; part++)
                sums[i][part] += w[part] * *(const floats *)(x + i * columns + column + part * LANES);
    }
    UNROLL for (int i = 0; i < count; i++) {
        float sum = total((sums[i][0] + sums[i][1]) + (sums[i][2] + sums[i][3]));
        for (long c = column; c < columns; c++) sum = fmaf(load_one(kind, weight, c), x[i * columns + c], sum);
        p->y[(first + i) * p->rows + row] = sum;
    }
}

// Adds the products of unsigned and signed bytes to eight sums of four each. No unsigned byte is above 127, so that
// the sums of two products fit the 16 bits of AVX2's instruction.
INLINE sums8 dot(sums8 sums, bytes32 u, bytes32 s) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return (sums8)_mm256_dpbusd_epi32((__m256i)sums, (__m256i)u, (__m256i)s);
#elif defined(__AVXVNNI__)
    return (sums8)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)u, (__m256i)s);
#elif defined(__AVX2__)
    __m256i pairs = _mm256_maddubs_epi16((__m256i)u, (__m256i)s);
    return sums + (sums8)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    for (int lane = 0; lane < 8; lane++)
        for (int i = 4 * lane; i < 4 * lane + 4; i++) sums[lane] += (int)u[i] * (int)s[i];
    return sums;
#endif
}

// Adds the products of 16 numbers to eight sums of two each.
INLINE sums8 dot16(sums8 sums, shorts16 w, shorts16 x) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return (sums8)_mm256_dpwssd_epi32((__m256i)sums, (__m256i)w, (__m256i)x);
#elif defined(__AVXVNNI__)
    return (sums8)_mm256_dpwssd_avx_epi32((__m256i)sums, (__m256i)w, (__m256i)x);
#elif defined(__AVX2__)
    return sums + (sums8)_mm256_madd_epi16((__m256i)w, (__m256i)x);
#else
    for (int lane = 0; lane < 8; lane++)
        sums[lane] += (int)w[2 * lane] * (int)x[2 * lane] + (int)w[2 * lane + 1] * (int)x[2 * lane + 1];
    return sums;
#endif
}

INLINE shorts16 widened(const int8_t *from) {
#ifdef __AVX2__
    return (shorts16)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
#else
    return __builtin_convertvector(*(const bytes16 *)from, shorts16);
#endif
}

// The sums of the lanes of up to AT_ONCE vectors.
INLINE sums8 totals(const sums8 *v, const int count) {
#ifdef __AVX2__
    if (count == 1) {
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128((__m256i)v[0]), _mm256_extracti128_si256((__m256i)v[0], 1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
        return (sums8)_mm256_castsi128_si256(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
    }
    __m256i rows[AT_ONCE], four[2];
    UNROLL for (int i = 0; i < AT_ONCE; i++) rows[i] = i < count ? (__m256i)v[i] : _mm256_setzero_si256();
    UNROLL for (int half = 0; half < 2; half++) {
        __m256i *r = rows + 4 * half;
        __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi32(r[0], r[1]), _mm256_unpackhi_epi32(r[0], r[1]));
        __m256i b = _mm256_add_epi32(_mm256_unpacklo_epi32(r[2], r[3]), _mm256_unpackhi_epi32(r[2], r[3]));
        four[half] = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    }
    return (sums8)_mm256_add_epi32(_mm256_permute2x128_si256(four[0], four[1], 0x20),
                                   _mm256_permute2x128_si256(four[0], four[1], 0x31));
#else
    sums8 found = {0};
    for (int i = 0; i < count; i++)
        for (int lane = 0; lane < 8; lane++) found[i] += v[i][lane];
    return found;
#endif
}

// x has 16 bits: a product of 8 and 16 bits takes as many instructions as one of 8 and 8 bits, whose signs must first be
// moved. The error of rounding x is a seventieth (a twentieth with columns that are 30 times the others). Sums of
// integers are exact, so a segment's have no order. Several rows of the weight are read at once, so that what is asked
// for ahead is the next of them: at 2 KB ahead, 1,152 × 4,608 times eight rows took 1.3 times as long.
// Eight rows of x leave no register for a second step of 16 columns.
INLINE void int8_block(const product *p, long row, long first, int rows, const int count) {
    long columns = p->columns, size = segment_of(columns);
    const int step = count > 4 ? 16 : GROUP;
    const int8_t *weight = (const int8_t *)p->weight + row * columns;
    const int16_t *x = (const int16_t *)p->x + first * columns;
    const float *x_scales = p->x_scales + first * segments_of(columns);
    long distance = rows == 1 ? AHEAD_INT8 : rows * columns;
    floats8 sums[ROWS];
    for (int r = 0; r < rows; r++) sums[r] = (floats8){0};
    for (long begin = 0; begin < columns; begin += size, x_scales += count) {
        long end = begin + size < columns ? begin + size : columns;
        floats8 scales = *(const loose8 *)x_scales; // those beyond `count` are never used
        for (int r = 0; r < rows; r++) {
            sums8 found[AT_ONCE];
            UNROLL for (int i = 0; i < count; i++) found[i] = (sums8){0};
            const int8_t *from = weight + r * columns;
            const int16_t *v = x + begin * count;
            for (long column = begin; column < end; column += step) {
                ahead(from + column, distance);
                UNROLL for (int half = 0; half < step; half += 16, v += 16 * count) {
                    shorts16 w = widened(from + column + half);
                    UNROLL for (int i = 0; i < count; i++)
                        found[i] = dot16(found[i], w, *(const shorts16 *)(v + 16 * i));
                }
            }
            sums[r] += __builtin_convertvector(totals(found, count), floats8) * scales;
        }
    }
    for (int r = 0; r < rows; r++) {
        floats8 scaled = sums[r] * p->scales[row + r];
        UNROLL for (int i = 0; i < count; i++) p->y[(first + i) * p->rows + row + r] = scaled[i];
    }
}

// A row of int4 consists of octets: eight groups each, the last may have fewer. An octet holds the scales of its groups
// in bf16, then four lines of four bytes a group. The low halves of line k are the numbers 4k to 4k + 3 of each group,
// the high halves the numbers 16 + 4k to 16 + 4k + 3, each plus 8. So each lane of a vector of sums belongs to one
// group, and 256 weights take one conversion to fp32 and one multiplication by scales. One for every 32 took 2.5 times
// as long.
INLINE sums8 before(int lanes) { return (sums8){0, 1, 2, 3, 4, 5, 6, 7} < (sums8){0} + lanes; }

// Line k of an octet. Lanes without a group are zero.
INLINE bytes32 line(const uint8_t *octet, int lanes, int k) {
    const uint8_t *from = octet + 2 * lanes + 4 * lanes * k;
    if (lanes == OCTET) return *(const bytes32 *)from;
#ifdef __AVX2__
    return (bytes32)_mm256_maskload_epi32((const int *)from, (__m256i)before(lanes));
#else
    bytes32 some = {0};
    memcpy(&some, from, 4 * lanes);
    return some;
#endif
}

// The scales of an octet, zero for lanes without a group. Eight are read: the lines follow them.
INLINE floats8 octet_scales(const uint8_t *octet, int lanes) {
    floats8 scales = load8(BF16, octet, 0);
    return lanes == OCTET ? scales : (floats8)((sums8)scales & before(lanes));
}

// The weights of an octet as bytes, in the order of x.
typedef struct { bytes32 lines[8]; } unpacked;

INLINE unpacked unpack(const uint8_t *octet, int lanes) {
    unpacked w;
    UNROLL for (int k = 0; k < 4; k++) {
        bytes32 packed = line(octet, lanes, k);
        w.lines[k] = packed & 15;
        w.lines[4 + k] = (bytes32)((words8)packed >> 4) & 15;
    }
    return w;
}

// The sum of each group's products with x (8 lines, OCTET, 4). 16 bits hold eight sums of two products of numbers up to
// 15 and 127.
INLINE sums8 octet_sums(const unpacked *w, const int8_t *x) {
#ifdef VNNI
    sums8 low = {0}, high = {0};
    UNROLL for (int k = 0; k < 4; k++) {
        low = dot(low, w->lines[k], *(const bytes32 *)(x + 32 * k));
        high = dot(high, w->lines[4 + k], *(const bytes32 *)(x + 32 * (4 + k)));
    }
    return low + high;
#elif defined(__AVX2__)
    __m256i pairs[2];
    UNROLL for (int k = 0; k < 8; k++) {
        __m256i both = _mm256_maddubs_epi16((__m256i)w->lines[k], _mm256_loadu_si256((const __m256i *)(x + 32 * k)));
        pairs[k % 2] = k < 2 ? both : _mm256_add_epi16(pairs[k % 2], both);
    }
    return (sums8)_mm256_madd_epi16(_mm256_add_epi16(pairs[0], pairs[1]), _mm256_set1_epi16(1));
#else
    shorts32 sums = {0};
    UNROLL for (int k = 0; k < 8; k++)
        sums += __builtin_convertvector(w->lines[k], shorts32) *
                __builtin_convertvector(*(const bytes32 *)(x + 32 * k), shorts32);
    sums8 found;
    for (int lane = 0; lane < 8; lane++)
        found[lane] = sums[4 * lane] + sums[4 * lane + 1] + sums[4 * lane + 2] + sums[4 * lane + 3];
    return found;
#endif
}

// One octet times `count` rows of x, added to `sums` (count).
INLINE void int4_octet(const uint8_t *octet, int lanes, const int8_t *x, const float *x_scales, const float *shifts,
                       floats8 *sums, long distance, const int count) {
    ahead(octet, distance), ahead(octet, distance + 64);
    unpacked w = unpack(octet, lanes);
    floats8 scales = octet_scales(octet, lanes);
    UNROLL for (int i = 0; i < count; i++) {
        floats8 found = __builtin_convertvector(octet_sums(&w, x + i * OCTET * GROUP), floats8);
        sums[i] += scales * (found * *(const loose8 *)(x_scales + i * OCTET) + *(const loose8 *)(shifts + i * OCTET));
    }
}

// If x fits the nearest cache, one row of the weight is taken after the other: their memory is then one stream. Else
// ROWS of them share a segment of x.
INLINE void int4_block(const product *p, long row, long first, int rows, const int count) {
    long groups = p->columns / GROUP, octets = octets_of(p->columns), stride = groups * GROUP_BYTES;
    int near = octets * count * OCTET * (GROUP + 8) <= NEAR;
    long at_once = near ? octets : SEGMENT / (OCTET * GROUP), distance = near ? AHEAD_INT4 : rows * stride;
    long past = first * octets * OCTET;
    const int8_t *x = (const int8_t *)p->x + past * GROUP;
    const float *x_scales = p->x_scales + past, *shifts = p->shifts + past;
    floats8 sums[ROWS][AT_ONCE];
    for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < count; i++) sums[r][i] = (floats8){0};
    for (long begin = 0; begin < octets; begin += at_once)
        for (int r = 0; r < rows; r++) {
            const uint8_t *weight = (const uint8_t *)p->weight + (row + r) * stride;
            for (long number = begin; number < octets && number < begin + at_once; number++) {
                const uint8_t *octet = weight + number * OCTET * GROUP_BYTES;
                long at = number * count * OCTET;
                const int8_t *v = x + at * GROUP;
                if (number < groups / OCTET)
                    int4_octet(octet, OCTET, v, x_scales + at, shifts + at, sums[r], distance, count);
                else
                    int4_octet(octet, groups % OCTET, v, x_scales + at, shifts + at, sums[r], distance, count);
            }
        }
    for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < count; i++) p->y[(first + i) * p->rows + row + r] = total8(sums[r][i]);
}

INLINE void block(const product *p, int kind, long row, long first, int rows, const int count) {
    if (kind == INT8) int8_block(p, row, first, rows, count);
    else if (kind == INT4) int4_block(p, row, first, rows, count);
    else
        for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < count; i += 4)
            dense_row(p, kind, row + r, first + i, count < 4 ? count : 4);
}

INLINE void some_rows(const product *p, int kind, long row, int rows) {
    for (long first = 0; first < p->n; first += lot_from(first, p->n))
        switch (lot_from(first, p->n)) {
        case 8: block(p, kind, row, first, rows, 8); break;
        case 4: block(p, kind, row, first, rows, 4); break;
        case 3: block(p, kind, row, first, rows, 3); break;
        case 2: block(p, kind, row, first, rows, 2); break;
        default:
            if (p->n > 1) block(p, kind, row, first, rows, 1);
            else for (int r = 0; r < rows; r++) block(p, kind, row + r, first, 1, 1);
        }
}

// The kind is constant from here on. A parallel region is a function of its own, into which no constant is passed.
static void rows_of_kind(const product *p, long row, int rows) {
    if (p->kind == FP32) some_rows(p, FP32, row, rows);
    else if (p->kind == BF16) some_rows(p, BF16, row, rows);
    else if (p->kind == INT8) some_rows(p, INT8, row, rows);
    else some_rows(p, INT4, row, rows);
}

static void prepare(const product *p, long i);

static void all_rows(const product *p, int threads) {
    if (p->n == 1) prepare(p, 0);
#pragma omp parallel num_threads(threads) if (p->rows * p->columns * p->n > SERIAL)
    {
        if (p->n > 1) {
#pragma omp for schedule(static)
            for (long i = 0; i < p->n; i++) prepare(p, i);
        }
        // First halves, then ever smaller shares: a thread that another program holds up, such as the reader of a reply,
        // holds up the others less. Products took 0.89 to 0.99 of the time of equal shares.
#pragma omp for schedule(guided, 4)
        for (long row = 0; row < p->rows; row += ROWS)
            rows_of_kind(p, row, p->rows - row < ROWS ? (int)(p->rows - row) : ROWS);
    }
}

// `columns` numbers as int8, zeros up to `padded`: x ≈ q · scale, with scale = max |x| / 127.
// The scale is not finite if a number is not.
INLINE float rounded(const float *x, long columns, int8_t *q, long padded) {
    floats most_of = {0}, nothing = {0};
    long c = 0;
    UNROLL for (; c + LANES <= columns; c += LANES) {
        floats v = *(const floats *)(x + c);
        most_of = larger(most_of, larger(v, -v));
        nothing += v * 0;
    }
    float most = largest(most_of), fault = total(nothing);
    for (long rest = c; rest < columns; rest++) most = fmaxf(most, fabsf(x[rest])), fault += x[rest] * 0;
    float inverse = most > 0 ? 127 / most : 0;
    UNROLL for (c = 0; c + LANES <= columns; c += LANES) {
        integers numbers = (integers)(*(const floats *)(x + c) * inverse + ROUND) - (integers)((floats){0} + ROUND);
        store_bytes(numbers, q + c);
    }
    for (; c < columns; c++) q[c] = (int8_t)lrintf(x[c] * inverse);
    for (; c < padded; c++) q[c] = 0;
    return most / 127 + fault;
}

// `columns` numbers as int16, zeros from there to `padded`, 16 of them every `stride`: x ≈ q · scale, with
// scale = max |x| / MOST. The scale is not finite if a number is not.
static float rounded16(const float *x, long columns, int16_t *q, long padded, long stride) {
    floats most_of = {0}, nothing = {0};
    long c = 0;
    for (; c + LANES <= columns; c += LANES) {
        floats v = *(const floats *)(x + c);
        most_of = larger(most_of, larger(v, -v));
        nothing += v * 0;
    }
    float most = largest(most_of), fault = total(nothing);
    for (long rest = c; rest < columns; rest++) most = fmaxf(most, fabsf(x[rest])), fault += x[rest] * 0;
    float inverse = most > 0 ? MOST / most : 0;
    for (c = 0; c + LANES <= columns; c += LANES) {
        integers numbers = (integers)(*(const floats *)(x + c) * inverse + ROUND) - (integers)((floats){0} + ROUND);
        *(shorts *)(q + c / 16 * stride + c % 16) = __builtin_convertvector(numbers, shorts);
    }
    for (; c < padded; c++) q[c / 16 * stride + c % 16] = c < columns ? (int16_t)lrintf(x[c] * inverse) : 0;
    return most / MOST + fault;
}

static float quantised(const float *x, long columns, int8_t *q, long padded) { return rounded(x, columns, q, padded); }

// Group `number` of a row of x with `columns` numbers.
static float quantised_input(const float *x, long columns, long number, int8_t *q) {
    long rest = columns - number * GROUP;
    return rest < GROUP ? rounded(x + number * GROUP, rest, q, GROUP) : rounded(x + number * GROUP, GROUP, q, GROUP);
}

// Row `i` of a lot of `count` rows of x, for weights of int8.
static void int8_input(const product *p, const float *from, long first, int i, int count) {
    long columns = p->columns, size = segment_of(columns);
    float *scales = p->x_scales + first * segments_of(columns) + i;
    for (long begin = 0; begin < columns; begin += size, scales += count) {
        long padded = columns - begin < size ? columns - begin : size, given = p->given_columns - begin;
        int16_t *q = (int16_t *)p->x + first * columns + begin * count + 16 * i;
        *scales = rounded16(from + begin, given < padded ? given : padded, q, padded, 16 * count);
    }
}

// The same for weights of int4.
static void int4_input(const product *p, const float *from, long first, int i, int count) {
    long groups = p->columns / GROUP, octets = octets_of(p->columns);
    for (long number = 0; number < octets; number++) {
        long at = (first * octets + number * count + i) * OCTET;
        int lanes = lanes_from(number * OCTET, groups);
        int8_t *q = (int8_t *)p->x + at * GROUP;
        float *scales = p->x_scales + at;
        if (lanes < OCTET) memset(q, 0, OCTET * GROUP), memset(scales, 0, OCTET * sizeof(float));
        for (int lane = 0; lane < lanes; lane++) {
            int8_t numbers[GROUP];
            scales[lane] = quantised_input(from, p->given_columns, number * OCTET + lane, numbers);
            UNROLL for (int k = 0; k < GROUP / 4; k++) memcpy(q + 4 * (OCTET * k + lane), numbers + 4 * k, 4);
        }
        sums8 eight_times = {0};
        UNROLL for (int k = 0; k < GROUP / 4; k++)
            eight_times = dot(eight_times, (bytes32){0} + 8, *(const bytes32 *)(q + 4 * OCTET * k));
        *(loose8 *)(p->shifts + at) = __builtin_convertvector(-eight_times, floats8) * *(const loose8 *)scales;
    }
}

// x (columns) with the even and the odd columns of each 2 · LANES apart, as `load_two` gives those of bf16.
static void split(const float *x, long columns, float *to) {
    long c = 0;
    for (; c + 2 * LANES <= columns; c += 2 * LANES)
        for (int lane = 0; lane < LANES; lane++)
            to[c + lane] = x[c + 2 * lane], to[c + LANES + lane] = x[c + 2 * lane + 1];
    for (; c < columns; c++) to[c] = x[c];
}

// Row `i` of x as it is multiplied.
static void prepare(const product *p, long i) {
    const float *from = p->given + i * p->given_columns;
    long first = 0;
    while (i >= first + lot_from(first, p->n)) first += lot_from(first, p->n);
    int count = lot_from(first, p->n);
    if (p->kind == BF16) split(from, p->columns, (float *)p->x + i * p->columns);
    else if (p->kind == INT8) int8_input(p, from, first, (int)(i - first), count);
    else if (p->kind == INT4) int4_input(p, from, first, (int)(i - first), count);
}

// x (n, x_columns) fp32 times the transposed weight (rows, columns): y (n, rows) fp32. Returns 1 without memory.
int multiply(int kind, long rows, long columns, const void *weight, const float *scales, const float *x, long x_columns,
             long n, float *y, int threads) {
    product p = {.kind = kind, .rows = rows, .columns = columns, .weight = weight, .scales = scales,
                 .n = n, .given = x, .given_columns = x_columns, .x = (void *)x, .y = y};
    if (kind == FP32) {
        all_rows(&p, threads);
        return 0;
    }
    // int8 has a scale for each segment, int4 for each group: with one for a row, columns that are far larger than the
    // others drown these.
    long padded = octets_of(columns) * OCTET * GROUP, numbers = n * padded / GROUP;
    long bytes_of_x = n * (kind == BF16 ? 4 * columns : kind == INT8 ? 2 * columns : padded);
    bytes_of_x = (bytes_of_x + 63) / 64 * 64;
    // Aligned, so that no vector of x lies in two cache lines. Eight scales of int8 are read at once.
    char *room = aligned_alloc(64, (bytes_of_x + (2 * numbers + 8) * sizeof(float) + 63) / 64 * 64);
    if (!room) return 1;
    p.x = room, p.x_scales = (float *)(room + bytes_of_x), p.shifts = p.x_scales + numbers;
    all_rows(&p, threads);
    free(room);
    return 0;
}

// A group of 32 as int4: x ≈ (q − 8) · scale. The number that is farthest from zero becomes 0, the lowest q. Returns
// the scale in bf16, which is not finite if a number is not.
static uint16_t quantised_group(const float *x, int8_t *q) {
    floats highest = {0}, lowest = {0}, nothing = {0};
    UNROLL for (int i = 0; i < GROUP; i += LANES) {
        floats v = *(const floats *)(x + i);
        highest = larger(v, highest), lowest = larger(-v, lowest);
        nothing += v * 0;
    }
    float high = largest(highest), low = largest(lowest), farthest = high > low ? high : -low;
    uint16_t scale = to_bf16(farthest / -8 + total(nothing));
    float inverse = farthest == 0 ? 0 : 1 / from_bf16(scale);
    UNROLL for (int i = 0; i < GROUP; i += LANES) {
        integers numbers = (integers)(*(const floats *)(x + i) * inverse + ROUND) - (integers)((floats){0} + ROUND);
        integers small = numbers < 7;
        store_bytes((((numbers & small) | (7 & ~small)) + 8) & 15, q + i);
    }
    return scale;
}

static void quantised_octet(const float *x, long width, int lanes, uint8_t *octet) {
    for (int lane = 0; lane < lanes; lane++) {
        long begin = lane * GROUP, count = width - begin < GROUP ? width - begin : GROUP;
        float padded[GROUP] = {0};
        int8_t q[GROUP];
        memcpy(padded, x + begin, count * sizeof(float));
        ((uint16_t *)octet)[lane] = quantised_group(padded, q);
        for (int k = 0; k < 4; k++) {
            uint32_t low, high;
            memcpy(&low, q + 4 * k, 4), memcpy(&high, q + GROUP / 2 + 4 * k, 4);
            low |= high << 4;
            memcpy(octet + 2 * lanes + 4 * (lanes * k + lane), &low, 4);
        }
    }
}

// Rounds x (rows, width) fp32 to a weight (rows, columns), with zeros from `width` on: int8 and its scales (rows), or int4.
void quantise(int kind, const float *x, long rows, long width, long columns, char *to, float *scales, int threads) {
    long groups = columns / GROUP;
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * width > SERIAL)
    for (long row = 0; row < rows; row++) {
        const float *from = x + row * width;
        char *packed = to + bytes_of(kind, row * columns);
        if (kind == INT8) scales[row] = quantised(from, width, (int8_t *)packed, columns);
        else
            for (long group = 0; group < groups; group += OCTET)
                quantised_octet(from + group * GROUP, width - group * GROUP, lanes_from(group, groups),
                                (uint8_t *)packed + group * GROUP_BYTES);
    }
}

static void convert_octet(const uint8_t *octet, int lanes, int half, void *to, long begin) {
    unpacked w = unpack(octet, lanes);
    uint32_t lines[GROUP / 4][OCTET], eights[GROUP / 8][OCTET][2]; // numbers 8k to 8k + 7 of each group
    memcpy(lines, &w, sizeof lines);
    for (int k = 0; k < GROUP / 8; k++) {
#ifdef __AVX2__
        __m256i first = _mm256_loadu_si256((__m256i *)lines[2 * k]);
        __m256i second = _mm256_loadu_si256((__m256i *)lines[2 * k + 1]);
        __m256i low = _mm256_unpacklo_epi32(first, second), high = _mm256_unpackhi_epi32(first, second);
        _mm256_storeu_si256((__m256i *)eights[k][0], _mm256_permute2x128_si256(low, high, 0x20));
        _mm256_storeu_si256((__m256i *)eights[k][4], _mm256_permute2x128_si256(low, high, 0x31));
#else
        for (int lane = 0; lane < OCTET; lane++)
            eights[k][lane][0] = lines[2 * k][lane], eights[k][lane][1] = lines[2 * k + 1][lane];
#endif
    }
    for (int lane = 0; lane < lanes; lane++) {
        float scale = from_bf16(((const uint16_t *)octet)[lane]);
        UNROLL for (int k = 0; k < GROUP / 8; k++)
            store8(half, to, begin + lane * GROUP + 8 * k, (load8(INT8, eights[k][lane], 0) - 8) * scale);
    }
}

// Rows as fp32 or, if `half`, bf16: `to` (rows, columns). int8 comes without its scales, so it is exact.
void convert(int kind, const char *weight, long rows, long columns, int half, void *to, int threads) {
    long groups = columns / GROUP;
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * columns > SERIAL)
    for (long row = 0; row < rows; row++) {
        const char *from = weight + bytes_of(kind, row * columns);
        long begin = row * columns, column = 0;
        if (kind == INT4) {
            for (long group = 0; group < groups; group += OCTET)
                convert_octet((const uint8_t *)from + group * GROUP_BYTES, lanes_from(group, groups), half, to,
                              begin + group * GROUP);
            continue;
        }
        for (; column + 8 <= columns; column += 8) store8(half, to, begin + column, load8(kind, from, column));
        for (; column < columns; column++) store_one(half, to, begin + column, load_one(kind, from, column));
    }
}

// --------------------------------------------------------------------------------------------- attention

// e^x for x <= 0: 2^n · 2^f with |f| <= 1/2, and Cephes' polynomial of 2^f. The error grows with −x, to 4e-6 of the value
// at −80.
INLINE floats exponential(floats x) {
    x *= 1.44269504088896341f;
    x = larger(x, (floats){0} - 126.0f);
    floats shifted = x + ROUND;
    floats f = x - (shifted - ROUND);
    floats p = f * 1.535336188e-4f + 1.339887440e-3f;
    p = p * f + 9.618437357e-3f;
    p = p * f + 5.550332548e-2f;
    p = p * f + 2.402264791e-1f;
    p = p * f + 6.931472028e-1f;
    p = p * f + 1.0f;
    return (floats)(((integers)shifted << 23) + (integers)p);
}

typedef struct {
    int kind;
    long heads, capacity, width; // of a head
    char *keys, *values;         // a layer's cache, (batch, heads, capacity, width)
    float *key_scales, *value_scales; // int8: (batch, heads, capacity)
    int softmax_one;                  // one is added to the divisor of the softmax
} cached;

INLINE float similarity(int kind, const float *query, const void *key, long width) {
    floats8 sums[2] = {{0}, {0}};
    long i = 0;
    for (; i + 16 <= width; i += 16)
        UNROLL for (int part = 0; part < 2; part++)
            sums[part] += *(const loose8 *)(query + i + 8 * part) * load8(kind, key, i + 8 * part);
    for (; i + 8 <= width; i += 8) sums[0] += *(const loose8 *)(query + i) * load8(kind, key, i);
    float sum = total8(sums[0] + sums[1]);
    for (; i < width; i++) sum = fmaf(query[i], load_one(kind, key, i), sum);
    return sum;
}

// `parts` times eight columns of the mix from column `begin` on: the sum of weights[s] · value s.
INLINE void mix(int kind, const float *weights, const char *values, long slots, long width, long begin, float *to,
                const int parts) {
    floats8 sums[8];
    UNROLL for (int part = 0; part < parts; part++) sums[part] = (floats8){0};
    for (long slot = 0; slot < slots; slot++) {
        const char *value = values + bytes_of(kind, slot * width);
        UNROLL for (int part = 0; part < parts; part++)
            sums[part] += load8(kind, value, begin + 8 * part) * weights[slot];
    }
    UNROLL for (int part = 0; part < parts; part++) *(loose8 *)(to + begin + 8 * part) = sums[part];
}

// One head of one query. `scores` has room for the visible slots and LANES more.
INLINE void attend_head(const cached *c, int kind, long row, long head, long position, const float *query, float slope,
                        float *to, float *scores) {
    long line = (row * c->heads + head) * c->capacity, width = c->width;
    const char *keys = c->keys + bytes_of(kind, line * width), *values = c->values + bytes_of(kind, line * width);
    long slots = position < c->capacity ? position + 1 : c->capacity, newest = position % c->capacity;
    float root = 1 / sqrtf((float)width), most = c->softmax_one ? 0 : -INFINITY, fault = 0;
    for (long slot = 0; slot < slots; slot++) {
        float score = similarity(kind, query, keys + bytes_of(kind, slot * width), width) * root;
        if (kind == INT8) score *= c->key_scales[line + slot];
        long distance = newest - slot + (slot > newest ? c->capacity : 0);
        scores[slot] = score - slope * (float)distance;
        most = fmaxf(most, scores[slot]);
        fault += scores[slot] * 0; // a score that is not finite must reach the logits
    }
    for (long slot = slots; slot < slots + LANES; slot++) scores[slot] = -INFINITY;
    floats sums = {0};
    for (long slot = 0; slot < slots; slot += LANES) {
        floats e = exponential(*(floats *)(scores + slot) - most);
        if (slot + LANES > slots)
            for (int lane = 0; lane < LANES; lane++) e[lane] = slot + lane < slots ? e[lane] : 0;
        sums += e;
        *(floats *)(scores + slot) = e;
    }
    float divisor = total(sums) + fault;
    if (c->softmax_one) divisor += expf(-most);
    for (long slot = 0; slot < slots; slot++)
        scores[slot] *= (kind == INT8 ? c->value_scales[line + slot] : 1) / divisor;
    long begin = 0;
    for (; begin + 64 <= width; begin += 64) mix(kind, scores, values, slots, width, begin, to, 8);
    for (; begin + 8 <= width; begin += 8) mix(kind, scores, values, slots, width, begin, to, 1);
    for (; begin < width; begin++) {
        float sum = 0;
        for (long slot = 0; slot < slots; slot++)
            sum = fmaf(scores[slot], load_one(kind, values + bytes_of(kind, slot * width), begin), sum);
        to[begin] = sum;
    }
}

static float store(int kind, const float *from, char *to, long width) {
    if (kind == INT8) return quantised(from, width, (int8_t *)to, width);
    if (kind == BF16)
        for (long i = 0; i < width; i++) ((uint16_t *)to)[i] = to_bf16(from[i]);
    else
        memcpy(to, from, 4 * width);
    return 0;
}

// `scores` has a line of `room` for each thread.
static void all_heads(const cached *c, long n, const int64_t *rows, const int64_t *positions, const float *query,
                      long stride, const float *slopes, float *to, float *scores, long room, int threads) {
    long work = 0;
    for (long i = 0; i < n; i++) work += positions[i] * c->heads * c->width;
#pragma omp parallel for schedule(static) num_threads(threads) if (work > SERIAL)
    for (long number = 0; number < n * c->heads; number++) {
        long i = number / c->heads, head = number % c->heads;
        const float *q = query + i * stride + head * c->width;
        float *mixed = to + number * c->width, *line = scores + omp_get_thread_num() * room;
        if (c->kind == INT8) attend_head(c, INT8, rows[i], head, positions[i], q, slopes[head], mixed, line);
        else if (c->kind == BF16) attend_head(c, BF16, rows[i], head, positions[i], q, slopes[head], mixed, line);
        else attend_head(c, FP32, rows[i], head, positions[i], q, slopes[head], mixed, line);
    }
}

// Appends n keys and values to a layer's cache, each to row rows[i] at positions[i], and lets n queries attend to what
// their row holds up to their position. Query, key and value i begin at i · stride and are (heads, width); `to` is
// (n, heads, width). A position beyond the capacity overwrites the oldest, so several positions of one row must not
// pass the capacity. Returns 1 without memory.
static int attend(const cached *c, long n, const int64_t *rows, const int64_t *positions, const float *query,
                  const float *key, const float *value, long stride, const float *slopes, float *to, int threads) {
    int kind = c->kind;
    long heads = c->heads, capacity = c->capacity, width = c->width;
    long most = 0;
    for (long i = 0; i < n; i++) {
        if (positions[i] > most) most = positions[i];
        for (long head = 0; head < heads; head++) {
            long slot = (rows[i] * heads + head) * capacity + positions[i] % capacity;
            float key_scale = store(kind, key + i * stride + head * width, c->keys + bytes_of(kind, slot * width), width);
            float value_scale =
                store(kind, value + i * stride + head * width, c->values + bytes_of(kind, slot * width), width);
            if (kind == INT8) c->key_scales[slot] = key_scale, c->value_scales[slot] = value_scale;
        }
    }
    long room = (most < capacity ? most + 1 : capacity) + LANES;
    float *scores = malloc(threads * room * sizeof(float));
    if (!scores) return 1;
    all_heads(c, n, rows, positions, query, stride, slopes, to, scores, room, threads);
    free(scores);
    return 0;
}

// ------------------------------------------------------------------------------------------------ a pass

typedef struct {
    int64_t kind, rows, columns;
    const void *weight;
    const float *scales;
} matrix;

typedef struct {
    const float *attention_norm, *mlp_norm;
    matrix projections, attention_output, mlp_input, mlp_output;
    int64_t keys_first; // the projections are keys, values, queries instead of queries, keys, values
} layer;

// Layer norm of a row x (width), without a bias.
static void normalise_row(const float *x, const float *weight, long width, float *to) {
    floats sums = {0}, squares = {0};
    long c = 0;
    for (; c + LANES <= width; c += LANES) sums += *(const floats *)(x + c);
    float mean = total(sums);
    for (; c < width; c++) mean += x[c];
    mean /= (float)width;
    for (c = 0; c + LANES <= width; c += LANES) {
        floats distance = *(const floats *)(x + c) - mean;
        squares += distance * distance;
    }
    float variance = total(squares);
    for (; c < width; c++) variance += (x[c] - mean) * (x[c] - mean);
    float scale = 1 / sqrtf(variance / (float)width + 1e-5f);
    for (c = 0; c + LANES <= width; c += LANES)
        *(floats *)(to + c) = (*(const floats *)(x + c) - mean) * scale * *(const floats *)(weight + c);
    for (; c < width; c++) to[c] = (x[c] - mean) * scale * weight[c];
}

// The same for n rows.
static void normalise(const float *x, const float *weight, long n, long width, float *to, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (n * width > FEW)
    for (long i = 0; i < n; i++) normalise_row(x + i * width, weight, width, to + i * width);
}

// x / 2 · (1 + erf(x / √2)), with the complement of erf by Abramowitz and Stegun 7.1.26: within 4e-7.
INLINE floats gelu_of(floats x) {
    floats z = larger(x, -x) * 0.70710678f;
    floats t = 1 / (1 + z * 0.3275911f);
    floats p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    floats half = x * 0.5f * (p * t * exponential(-z * z));
    integers positive = x > 0;
    return (floats)(((integers)(x - half) & positive) | ((integers)half & ~positive));
}

static void gelu_row(float *x, long numbers) {
    long i = 0;
    for (; i + LANES <= numbers; i += LANES) *(floats *)(x + i) = gelu_of(*(const floats *)(x + i));
    if (i == numbers) return;
    float rest[LANES] = {0};
    memcpy(rest, x + i, (numbers - i) * sizeof(float));
    *(floats *)rest = gelu_of(*(const floats *)rest);
    memcpy(x + i, rest, (numbers - i) * sizeof(float));
}

static void gelu(float *x, long n, long width, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (n * width > FEW)
    for (long i = 0; i < n; i++) gelu_row(x + i * width, width);
}

static void add(float *x, const float *more, long numbers) {
    for (long i = 0; i < numbers; i++) x[i] += more[i];
}

INLINE int times(const matrix *m, const float *x, long width, long n, float *y, int threads) {
    return multiply((int)m->kind, m->rows, m->columns, m->weight, m->scales, x, width, n, y, threads);
}

// All layers and the head, for n embedded ids x (n, width), which are overwritten: logits (n, rows of the head). Each
// belongs to row rows[i] of the cache at positions[i]; see `attend`. Returns 1 without memory.
int forward(const layer *layers, long n_layers, const float *final_norm, const matrix *head, int cache_kind, long batch,
            long heads, long capacity, long head_width, char *keys, char *values, float *key_scales,
            float *value_scales, int softmax_one, long n, const int64_t *rows, const int64_t *positions,
            const float *slopes, float *x, float *logits, int threads) {
    long width = heads * head_width, slots = batch * heads * capacity, hidden = layers[0].mlp_input.rows;
    float *room = malloc(n * (5 * width + hidden) * sizeof(float));
    if (!room) return 1;
    float *normed = room, *mixed = normed + n * width, *joint = mixed + n * width, *inner = joint + 3 * n * width;
    int failed = 0;
    for (long number = 0; number < n_layers; number++) {
        const layer *l = layers + number;
        long begin = bytes_of(cache_kind, number * slots * head_width);
        cached c = {cache_kind, heads, capacity, head_width, keys + begin, values + begin, NULL, NULL, softmax_one};
        if (cache_kind == INT8) c.key_scales = key_scales + number * slots, c.value_scales = value_scales + number * slots;
        const float *query = joint + (l->keys_first ? 2 * width : 0), *key = joint + (l->keys_first ? 0 : width);
        normalise(x, l->attention_norm, n, width, normed, threads);
        failed = times(&l->projections, normed, width, n, joint, threads) ||
                 attend(&c, n, rows, positions, query, key, key + width, 3 * width, slopes, mixed, threads) ||
                 times(&l->attention_output, mixed, width, n, normed, threads);
        if (failed) break;
        add(x, normed, n * width);
        normalise(x, l->mlp_norm, n, width, normed, threads);
        failed = times(&l->mlp_input, normed, width, n, inner, threads);
        if (failed) break;
        gelu(inner, n, hidden, threads);
        failed = times(&l->mlp_output, inner, hidden, n, normed, threads);
        if (failed) break;
        add(x, normed, n * width);
    }
    if (!failed) {
        normalise(x, final_norm, n, width, normed, threads);
        failed = times(head, normed, width, n, logits, threads);
    }
    free(room);
    return failed;
}
