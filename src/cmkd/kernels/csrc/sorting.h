/* Order and exact, tie-averaged ranks of one row. */
#ifndef CMKD_SORTING_H
#define CMKD_SORTING_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Values per bucket on average: about as many as neighbours are compared with at a time. */
#define BUCKET 8
/* Up to here all values are compared with all others. */
#define FEW 128
/* Above this mean number of comparisons per value (ties, outliers) a radix sort takes over. */
#define MOST_COMPARISONS 256

/* Vectors of a fixed width, which compilers map to what the machine has. */
enum { LANES = 16 };
typedef float float_lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t int_lanes __attribute__((vector_size(4 * LANES)));

typedef struct {
    float value;
    int32_t index;
} entry;

typedef struct {
    uint64_t *keys, *spare; /* n each: bits of the value and index, for the radix sort */
    entry *grouped;         /* n, bucket by bucket */
    float *values;          /* n, in the same order */
    int32_t *start;         /* n / BUCKET + 2 */
} sort_space;

static inline uint32_t ordered_bits(float x) {
    uint32_t bits;
    x += 0.0f; /* -0 becomes +0: they tie */
    memcpy(&bits, &x, 4);
    return bits ^ ((uint32_t)((int32_t)bits >> 31) | 0x80000000u);
}

/* Least significant digit first; digits in which all keys agree are skipped (half precision has many). */
static const uint64_t *radix_sort(sort_space *w, int n, int digit) {
    uint32_t count[4][2048];
    const int size = 1 << digit, passes = (32 + digit - 1) / digit;
    uint64_t *from = w->keys, *to = w->spare;
    for (int p = 0; p < passes; p++) memset(count[p], 0, sizeof(uint32_t) * (size_t)size);
    for (int i = 0; i < n; i++) {
        const uint32_t key = (uint32_t)(from[i] >> 32);
        for (int p = 0; p < passes; p++) count[p][(key >> (p * digit)) & (uint32_t)(size - 1)]++;
    }
    for (int p = 0; p < passes; p++) {
        const int shift = 32 + p * digit;
        uint32_t *at = count[p], sum = 0;
        if (at[(from[0] >> shift) & (uint64_t)(size - 1)] == (uint32_t)n) continue;
        for (int d = 0; d < size; d++) {
            const uint32_t here = at[d];
            at[d] = sum;
            sum += here;
        }
        for (int i = 0; i < n; i++) to[at[(from[i] >> shift) & (uint64_t)(size - 1)]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    return from;
}

static void rank_by_radix(const float *x, int n, sort_space *w, float *rank, int32_t *order) {
    for (int i = 0; i < n; i++) w->keys[i] = (uint64_t)ordered_bits(x[i]) << 32 | (uint32_t)i;
    const uint64_t *sorted = radix_sort(w, n, n < 2048 ? 8 : 11);
    for (int i = 0; i < n;) {
        int end = i + 1;
        while (end < n && sorted[end] >> 32 == sorted[i] >> 32) end++;
        const float mean = 0.5f * (float)(i + 1 + end);
        for (; i < end; i++) {
            if (rank) rank[(uint32_t)sorted[i]] = mean;
            if (order) order[i] = (int32_t)(uint32_t)sorted[i];
        }
    }
}

/* Rank up to LANES neighbours of the grouped values by comparing them with those from `low` to `high`; all
 * that come before are smaller, all that come after are larger. No `entries`: the values are in their place. */
static void rank_lanes(const float *values, const entry *entries, int from, int lanes, int low, int high,
                       float *rank, int32_t *order) {
    float_lanes here = {0};
    int_lanes less = {0}, at_most = {0};
    memcpy(&here, values + from, sizeof(float) * (size_t)lanes);
    for (int j = low; j < high; j++) { /* a comparison gives -1 where it holds */
        less -= values[j] < here;
        at_most -= values[j] <= here;
    }
    if (rank) {
        const int_lanes twice = less + at_most + (2 * low + 1);
        for (int i = 0; i < lanes; i++) rank[entries ? entries[from + i].index : from + i] = 0.5f * (float)twice[i];
    }
    if (order)
        for (int i = 0; i < lanes; i++) {
            int position = low + less[i];
            while (order[position] >= 0) position++; /* taken by an equal value */
            order[position] = entries ? entries[from + i].index : from + i;
        }
}

static inline int bucket_of(float x, float low, float scale, int buckets) {
    const int b = (int)((x * 0.5f - low) * scale);
    return b < 0 ? 0 : b < buckets ? b : buckets - 1;
}

/* Tie-averaged rank of every value, from 1, and the indices in ascending order; either may be NULL.
 *
 * The values are grouped into equal intervals and compared within them, which is faster than a radix sort
 * unless many of them share an interval. `x` is finite, `bottom` and `top` are its bounds. */
static void rank_row(const float *x, int n, float bottom, float top, sort_space *w, float *rank, int32_t *order) {
    if (order) memset(order, -1, sizeof(int32_t) * (size_t)n);
    if (n <= FEW) {
        for (int from = 0; from < n; from += LANES)
            rank_lanes(x, NULL, from, n - from < LANES ? n - from : LANES, 0, n, rank, order);
        return;
    }
    const int buckets = n / BUCKET;
    const float low = bottom * 0.5f, scale = (float)buckets / (top * 0.5f - low);
    if (!(scale > 0) || scale > FLT_MAX) { /* a constant row, or one of subnormal range */
        rank_by_radix(x, n, w, rank, order);
        return;
    }
    memset(w->start, 0, sizeof(int32_t) * (size_t)(buckets + 2));
    /* Counted two places up, so that after the pass below start[b + 1] is where bucket b begins. */
    for (int i = 0; i < n; i++) w->start[bucket_of(x[i], low, scale, buckets) + 2]++;
    double comparisons = 0;
    for (int b = 0; b < buckets; b++) {
        const double size = w->start[b + 2];
        comparisons += size * size;
        w->start[b + 2] += w->start[b + 1];
    }
    if (comparisons > (double)MOST_COMPARISONS * n) {
        rank_by_radix(x, n, w, rank, order);
        return;
    }
    for (int i = 0; i < n; i++)
        w->grouped[w->start[bucket_of(x[i], low, scale, buckets) + 1]++] = (entry){x[i], i};
    for (int i = 0; i < n; i++) w->values[i] = w->grouped[i].value;
    for (int from = 0; from < n; from += LANES) {
        const int end = from + LANES < n ? from + LANES : n;
        const int first = bucket_of(w->values[from], low, scale, buckets);
        const int last = bucket_of(w->values[end - 1], low, scale, buckets);
        rank_lanes(w->values, w->grouped, from, end - from, w->start[first], w->start[last + 1], rank, order);
    }
}

#endif
